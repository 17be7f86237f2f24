"""Ready contracts, and a contract proposed from a look at the data.

Every number is data: change it by writing the contract out. The ready contracts scale to [0, 1] without a mean, because
Uni4Eye reconstructs intensities and their gradients on that scale.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Shaped

from crossdim.errors import ContractError, nearest
from crossdim.geometry.affine import orientation_code, spacing_mm
from crossdim.samples import Image, IntensityUnit, Origin, Volume
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.image import ImageContract, prepare_image
from crossdim.transforms.intensity import (
    DISPLAY_RANGES,
    Intensity,
    PercentileIntensity,
    RangeIntensity,
    WindowIntensity,
)
from crossdim.transforms.volume import VolumeContract

CT_WINDOWS: dict[str, tuple[float, float]] = {
    "wide": (-1000.0, 1000.0),
    "lung": (-1350.0, 150.0),
    "soft tissue": (-160.0, 240.0),
    "brain": (0.0, 80.0),
    "bone": (-500.0, 1300.0),
}
"""(low, high) in HU: levels and widths in common clinical use, except ``wide``, which keeps air and most bone apart."""

STATISTICS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]] | None] = {
    "none": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation of RGB in [0, 1]: none, ImageNet's (MAE, RETFound), or to [-1, 1] (SigLIP)."""

_PLANES = {"S": "SPL", "I": "SPL", "A": "PIL", "P": "PIL", "L": "LIP", "R": "LIP"}
"""For a slice axis, the display radiologists use: axial from the feet up, coronal from the front, sagittal from the
right."""

_LOOKED_AT = 4096
"""About how many values of each channel a proposal looks at."""

_TRIMMED = 0.05
"""Share of the field of view that a proposed volume size may cut off, so that no layer of patches is mostly padding."""


def image_contract(
    size: tuple[int, int],
    statistics: str = "none",
    channels: Literal[1, 3] = 3,
    fit: Literal["resize", "crop", "pad"] = "resize",
) -> ImageContract:
    """Return a contract for 8 and 16 bit images.

    Args:
        size: (height, width) in pixels.
        statistics: A key of :data:`STATISTICS`.
        channels: 3 is RGB, 1 is grey.
        fit: What happens to other proportions.

    Raises:
        ContractError: The statistics are unknown.
    """
    if statistics not in STATISTICS:
        raise ContractError(f"statistics '{statistics}'", "are unknown", nearest(statistics, STATISTICS))
    mean, std = STATISTICS[statistics] or (None, None)
    return ImageContract(
        size=size,
        channels=channels,
        fit=fit,
        mean=mean if mean is None else mean[:channels],
        std=std if std is None else std[:channels],
    )


def for_images(size: tuple[int, int] = (224, 224), statistics: str = "none") -> PreprocessingContract:
    """Return a contract for RGB images, stretched to the size.

    Args:
        size: (height, width) in pixels.
        statistics: A key of :data:`STATISTICS`.
    """
    return PreprocessingContract(image=image_contract(size, statistics), source=f"for_images, statistics {statistics}")


def for_mr(
    size: tuple[int, int, int], spacing_mm: tuple[float, float, float] | None = None, channels: int = 1
) -> PreprocessingContract:
    """Return a contract for MR: axial slices from the feet up, percentiles of each channel.

    Args:
        size: (depth, height, width) in voxels.
        spacing_mm: Resampled to this and then cropped or padded; None stretches to the size.
        channels: Number of co-registered series.
    """
    volume = VolumeContract(size=size, spacing_mm=spacing_mm, fit=_fit(spacing_mm), channels=channels)
    return PreprocessingContract(volume=volume, source="for_mr")


def for_ct(
    size: tuple[int, int, int],
    window: str = "soft tissue",
    spacing_mm: tuple[float, float, float] | None = None,
) -> PreprocessingContract:
    """Return a contract for CT: axial slices from the feet up, a window in HU.

    Args:
        size: (depth, height, width) in voxels.
        window: A key of :data:`CT_WINDOWS`.
        spacing_mm: Resampled to this and then cropped or padded; None stretches to the size.

    Raises:
        ContractError: The window is unknown.
    """
    if window not in CT_WINDOWS:
        raise ContractError(f"CT window '{window}'", "is unknown", nearest(window, CT_WINDOWS))
    low, high = CT_WINDOWS[window]
    intensity = WindowIntensity(low=low, high=high)
    volume = VolumeContract(size=size, spacing_mm=spacing_mm, fit=_fit(spacing_mm), intensity=intensity)
    return PreprocessingContract(volume=volume, source=f"for_ct, window {window}")


def for_med2e3(size: tuple[int, int, int] = (32, 256, 256), window: str | None = None) -> PreprocessingContract:
    """Return the contract of Med-2E3 and M3D-CLIP: crop to what is above 0, stretch to the size without antialiasing.

    The first axis is the slice axis, whichever it is in the patient. The authors' files are in [0, 1] already, with a
    display window baked in; for CT in Hounsfield units they state nothing, so a window has to be chosen.

    Args:
        size: (depth, height, width) in voxels.
        window: A key of :data:`CT_WINDOWS` for files in HU; None for files in [0, 1] or of 8 or 16 bit.

    Raises:
        ContractError: The window is unknown.
    """
    if window is not None and window not in CT_WINDOWS:
        raise ContractError(f"CT window '{window}'", "is unknown", nearest(window, CT_WINDOWS))
    low, high = CT_WINDOWS[window or "wide"]
    intensity = RangeIntensity(declared="unit") if window is None else WindowIntensity(low=low, high=high)
    volume = VolumeContract(size=size, orientation=None, intensity=intensity, foreground_crop=True, antialias=False)
    source = f"for_med2e3, {'values in [0, 1]' if window is None else f'window {window}'}"
    return PreprocessingContract(volume=volume, source=source)


def _fit(spacing: tuple[float, float, float] | None) -> Literal["resize", "crop_pad"]:
    return "resize" if spacing is None else "crop_pad"


@dataclass(frozen=True)
class _Look:
    """What a proposal needs to know of one file.

    Attributes:
        path: The file.
        size: Along the spatial axes.
        unit: What an intensity means.
        few: Every so many of its values along each spatial axis.
        names: Of a volume's channels.
        orientation: Of a volume.
        spacing_mm: Of a volume.
    """

    path: str
    size: tuple[int, ...]
    unit: IntensityUnit
    few: Shaped[np.ndarray, "channels *size"]
    names: tuple[str, ...] = ()
    orientation: str = ""
    spacing_mm: tuple[float, ...] = ()

    @property
    def channels(self) -> int:
        return len(self.few)

    @classmethod
    def at(cls, noun: Image | Volume) -> "_Look":
        if isinstance(noun, Image):
            return cls(noun.origin.path, noun.pixels.shape[1:], noun.unit, _few(noun.pixels))
        return cls(
            noun.origin.path,
            noun.voxels.shape[1:],
            noun.unit,
            _few(noun.voxels),
            noun.channel_names,
            orientation_code(noun.affine),
            spacing_mm(noun.affine),
        )

    def turned(self, code: str) -> "_Look":
        """Return the same with the axes in the order of another orientation."""
        pairs = {letter: pair for pair in ("RL", "AP", "SI") for letter in pair}
        order = [next(i for i, found in enumerate(self.orientation) if found in pairs[letter]) for letter in code]
        size, spacing = tuple(self.size[axis] for axis in order), tuple(self.spacing_mm[axis] for axis in order)
        return replace(self, size=size, spacing_mm=spacing, orientation=code)

    @property
    def plane(self) -> str:
        """The display orientation that keeps thick slices whole; axial where all axes are about as fine."""
        fine, thick = sorted(self.spacing_mm)[1:]
        letter = self.orientation[self.spacing_mm.index(thick)] if thick > 1.2 * fine else "S"
        return _PLANES[letter]


def _few(values: Shaped[np.ndarray, "channels *size"]) -> Shaped[np.ndarray, "channels *fewer"]:
    step = max(1, round((values[0].size / _LOOKED_AT) ** (1 / (values.ndim - 1))))
    return values[(slice(None), *(slice(step // 2, None, step) for _ in values.shape[1:]))].copy()


def contract_for(
    nouns: Iterable[Image | Volume],
    *,
    patch: tuple[int, int] = (16, 16),
    volume_patch: tuple[int, int, int] = (16, 16, 16),
    tokens: int = 196,
    volume_tokens: int = 216,
    normalised: bool = True,
    image_size: tuple[int, int] | None = None,
    volume_size: tuple[int, int, int] | None = None,
) -> PreprocessingContract:
    """Propose a contract from a sample of the data.

    Images keep their usual proportions; volumes keep their usual plane, spacing and field of view. Both are made
    coarser until they fit the budget, volumes along their finest axes first.

    Args:
        nouns: Some files as read; they are looked at one by one and not kept.
        patch: The model's image patch.
        volume_patch: The model's volume patch.
        tokens: Most patches of an image.
        volume_tokens: Most patches of a volume.
        normalised: Whether values have about mean 0 and deviation 1 (images by the mean and deviation of these files,
            each volume by its own), or stay in [0, 1].
        image_size: (height, width) instead of a proposal.
        volume_size: (depth, height, width) instead of a proposal.

    Raises:
        ContractError: There is no file, volumes differ in their channels, or a size is not a multiple of the patch.
    """
    looks = [(noun.kind, _Look.at(noun)) for noun in nouns]
    images = [look for kind, look in looks if kind == "image"]
    volumes = [look for kind, look in looks if kind == "volume"]
    if not images and not volumes:
        raise ContractError("contract", "cannot be proposed without a single file", "Give some files of the data")
    _check_multiple("image_size", image_size, patch)
    _check_multiple("volume_size", volume_size, volume_patch)
    image = _propose_image(images, patch, tokens, image_size) if images else None
    volume = _propose_volume(volumes, volume_patch, volume_tokens, volume_size) if volumes else None
    if normalised:
        image = image and _with_statistics(image, images)
        volume = volume and volume.model_copy(update={"zscore": True})
    counts = [
        f"{len(some)} {word}{'s' * (len(some) > 1)}" for some, word in ((images, "image"), (volumes, "volume")) if some
    ]
    return PreprocessingContract(image=image, volume=volume, source=f"proposed from {' and '.join(counts)}")


def _check_multiple(name: str, size: Sequence[int] | None, patch: Sequence[int]) -> None:
    if size is not None and any(length % part for length, part in zip(size, patch, strict=True)):
        raise ContractError(
            f"{name} {tuple(size)}",
            f"is not a multiple of the patch {tuple(patch)}",
            f"Use {tuple(max(part, round(length / part) * part) for length, part in zip(size, patch, strict=True))}",
        )


def _propose_image(
    looks: Sequence[_Look], patch: tuple[int, int], tokens: int, size: tuple[int, int] | None
) -> ImageContract:
    sizes = np.array([look.size for look in looks], dtype=float)
    height, width = np.median(sizes, axis=0)

    def grid(step: float) -> tuple[int, ...]:
        lengths = (height / step, width / step)
        return tuple(max(1, round(length / part)) for length, part in zip(lengths, patch, strict=True))

    if size is None:
        rows, columns = grid(_smallest_step(lambda step: prod(grid(step)) <= tokens, 1.0))
        size = (rows * patch[0], columns * patch[1])
    stretch = (sizes[:, 0] / sizes[:, 1]) / (size[0] / size[1])
    alike = bool((np.abs(np.log(stretch)) < np.log(1.1)).all())
    return ImageContract(
        size=size,
        channels=3 if any(look.channels == 3 for look in looks) else 1,
        fit="resize" if alike else "pad",
        intensity=_propose_intensity(looks),
    )


def _propose_volume(
    looks: Sequence[_Look],
    patch: tuple[int, int, int],
    tokens: int,
    size: tuple[int, int, int] | None,
) -> VolumeContract:
    first = looks[0]
    for look in looks:
        if look.channels != first.channels:
            raise ContractError(
                look.path,
                f"has {look.channels} channels where {first.path} has {first.channels}",
                "Give volumes with the same series",
            )
    planes = [look.plane for look in looks]
    orientation = max(sorted(set(planes)), key=planes.count)
    turned = [look.turned(orientation) for look in looks]
    finest = np.median([look.spacing_mm for look in turned], axis=0)
    field = np.percentile([np.multiply(look.size, look.spacing_mm) for look in turned], 90, axis=0) * (1 - _TRIMMED)

    def grid(step: float) -> tuple[int, ...]:
        lengths = field / np.maximum(finest, step)
        return tuple(max(1, ceil(length / part)) for length, part in zip(lengths, patch, strict=True))

    def fits(step: float) -> bool:
        if size is None:
            return prod(grid(step)) <= tokens
        return bool((field / np.maximum(finest, step) <= size).all())

    step = _smallest_step(fits, float(finest.min()))
    depth, height, width = (cells * part for cells, part in zip(grid(step), patch, strict=True))
    spacing = tuple(round(float(length), 4) for length in np.maximum(finest, step))
    names = first.names if first.channels > 1 and all(look.names == first.names for look in looks) else ()
    return VolumeContract(
        size=size or (depth, height, width),
        orientation=orientation,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        fit="crop_pad",
        channels=first.channels,
        channel_names=names,
        intensity=_propose_intensity(looks),
    )


def _smallest_step(fits: Callable[[float], bool], step: float) -> float:
    while not fits(step):
        step *= 1.01
    return step


def _propose_intensity(looks: Sequence[_Look]) -> Intensity:
    units = {look.unit for look in looks}
    if units == {"HU"}:
        low, high = CT_WINDOWS["wide"]
        return WindowIntensity(low=low, high=high)
    # Volumes of one series are stored in 8 bits here and in 16 there, and scanners store 10 to 14 bits in 16: only
    # images that use their range are scaled by it.
    dark = any(look.unit == "uint16" and look.few.max() < 2**15 for look in looks)
    by_range = units <= set(DISPLAY_RANGES) and not dark and not looks[0].orientation
    return RangeIntensity() if by_range else PercentileIntensity()


def _with_statistics(contract: ImageContract, looks: Sequence[_Look]) -> ImageContract:
    """Return the contract with the mean and deviation of what was looked at; a constant channel keeps its scale."""
    parts = []
    for look in looks:
        prepared = prepare_image(Image(look.few, look.unit, Origin(look.path)), contract)
        inside = prepared.tensor[(slice(None), *(slice(*extent) for extent in prepared.valid))]
        parts.append(inside.flatten(1))
    found = torch.cat(parts, dim=1)
    mean = tuple(round(value, 4) for value in found.mean(dim=1).tolist())
    std = tuple(round(value, 4) or 1.0 for value in found.std(dim=1, correction=0).tolist())
    return contract.model_copy(update={"mean": mean, "std": std})
