"""How well questions are answered: always beside an answer from the question alone and the model shown another volume.

The protocol of M3D and Med-2E3 (scores of single answers, their mean over all questions and the mean of the types'
means), with three things they lack: closed answers are read rather than searched for a letter, every number has an
interval by patient, and baselines stand beside it on the same resamples.

Reports get text metrics, and precision, recall and F1 of the findings they state, summed over all reports.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from crossdim.errors import ReadError, RecipeError
from crossdim.metrics.choices import Rule, accepted, parse_choice
from crossdim.metrics.dialogue_report import FORMS, AnswerItem, DialogueReport, Form, FormReport, Reference
from crossdim.metrics.findings import count_findings, framing_sentences
from crossdim.metrics.language import TOLERANCES, text_scores, tolerance_name
from crossdim.metrics.plausibility import dialogue_notes, dialogue_suspicions
from crossdim.metrics.pooling import Tally, pool
from crossdim.metrics.resampling import patient_groups
from crossdim.metrics.wordnet import open_wordnet

NOT_FOR_REPORTS = ("exact", *(tolerance_name(tolerance) for tolerance in TOLERANCES))
NEXT_TO_NOTHING = 1e-12
"""Possible gain of a report that states nothing: precision is then 0 rather than undefined."""

Similarity = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Scores pairs of predictions and true texts, such as BERTScore with a model from a folder."""


@dataclass(frozen=True)
class Measures:
    """How answers are measured.

    Attributes:
        rule: How closed answers are read.
        wordnet: For METEOR, from ``open_wordnet``; None if there is none.
        without_wordnet: Why there is none.
        similarity: Computes ``bertscore``; None leaves it out.
    """

    rule: Rule = "robust"
    wordnet: Any = None
    without_wordnet: str = "WordNet was not given"
    similarity: Similarity | None = None

    @classmethod
    def available(cls, rule: Rule = "robust", similarity: Similarity | None = None) -> "Measures":
        """Return all measures that this installation can compute.

        Args:
            rule: How closed answers are read.
            similarity: Computes ``bertscore``.
        """
        try:
            return cls(rule, open_wordnet(), "", similarity)
        except ReadError as error:
            return cls(rule, None, str(error), similarity)


def evaluate_answers(
    references: Sequence[Reference],
    predictions: Sequence[str],
    baselines: Mapping[str, Sequence[str] | None],
    measures: Measures | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> DialogueReport:
    """Measure answers.

    Args:
        references: Questions and what is true, of any forms and types.
        predictions: What the model said to each.
        baselines: What others said to each, by name; ``blind`` and ``shuffled`` belong there, and the report says so
            where one of them is missing or None.
        measures: How to measure; None for all that this installation can compute.
        bootstrap: Resamples of patients for the intervals.
        seed: Of the resamples.

    Raises:
        RecipeError: If predictions do not fit the questions, ids repeat, or no true answer is known.
    """
    measures = Measures.available() if measures is None else measures
    said = {"model": list(predictions)} | {name: list(each) for name, each in baselines.items() if each is not None}
    _check(references, said)
    kept = [place for place, reference in enumerate(references) if reference.answer.strip()]
    if not kept:
        raise RecipeError("answers", f"none of {len(references)} true answers is known", "Add answers to the manifest")
    asked = [references[place] for place in kept]
    said = {name: [each[place] for place in kept] for name, each in said.items()}
    forms: dict[str, FormReport] = {}
    items: list[AnswerItem] = []
    for form in FORMS:
        places = [place for place, reference in enumerate(asked) if reference.form == form]
        if places:
            of_form = [asked[place] for place in places]
            answers = {name: [each[place] for place in places] for name, each in said.items()}
            tallies = {name: _tally(form, of_form, each, measures) for name, each in answers.items()}
            forms[form] = _form_report(form, of_form, answers, tallies, (bootstrap, seed), measures.rule)
            items += _items(of_form, answers["model"], tallies["model"], measures.rule)
    unavailable = {}
    if measures.wordnet is None and set(forms) - {"closed"}:
        unavailable["meteor"] = measures.without_wordnet
    patients = len({reference.patient for reference in asked})
    names = tuple(name for name in said if name != "model")
    return DialogueReport(
        len(asked),
        patients,
        len(references) - len(asked),
        measures.rule,
        bootstrap,
        seed,
        names,
        forms,
        unavailable,
        tuple(items),
        dialogue_notes(forms, measures.rule),
        dialogue_suspicions(forms, asked, said, len(references) - len(asked)),
    )


def _check(references: Sequence[Reference], said: Mapping[str, Sequence[str]]) -> None:
    for name, answers in said.items():
        if len(answers) != len(references):
            raise RecipeError(
                f"answers of '{name}'", f"are {len(answers)} to {len(references)} questions", "Give one for each"
            )
    ids = [reference.id for reference in references]
    if len(set(ids)) < len(ids):
        twice = next(name for place, name in enumerate(ids) if name in ids[:place])
        raise RecipeError("questions", f"the id '{twice}' occurs twice", "Give every question its own id")
    for reference in references:
        if reference.form == "closed" and reference.answer and reference.answer not in reference.choices:
            raise RecipeError(
                f"question '{reference.id}'",
                f"has the answer '{reference.answer}' that is not one of {list(reference.choices)}",
                "Correct the answer or the choices",
            )


def _tally(form: Form, asked: Sequence[Reference], said: Sequence[str], measures: Measures) -> Tally:
    answers = [reference.answer for reference in asked]
    if form == "closed":
        right = [
            float(accepted(text, reference.answer, reference.choices, measures.rule))
            for text, reference in zip(said, asked, strict=True)
        ]
        return Tally.of_scores({"accuracy": right})
    scores = text_scores(said, answers, measures.wordnet)
    if measures.similarity is not None:
        similar = measures.similarity(said, answers)
        scores["bertscore"] = [value if text.strip() else 0.0 for value, text in zip(similar, said, strict=True)]
    if form == "open":
        return Tally.of_scores(scores)
    texts = Tally.of_scores({name: values for name, values in scores.items() if name not in NOT_FOR_REPORTS})
    return _with_findings(texts, asked, said) if any(reference.findings for reference in asked) else texts


def _with_findings(texts: Tally, asked: Sequence[Reference], said: Sequence[str]) -> Tally:
    """Add precision, recall and F1 of findings; reports whose findings are not known add nothing to them."""
    known = [bool(reference.findings) for reference in asked]
    framing = framing_sentences(
        [reference.answer for reference in asked if reference.findings], [reference.findings for reference in asked]
    )
    counts = [count_findings(text, reference.findings, framing) for text, reference in zip(said, asked, strict=True)]
    hits, stated, true = (
        np.array([getattr(each, name) for each in counts], dtype=np.float64) * known
        for name in ("hits", "stated", "true")
    )
    names = ("finding_precision", "finding_recall", "finding_f1")
    possible = np.stack([np.maximum(stated, NEXT_TO_NOTHING * np.array(known)), true, (stated + true) / 2], axis=1)
    gained = np.stack([hits, hits, hits], axis=1)
    return Tally(
        (*texts.names, *names),
        np.concatenate([texts.gained, gained], axis=1),
        np.concatenate([texts.possible, possible], axis=1),
    )


def _form_report(
    form: Form,
    asked: Sequence[Reference],
    said: Mapping[str, Sequence[str]],
    tallies: Mapping[str, Tally],
    drawing: tuple[int, int],
    rule: Rule,
) -> FormReport:
    groups = patient_groups([reference.patient for reference in asked], len(asked), drawing[0])
    predictors, differences = pool(tallies, [reference.type for reference in asked], groups, *drawing)
    primary = _primary(form, tallies["model"])
    chances: dict[str, list[float]] = {}
    for reference in asked if form == "closed" else ():
        chances.setdefault(reference.type, []).append(1 / len(reference.choices))
    every = [chance for each in chances.values() for chance in each]
    unparsed = {
        name: sum(parse_choice(text, each.choices, rule) is None for text, each in zip(texts, asked, strict=True))
        for name, texts in (said.items() if form == "closed" else ())
    }
    return FormReport(
        len(asked),
        int(groups.max()) + 1,
        primary,
        float(np.mean(every)) if every else None,
        {name: float(np.mean(each)) for name, each in sorted(chances.items())},
        predictors,
        differences,
        unparsed,
        {name: sum(not text.strip() for text in texts) for name, texts in said.items()},
    )


def _primary(form: Form, tally: Tally) -> str:
    """Return the metric that speaks for the others; for measurements that is whether the number is near enough."""
    if form == "closed":
        return "accuracy"
    if "finding_f1" in tally.names:
        return "finding_f1"
    within = tolerance_name(TOLERANCES[-1])
    if within in tally.names and tally.possible[:, tally.names.index(within)].all():
        return within
    return "rouge1"


def _items(asked: Sequence[Reference], said: Sequence[str], tally: Tally, rule: Rule) -> list[AnswerItem]:
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = tally.gained / tally.possible
    return [
        AnswerItem(
            reference.id,
            reference.patient,
            reference.form,
            reference.type,
            reference.question,
            reference.answer,
            text,
            parse_choice(text, reference.choices, rule) if reference.form == "closed" else None,
            {
                name: float(value) if isfinite(value) else None
                for name, value in zip(tally.names, row.tolist(), strict=True)
            },
        )
        for reference, text, row in zip(asked, said, scores, strict=True)
    ]
