"""The end of instruction training: the final model's answers on data it has not learned from."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crossdim.datasets.manifest import Manifest
from crossdim.inference import Answerer
from crossdim.inference.pages import slice_figure
from crossdim.outputs.blocks import Document, Picture
from crossdim.outputs.dialogues import dialogue_headline, dialogue_sections
from crossdim.outputs.document import save_document
from crossdim.outputs.files import write_atomic
from crossdim.outputs.report import pretraining_sections, provenance_section
from crossdim.training.dialogue_evaluation import DialogueEvaluation, Evaluating, evaluate_dialogues
from crossdim.training.progress import Announcer
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe_instruct import InstructRecipe
from crossdim.training.reports import provenance_of
from crossdim.transforms.text import slice_targets

EXAMPLES = 3
"""Questions whose slice scores are drawn, of different types."""


def conclude_dialogues(
    answerer: Answerer,
    splits: Mapping[str, Manifest],
    recipe: InstructRecipe,
    folder: RunFolder,
    announcer: Announcer,
) -> DialogueEvaluation | None:
    """Evaluate the final model once; write ``metrics.json``, ``predictions.jsonl`` and ``report.html``.

    It is the test split that counts, and the validation split where there is none. ``run.json`` says when the test
    split was evaluated, before it is.

    Args:
        answerer: The final model.
        splits: ``train``, ``val`` and ``test``.
        recipe: Resamples and seed, and what is done with dialogues that are too long.
        folder: The run.
        announcer: Shows progress and results.

    Returns:
        What was found; None if there is nothing to evaluate on.
    """
    name = next((name for name in ("test", "val") if name in splits and len(splits[name])), None)
    found = None
    if name is not None:
        if name == "test":
            folder.update(test_evaluated=datetime.now(UTC).isoformat(timespec="seconds"))
        how = Evaluating(recipe.bootstrap, recipe.seed, too_long=recipe.prompt.too_long)
        with announcer.task(f"Evaluating on {name}") as advance:
            found = evaluate_dialogues(answerer, splits[name], splits.get("train"), how, progress=advance)
        announcer.say(f"{name}: {dialogue_headline(found.answers, found.slices)}")
        write_predictions(found, folder.path / "predictions.jsonl")
    plain = {} if found is None or name is None else {name: found.to_dict()}
    write_atomic(folder.path / "metrics.json", json.dumps(plain, indent=2) + "\n")
    report_dialogues(folder, name, found, [] if name is None else example_pictures(answerer, splits[name]))
    return found


def report_dialogues(
    folder: RunFolder, name: str | None, found: DialogueEvaluation | None, pictures: Sequence[Picture]
) -> None:
    """Write the page of a run that learned to answer.

    Args:
        folder: The run.
        name: Of the split that was evaluated.
        found: On this split; None if nothing was.
        pictures: Examples of slice scores.
    """
    provenance = provenance_of(folder)
    curves = pretraining_sections(folder.read_log())
    title, data = "Instruction training", {"provenance": provenance}
    if found is None:
        text = "There is neither a validation nor a test split, so nothing was measured."
        page = Document(title, text, (*curves, provenance_section(provenance)), data)
    else:
        sections = (*dialogue_sections(found.answers, found.slices, pictures), *curves, provenance_section(provenance))
        summary = f"On the {name} split: {dialogue_headline(found.answers, found.slices)}"
        page = Document(title, summary, sections, {str(name): found.to_dict()} | data)
    save_document(page, folder.path / "report.html")


def write_predictions(found: DialogueEvaluation, path: Path) -> None:
    """Write what everyone said to each question, one JSON object a line.

    Args:
        found: The evaluation.
        path: The file.
    """
    write_atomic(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found.predictions))


def example_pictures(answerer: Answerer, part: Manifest, count: int = EXAMPLES) -> list[Picture]:
    """Return pictures of slice scores beside the true range, for questions of different types.

    Args:
        answerer: The model.
        part: With questions whose range is known.
        count: How many, at most.
    """
    chosen: dict[str, Any] = {}
    for record in part.records:
        if record.kind != "volume" or record.more:
            continue
        for turn in (dialogue.turns[0] for dialogue in record.dialogues):
            if turn.extent_mm is not None and turn.answer and len(chosen) < count:
                chosen.setdefault(turn.type, (part.resolve(record), turn))
    pictures = []
    for files, turn in chosen.values():
        answer = answerer.ask([files], turn.question, turn.choices)
        if not answer.slices:
            return []
        seen = answerer.look(files)
        targets = slice_targets(seen.prepared, turn.extent_mm).tolist()
        truth = _range([each.index for each, true in zip(answer.slices[0], targets, strict=True) if true])
        figure = slice_figure(seen, answer.slices[0], turn.question, truth)
        caption = f"Asked: {turn.question} Answered: {answer.text or '(nothing)'}. True: {turn.answer}."
        pictures.append(Picture.from_figure(figure, caption, f"Slice scores for a question about {turn.type}"))
    return pictures


def _range(numbers: Sequence[int | None]) -> tuple[int, int] | None:
    known = [number for number in numbers if number is not None]
    return (min(known), max(known)) if known else None
