"""What a reader of an evaluation must know: how its numbers were formed, and what makes them suspicious."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from crossdim.metrics.choices import Rule
from crossdim.metrics.dialogue_report import ALWAYS_BESIDE, FormReport, Reference
from crossdim.metrics.pooling import is_noise
from crossdim.metrics.resampling import Cases, Estimate, cases_right
from crossdim.metrics.wording import normalised

FEW_PATIENTS = 20
FEW_PATIENTS_OF_A_CLASS = 5
MANY_UNDEFINED = 0.05
MANY_UNREAD = 0.05


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


def dialogue_notes(forms: Mapping[str, FormReport], rule: Rule) -> tuple[str, ...]:
    """Return how to read the numbers of an evaluation of answers.

    Args:
        forms: Results of each form of question.
        rule: How closed answers were read.
    """
    notes = [
        "Micro is over all questions; macro is the mean of the question types' values, as the papers on M3D quote."
    ]
    if "closed" in forms:
        how = {
            "robust": "Closed answers are read (letter, text of a choice, yes or no).",
            "substring": "Closed answers are right if the letter of the true choice occurs (the authors' rule).",
        }[rule]
        notes.append(f"{how} An answer that is none of the choices is wrong.")
    if set(forms) - {"closed"}:
        notes.append("Text metrics are means over single answers, from 0 to 1; an empty answer is 0.")
    if any("finding_f1" in form.predictors["model"].micro for form in forms.values()):
        notes.append(
            "Findings are sentences with the same words, measurements within 15 %; their numbers are sums over reports."
        )
    notes.append("Blind answers from the question alone; shuffled is the model shown another patient's volume.")
    return tuple(notes)


def dialogue_suspicions(
    forms: Mapping[str, FormReport], asked: Sequence[Reference], said: Mapping[str, Sequence[str]], unknown: int
) -> tuple[str, ...]:
    """Return what should keep a reader from believing an evaluation of answers as it stands.

    Args:
        forms: Results of each form of question.
        asked: The questions that were measured.
        said: Answers to them, by predictor.
        unknown: Questions without a true answer.
    """
    flags = [f"There is no {name} baseline to compare with." for name in ALWAYS_BESIDE if name not in said]
    if unknown:
        flags.append(f"{unknown} questions have no true answer (empty reference) and were left out.")
    patients = len({reference.patient for reference in asked})
    if patients < FEW_PATIENTS:
        flags.append(f"Fewer than {FEW_PATIENTS} patients ({patients}): the intervals are too narrow and coarse.")
    for form, report in forms.items():
        flags += _form_suspicions(form, report)
        texts = {
            normalised(text) for text, reference in zip(said["model"], asked, strict=True) if reference.form == form
        }
        if len(texts) == 1 and report.questions > 1 and len({each.answer for each in asked if each.form == form}) > 1:
            flags.append(f"All {report.questions} {form} questions get the same answer.")
    return tuple(flags)


def _form_suspicions(form: str, report: FormReport) -> list[str]:
    flags = []
    primary = report.primary
    value = report.predictors["model"].micro[primary]
    if value.value == 1:
        flags.append(f"Every {form} answer is right: look for patients in training and test, or answers in questions.")
    unread = report.unparsed.get("model", 0)
    if unread > MANY_UNREAD * report.questions:
        flags.append(f"{unread} of {report.questions} closed answers are none of the choices and count as wrong.")
    empty = report.empty["model"]
    if empty and not report.unparsed:
        flags.append(f"{empty} of {report.questions} {form} answers are empty and count as 0.")
    if report.chance is not None and value.high < report.chance:
        flags.append(f"Closed answers are worse than guessing ({value.value:.1%} against {report.chance:.1%}).")
    if "blind" in report.predictors and report.chance is not None:
        blind = report.predictors["blind"].micro[primary]
        if blind.low > report.chance:
            flags.append(
                f"The question alone gives {blind.value:.1%} of closed answers where guessing gives "
                f"{report.chance:.1%}: only what lies above that comes from the volume."
            )
    for name, difference in report.differences.items():
        if name in ALWAYS_BESIDE and is_noise(difference.micro[primary]):
            flags.append(f"The {form} answers cannot be told from those of the {name} baseline ({primary}).")
    return flags
