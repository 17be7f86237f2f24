"""Classification metrics of many resamples at once: a resample is a weight for every case.

Drawing patients with replacement gives each patient a count, and each of its cases that count as a weight. Every metric
is then a sum over weights, so a thousand resamples cost a few matrix products. With integer weights each metric equals
scikit-learn's on the cases repeated that often (``tests/metrics/test_resampling.py``).

A metric that a resample does not define (a class that occurs in the data is missing from it) is NaN there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from crossdim.errors import RecipeError

Problem = Literal["multiclass", "multilabel", "ordinal"]

WEIGHTS_AT_A_TIME = 4_000_000
"""Bounds the memory of a bootstrap: resamples are drawn and measured in blocks of about this many weights."""


RESAMPLES, GUESSES = 1, 2
"""Second part of a seed: keeps drawn patients and guessed classes apart from each other and from data made with it."""

LEVEL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; NaN where the data do not define it.

    Attributes:
        value: On the cases as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
        resamples: Resamples that define the metric, on which the interval rests.
    """

    value: float
    low: float
    high: float
    resamples: int


@dataclass(frozen=True)
class Cases:
    """What a classifier said and what is true.

    Attributes:
        probabilities: One column per class.
        truth: The classes that hold; one per row unless the problem is multi-label.
        problem: What the classes are to one another.
    """

    probabilities: Float[np.ndarray, "cases classes"]
    truth: Bool[np.ndarray, "cases classes"]
    problem: Problem

    @cached_property
    def predicted(self) -> Bool[np.ndarray, "cases classes"]:
        """The most probable class (the first of equals); for multi-label every class above one half."""
        if self.problem == "multilabel":
            return self.probabilities > 0.5
        best = self.probabilities.argmax(axis=1)
        return best[:, None] == np.arange(self.probabilities.shape[1])

    @cached_property
    def present(self) -> Bool[np.ndarray, " classes"]:
        """Classes that hold for at least one case."""
        return np.asarray(self.truth.any(axis=0))

    @cached_property
    def ranked(self) -> Bool[np.ndarray, " classes"]:
        """Classes whose ROC curve averages are taken over: with positive and with negative cases.

        With two exclusive classes, the second one only (the positive class): the first one's curve is its mirror image.
        """
        ranked: Bool[np.ndarray, " classes"] = np.logical_and(self.present, ~self.truth.all(axis=0))
        if self.problem != "multilabel" and len(ranked) == 2:
            ranked[0] = False
        return ranked


@dataclass(frozen=True)
class Scores:
    """Metrics by name, of the whole and of each class, for a number of resamples."""

    overall: dict[str, Float[np.ndarray, " resamples"]]
    per_class: dict[str, Float[np.ndarray, "resamples classes"]]


def patient_weights(
    groups: Int[np.ndarray, " cases"], resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "block cases"]]:
    """Draw patients with replacement; yield how often each case occurs, block by block.

    Args:
        groups: Number of the patient of each case, from zero without gaps.
        resamples: How many to draw in all.
        seed: The same seed gives the same resamples, whatever the size of the blocks.
    """
    generator = np.random.default_rng([seed, RESAMPLES])
    patients = int(groups.max()) + 1
    chances = np.full(patients, 1 / patients)
    block = max(1, WEIGHTS_AT_A_TIME // len(groups))
    for start in range(0, resamples, block):
        counts = generator.multinomial(patients, chances, size=min(block, resamples - start))
        yield counts[:, groups].astype(np.float64)


def patient_groups(
    patients: Sequence[str] | Shaped[np.ndarray, " patients"] | None, cases: int, bootstrap: int
) -> Int[np.ndarray, " cases"]:
    """Number the patients from zero without gaps.

    Args:
        patients: Who each case belongs to; None if every case is a patient of its own.
        cases: How many there are.
        bootstrap: Resamples that are asked for.

    Raises:
        RecipeError: If there are too few patients or resamples.
    """
    if bootstrap < 1:
        raise RecipeError("bootstrap", f"is {bootstrap}", "Ask for at least one resample; 1000 is usual")
    if patients is None:
        return np.arange(cases)
    if len(patients) != cases:
        raise RecipeError("patients", f"there are {len(patients)} for {cases} cases", "Name one for each case")
    return np.unique([str(patient) for patient in patients], return_inverse=True)[1]


def plain_numbers(value: Any) -> Any:
    """Replace NaN and infinity by None and tuples by lists, at every depth, so that JSON can hold a result.

    Args:
        value: Dicts, lists, tuples, strings and numbers.
    """
    if isinstance(value, Mapping):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def resampled_scores(cases: Cases, groups: Int[np.ndarray, " cases"], resamples: int, seed: int) -> Scores:
    """Measure every metric on resamples of the patients.

    Args:
        cases: Predictions and truth.
        groups: Number of the patient of each case.
        resamples: How many, at least one.
        seed: Of the drawing.
    """
    blocks = [weighted_scores(cases, weights) for weights in patient_weights(groups, resamples, seed)]
    return Scores(
        {name: np.concatenate([block.overall[name] for block in blocks]) for name in blocks[0].overall},
        {name: np.concatenate([block.per_class[name] for block in blocks]) for name in blocks[0].per_class},
    )


def estimate(value: float, resampled: Float[np.ndarray, " resamples"], several_patients: bool) -> Estimate:
    """Return a number with its percentile interval, which needs several patients and half of the resamples.

    Args:
        value: On the cases as they are.
        resampled: On each resample; NaN where undefined.
        several_patients: Whether there is anything to resample.
    """
    defined = resampled[np.isfinite(resampled)]
    if not isfinite(value) or not several_patients or len(defined) < len(resampled) / 2:
        return Estimate(float(value), nan, nan, len(defined))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Estimate(float(value), float(low), float(high), len(defined))


def weighted_scores(cases: Cases, weights: Float[np.ndarray, "resamples cases"]) -> Scores:
    """Measure every metric for every weighting.

    Precision of a class that is never predicted is 0 (scikit-learn's ``zero_division=0``). Averages are over the
    classes that occur in the data; AUC and average precision of two exclusive classes are the second one's.

    Args:
        cases: Predictions and truth.
        weights: How often each case counts.
    """
    truth, predicted = cases.truth.astype(np.float64), cases.predicted.astype(np.float64)
    total = weights.sum(axis=1)
    hits, positives, called = weights @ (truth * predicted), weights @ truth, weights @ predicted
    occurs = positives > 0
    recall = ratio(hits, positives)
    specificity = ratio(total[:, None] - positives - called + hits, total[:, None] - positives)
    auc, average_precision = _ranking_scores(cases, weights)
    per_class = {
        "auc": auc,
        "average_precision": average_precision,
        "precision": np.where(occurs, ratio(hits, np.maximum(called, 1e-12)), np.nan),
        "recall": recall,
        "specificity": specificity,
        "f1": np.where(occurs, ratio(2 * hits, positives + called), np.nan),
    }
    overall = {
        "auc": _mean(auc, cases.ranked),
        "accuracy": ratio(weights @ cases_right(cases), total),
        "balanced_accuracy": _mean(recall, cases.present),
        **{name: _mean(per_class[name], cases.present) for name in ("precision", "recall", "f1")},
        "average_precision": _mean(average_precision, cases.ranked),
    }
    if cases.problem == "multilabel":
        overall["balanced_accuracy"] = _mean((recall + specificity) / 2, cases.ranked)
    else:
        overall["quadratic_kappa"] = quadratic_kappa(weighted_confusion(cases, weights))
    return Scores(overall, per_class)


def cases_right(cases: Cases) -> Float[np.ndarray, " cases"]:
    """Return 1 for every case whose prediction is right (for multi-label: in all classes).

    Args:
        cases: Predictions and truth.
    """
    return (cases.truth == cases.predicted).all(axis=1).astype(np.float64)


def weighted_confusion(
    cases: Cases, weights: Float[np.ndarray, "resamples cases"]
) -> Float[np.ndarray, "resamples true_classes predicted_classes"]:
    """Count true class (rows) against predicted class (columns); for exclusive classes only.

    Args:
        cases: Predictions and truth.
        weights: How often each case counts.
    """
    classes = cases.truth.shape[1]
    cell = cases.truth.argmax(axis=1) * classes + cases.predicted.argmax(axis=1)
    counts = np.zeros((len(weights), classes * classes))
    for value in np.unique(cell):
        counts[:, value] = weights[:, cell == value].sum(axis=1)
    return counts.reshape(-1, classes, classes)


def quadratic_kappa(confusion: Float[np.ndarray, "resamples classes classes"]) -> Float[np.ndarray, " resamples"]:
    """Return Cohen's kappa with quadratic weights (Cohen 1968); NaN where chance alone would agree fully.

    Args:
        confusion: Counts by true and predicted class.
    """
    classes = confusion.shape[-1]
    distance = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2.0
    total = confusion.sum(axis=(1, 2))
    expected = confusion.sum(axis=2)[:, :, None] * confusion.sum(axis=1)[:, None, :]
    return 1 - ratio((distance * confusion).sum(axis=(1, 2)) * total, (distance * expected).sum(axis=(1, 2)))


def weighted_auc(
    scores: Float[np.ndarray, " cases"],
    positive: Bool[np.ndarray, " cases"],
    weights: Float[np.ndarray, "resamples cases"],
) -> Float[np.ndarray, " resamples"]:
    """Return the area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half.

    That is the Mann-Whitney U statistic over the number of pairs; NaN where there is no pair.

    Args:
        scores: The higher, the more likely positive.
        positive: The truth.
        weights: How often each case counts.
    """
    hits, misses = _by_score(scores, positive, weights)
    below = np.cumsum(misses, axis=1) - misses
    pairs = hits.sum(axis=1) * misses.sum(axis=1)
    return ratio((hits * (below + misses / 2)).sum(axis=1), pairs)


def weighted_average_precision(
    scores: Float[np.ndarray, " cases"],
    positive: Bool[np.ndarray, " cases"],
    weights: Float[np.ndarray, "resamples cases"],
) -> Float[np.ndarray, " resamples"]:
    """Return the precision at every threshold, averaged with the gain in recall as weight (no interpolation).

    Args:
        scores: The higher, the more likely positive.
        positive: The truth.
        weights: How often each case counts.
    """
    hits, misses = (part[:, ::-1] for part in _by_score(scores, positive, weights))
    found = np.cumsum(hits, axis=1)
    precision = found / np.maximum(found + np.cumsum(misses, axis=1), 1e-12)
    return ratio((hits * precision).sum(axis=1), hits.sum(axis=1))


def ratio(numerator: Float[np.ndarray, "..."], denominator: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Divide, with NaN where the denominator is zero.

    Args:
        numerator: Any shape.
        denominator: A shape that broadcasts with it.
    """
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)


def _ranking_scores(
    cases: Cases, weights: Float[np.ndarray, "resamples cases"]
) -> tuple[Float[np.ndarray, "resamples classes"], Float[np.ndarray, "resamples classes"]]:
    columns = list(zip(cases.probabilities.T, cases.truth.T, strict=True))
    return (
        np.stack([weighted_auc(scores, positive, weights) for scores, positive in columns], axis=1),
        np.stack([weighted_average_precision(scores, positive, weights) for scores, positive in columns], axis=1),
    )


def _by_score(
    scores: Float[np.ndarray, " cases"],
    positive: Bool[np.ndarray, " cases"],
    weights: Float[np.ndarray, "resamples cases"],
) -> tuple[Float[np.ndarray, "resamples values"], Float[np.ndarray, "resamples values"]]:
    """Return the weight of positives and of negatives at each distinct score, from the lowest up."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    sorted_weights = weights[:, order]
    hits = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)
    return hits, np.add.reduceat(sorted_weights * ~positive[order], starts, axis=1)


def _mean(
    values: Float[np.ndarray, "resamples classes"], classes: Bool[np.ndarray, " classes"]
) -> Float[np.ndarray, " resamples"]:
    """Average over some classes; NaN where one of them is undefined, or where there are none."""
    if not classes.any():
        return np.full(len(values), np.nan)
    return values[:, classes].mean(axis=1)
