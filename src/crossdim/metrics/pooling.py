"""Means over questions of several types, micro and macro, with intervals by patient and paired differences.

Every metric is a sum of what was gained over a sum of what was possible: a share of right answers, a mean of scores, a
precision over all findings. Micro is that ratio over all questions; macro is the mean of the types' ratios, which is
what the papers on M3D and Med-2E3 quote. All predictors are measured on the same resamples: differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from crossdim.metrics.resampling import Estimate, estimate, patient_weights, ratio

Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Tally:
    """What one predictor gained with each question.

    Attributes:
        names: Of the metrics.
        gained: Numerators.
        possible: Denominators; 0 where a metric does not apply to a question.
    """

    names: tuple[str, ...]
    gained: Float[np.ndarray, "questions metrics"]
    possible: Float[np.ndarray, "questions metrics"]

    @classmethod
    def of_scores(cls, scores: Mapping[str, Sequence[float]]) -> "Tally":
        """Return the tally whose ratios are means of scores; NaN means that a metric does not apply.

        Args:
            scores: One number for each question, by name of the metric.
        """
        table = np.array([list(values) for values in scores.values()], dtype=np.float64).T
        return cls(tuple(scores), np.nan_to_num(table, nan=0.0), np.isfinite(table).astype(np.float64))


@dataclass(frozen=True)
class PooledType:
    """Ratios of one type of question.

    Attributes:
        name: The type.
        questions: How many.
        patients: Whose they are.
        metrics: By name.
    """

    name: str
    questions: int
    patients: int
    metrics: Estimates


@dataclass(frozen=True)
class Pooled:
    """Ratios of one predictor.

    Attributes:
        micro: Over all questions.
        macro: Means of the types' ratios.
        types: Of each type, in alphabetical order.
    """

    micro: Estimates
    macro: Estimates
    types: tuple[PooledType, ...]


@dataclass(frozen=True)
class Differences:
    """One predictor minus another, on the same resamples.

    Attributes:
        micro: Over all questions.
        macro: Of the means of the types' ratios.
    """

    micro: Estimates
    macro: Estimates


@dataclass(frozen=True)
class _Ratios:
    """The first row is that of the questions as they are, the others are the resamples'."""

    names: tuple[str, ...]
    micro: Float[np.ndarray, "rows metrics"]
    macro: Float[np.ndarray, "rows metrics"]
    types: dict[str, Float[np.ndarray, "rows metrics"]]


def pool(
    tallies: Mapping[str, Tally],
    types: Sequence[str],
    groups: Int[np.ndarray, " questions"],
    bootstrap: int,
    seed: int,
) -> tuple[dict[str, Pooled], dict[str, Differences]]:
    """Measure several predictors on the same questions and resamples.

    Args:
        tallies: Of each predictor, by name; the first is the one the others are compared with.
        types: Of each question.
        groups: Number of the patient of each question.
        bootstrap: Resamples of patients.
        seed: Of the resamples.

    Returns:
        The ratios of each predictor, and the first predictor minus each of the others.
    """
    kinds = np.array(types)
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in tallies}
    possible: dict[str, list[np.ndarray]] = {name: [] for name in tallies}
    masks = {name: np.asarray(kinds == name) for name in sorted(set(types))}
    for weights in (np.ones((1, len(kinds))), *patient_weights(groups, bootstrap, seed)):
        for name, tally in tallies.items():
            blocks[name].append(np.stack([weights[:, mask] @ tally.gained[mask] for mask in masks.values()]))
            possible[name].append(np.stack([weights[:, mask] @ tally.possible[mask] for mask in masks.values()]))
    found = {
        name: _ratios(tally.names, list(masks), np.concatenate(blocks[name], 1), np.concatenate(possible[name], 1))
        for name, tally in tallies.items()
    }
    several = {name: len(np.unique(groups[mask])) for name, mask in masks.items()}
    sizes = {name: (int(mask.sum()), several[name]) for name, mask in masks.items()}
    many = bool(groups.max() > 0)
    first = next(iter(found.values()))
    return (
        {name: _pooled(ratios, sizes, many) for name, ratios in found.items()},
        {name: _difference(first, ratios, many) for name, ratios in list(found.items())[1:]},
    )


def is_noise(difference: Estimate) -> bool:
    """Return whether a difference cannot be told from none: its interval holds zero, or there is no interval.

    Args:
        difference: With its interval.
    """
    return not (isfinite(difference.low) and (difference.low > 0 or difference.high < 0))


def estimates_from(document: Mapping[str, Mapping[str, Any]]) -> Estimates:
    """Return estimates from JSON, where None stands for what is undefined.

    Args:
        document: Estimates as dicts, by name.
    """

    def number(value: float | None) -> float:
        return nan if value is None else float(value)

    return {
        name: Estimate(number(each["value"]), number(each["low"]), number(each["high"]), int(each["resamples"]))
        for name, each in document.items()
    }


def pooled_from(document: Mapping[str, Any]) -> Pooled:
    """Return ratios from JSON.

    Args:
        document: As a dict.
    """
    types = tuple(PooledType(**{**each, "metrics": estimates_from(each["metrics"])}) for each in document["types"])
    return Pooled(estimates_from(document["micro"]), estimates_from(document["macro"]), types)


def differences_from(document: Mapping[str, Any]) -> Differences:
    """Return differences from JSON.

    Args:
        document: As a dict.
    """
    return Differences(estimates_from(document["micro"]), estimates_from(document["macro"]))


def _ratios(
    names: tuple[str, ...],
    types: Sequence[str],
    gained: Float[np.ndarray, "types rows metrics"],
    possible: Float[np.ndarray, "types rows metrics"],
) -> _Ratios:
    by_type = ratio(gained, possible)
    macro = np.full(by_type.shape[1:], np.nan)
    for place in range(len(names)):
        defined = np.isfinite(by_type[:, 0, place])
        if defined.any():
            macro[:, place] = by_type[defined, :, place].mean(axis=0)
    micro = ratio(gained.sum(axis=0), possible.sum(axis=0))
    return _Ratios(names, micro, macro, dict(zip(types, by_type, strict=True)))


def _pooled(ratios: _Ratios, sizes: Mapping[str, tuple[int, int]], many: bool) -> Pooled:
    return Pooled(
        _estimates(ratios.names, ratios.micro, many),
        _estimates(ratios.names, ratios.macro, many),
        tuple(
            PooledType(name, *sizes[name], _estimates(ratios.names, rows, sizes[name][1] > 1))
            for name, rows in ratios.types.items()
        ),
    )


def _difference(first: _Ratios, second: _Ratios, many: bool) -> Differences:
    return Differences(
        _estimates(first.names, first.micro - second.micro, many),
        _estimates(first.names, first.macro - second.macro, many),
    )


def _estimates(names: Sequence[str], rows: Float[np.ndarray, "rows metrics"], several_patients: bool) -> Estimates:
    return {
        name: estimate(float(rows[0, place]), rows[1:, place], several_patients) for place, name in enumerate(names)
    }
