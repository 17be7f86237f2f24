"""Position codes for grids of any size: sine-cosine over two or three axes, or interpolated tables.

Image codes are those of MAE (He et al., 2022): the first half of the width codes the column, the second half the row,
each half ``[sin | cos]`` with frequencies ``10000^(-k / (dim / 4))``. Volume codes split the width over column, row and
depth in the same way; what is left of a width that does not divide by six stays zero. Row 0 belongs to the class token
and is zero.

Places in a scene have random Fourier features instead (Tancik et al., 2020), as in 3DETR.

Differs from the authors' code: they leave the volume tables at zero; that is ``"none"`` here, and their tables load as
``"table"``.
"""

from functools import lru_cache
from math import prod, tau
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossdim.tokens.grid import Grid

PositionKind = Literal["sincos", "table", "none"]


@lru_cache(maxsize=64)
def sincos_table(grid: Grid, dim: int) -> Float[Tensor, "positions dim"]:
    """Return sine-cosine codes, the class token's zero row first.

    Args:
        grid: Number of patches along each axis, ``(rows, columns)`` or ``(depth, rows, columns)``.
        dim: Width of the codes.

    Returns:
        float32 ``(1 + tokens, dim)``, computed in float64.
    """
    rank = len(grid)
    frequencies = dim // (2 * rank)
    omega = 10000.0 ** (-np.arange(frequencies, dtype=np.float64) / frequencies)
    codes = np.zeros((1 + prod(grid), dim), dtype=np.float64)
    axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid), indexing="ij")
    for place, axis in enumerate(reversed(axes)):
        angle = axis.reshape(-1, 1) * omega
        start = 2 * frequencies * place
        codes[1:, start : start + frequencies] = np.sin(angle)
        codes[1:, start + frequencies : start + 2 * frequencies] = np.cos(angle)
    return torch.from_numpy(codes.astype(np.float32))


def interpolate_table(
    table: Float[Tensor, "1 positions dim"], old: Grid, new: Grid
) -> Float[Tensor, "1 new_positions dim"]:
    """Resize a position table to another grid; the class token's row is kept.

    Args:
        table: Class row first, then the patches in raster order.
        old: The table's grid.
        new: The grid wanted: bicubic in two dimensions (as MAE does), trilinear in three.
    """
    if old == new:
        return table
    patches = table[:, 1:].reshape(1, *old, -1).movedim(-1, 1)
    mode = "bicubic" if len(new) == 2 else "trilinear"
    resized = F.interpolate(patches.float(), new, mode=mode, align_corners=False).to(table.dtype)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


class GridPositions(nn.Module):
    """Frozen position codes for both modalities.

    Args:
        dim: Width of the codes.
        image: Kind of the image codes.
        image_grid: Grid of the image table.
        volume: Kind of the volume codes.
        volume_grid: Grid of the volume table.
    """

    image_table: Tensor | None
    volume_table: Tensor | None

    def __init__(
        self, dim: int, image: PositionKind, image_grid: Grid, volume: PositionKind, volume_grid: Grid
    ) -> None:
        super().__init__()
        self.dim = dim
        self.kinds: dict[int, PositionKind] = {2: image, 3: volume}
        self.grids = {2: image_grid, 3: volume_grid}
        for name, kind, grid in (("image_table", image, image_grid), ("volume_table", volume, volume_grid)):
            self.register_buffer(name, torch.zeros(1, 1 + prod(grid), dim) if kind == "table" else None)

    def forward(self, grid: Grid) -> Float[Tensor, "1 positions dim"] | None:
        """Return the codes of a grid, the class token's row first; None where there are no codes.

        Args:
            grid: Two axes for images, three for volumes; any size.
        """
        rank = len(grid)
        if self.kinds[rank] == "none":
            return None
        if self.kinds[rank] == "sincos":
            return sincos_table(grid, self.dim)[None]
        table = self.image_table if rank == 2 else self.volume_table
        assert table is not None
        return interpolate_table(table, self.grids[rank], grid)


class FourierPositions(nn.Module):
    """Codes of places in a box: ``[sin | cos]`` of fixed random waves; ``(..., 3)`` → ``(..., width)``.

    Args:
        width: Of the codes; even.
    """

    waves: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("waves", torch.randn(3, width // 2))

    def forward(self, shares: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch width"]:
        """Code places given as shares of the box's extent: 0 to 1 along each axis."""
        angles = (tau * shares) @ self.waves.to(shares)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
