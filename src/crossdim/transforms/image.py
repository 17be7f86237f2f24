"""Images to tensors: channels, intensities, size."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_serializer, model_validator
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.samples import Image
from crossdim.transforms.intensity import (
    Intensity,
    Limits,
    Part,
    PercentileIntensity,
    RangeIntensity,
    check_statistics,
    intensity_limits,
    normalise,
    scale,
)
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.resample import AxisMap, index_matrix, place, resample_array

Positive = Annotated[int, Field(ge=1)]

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601, as Pillow's mode ``L``)."""


class ImageContract(Part):
    """How every image becomes a tensor ``(channels, height, width)``.

    Attributes:
        size: (height, width) in pixels.
        channels: 1 is grey (colours by luminance), 3 is RGB (grey is repeated).
        fit: ``resize`` stretches to the size; ``crop`` keeps the proportions and cuts off what is too long; ``pad``
            keeps the proportions and fills what is too short.
        intensity: How intensities become [0, 1].
        mean: Subtracted from each channel, after that.
        std: Divides each channel, after that.
        channel_order: Order of the colours in the tensor, and of mean and std; files are read as ``rgb``.
    """

    size: tuple[Positive, Positive]
    channels: Literal[1, 3] = 3
    fit: Literal["resize", "crop", "pad"] = "resize"
    intensity: Intensity = RangeIntensity()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"

    @model_validator(mode="after")
    def _statistics_fit_the_channels(self) -> "ImageContract":
        check_statistics(self.mean, self.std, self.channels)
        if self.channels == 1 and self.channel_order != "rgb":
            raise ValueError("channel_order has no effect on grey images (channels: 1)")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave the usual order out, so that contracts written before it could be stated keep their hash."""
        tree = handler(self)
        if self.channel_order == "rgb":
            tree.pop("channel_order", None)
        return tree


def prepare_image(image: Image, contract: ImageContract) -> Prepared:
    """Apply the contract to an image.

    Args:
        image: As read.
        contract: What every image of the model goes through.

    Raises:
        ContractError: The image has neither 1 nor 3 channels, or its intensities are not what the contract is for.
    """
    pixels, subject = image.pixels, image.origin.path
    if pixels.shape[0] not in (1, 3):
        raise ContractError(
            subject, f"has {pixels.shape[0]} channels where 1 (grey) or 3 (RGB) are needed", "Export it as grey or RGB"
        )
    together = pixels.reshape(1, -1) if isinstance(contract.intensity, PercentileIntensity) else pixels[:1]
    limits = intensity_limits(contract.intensity, together, image.unit, subject)
    maps = _maps((pixels.shape[1], pixels.shape[2]), contract)
    part = resample_array(pixels, maps, partial(_convert, limits=limits, grey=contract.channels == 1))
    part = part.repeat(contract.channels // len(part), 1, 1)
    if contract.channel_order == "bgr":
        part = part.flip(0)
    fill = tuple(normalise(torch.zeros(contract.channels), contract.mean, contract.std).tolist())
    return Prepared(
        tensor=place(normalise(part, contract.mean, contract.std), maps, fill),
        index_map=index_matrix(maps),
        affine_mm=None,
        valid=tuple(axis.valid for axis in maps),
        fill=fill,
        notes=_notes(pixels.shape[0], contract.channels),
    )


def _maps(size: tuple[int, int], contract: ImageContract) -> list[AxisMap]:
    ratios = [length / target for length, target in zip(size, contract.size, strict=True)]
    if contract.fit != "resize":
        ratios = [min(ratios) if contract.fit == "crop" else max(ratios)] * 2
    return [
        AxisMap.placed(length, target, ratio) for length, target, ratio in zip(size, contract.size, ratios, strict=True)
    ]


def _convert(
    values: Float[Tensor, "channels height width"], limits: Limits, grey: bool
) -> Float[Tensor, "out_channels height width"]:
    scaled = scale(values, limits)
    if grey and len(scaled) == 3:
        return torch.einsum("chw,c->hw", scaled, torch.tensor(LUMINANCE))[None]
    return scaled


def _notes(found: int, wanted: int) -> tuple[str, ...]:
    if found == wanted:
        return ()
    return ("grey was repeated as red, green and blue",) if wanted == 3 else ("colours became grey by luminance",)
