"""Intensities to [0, 1]: a window in known units, percentiles of each file, or the range of a display unit."""

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.samples import IntensityUnit

DISPLAY_RANGES: dict[str, tuple[float, float]] = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "unit": (0.0, 1.0)}

_UNIT_WORDS: dict[IntensityUnit, str] = {
    "uint8": "display values 0-255",
    "uint16": "display values 0-65535",
    "unit": "values in [0, 1]",
    "HU": "Hounsfield units",
    "arbitrary": "intensities without a unit",
}

_ROUNDING = 1e-4
"""How far values that are declared to be in [0, 1] may lie outside, as scaling in 16 bits leaves them."""

_MOST_VALUES = 2**22
"""Percentiles of larger channels are taken from this many of their values, always the same ones."""


class Part(BaseModel):
    """A part of the contract: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class WindowIntensity(Part):
    """``low`` becomes 0, ``high`` becomes 1, what lies outside is cut off; for intensities with a scale of their own.

    Attributes:
        kind: The word that tells the three apart.
        low: In ``unit``.
        high: In ``unit``.
        unit: What the file's intensities must be.
    """

    kind: Literal["window"] = "window"
    low: float
    high: float
    unit: IntensityUnit = "HU"

    @model_validator(mode="after")
    def _low_below_high(self) -> "WindowIntensity":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class PercentileIntensity(Part):
    """Percentiles of the file's finite values become 0 and 1; for scanner units without a scale of their own.

    Images have one pair of percentiles for all channels (colours stay), volumes one for each.

    Attributes:
        kind: The word that tells the three apart.
        low: Percentile, 0 to 100.
        high: Percentile, 0 to 100.
    """

    kind: Literal["percentile"] = "percentile"
    low: float = Field(default=0.5, ge=0, le=100)
    high: float = Field(default=99.5, ge=0, le=100)

    @model_validator(mode="after")
    def _low_below_high(self) -> "PercentileIntensity":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class RangeIntensity(Part):
    """The full range of a display unit becomes [0, 1]: 0-255, 0-65535, or what is in [0, 1] already.

    Attributes:
        kind: The word that tells the three apart.
        declared: ``unit`` declares that files which state no unit (NumPy arrays, float NIfTI) hold values in [0, 1];
            one that does not is refused. Without it such a file is refused whatever it holds, because values in [0, 1]
            may as well be probabilities, or an MR scaled by something unknown.
    """

    kind: Literal["range"] = "range"
    declared: Literal["unit"] | None = None


Intensity = Annotated[WindowIntensity | PercentileIntensity | RangeIntensity, Field(discriminator="kind")]

Limits = Float[np.ndarray, "rows 2"]


def intensity_limits(
    intensity: Intensity, values: Shaped[np.ndarray, "channels *size"], unit: IntensityUnit, subject: str
) -> Limits:
    """Return the values that become 0 and 1, for each channel.

    Args:
        intensity: The contract's.
        values: As read; for percentiles over all channels together, give them as one channel.
        unit: What the values are.
        subject: The file, for errors.

    Raises:
        ContractError: The values are not in the unit that the contract was made for, or none of them is finite.
    """
    if isinstance(intensity, PercentileIntensity):
        return np.array([_percentiles(channel, intensity, subject) for channel in values])
    if isinstance(intensity, WindowIntensity):
        _check_unit(intensity.unit, values, unit, subject)
        return np.tile([intensity.low, intensity.high], (len(values), 1))
    if unit == "arbitrary" and intensity.declared == "unit":
        _check_within_one(values, subject)
        unit = "unit"
    if unit not in DISPLAY_RANGES:
        raise ContractError(
            subject,
            f"holds {_UNIT_WORDS[unit]}, which have no display range (8 and 16 bit and [0, 1] have one)",
            "Use a contract with percentile intensity (or a window, for HU), export the file as 8 or 16 bit, or "
            "declare in the contract that such files are in [0, 1] (intensity: declared 'unit')",
        )
    return np.tile(DISPLAY_RANGES[unit], (len(values), 1))


def scale(values: Float[Tensor, "channels *size"], limits: Limits) -> Float[Tensor, "channels *size"]:
    """Scale to [0, 1] in place; constant channels and values that are not numbers become 0.

    Args:
        values: In the file's units.
        limits: What becomes 0 and 1 in each channel; one row serves all channels.
    """
    shape = (-1, *(1 for _ in values.shape[1:]))
    span = limits[:, 1] - limits[:, 0]
    factor = np.divide(1.0, span, out=np.zeros_like(span), where=span > 0)
    low = torch.from_numpy(limits[:, 0].astype(np.float32)).reshape(shape)
    values.sub_(low).mul_(torch.from_numpy(factor.astype(np.float32)).reshape(shape))
    return values.nan_to_num_(nan=0.0, posinf=1.0, neginf=0.0).clamp_(0.0, 1.0)


def normalise(
    values: Float[Tensor, "channels *size"], mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Float[Tensor, "channels *size"]:
    """Subtract a mean and divide by a standard deviation, in place.

    Args:
        values: In [0, 1].
        mean: One for each channel, or None for 0.
        std: One for each channel, or None for 1.
    """
    shape = (-1, *(1 for _ in values.shape[1:]))
    if mean is not None:
        values.sub_(torch.tensor(mean, dtype=torch.float32).reshape(shape))
    if std is not None:
        values.div_(torch.tensor(std, dtype=torch.float32).reshape(shape))
    return values


def check_statistics(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, channels: int) -> None:
    """Check that a contract's statistics fit its channels.

    Args:
        mean: The contract's.
        std: The contract's.
        channels: The contract's.

    Raises:
        ValueError: One is missing, has another length, or a deviation is not above 0.
    """
    if (mean is None) != (std is None):
        raise ValueError("mean and std go together: give both or neither")
    if mean is not None and std is not None and not len(mean) == len(std) == channels:
        raise ValueError(f"mean and std need {channels} values each (channels), not {len(mean)} and {len(std)}")
    if std is not None and min(std) <= 0:
        raise ValueError(f"std must be above 0, not {min(std):g}")


def _check_unit(
    wanted: IntensityUnit, values: Shaped[np.ndarray, "channels *size"], unit: IntensityUnit, subject: str
) -> None:
    if unit != wanted:
        remedy = {"HU": "Give the original CT (DICOM, or NIfTI in Hounsfield units), not an export for display"}
        raise ContractError(
            subject,
            f"holds {_UNIT_WORDS[unit]} where the contract's window is in {_UNIT_WORDS[wanted]}",
            remedy.get(wanted, f"Give files with {_UNIT_WORDS[wanted]}, or use a contract with percentile intensity"),
        )
    if wanted == "HU":
        low, high = float(values.min()), float(values.max())
        if low >= 0 and 1 < high <= 255:
            raise ContractError(
                subject,
                f"is said to be in HU, but its values lie in {low:g} to {high:g} like display values (air is -1000 HU)",
                "Give the original CT, not an export for display",
            )


def _check_within_one(values: Shaped[np.ndarray, "channels *size"], subject: str) -> None:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ContractError(
            subject,
            f"holds values from {low:g} to {high:g}, and the contract declares files without a unit to be in [0, 1]",
            "Scale the file to [0, 1] as the model's data were, or use a contract with percentile intensity",
        )


def _percentiles(
    channel: Shaped[np.ndarray, "*size"], intensity: PercentileIntensity, subject: str
) -> tuple[float, float]:
    values = channel.ravel(order="K")
    if values.size > _MOST_VALUES:
        values = values[np.random.default_rng(0).integers(values.size, size=_MOST_VALUES)]
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        raise ContractError(subject, "holds no finite value", "Export it again, or leave it out")
    low, high = np.percentile(values, [intensity.low, intensity.high])
    if low == high:  # a few bright voxels on a constant ground
        low, high = values.min(), values.max()
    return float(low), float(high)
