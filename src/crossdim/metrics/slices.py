"""Whether slice scores point to where the answer is to be seen, against each question's own range of slices.

A question's localisation is measured over its own slices: the area under the ROC curve and the average precision of the
scores for slices in the range against the others, and whether the slice with the highest score lies in it (the pointing
game of Zhang et al. 2018); equally scored slices count by their share. Numbers are means over questions, intervals are
percentiles over resamples of patients.

Two scorers that know nothing of the question stand beside: equal scores, and the share of training questions whose
range holds the slice at that relative position. A range in the middle of every volume is found by the second one.

Questions without a known range, without a slice in it, or with all slices in it measure nothing; they are counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite, nan
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num

from crossdim.errors import ContractError, RecipeError
from crossdim.metrics.pooling import Differences, Pooled, Tally, differences_from, pool, pooled_from
from crossdim.metrics.resampling import (
    LEVEL,
    patient_groups,
    plain_numbers,
    weighted_auc,
    weighted_average_precision,
)

METRICS = ("auroc", "average_precision", "pointing")
OTHERS = {"uniform": "equal scores", "prior": "the usual place of ranges in training"}
"""What stands beside the model, in words."""

PRIOR_POSITIONS = 64
"""Relative positions, from the first to the last slice, at which the prior is kept."""

SlicePrior = Callable[[int], Float[np.ndarray, "_"]]
"""Scores for a volume of so many slices, from training alone."""


@dataclass(frozen=True)
class SliceQuestion:
    """One question, the scores of its slices, and which of them show what it is about.

    Attributes:
        id: Of the question.
        patient: Whose volume it is.
        type: Of the question.
        scores: The higher, the more the slice mattered.
        targets: Whether the slice is in the range; None if the range is not known.
    """

    id: str
    patient: str
    type: str
    scores: Num[np.ndarray, " slices"]
    targets: Bool[np.ndarray, " targets"] | None


@dataclass(frozen=True)
class SliceReport:
    """How well slices were found.

    Attributes:
        questions: Measured questions.
        patients: Whose they are.
        left_out: Why questions were not measured, and how many.
        bootstrap: Resamples that were drawn.
        seed: Of the drawing.
        scorers: ``model``, ``uniform`` and, where training ranges are known, ``prior``; means over questions (micro),
            over types (macro) and of each type, of ``auroc``, ``average_precision`` and ``pointing``.
        differences: The model minus each of the other scorers.
        items: Of each measured question: id, type, and the model's numbers.
        flags: What makes the numbers suspicious.
    """

    questions: int
    patients: int
    left_out: dict[str, int]
    bootstrap: int
    seed: int
    scorers: dict[str, Pooled]
    differences: dict[str, Differences]
    items: tuple[dict[str, Any], ...]
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers; what is undefined is None."""
        return plain_numbers(asdict(self) | {"interval": LEVEL, "resampled": "patients"})

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "SliceReport":
        """Return what :meth:`to_dict` was made of.

        Args:
            document: From JSON.
        """
        kept = {field.name: document[field.name] for field in fields(cls)}
        return cls(
            **kept
            | {
                "scorers": {name: pooled_from(each) for name, each in document["scorers"].items()},
                "differences": {name: differences_from(each) for name, each in document["differences"].items()},
                "items": tuple(document["items"]),
                "flags": tuple(document["flags"]),
            }
        )


def slice_scores(scores: Num[np.ndarray, " slices"], targets: Bool[np.ndarray, " slices"]) -> dict[str, float]:
    """Return ``auroc``, ``average_precision`` and ``pointing`` of one question; NaN unless both kinds of slice occur.

    Args:
        scores: Of every slice.
        targets: Whether it is in the range.
    """
    if targets.all() or not targets.any():
        return dict.fromkeys(METRICS, nan)
    values, once = scores.astype(np.float64), np.ones((1, len(scores)))
    return {
        "auroc": float(weighted_auc(values, targets, once)[0]),
        "average_precision": float(weighted_average_precision(values, targets, once)[0]),
        "pointing": float(targets[values == values.max()].mean()),
    }


def slice_prior(targets: Sequence[Bool[np.ndarray, "_"]]) -> SlicePrior:
    """Return the scorer that knows where ranges usually are, and nothing of the question.

    Args:
        targets: Of every training question with a known range; volumes may differ in their number of slices.

    Raises:
        RecipeError: If there are none.
    """
    if not targets:
        raise RecipeError("slice prior", "there are no training questions with a range", "Leave the prior out")
    places = (np.arange(PRIOR_POSITIONS) + 0.5) / PRIOR_POSITIONS
    frequency = np.mean([each[np.floor(places * len(each)).astype(int)] for each in targets], axis=0)

    def scores(slices: int) -> Float[np.ndarray, " slices"]:
        return np.interp((np.arange(slices) + 0.5) / slices, places, frequency)

    return scores


def evaluate_slices(
    questions: Sequence[SliceQuestion], prior: SlicePrior | None = None, bootstrap: int = 1000, seed: int = 0
) -> SliceReport:
    """Measure where slice scores point.

    Args:
        questions: With the model's scores.
        prior: From :func:`slice_prior` on the training split.
        bootstrap: Resamples of patients for the intervals.
        seed: Of the resamples.

    Raises:
        ContractError: If scores are not finite, or not as many as targets.
        RecipeError: If no question can be measured, or ``bootstrap`` is below one.
    """
    left_out = {"no known range": 0, "no slice in the range": 0, "all slices in the range": 0}
    measured = []
    for question in questions:
        _check(question)
        if question.targets is None:
            left_out["no known range"] += 1
        elif not question.targets.any():
            left_out["no slice in the range"] += 1
        elif question.targets.all():
            left_out["all slices in the range"] += 1
        else:
            measured.append(question)
    if not measured:
        raise RecipeError("slice localisation", f"none of {len(questions)} questions can be measured", "Leave it out")
    groups = patient_groups([question.patient for question in measured], len(measured), bootstrap)
    tallies = {"model": _tally(measured, lambda question: question.scores)}
    tallies["uniform"] = _tally(measured, lambda question: np.full(len(question.scores), 1 / len(question.scores)))
    if prior is not None:
        tallies["prior"] = _tally(measured, lambda question: prior(len(question.scores)))
    scorers, differences = pool(tallies, [question.type for question in measured], groups, bootstrap, seed)
    items = tuple(
        {"id": question.id, "type": question.type} | dict(zip(METRICS, row.tolist(), strict=True))
        for question, row in zip(measured, tallies["model"].gained, strict=True)
    )
    patients = int(groups.max()) + 1
    flags = _flags(measured, scorers["model"], differences)
    return SliceReport(len(measured), patients, left_out, bootstrap, seed, scorers, differences, items, flags)


def _check(question: SliceQuestion) -> None:
    if not np.isfinite(question.scores).all() or len(question.scores) == 0:
        raise ContractError(
            f"slice scores of '{question.id}'", "are empty or hold NaN or infinity", "Give a number for every slice"
        )
    if question.targets is not None and len(question.targets) != len(question.scores):
        raise ContractError(
            f"slice scores of '{question.id}'",
            f"are {len(question.scores)} for {len(question.targets)} targets",
            "Give one score and one target for every slice",
        )


def _tally(questions: Sequence[SliceQuestion], scorer: Callable[[SliceQuestion], Num[np.ndarray, " slices"]]) -> Tally:
    found = [slice_scores(scorer(each), each.targets) for each in questions if each.targets is not None]
    return Tally.of_scores({name: [scores[name] for scores in found] for name in METRICS})


def _flags(
    questions: Sequence[SliceQuestion], model: Pooled, differences: Mapping[str, Differences]
) -> tuple[str, ...]:
    flags = []
    auroc = model.micro["auroc"]
    if auroc.value == 1 and len(questions) > 1:
        flags.append("Every range is found perfectly: look for scores that were made from the targets.")
    if all(np.ptp(question.scores) == 0 for question in questions):
        flags.append("All slices get the same score.")
    if isfinite(auroc.high) and auroc.high < 0.5:
        flags.append("Slices in the range score lower than the others: the slice axis may run the other way.")
    for name, words in OTHERS.items():
        if name in differences and not differences[name].micro["auroc"].low > 0:
            flags.append(f"No better than {words}: the interval of the difference in AUROC is not above zero.")
    return tuple(flags)
