"""Separable linear resampling along two or three axes, with an exact map of indices.

Every axis has its own affine map from output to input positions, so cropping, padding, flipping and changing the size
are one operation. Shrinking averages with a triangle as wide as the step (antialiasing), in the convention of Pillow's
``BILINEAR`` and of ``torch.nn.functional.interpolate(align_corners=False, antialias=True)``: the edges of the first
and last pixel stay where they are, not their centres. Without antialiasing an output lies between its two neighbours
alone, as with ``interpolate(align_corners=False)``; what lies between them is lost when shrinking.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, prod

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Extent = tuple[int, int]
"""(start, stop) of what an axis holds."""

_BAND = 16
"""Output positions per matrix product: the weights of neighbours overlap, those of distant positions do not."""
_SLAB = 2**21
"""Values converted to float32 at once, so that a large file never has a second copy."""


@dataclass(frozen=True)
class AxisMap:
    """Where the positions of one output axis lie on the input axis: ``input = scale * output + offset``.

    Attributes:
        size: Number of output positions.
        scale: Input steps per output step; negative turns the axis round.
        offset: Input position of output 0.
        valid: Output positions that hold data; the others are padding.
        antialias: Whether shrinking averages over the whole step.
    """

    size: int
    scale: float
    offset: float
    valid: Extent
    antialias: bool = True

    @classmethod
    def placed(cls, length: int, size: int, scale: float, antialias: bool = True) -> "AxisMap":
        """Return the map that changes the step and then crops or pads at both ends alike.

        With ``scale = length / size`` nothing is cropped or padded; with ``scale = 1`` values are copied.

        Args:
            length: Positions of the input axis.
            size: Positions of the output axis.
            scale: Input steps per output step, above 0.
            antialias: Whether shrinking averages over the whole step.
        """
        covered = max(1, round(length / scale))
        start = (covered - size) // 2
        first = (length - 1) / 2 - scale * (covered - 1) / 2
        return cls(size, scale, first + scale * start, (max(0, -start), min(size, covered - start)), antialias)

    @property
    def centres(self) -> Float[np.ndarray, " valid"]:
        """Input positions of the output positions that hold data."""
        return self.offset + self.scale * np.arange(*self.valid)

    @property
    def support(self) -> float:
        """How far from its centre an output still sees the input."""
        return max(1.0, abs(self.scale)) if self.antialias else 1.0

    @property
    def copies(self) -> bool:
        """Whether output values are input values, unchanged."""
        return abs(self.scale) == 1 and self.offset == round(self.offset)

    def needed(self, length: int) -> Extent:
        """Return the input positions that take part.

        Args:
            length: Positions of the input axis.
        """
        return _reach(self.centres, 0.0 if self.copies else self.support, length)

    def shifted(self, start: int) -> "AxisMap":
        """Return the map for an input whose first ``start`` positions were cut off."""
        return replace(self, offset=self.offset - start)


def index_matrix(maps: Sequence[AxisMap]) -> Float[np.ndarray, "n n"]:
    """Return the homogeneous matrix from output to input indices.

    Args:
        maps: One for each axis, in order.
    """
    matrix = np.diag([*(axis.scale for axis in maps), 1.0])
    matrix[:-1, -1] = [axis.offset for axis in maps]
    return matrix


def resample(values: Float[Tensor, "channels *size"], maps: Sequence[AxisMap]) -> Float[Tensor, "channels *valid"]:
    """Resample float values; positions of padding are left out of the result.

    Args:
        values: Two or three axes behind the channels.
        maps: One for each of these axes.
    """
    for axis in reversed(range(len(maps))):
        values = _along(values, axis + 1, maps[axis])
    return values


def resample_array(
    values: Shaped[np.ndarray, "channels *size"], maps: Sequence[AxisMap], convert: Callable[[Tensor], Tensor]
) -> Float[Tensor, "out_channels *valid"]:
    """Convert values of any type and resample them, slab by slab, so that memory beyond the result stays small.

    What the result does not need is neither converted nor resampled.

    Args:
        values: As a reader returned them.
        maps: One for each axis behind the channels.
        convert: Applied to float32 slabs before resampling; may change the number of channels.
    """
    extents = [axis.needed(length) for axis, length in zip(maps, values.shape[1:], strict=True)]
    values = values[(slice(None), *(slice(*extent) for extent in extents))]
    maps = [axis.shifted(start) for axis, (start, _) in zip(maps, extents, strict=True)]
    step = max(1, _SLAB // max(1, values.shape[0] * prod(values.shape[2:])))
    slabs = []
    for start in range(0, values.shape[1], step):
        slab = convert(torch.from_numpy(np.array(values[:, start : start + step], dtype=np.float32, order="C")))
        for axis in reversed(range(1, len(maps))):
            slab = _along(slab, axis + 1, maps[axis])
        slabs.append(slab)
    return _along(torch.cat(slabs, dim=1), 1, maps[0])


def place(
    part: Float[Tensor, "channels *valid"], maps: Sequence[AxisMap], fill: Sequence[float]
) -> Float[Tensor, "channels *size"]:
    """Put resampled values where they belong and fill the padding.

    Args:
        part: What :func:`resample` returned for the same maps.
        maps: One for each axis behind the channels.
        fill: Value of padding in each channel.
    """
    size = tuple(axis.size for axis in maps)
    if part.shape[1:] == size:
        return part.contiguous()
    values = torch.tensor(fill, dtype=part.dtype).reshape(-1, *(1 for _ in size))
    whole = values.expand(-1, *size).clone()
    whole[(slice(None), *(slice(*axis.valid) for axis in maps))] = part
    return whole


def _reach(centres: Float[np.ndarray, " n"], support: float, length: int) -> Extent:
    return max(0, ceil(centres.min() - support)), min(length, floor(centres.max() + support) + 1)


def _bands(axis: AxisMap, length: int) -> Iterator[tuple[Extent, Extent, Tensor]]:
    """Yield (output positions, input positions, weights between them) for runs of neighbouring outputs."""
    centres, support = axis.centres, axis.support
    for start in range(0, len(centres), _BAND):
        some = centres[start : start + _BAND]
        reach = _reach(some, support, length)
        weights = np.clip(1 - np.abs(np.arange(*reach) - some[:, None]) / support, 0, None)
        weights /= weights.sum(axis=1, keepdims=True)
        yield (start, start + len(some)), reach, torch.from_numpy(weights.astype(np.float32))


def _along(values: Tensor, dim: int, axis: AxisMap) -> Tensor:
    length = values.shape[dim]
    if axis.copies:
        taken = values.narrow(dim, (reach := axis.needed(length))[0], reach[1] - reach[0])
        return taken.flip(dim) if axis.scale < 0 else taken
    rows = axis.valid[1] - axis.valid[0]
    before, after = values.shape[:dim], values.shape[dim + 1 :]
    stacked = values.reshape(prod(before), length, prod(after))
    result = values.new_empty(prod(before), rows, prod(after))
    for (start, stop), (first, last), weights in _bands(axis, length):
        if after:
            torch.matmul(weights, stacked[:, first:last], out=result[:, start:stop])
        else:
            torch.mm(stacked[:, first:last, 0], weights.T, out=result[:, start:stop, 0])
    return result.reshape(*before, rows, *after)
