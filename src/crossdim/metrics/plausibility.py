"""What a reader of an evaluation must know: how its numbers were formed, and what makes them suspicious."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from crossdim.metrics.resampling import Cases, Estimate, cases_right

FEW_PATIENTS = 20
FEW_PATIENTS_OF_A_CLASS = 5
MANY_UNDEFINED = 0.05


def notes_on(
    cases: Cases, groups: Int[np.ndarray, " cases"], classes: Sequence[str], patients_known: bool
) -> tuple[str, ...]:
    """Return how to read the numbers of an evaluation.

    Args:
        cases: Predictions and truth.
        groups: Number of the patient of each case.
        classes: Names.
        patients_known: Whether the data said who each case belongs to.
    """
    notes = []
    patients = int(groups.max()) + 1
    if not patients_known:
        notes.append("Patients are not known; every case is taken for a patient of its own.")
    elif patients < len(groups):
        notes.append(f"The {len(groups)} cases belong to {patients} patients; intervals resample patients.")
    absent = [name for name, present in zip(classes, cases.present, strict=True) if not present]
    if absent:
        notes.append(f"Not in the truth, so left out of the averages over classes: {', '.join(absent)}.")
    if cases.problem == "multilabel":
        notes.append("Accuracy counts a case as right if all its classes are; a class is predicted above 1/2.")
    elif len(classes) == 2:
        notes.append(f"AUC and average precision are those of '{classes[1]}', the positive class.")
    if cases.problem == "multiclass" and len(classes) > 2:
        notes.append("Quadratic kappa takes the classes to be in order.")
    return tuple(notes)


def suspicions(
    cases: Cases,
    groups: Int[np.ndarray, " cases"],
    classes: Sequence[str],
    metrics: Mapping[str, Estimate],
    bootstrap: int,
) -> tuple[str, ...]:
    """Return what should keep a reader from believing an evaluation as it stands.

    Args:
        cases: Predictions and truth.
        groups: Number of the patient of each case.
        classes: Names.
        metrics: Of all classes together.
        bootstrap: Resamples that were drawn.
    """
    flags = []
    patients = int(groups.max()) + 1
    auc = metrics["auc"]
    if cases_right(cases).all():
        flags.append("Every case is right: look for patients that are in training and test, or labels in the pictures.")
    elif auc.value == 1:
        flags.append("The AUC is exactly 1: look for patients that are in training and test.")
    if auc.high < 0.5:
        flags.append("The AUC is below chance: the classes may be in another order than the labels.")
    if cases.problem != "multilabel" and cases.predicted.any(axis=0).sum() == 1 and len(cases.truth) > 1:
        flags.append(f"Only '{classes[int(cases.predicted.any(axis=0).argmax())]}' is ever predicted.")
    if len(cases.truth) > 1 and np.ptp(cases.probabilities, axis=0).max() < 1e-6:
        flags.append("Every case gets the same probabilities.")
    if patients < FEW_PATIENTS:
        flags.append(f"Fewer than {FEW_PATIENTS} patients ({patients}): the intervals are too narrow and coarse.")
    for place in np.flatnonzero(cases.present).tolist():
        holders = len(np.unique(groups[cases.truth[:, place]]))
        if holders < FEW_PATIENTS_OF_A_CLASS:
            flags.append(f"'{classes[place]}' has fewer than {FEW_PATIENTS_OF_A_CLASS} patients ({holders}).")
    lost = (
        1 - min((each.resamples for each in metrics.values() if np.isfinite(each.value)), default=bootstrap) / bootstrap
    )
    if lost > MANY_UNDEFINED:
        flags.append(f"A class was missing from {lost:.0%} of the resamples, which metrics that need it leave out.")
    return tuple(flags)
