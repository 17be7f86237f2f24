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
from jaxtyping import Bool, Float, Int, Num

from crossdim.errors import ContractError, RecipeError
from crossdim.metrics.resampling import (
    LEVEL,
    Estimate,
    estimate,
    patient_groups,
    patient_weights,
    plain_numbers,
    ratio,
    weighted_auc,
    weighted_average_precision,
)

METRICS = ("auroc", "average_precision", "pointing")
PRIOR_POSITIONS = 64
"""Relative positions, from the first to the last slice, at which the prior is kept."""

SlicePrior = Callable[[int], Float[np.ndarray, " slices"]]
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
    targets: Bool[np.ndarray, " slices"] | None


@dataclass(frozen=True)
class SliceTypeScores:
    """Localisation for one type of question.

    Attributes:
        name: The type.
        questions: How many were measured.
        patients: Whose they are.
        metrics: ``auroc``, ``average_precision``, ``pointing``.
    """

    name: str
    questions: int
    patients: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class SliceScorerResult:
    """Localisation of one scorer.

    Attributes:
        metrics: Means over all questions.
        types: The same for each type.
        difference: The model minus this scorer, on the same resamples; empty for the model itself.
    """

    metrics: dict[str, Estimate]
    types: tuple[SliceTypeScores, ...]
    difference: dict[str, Estimate]


@dataclass(frozen=True)
class SliceReport:
    """How well slices were found.

    Attributes:
        questions: Measured questions.
        patients: Whose they are.
        left_out: Why questions were not measured, and how many.
        bootstrap: Resamples that were drawn.
        seed: Of the drawing.
        scorers: ``model``, ``uniform`` and, where training ranges are known, ``prior``.
        items: Of each measured question: id, type, and the model's numbers.
        flags: What makes the numbers suspicious.
    """

    questions: int
    patients: int
    left_out: dict[str, int]
    bootstrap: int
    seed: int
    scorers: dict[str, SliceScorerResult]
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
        scorers = {
            name: SliceScorerResult(
                estimates_from(each["metrics"]),
                tuple(
                    SliceTypeScores(**{**kind, "metrics": estimates_from(kind["metrics"])}) for kind in each["types"]
                ),
                estimates_from(each["difference"]),
            )
            for name, each in document["scorers"].items()
        }
        return cls(**kept | {"scorers": scorers, "items": tuple(document["items"]), "flags": tuple(document["flags"])})


def estimates_from(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    """Return estimates from JSON, where None stands for what is undefined.

    Args:
        document: Estimates as dicts, by name.
    """
    return {
        name: Estimate(**{key: nan if value is None else value for key, value in each.items()})
        for name, each in document.items()
    }


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


def slice_prior(targets: Sequence[Bool[np.ndarray, " slices"]]) -> SlicePrior:
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
    tables = {"model": _table(measured, lambda question: question.scores)}
    tables["uniform"] = _table(measured, lambda question: np.full(len(question.scores), 1 / len(question.scores)))
    if prior is not None:
        tables["prior"] = _table(measured, lambda question: prior(len(question.scores)))
    types = np.array([question.type for question in measured])
    scorers = _estimate_all(tables, types, groups, bootstrap, seed)
    items = tuple(
        {"id": question.id, "type": question.type} | dict(zip(METRICS, row.tolist(), strict=True))
        for question, row in zip(measured, tables["model"], strict=True)
    )
    patients = int(groups.max()) + 1
    return SliceReport(len(measured), patients, left_out, bootstrap, seed, scorers, items, _flags(measured, scorers))


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


def _table(
    questions: Sequence[SliceQuestion], scorer: Callable[[SliceQuestion], Num[np.ndarray, " slices"]]
) -> Float[np.ndarray, "questions metrics"]:
    rows = []
    for question in questions:
        assert question.targets is not None
        scores = slice_scores(scorer(question), question.targets)
        rows.append([scores[name] for name in METRICS])
    return np.array(rows)


def _estimate_all(
    tables: Mapping[str, Float[np.ndarray, "questions metrics"]],
    types: np.ndarray,
    groups: Int[np.ndarray, " questions"],
    bootstrap: int,
    seed: int,
) -> dict[str, SliceScorerResult]:
    weights = np.concatenate(list(patient_weights(groups, bootstrap, seed)))

    def means(table: np.ndarray, kept: np.ndarray) -> dict[str, Estimate]:
        total = weights[:, kept].sum(axis=1)
        resampled = ratio(weights[:, kept] @ table[kept], total[:, None])
        several = len(np.unique(groups[kept])) > 1
        return {
            name: estimate(float(table[kept, place].mean()), resampled[:, place], several)
            for place, name in enumerate(METRICS)
        }

    every = np.ones(len(types), dtype=bool)
    return {
        scorer: SliceScorerResult(
            means(table, every),
            tuple(
                SliceTypeScores(
                    name, int(kept.sum()), len(np.unique(groups[kept])), means(table, np.asarray(kept, dtype=bool))
                )
                for name in sorted(set(types.tolist()))
                for kept in [types == name]
            ),
            {} if scorer == "model" else means(tables["model"] - table, every),
        )
        for scorer, table in tables.items()
    }


def _flags(questions: Sequence[SliceQuestion], scorers: Mapping[str, SliceScorerResult]) -> tuple[str, ...]:
    flags = []
    model = scorers["model"].metrics
    if model["auroc"].value == 1 and len(questions) > 1:
        flags.append("Every range is found perfectly: look for scores that were made from the targets.")
    if all(np.ptp(question.scores) == 0 for question in questions):
        flags.append("All slices get the same score.")
    if isfinite(model["auroc"].high) and model["auroc"].high < 0.5:
        flags.append("Slices in the range score lower than the others: the slice axis may run the other way.")
    for name in ("uniform", "prior"):
        if name in scorers and not scorers[name].difference["auroc"].low > 0:
            flags.append(f"No better than {OTHERS[name]}: the interval of the difference in AUROC holds zero.")
    return tuple(flags)


OTHERS = {"uniform": "equal scores", "prior": "the usual place of ranges in training"}
"""What stands beside the model, in words."""
