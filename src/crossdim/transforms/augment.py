"""Random variation of prepared images and volumes: crops, flips, rotations, intensities, noise.

Every draw comes from the generator that is passed in, in a fixed order and number, so a sample depends on its seed only
and switching one part off leaves the others as they were. Everything is off unless asked for, and
:meth:`Augmentation.safe_for` switches off what would make a label false.

Differs from the authors' code: one implementation for two and three axes; crops and flips of volumes are resampled
linearly (theirs took the nearest voxel); noise is relative to the sample's own range.
"""

from collections.abc import Set
from dataclasses import replace
from math import ceil, floor, log
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from crossdim.errors import ContractError, nearest
from crossdim.transforms.intensity import Part
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.resample import AxisMap, Extent, index_matrix, place, resample

LabelDependence = Literal["side", "place", "plane", "size", "intensity"]
"""What a label may depend on: which side of the body, where in the picture, which plane, how large, how bright."""

Share = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]

_DRAWS = 16
"""Uniform numbers drawn for every sample, whatever is switched on."""


def generator_for(seed: int, epoch: int, index: int) -> torch.Generator:
    """Return the generator of one sample in one epoch, on the CPU.

    Neighbouring arguments give unrelated streams (NumPy's ``SeedSequence`` mixes them).

    Args:
        seed: Of the run, at least 0.
        epoch: How often the sample has been seen, at least 0.
        index: Of the sample, at least 0.
    """
    mixed = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))


class Augmentation(Part):
    """What is varied, and how much; the defaults vary nothing.

    Attributes:
        crop_scale: Smallest and largest share of the area or volume that a crop keeps; crops are resized to the full
            size. (1, 1) does not crop.
        crop_ratio: Smallest and largest factor on a crop's proportions. (1, 1) keeps them.
        flip_depth: Probability of turning the depth axis round (volumes).
        flip_height: Probability of turning the height axis round.
        flip_width: Probability of turning the width axis round.
        rotation_deg: Largest angle in the plane of height and width, either way.
        tilt_deg: For volumes, largest angles about the height axis and about the width axis, either way.
        brightness: Largest shift, as a share of the sample's range, either way.
        contrast: Largest relative change of the distance to the mean, either way.
        gamma: Largest factor on the exponent, or one over it: 1.5 draws from [1/1.5, 1.5]. 1 changes nothing.
        noise_std: Largest standard deviation of Gaussian noise, as a share of the sample's range.
    """

    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (1.0, 1.0)
    crop_ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.0)
    flip_depth: Share = 0.0
    flip_height: Share = 0.0
    flip_width: Share = 0.0
    rotation_deg: Degrees = 0.0
    tilt_deg: tuple[Degrees, Degrees] = (0.0, 0.0)
    brightness: Share = 0.0
    contrast: Share = 0.0
    gamma: Annotated[float, Field(ge=1)] = 1.0
    noise_std: Share = 0.0

    @model_validator(mode="after")
    def _ranges_rise(self) -> "Augmentation":
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (smallest, largest), and is ({low:g}, {high:g})")
        return self

    @classmethod
    def preset(cls, name: str) -> "Augmentation":
        """Return a named augmentation: ``none``, ``pretraining`` or ``finetuning``.

        Args:
            name: One of these.

        Raises:
            ContractError: There is none of that name.
        """
        if name not in PRESETS:
            raise ContractError(f"augmentation '{name}'", "is unknown", nearest(name, PRESETS))
        return PRESETS[name]

    def safe_for(self, labels_depend_on: Set[LabelDependence]) -> "Augmentation":
        """Return a copy without what would make labels false.

        Args:
            labels_depend_on: ``side``, ``place`` and ``plane`` switch flips and rotations off, ``place`` crops too;
                ``size`` switches crops off; ``intensity`` switches brightness, contrast and gamma off.
        """
        off: set[str] = set()
        if labels_depend_on & {"side", "place", "plane"}:
            off |= {"flip_depth", "flip_height", "flip_width", "rotation_deg", "tilt_deg"}
        if labels_depend_on & {"place", "size"}:
            off |= {"crop_scale", "crop_ratio"}
        if "intensity" in labels_depend_on:
            off |= {"brightness", "contrast", "gamma"}
        return self.model_copy(update={name: Augmentation.model_fields[name].default for name in off})

    def apply(
        self, values: Float[Tensor, "channels *size"], generator: torch.Generator
    ) -> Float[Tensor, "channels *size"]:
        """Vary a tensor without padding; what a rotation brings in is the darkest value of each channel.

        Args:
            values: An image ``(channels, height, width)`` or a volume ``(channels, depth, height, width)``.
            generator: Source of all draws, on the CPU; see :func:`generator_for`.
        """
        size = tuple(values.shape[1:])
        whole = Prepared(
            tensor=values,
            index_map=np.eye(len(size) + 1),
            affine_mm=None,
            valid=tuple((0, length) for length in size),
            fill=tuple(values.flatten(1).amin(dim=1).tolist()),
        )
        return self.vary(whole, generator).tensor

    def vary(self, prepared: Prepared, generator: torch.Generator) -> Prepared:
        """Vary a prepared sample; padding stays padding, and the way back to the file stays right.

        Args:
            prepared: Left as it is.
            generator: Source of all draws, on the CPU; see :func:`generator_for`.
        """
        draws = torch.rand(_DRAWS, generator=generator, dtype=torch.float64).tolist()
        varied = self._move(prepared, draws)
        return self._recolour(varied, draws, generator)

    def _move(self, prepared: Prepared, draws: list[float]) -> Prepared:
        crop = self._crop(prepared, draws)
        rotation = self._rotation(prepared.step, draws)
        fill = prepared.fill or (0.0,) * len(prepared.tensor)
        if rotation is None:
            if all(axis.copies and axis.scale == 1 and axis.offset == 0 for axis in crop):
                return prepared
            matrix, valid = index_matrix(crop), tuple(axis.valid for axis in crop)
            tensor = place(resample(prepared.tensor, crop), crop, fill)
        else:
            matrix = _about_centre(rotation, prepared.size) @ index_matrix(crop)
            valid = _box_after(matrix, prepared.valid, prepared.size)
            tensor = _sample(prepared.tensor, matrix, fill)
        affine = None if prepared.affine_mm is None else prepared.affine_mm @ matrix
        return replace(
            prepared, tensor=tensor, index_map=prepared.index_map @ matrix, affine_mm=affine, valid=valid, fill=fill
        )

    def _crop(self, prepared: Prepared, draws: list[float]) -> list[AxisMap]:
        """Return the crop and the flips as one map for each axis.

        The crop has a share of the whole size (padding included), so that its magnification does not depend on the
        padding, and lies in the data as far as it can.
        """
        axes = len(prepared.size)
        share = self.crop_scale[0] + (self.crop_scale[1] - self.crop_scale[0]) * draws[0]
        low, high = (log(ratio) / 2 for ratio in self.crop_ratio)
        stretch = np.array([low + (high - low) * draw for draw in draws[1 : 1 + axes]])
        factors = np.minimum(1.0, share ** (1 / axes) * np.exp(stretch - stretch.mean()))
        flips = (self.flip_depth, self.flip_height, self.flip_width)[-axes:]
        maps = []
        for axis, length in enumerate(prepared.size):
            window = float(factors[axis]) * length
            first, last = sorted((prepared.valid[axis][0], prepared.valid[axis][1] - window))
            start = min(max(first + (last - first) * draws[4 + axis], 0.0), length - window)
            scale, offset = window / length, start + window / length / 2 - 0.5
            if draws[7 + axis] < flips[axis]:
                scale, offset = -scale, offset + scale * (length - 1)
            maps.append(AxisMap(length, scale, offset, _extent_after(scale, offset, prepared.valid[axis], length)))
        return maps

    def _rotation(self, step: tuple[float, ...], draws: list[float]) -> Float[np.ndarray, "axes axes"] | None:
        """Return the rotation in indices: rigid in millimetres, whatever the spacing of the axes."""
        axes = len(step)
        limits = (self.rotation_deg, *self.tilt_deg) if axes == 3 else (self.rotation_deg,)
        angles = [np.deg2rad(limit * (2 * draw - 1)) for limit, draw in zip(limits, draws[10:13], strict=False)]
        if not any(angles):
            return None
        planes = ((-2, -1), (0, 2), (0, 1))
        turn = np.eye(axes)
        for angle, (one, other) in zip(angles, planes, strict=False):
            part = np.eye(axes)
            part[one, one] = part[other, other] = np.cos(angle)
            part[one, other], part[other, one] = -np.sin(angle), np.sin(angle)
            turn = turn @ part
        return np.diag(1 / np.array(step)) @ turn @ np.diag(step)

    def _recolour(self, prepared: Prepared, draws: list[float], generator: torch.Generator) -> Prepared:
        """Change intensities where there are data; the sample's range is kept."""
        if not (self.brightness or self.contrast or self.noise_std or self.gamma > 1):
            return prepared
        tensor = prepared.tensor.clone()
        box = tensor[(slice(None), *(slice(*extent) for extent in prepared.valid))]
        low, high = float(box.min()), float(box.max())
        if high <= low:
            return prepared
        unit = (box - low) / (high - low)
        if self.gamma > 1:
            unit = unit ** (self.gamma ** (2 * draws[13] - 1))
        if self.contrast:
            mean = unit.flatten(1).mean(dim=1).reshape(-1, *(1 for _ in prepared.size))
            unit = mean + (unit - mean) * (1 + self.contrast * (2 * draws[14] - 1))
        unit = unit + self.brightness * (2 * draws[15] - 1)
        if self.noise_std:
            level = self.noise_std * float(torch.rand((), generator=generator))
            unit = unit + level * torch.randn(unit.shape, generator=generator)
        box.copy_(unit.clamp_(0, 1) * (high - low) + low)
        return replace(prepared, tensor=tensor)


PRESETS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "pretraining": Augmentation(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3), flip_width=0.5),
    "finetuning": Augmentation(
        crop_scale=(0.6, 1.0),
        crop_ratio=(0.9, 1 / 0.9),
        flip_width=0.5,
        rotation_deg=10.0,
        brightness=0.1,
        contrast=0.2,
    ),
}
"""``pretraining``: MAE's and Uni4Eye's (crops of 0.2 to 1, flips); ``finetuning``: milder crops, small rotations."""


def _extent_after(scale: float, offset: float, valid: Extent, length: int) -> Extent:
    """Return the outputs whose centres lie within the valid inputs, edges included."""
    ends = sorted(((edge - 0.5 - offset) / scale) for edge in valid)
    start, stop = max(0, ceil(ends[0] - 1e-9)), min(length, floor(ends[1] + 1e-9) + 1)
    return start, max(start, stop)


def _about_centre(rotation: Float[np.ndarray, "axes axes"], size: tuple[int, ...]) -> Float[np.ndarray, "n n"]:
    centre = (np.array(size) - 1) / 2
    matrix = np.eye(len(size) + 1)
    matrix[:-1, :-1] = rotation
    matrix[:-1, -1] = centre - rotation @ centre
    return matrix


def _box_after(
    matrix: Float[np.ndarray, "n n"], valid: tuple[Extent, ...], size: tuple[int, ...]
) -> tuple[Extent, ...]:
    """Return the smallest box of outputs that holds all that valid inputs contribute to."""
    edges = np.stack(np.meshgrid(*((extent[0] - 1.0, float(extent[1])) for extent in valid), indexing="ij"), axis=-1)
    corners = edges.reshape(-1, len(valid))
    moved = (corners - matrix[:-1, -1]) @ np.linalg.inv(matrix[:-1, :-1]).T
    lows, highs = moved.min(axis=0), moved.max(axis=0)
    return tuple(
        (max(0, ceil(low)), min(length, floor(high) + 1)) for low, high, length in zip(lows, highs, size, strict=True)
    )


def _sample(
    values: Float[Tensor, "channels *size"], matrix: Float[np.ndarray, "n n"], fill: tuple[float, ...]
) -> Float[Tensor, "channels *size"]:
    """Sample linearly at ``matrix @ index``; outside lies the fill value."""
    size = np.array(values.shape[1:])
    to_unit = np.diag([*(2 / size), 1.0])  # index → [-1, 1] from edge to edge, as grid_sample counts
    to_unit[:-1, -1] = 1 / size - 1
    theta = to_unit @ matrix @ np.linalg.inv(to_unit)
    reverse = [*range(len(size) - 1, -1, -1), len(size)]  # grid_sample names the last axis first
    theta = theta[np.ix_(reverse, reverse)][:-1]
    ground = torch.tensor(fill).reshape(-1, *(1 for _ in size))
    grid = F.affine_grid(torch.from_numpy(theta).float()[None], [1, *values.shape], align_corners=False)
    return F.grid_sample((values - ground)[None], grid, align_corners=False)[0] + ground
