"""What an evaluation of answers found, as numbers that JSON can hold and every table can be made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from crossdim.metrics.choices import Rule
from crossdim.metrics.pooling import Differences, Pooled, differences_from, pooled_from
from crossdim.metrics.resampling import LEVEL, plain_numbers

Form = Literal["closed", "open", "report"]
FORMS: tuple[Form, ...] = ("closed", "open", "report")

ALWAYS_BESIDE = ("blind", "shuffled")
"""Baselines every report has a place for: an answer from the question alone, and the model shown another volume."""


@dataclass(frozen=True)
class Reference:
    """A question and what is true.

    Attributes:
        id: Unique; what predictions are kept by.
        patient: Who the question is about.
        question: As it was asked.
        answer: The true answer; empty where it is not known (then nothing is measured).
        form: Closed, open, or a report.
        type: By which results are reported.
        choices: For closed questions what to choose from.
        findings: For reports each finding, as the sentence that states it.
    """

    id: str
    patient: str
    question: str
    answer: str
    form: Form
    type: str = ""
    choices: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnswerItem:
    """One question as it was answered.

    Attributes:
        id: Of the question.
        patient: Who it is about.
        form: Of the question.
        type: Of the question.
        question: As it was asked.
        answer: What is true.
        prediction: What the model said.
        choice: What that was taken for; None where it was not understood, and for questions that are not closed.
        scores: The model's numbers by name of the metric; None where a metric does not apply.
    """

    id: str
    patient: str
    form: Form
    type: str
    question: str
    answer: str
    prediction: str
    choice: str | None
    scores: dict[str, float | None]


@dataclass(frozen=True)
class FormReport:
    """Results for one form of question.

    Attributes:
        questions: Measured questions.
        patients: Whose they are.
        primary: The metric that speaks for the others.
        chance: For closed questions the accuracy of guessing among the choices.
        chance_by_type: The same of each type.
        predictors: ``model`` and the baselines.
        differences: The model minus each baseline, on the same resamples.
        unparsed: For closed questions, by predictor: answers that are none of the choices, and count as wrong.
        empty: By predictor: empty answers.
    """

    questions: int
    patients: int
    primary: str
    chance: float | None
    chance_by_type: dict[str, float]
    predictors: dict[str, Pooled]
    differences: dict[str, Differences]
    unparsed: dict[str, int]
    empty: dict[str, int]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "FormReport":
        """Return the results that were written as JSON.

        Args:
            document: As a dict.
        """
        kept = {field.name: document[field.name] for field in fields(cls)}
        return cls(
            **kept
            | {
                "predictors": {name: pooled_from(each) for name, each in document["predictors"].items()},
                "differences": {name: differences_from(each) for name, each in document["differences"].items()},
            }
        )


@dataclass(frozen=True)
class DialogueReport:
    """Everything an evaluation of answers found.

    Attributes:
        questions: Measured questions of all forms.
        patients: Whose they are.
        left_out: Questions whose true answer is not known.
        rule: How closed answers were read.
        bootstrap: Resamples that were drawn.
        seed: Of the drawing.
        baselines: Names of the baselines that were measured.
        forms: Results of each form that occurs.
        unavailable: Metrics that could not be computed, and why.
        items: Every measured question.
        notes: How to read the numbers.
        flags: What makes them suspicious.
    """

    questions: int
    patients: int
    left_out: int
    rule: Rule
    bootstrap: int
    seed: int
    baselines: tuple[str, ...]
    forms: dict[str, FormReport]
    unavailable: dict[str, str]
    items: tuple[AnswerItem, ...]
    notes: tuple[str, ...]
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers; what is undefined is None, so that JSON can hold it."""
        return plain_numbers(asdict(self) | {"interval": LEVEL, "resampled": "patients"})

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "DialogueReport":
        """Return what :meth:`to_dict` was made of.

        Args:
            document: From JSON.
        """
        kept = {field.name: document[field.name] for field in fields(cls)}
        return cls(
            **kept
            | {name: tuple(document[name]) for name in ("baselines", "notes", "flags")}
            | {
                "forms": {name: FormReport.from_dict(each) for name, each in document["forms"].items()},
                "items": tuple(AnswerItem(**each) for each in document["items"]),
            }
        )
