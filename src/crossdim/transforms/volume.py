"""Volumes to tensors: channels, orientation, spacing, intensities, size."""

from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from pydantic import Field, model_validator
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.geometry.affine import reorient, spacing_mm
from crossdim.samples import Volume
from crossdim.transforms.intensity import (
    Intensity,
    Limits,
    Part,
    PercentileIntensity,
    check_statistics,
    intensity_limits,
    normalise,
    scale,
)
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.resample import AxisMap, index_matrix, place, resample_array

Positive = Annotated[int, Field(ge=1)]
Millimetres = Annotated[float, Field(gt=0)]


class VolumeContract(Part):
    """How every volume becomes a tensor ``(channels, depth, height, width)``.

    Attributes:
        size: (depth, height, width) in voxels.
        foreground_crop: Whether everything outside the smallest box around what is above 0, once intensities are in
            [0, 1], is cut off before the size is changed; above 0 in any channel.
        antialias: Whether shrinking averages over the whole step, or looks at the two nearest neighbours alone.
        orientation: Where depth, height and width point to, as three letters of R/L, A/P, S/I; ``SPL`` is axial slices
            from the feet up, displayed as radiologists do. None leaves the file's axes as they are.
        spacing_mm: (depth, height, width) millimetres that every volume is resampled to; None leaves the file's.
        fit: ``resize`` stretches to the size; ``crop_pad`` cuts off or fills at both ends alike.
        channels: Number of channels.
        channel_names: What the channels are, in order; checked if given.
        intensity: How intensities become [0, 1].
        mean: Subtracted from each channel, after that.
        std: Divides each channel, after that.
        zscore: Instead: subtract each volume's own mean and divide by its own standard deviation, per channel, both
            taken over what is above 0.
    """

    size: tuple[Positive, Positive, Positive]
    orientation: str | None = "SPL"
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    fit: Literal["resize", "crop_pad"] = "resize"
    channels: Positive = 1
    channel_names: tuple[str, ...] = ()
    intensity: Intensity = PercentileIntensity()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    zscore: bool = False
    foreground_crop: bool = False
    antialias: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "VolumeContract":
        if self.orientation is not None and not _is_orientation(self.orientation):
            raise ValueError(f"orientation must be one letter each of R/L, A/P and S/I, and is '{self.orientation}'")
        if self.spacing_mm is not None and self.fit == "resize":
            raise ValueError("spacing_mm has no effect with fit 'resize', which stretches to the size: use 'crop_pad'")
        if self.channel_names and len(self.channel_names) != self.channels:
            raise ValueError(f"channel_names has {len(self.channel_names)} names for {self.channels} channels")
        if self.zscore and (self.mean or self.std):
            raise ValueError("zscore excludes mean and std: it takes them from each volume")
        check_statistics(self.mean, self.std, self.channels)
        return self


def prepare_volume(volume: Volume, contract: VolumeContract) -> Prepared:
    """Apply the contract to a volume.

    Args:
        volume: As read.
        contract: What every volume of the model goes through.

    Raises:
        ContractError: Channels or intensities are not what the contract is for, or nothing is above 0 where the
            contract crops to what is.
    """
    _check_channels(volume, contract)
    voxels, affine = volume.voxels, volume.affine
    if contract.orientation is not None:
        voxels, affine = reorient(voxels, affine, contract.orientation)
    limits = intensity_limits(contract.intensity, volume.voxels, volume.unit, volume.origin.path)
    if contract.foreground_crop:
        voxels, affine = _cropped(voxels, affine, limits, volume.origin.path)
    maps = _maps(voxels, affine, contract)
    part = resample_array(voxels, maps, partial(scale, limits=limits))
    mean, std = _own_statistics(part) if contract.zscore else (contract.mean, contract.std)
    fill = tuple(normalise(torch.zeros(contract.channels), mean, std).tolist())
    turned = np.rint(np.linalg.solve(volume.affine, affine))  # whole numbers: axes are only permuted and reversed
    return Prepared(
        tensor=place(normalise(part, mean, std), maps, fill),
        index_map=turned @ index_matrix(maps),
        affine_mm=affine @ index_matrix(maps),
        valid=tuple(axis.valid for axis in maps),
        fill=fill,
    )


def _is_orientation(code: str) -> bool:
    pairs = ("RL", "AP", "SI")
    return len(code) == 3 and all(sum(letter in pair for letter in code) == 1 for pair in pairs)


def _check_channels(volume: Volume, contract: VolumeContract) -> None:
    subject, found = volume.origin.path, volume.voxels.shape[0]
    if found != contract.channels:
        raise ContractError(
            subject,
            f"has {found} channels where the contract has {contract.channels}",
            "Give the series that the model was trained with, one file for each channel",
        )
    if contract.channel_names and volume.channel_names != contract.channel_names:
        raise ContractError(
            subject,
            f"has the channels {list(volume.channel_names)} where the contract has {list(contract.channel_names)}",
            "Give the same series in the same order",
        )


def _maps(
    voxels: Shaped[np.ndarray, "channels depth height width"],
    affine: Float[np.ndarray, "4 4"],
    contract: VolumeContract,
) -> list[AxisMap]:
    lengths = voxels.shape[1:]
    if contract.fit == "resize":
        ratios = [length / target for length, target in zip(lengths, contract.size, strict=True)]
    elif contract.spacing_mm is None:
        ratios = [1.0, 1.0, 1.0]
    else:
        steps = zip(contract.spacing_mm, spacing_mm(affine), strict=True)
        ratios = [_step(wanted, found) for wanted, found in steps]
    return [
        AxisMap.placed(length, target, ratio, contract.antialias)
        for length, target, ratio in zip(lengths, contract.size, ratios, strict=True)
    ]


def _cropped(
    voxels: Shaped[np.ndarray, "channels depth height width"],
    affine: Float[np.ndarray, "4 4"],
    limits: Limits,
    subject: str,
) -> tuple[Shaped[np.ndarray, "channels less_depth less_height less_width"], Float[np.ndarray, "4 4"]]:
    """Return the smallest box that holds everything above 0 in [0, 1], and its affine."""
    low = np.where(limits[:, 1] > limits[:, 0], limits[:, 0], np.inf)[:, None, None]
    slices, plane = np.zeros(voxels.shape[1], dtype=bool), np.zeros(voxels.shape[2:], dtype=bool)
    for index in range(len(slices)):
        above = (voxels[:, index] > low).any(axis=0)
        slices[index] = above.any()
        plane |= above
    if not slices.any():
        raise ContractError(
            subject,
            "holds nothing above the lower end of the contract's intensities: there is no foreground to crop to",
            "Check the file and its units, or leave it out",
        )
    corners = [np.flatnonzero(seen)[[0, -1]] for seen in (slices, plane.any(axis=1), plane.any(axis=0))]
    starts = np.array([first for first, _ in corners])
    box = tuple(slice(first, last + 1) for first, last in corners)
    shift = np.eye(4)
    shift[:3, 3] = starts
    return voxels[(slice(None), *box)], affine @ shift


def _step(wanted: float, found: float) -> float:
    """Return the ratio of two spacings; what differs by rounding in a header is the same."""
    return 1.0 if abs(wanted - found) < 1e-4 * wanted else wanted / found


def _own_statistics(
    values: Float[Tensor, "channels depth height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    means, deviations = [], []
    for channel in values:
        inside = channel[channel > 0]
        mean, deviation = (float(inside.mean()), float(inside.std(correction=0))) if inside.numel() else (0.0, 0.0)
        means.append(mean)
        deviations.append(deviation if deviation > 1e-6 else 1.0)
    return tuple(means), tuple(deviations)
