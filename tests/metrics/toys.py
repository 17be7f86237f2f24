"""Predictions of a made-up classifier that is right more often than not."""

from pathlib import Path

import numpy as np

from crossdim.metrics.dialogue_report import Reference


def exclusive(cases: int, classes: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that sum to one, and labels; with ties, few distinct values."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, cases)
    labels[:classes] = np.arange(classes)
    scores = generator.gamma(1.0, size=(cases, classes)) + 1.5 * (labels[:, None] == np.arange(classes))
    if ties:
        scores = np.round(scores) + 1
    return scores / scores.sum(axis=1, keepdims=True), labels


def several(cases: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return multi-label probabilities and 0/1 labels; every class holds and does not hold somewhere."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((cases, classes)) < 0.4).astype(int)
    labels[0], labels[1] = 0, 1
    return (generator.random((cases, classes)) + 0.5 * labels) / 1.5, labels


def wordnet_files(folder: Path, synonyms: dict[str, str]) -> None:
    """Write WordNet database files with one synset for each pair of nouns, as Debian's package lays them out."""
    folder.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text("")
    (folder / "data.adj").write_text("  1 WordNet 3.0 Copyright 2006 by nobody  \n")
    data, index = "", []
    for one, other in synonyms.items():
        offset = f"{len(data):08d}"
        data += f"{offset} 26 n 02 {one} 0 {other} 0 000 | a made-up meaning  \n"
        index += [f"{word} n 1 0 1 0 {offset}  \n" for word in (one, other)]
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text("".join(sorted(index)))


def dialogues(patients: int) -> tuple[list[Reference], list[str], list[str], list[str]]:
    """Return a closed, an open and a report question about each patient, with a good model's and baselines' answers."""
    generator = np.random.default_rng(patients)
    questions: list[tuple[Reference, str, str, str]] = []
    for place in range(patients):
        patient, side, volume = f"p{place}", ("left", "right")[place % 2], 1 + 0.25 * place
        finding = f"The {side} kidney is large."
        other = "The right kidney is large." if side == "left" else "The left kidney is large."
        right = generator.random() < 0.9
        questions += [
            (
                Reference(f"{place}-a", patient, "Which side?", side, "closed", "side", ("left", "right")),
                side if right else "neither",
                "left",
                str(generator.choice(["left", "right"])),
            ),
            (
                Reference(f"{place}-b", patient, "How large is it?", f"{volume:.2f} mL", "open", "volume"),
                f"{1.05 * volume:.2f} mL",
                "2.0 mL",
                "3.1 mL",
            ),
            (
                Reference(f"{place}-c", patient, "Report?", f"CT scan. {finding}", "report", "report", (), (finding,)),
                f"CT scan. {finding if right else other}",
                "CT scan.",
                f"CT scan. {other}",
            ),
        ]
    references, model, blind, shuffled = zip(*questions, strict=True)
    return list(references), list(model), list(blind), list(shuffled)
