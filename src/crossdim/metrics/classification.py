"""How good a classifier is: the usual metrics, each with a 95 % interval from a bootstrap over patients.

Intervals are percentiles over resamples of *patients* with replacement, because cases of one patient are not
independent. A class that occurs in the data can be missing from a resample; metrics that need it are undefined there.
Such resamples are left out of those metrics' intervals (and of no others), which equals drawing them again; how many
remained is part of every estimate, and there is no interval when fewer than half did.

Averages (AUC, precision, recall, F1) are over the classes that occur in the truth; those that do not are named in the
notes. With two exclusive classes the AUC and the average precision are those of the second, the positive class.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped

from crossdim.errors import ContractError, RecipeError
from crossdim.metrics.calibration import Calibration, calibration
from crossdim.metrics.plausibility import notes_on, suspicions
from crossdim.metrics.resampling import (
    GUESSES,
    LEVEL,
    Cases,
    Estimate,
    Problem,
    cases_right,
    estimate,
    patient_groups,
    patient_weights,
    plain_numbers,
    resampled_scores,
    weighted_confusion,
    weighted_scores,
)

ROC_POINTS = 200
"""A longer ROC curve is thinned to this many points for storing and drawing; areas come from all of them."""


@dataclass(frozen=True)
class ClassScores:
    """Metrics of one class against all others.

    Attributes:
        name: The class.
        cases: Cases it holds for.
        metrics: ``auc``, ``average_precision``, ``precision``, ``recall``, ``specificity``, ``f1``.
    """

    name: str
    cases: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class RocCurve:
    """The ROC curve of one class: rates from (0, 0) to (1, 1)."""

    name: str
    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]


@dataclass(frozen=True)
class ClassificationReport:
    """Everything an evaluation found; all pictures can be drawn from it.

    Attributes:
        problem: What the classes are to one another.
        classes: Their names.
        cases: Number of cases.
        patients: Number of patients.
        bootstrap: Resamples that were drawn.
        seed: Of the drawing.
        metrics: ``auc``, ``accuracy``, ``balanced_accuracy``, ``precision``, ``recall``, ``f1`` (means over classes),
            ``average_precision`` and, for exclusive classes, ``quadratic_kappa``.
        per_class: The same of each class.
        confusion: Counts, true class by predicted class; None for multi-label.
        roc: A curve for each class that has positive and negative cases.
        calibration: Of the predicted class's probability; for multi-label of all probabilities.
        notes: How to read the numbers.
        flags: What makes them suspicious.
    """

    problem: Problem
    classes: tuple[str, ...]
    cases: int
    patients: int
    bootstrap: int
    seed: int
    metrics: dict[str, Estimate]
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    roc: tuple[RocCurve, ...]
    calibration: Calibration
    notes: tuple[str, ...]
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers; what is undefined is None, so that JSON can hold it."""
        return plain_numbers(asdict(self) | {"interval": LEVEL, "resampled": "patients"})


def evaluate_classification(
    probabilities: Num[np.ndarray, "cases classes"],
    labels: Shaped[np.ndarray, "*labels"],
    patients: Sequence[str] | Shaped[np.ndarray, " patients"] | None,
    problem: Problem,
    classes: Sequence[str],
    bootstrap: int = 1000,
    seed: int = 0,
) -> ClassificationReport:
    """Measure a classifier.

    Args:
        probabilities: One row per case. Rows sum to one unless the problem is multi-label.
        labels: ``(cases,)`` class indices; for multi-label ``(cases, classes)`` of 0 and 1.
        patients: Who each case belongs to; None if every case is a patient of its own.
        problem: What the classes are to one another. Two classes are a multi-class problem.
        classes: Names, in the order of the columns.
        bootstrap: Resamples for the intervals.
        seed: Of the resamples.

    Raises:
        ContractError: If probabilities are not probabilities.
        RecipeError: If labels, patients, classes or ``bootstrap`` do not fit.
    """
    cases = _cases(probabilities, labels, problem, classes)
    groups = patient_groups(patients, len(cases.truth), bootstrap)
    point = weighted_scores(cases, np.ones((1, len(cases.truth))))
    resampled = resampled_scores(cases, groups, bootstrap, seed)
    several = bool(groups.max() > 0)
    per_class = tuple(
        ClassScores(
            name,
            int(cases.truth[:, place].sum()),
            {
                metric: estimate(values[0, place], resampled.per_class[metric][:, place], several)
                for metric, values in point.per_class.items()
            },
        )
        for place, name in enumerate(classes)
    )
    metrics = {name: estimate(values[0], resampled.overall[name], several) for name, values in point.overall.items()}
    return ClassificationReport(
        problem,
        tuple(classes),
        len(cases.truth),
        int(groups.max()) + 1,
        bootstrap,
        seed,
        metrics,
        per_class,
        None if problem == "multilabel" else _confusion(cases),
        roc_curves(cases, classes),
        _calibration(cases),
        notes_on(cases, groups, classes, patients is not None),
        suspicions(cases, groups, classes, metrics, bootstrap),
    )


def chance_baseline(
    train_labels: Shaped[np.ndarray, "*train_labels"],
    labels: Shaped[np.ndarray, "*labels"],
    patients: Sequence[str] | Shaped[np.ndarray, " patients"] | None,
    problem: Problem,
    classes: Sequence[str],
    strategy: Literal["majority", "stratified"] = "majority",
    bootstrap: int = 1000,
    seed: int = 0,
) -> ClassificationReport:
    """Measure a predictor that never looks at the data, by the same code.

    Args:
        train_labels: Where it knows the classes' frequencies from; like ``labels``.
        labels: The truth, as in :func:`evaluate_classification`.
        patients: Who each case belongs to.
        problem: What the classes are to one another.
        classes: Names.
        strategy: ``majority`` states the frequencies for every case, so it always predicts the most frequent class;
            ``stratified`` draws a class for each case with those frequencies.
        bootstrap: Resamples for the intervals.
        seed: Of the resamples and of the drawn classes.

    Raises:
        RecipeError: As :func:`evaluate_classification`, and if there are no training labels.
    """
    known = _truth(train_labels, problem, classes, "train_labels")
    if len(known) == 0:
        raise RecipeError("train_labels", "there are none, so no frequencies are known", "Give the training split's")
    prior = known.mean(axis=0)
    generator = np.random.default_rng([seed, GUESSES])
    if strategy == "majority":
        predictions = np.tile(prior, (len(labels), 1))
    elif problem == "multilabel":
        predictions = (generator.random((len(labels), len(classes))) < prior).astype(np.float64)
    else:
        predictions = generator.multinomial(1, prior, size=len(labels)).astype(np.float64)
    return evaluate_classification(predictions, labels, patients, problem, classes, bootstrap, seed)


def paired_bootstrap(
    probabilities_a: Num[np.ndarray, "cases classes"],
    probabilities_b: Num[np.ndarray, "cases classes"],
    labels: Shaped[np.ndarray, "*labels"],
    patients: Sequence[str] | Shaped[np.ndarray, " patients"] | None,
    problem: Problem,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Compare two models on the same cases; in every resample both are measured on the same patients.

    Args:
        probabilities_a: The first model's, as in :func:`evaluate_classification`.
        probabilities_b: The second model's.
        labels: The truth.
        patients: Who each case belongs to.
        problem: What the classes are to one another.
        bootstrap: Resamples for the intervals.
        seed: Of the resamples.

    Returns:
        First minus second, for every metric of a report; an interval without zero speaks for a difference.

    Raises:
        ContractError: If probabilities are not probabilities.
        RecipeError: If labels, patients or ``bootstrap`` do not fit.
    """
    names = [str(place) for place in range(probabilities_a.shape[1])]
    first, second = (_cases(each, labels, problem, names) for each in (probabilities_a, probabilities_b))
    groups = patient_groups(patients, len(first.truth), bootstrap)
    ones = np.ones((1, len(first.truth)))
    point = _differences(first, second, ones)
    blocks = [_differences(first, second, weights) for weights in patient_weights(groups, bootstrap, seed)]
    several = bool(groups.max() > 0)
    return {
        name: estimate(values[0], np.concatenate([block[name] for block in blocks]), several)
        for name, values in point.items()
    }


def roc_curves(cases: Cases, classes: Sequence[str]) -> tuple[RocCurve, ...]:
    """Return the curve of every class that has one.

    Args:
        cases: Predictions and truth.
        classes: Names.
    """
    from sklearn.metrics import roc_curve

    curves = []
    for place in np.flatnonzero(cases.ranked).tolist():
        false_positive, true_positive, _ = roc_curve(cases.truth[:, place], cases.probabilities[:, place])
        if len(false_positive) > ROC_POINTS:
            kept = np.unique(np.linspace(0, len(false_positive) - 1, ROC_POINTS).round().astype(int))
            false_positive, true_positive = false_positive[kept], true_positive[kept]
        rates = (tuple(rate.round(5).tolist()) for rate in (false_positive, true_positive))
        curves.append(RocCurve(classes[place], *rates))
    return tuple(curves)


def _differences(
    first: Cases, second: Cases, weights: Float[np.ndarray, "resamples cases"]
) -> dict[str, Float[np.ndarray, " resamples"]]:
    ours, theirs = weighted_scores(first, weights).overall, weighted_scores(second, weights).overall
    return {name: values - theirs[name] for name, values in ours.items()}


def _confusion(cases: Cases) -> tuple[tuple[int, ...], ...]:
    counts = weighted_confusion(cases, np.ones((1, len(cases.truth))))[0]
    return tuple(tuple(int(count) for count in row) for row in counts)


def _calibration(cases: Cases) -> Calibration:
    if cases.problem == "multilabel":
        return calibration(cases.probabilities.ravel(), cases.truth.ravel(), "probability of every class of every case")
    confidence = np.minimum(cases.probabilities.max(axis=1), 1.0)
    return calibration(confidence, cases_right(cases) > 0, "probability of the predicted class")


def _cases(
    probabilities: Num[np.ndarray, "cases classes"],
    labels: Shaped[np.ndarray, "*labels"],
    problem: Problem,
    classes: Sequence[str],
) -> Cases:
    remedy = "Give the model's probabilities, not its logits"
    if probabilities.shape[1] != len(classes):
        raise ContractError(
            "probabilities", f"have {probabilities.shape[1]} columns for {len(classes)} classes", "Give one per class"
        )
    broken = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if broken:
        raise ContractError("probabilities", f"{broken} of {len(probabilities)} rows hold NaN or infinity", remedy)
    values = probabilities.astype(np.float64)
    if len(values) and (values.min() < -1e-6 or values.max() > 1 + 1e-6):
        raise ContractError("probabilities", f"range from {values.min():.4g} to {values.max():.4g}", remedy)
    if problem != "multilabel" and len(values) and np.abs(values.sum(axis=1) - 1).max() > 1e-2:
        raise ContractError(
            "probabilities", "have rows that do not sum to 1, though classes exclude each other", remedy
        )
    truth = _truth(labels, problem, classes, "labels")
    if len(truth) != len(values) or len(truth) == 0:
        raise RecipeError("labels", f"there are {len(truth)} for {len(values)} predictions", "Give one for each case")
    return Cases(values.clip(0, 1), truth, problem)


def _truth(
    labels: Shaped[np.ndarray, "*labels"], problem: Problem, classes: Sequence[str], subject: str
) -> Bool[np.ndarray, "cases classes"]:
    if problem == "multilabel":
        if labels.ndim != 2 or labels.shape[1] != len(classes) or not np.isin(labels, (0, 1)).all():
            raise RecipeError(subject, "of a multi-label task must be 0 or 1 for each class", "Give (cases, classes)")
        return labels.astype(bool)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise RecipeError(
            subject, f"must be one class index per case, not {labels.dtype} of shape {labels.shape}", "Give indices"
        )
    if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
        raise RecipeError(
            subject,
            f"range from {labels.min()} to {labels.max()}, but {len(classes)} classes go from 0 to {len(classes) - 1}",
            "Evaluate with the classes that the model was trained for",
        )
    return labels[:, None] == np.arange(len(classes))
