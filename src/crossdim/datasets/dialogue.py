"""Questions and answers about a sample, as a manifest holds them.

A turn may say where in the patient its answer is to be seen (``extent_mm``). Millimetres rather than slice numbers,
because they stay true whatever plane, spacing or crop a contract asks for.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Form = Literal["closed", "open", "report"]
"""``closed``: one of a few choices; ``open``: free text; ``report``: several sentences."""

Dependence = Literal["side", "place", "plane", "size", "intensity"]
"""What an answer may depend on; the same words as ``transforms.augment.LabelDependence``."""

ExtentMM = tuple[float, float, float, float, float, float]
"""Box in the patient in RAS+ millimetres, voxel edges included: (x low, x high, y low, y high, z low, z high)."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Turn(_Strict):
    """One question and its answer.

    Attributes:
        question: As a person would ask it, without placeholders for volumes.
        answer: The true answer; empty where it is not known (such a turn can be asked, not trained or measured on).
        choices: For closed questions the texts to choose from; the answer is one of them.
        form: Closed, open, or a report.
        type: Type of question by which results are reported (``presence``, ``plane``, ...).
        findings: For reports: each finding that it states, as the sentence that states it.
        extent_mm: Box that holds what the question is about, if there is such a thing and it is visible.
        depends_on: What the answer depends on; variations that would make it false are switched off.
    """

    question: str = Field(min_length=1)
    answer: str = ""
    choices: tuple[str, ...] = ()
    form: Form = "open"
    type: str = ""
    findings: tuple[str, ...] = ()
    extent_mm: ExtentMM | None = None
    depends_on: tuple[Dependence, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Turn":
        if self.form == "closed" and len(set(self.choices)) < 2:
            raise ValueError(f"a closed question needs at least two different choices, and has {list(self.choices)}")
        if self.form == "closed" and self.answer and self.answer not in self.choices:
            raise ValueError(f"the answer '{self.answer}' is not one of the choices {list(self.choices)}")
        if self.extent_mm is not None and any(
            low > high for low, high in zip(self.extent_mm[::2], self.extent_mm[1::2], strict=True)
        ):
            raise ValueError(f"extent_mm must be (low, high) for x, y and z, and is {list(self.extent_mm)}")
        return self


class Dialogue(_Strict):
    """Turns that belong together: each sees those before it.

    Attributes:
        id: Unique within its record.
        turns: At least one.
    """

    id: str = Field(min_length=1)
    turns: tuple[Turn, ...] = Field(min_length=1)
