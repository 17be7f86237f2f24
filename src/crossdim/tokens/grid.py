"""Patches of squares and cubes, and the Unified Patch Embedding (Uni4Eye, section 2.1).

A grid is the number of patches along each axis: ``(rows, columns)`` for images, ``(depth, rows, columns)`` for
volumes. Tokens are in raster order (last axis fastest); inside a patch values are ordered by position, then channel.

Differs from the authors' code: volumes may have any size and any patch, anisotropic too (theirs must have equal
first and last axes); the volume stem may be derived from the image stem instead of having weights of its own.
"""

from itertools import chain
from math import prod
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossdim.errors import ContractError

Grid = tuple[int, ...]
VolumeStem = Literal["separate", "inflated"]
Size = int | list[int] | tuple[int, ...]


def _sizes(value: Size, rank: int) -> tuple[int, ...]:
    sizes = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(sizes) != rank or min(sizes) < 1:
        raise ContractError(f"size {value}", f"is not {rank} positive numbers", f"Give one number, or {rank} of them")
    return sizes


def pair(value: Size) -> tuple[int, int]:
    """Return ``(height, width)``: one number stands for both, and JSON turns tuples into lists.

    Args:
        value: One size, or two.

    Raises:
        ContractError: There are not two sizes, or one is not positive.
    """
    height, width = _sizes(value, 2)
    return height, width


def triple(value: Size) -> tuple[int, int, int]:
    """Return ``(depth, height, width)``; see :func:`pair`.

    Args:
        value: One size, or three.

    Raises:
        ContractError: There are not three sizes, or one is not positive.
    """
    depth, height, width = _sizes(value, 3)
    return depth, height, width


def grid_of(size: tuple[int, ...], patch: tuple[int, ...]) -> Grid:
    """Return the number of patches along each axis.

    Args:
        size: Spatial size, ``(height, width)`` or ``(depth, height, width)``.
        patch: Patch size along the same axes.

    Raises:
        ContractError: The size is not a multiple of the patch.
    """
    if len(size) != len(patch) or any(s % p or s < p for s, p in zip(size, patch, strict=False)):
        raise ContractError(
            f"input of size {size}",
            f"not a multiple of the patch {patch} along every axis",
            "Set the contract's size to a multiple of the patch",
        )
    return tuple(s // p for s, p in zip(size, patch, strict=True))


def check_channels(values: Float[Tensor, "batch channels *spatial"], channels: int) -> None:
    """Refuse images or volumes with other channels than a model takes.

    Args:
        values: A batch.
        channels: How many the model takes.

    Raises:
        ContractError: There are more or fewer.
    """
    if values.shape[1] != channels:
        raise ContractError(
            f"input of shape {tuple(values.shape)}",
            f"has {values.shape[1]} channels where this model takes {channels}",
            "Prepare the input with the contract saved beside the model",
        )


def patchify(
    values: Float[Tensor, "batch channels *spatial"], patch: tuple[int, ...]
) -> Float[Tensor, "batch tokens values"]:
    """Cut images or volumes into patches, in raster order, values ordered by position then channel.

    Args:
        values: Two or three spatial axes, each a multiple of the patch.
        patch: Patch size along the spatial axes.
    """
    grid = grid_of(tuple(values.shape[2:]), patch)
    batch, channels = values.shape[:2]
    split = values.reshape(batch, channels, *chain.from_iterable(zip(grid, patch, strict=True)))
    rank = len(grid)
    order = (0, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2), 1)
    return split.permute(order).reshape(batch, prod(grid), prod(patch) * channels)


def unpatchify(
    tokens: Float[Tensor, "batch tokens values"], grid: Grid, patch: tuple[int, ...]
) -> Float[Tensor, "batch channels *spatial"]:
    """Put patches back together: the inverse of :func:`patchify`.

    Args:
        tokens: Patches in raster order.
        grid: Number of patches along each axis.
        patch: Patch size along each axis.
    """
    rank = len(grid)
    channels = tokens.shape[-1] // prod(patch)
    split = tokens.reshape(tokens.shape[0], *grid, *patch, channels)
    order = (0, 1 + 2 * rank, *chain.from_iterable((1 + axis, 1 + rank + axis) for axis in range(rank)))
    size = tuple(g * p for g, p in zip(grid, patch, strict=True))
    return split.permute(order).reshape(tokens.shape[0], channels, *size)


def embed_patches(
    stem: nn.Conv2d | nn.Conv3d, patches: Float[Tensor, "batch tokens values"]
) -> Float[Tensor, "batch tokens dim"]:
    """Apply a stem to patches that were cut before; where most are hidden, only the others need it.

    Args:
        stem: A convolution whose stride is its kernel.
        patches: From :func:`patchify`, or some of them.
    """
    return F.linear(patches, stem.weight.movedim(1, -1).flatten(1), stem.bias)


def inflate_kernel(
    kernel: Float[Tensor, "dim channels height width"], channels: int, patch: tuple[int, int, int]
) -> Float[Tensor, "dim volume_channels depth rows columns"]:
    """Derive a volume kernel from an image kernel so that a constant-depth volume gives the image's token.

    The image kernel is summed over its channels (a grey image is the same value in every channel), shared out over
    the volume's channels, resized to the patch's rows and columns with its sum kept, and repeated along depth divided
    by the depth (I3D inflation; Carreira and Zisserman, CVPR 2017).

    Args:
        kernel: Weight of the image stem.
        channels: Channels of the volume.
        patch: Patch of the volume, ``(depth, height, width)``.
    """
    depth, height, width = patch
    plane = kernel.sum(dim=1, keepdim=True) / channels
    if plane.shape[-2:] != (height, width):
        area = plane.shape[-2] * plane.shape[-1] / (height * width)
        plane = F.interpolate(plane, (height, width), mode="bilinear", antialias=True) * area
    return plane[:, :, None].expand(-1, channels, depth, -1, -1) / depth


class UnifiedPatchEmbed(nn.Module):
    """The stem: squares of an image and cubes of a volume become tokens of one width.

    ``(batch, channels, height, width)`` or ``(batch, channels, depth, height, width)`` → ``(batch, tokens, dim)``.

    Args:
        dim: Width of the tokens.
        image_channels: Channels of an image.
        image_patch: Patch of an image, ``(height, width)``.
        volume_channels: Channels of a volume.
        volume_patch: Patch of a volume, ``(depth, height, width)``.
        volume_stem: ``separate``: weights of its own (the authors'); ``inflated``: derived from the image stem.
    """

    def __init__(
        self,
        dim: int,
        image_channels: int,
        image_patch: tuple[int, int],
        volume_channels: int,
        volume_patch: tuple[int, int, int],
        volume_stem: VolumeStem = "separate",
    ) -> None:
        super().__init__()
        self.image_patch, self.volume_patch = image_patch, volume_patch
        self.volume_channels = volume_channels
        self.image = nn.Conv2d(image_channels, dim, image_patch, image_patch)
        self.volume = nn.Conv3d(volume_channels, dim, volume_patch, volume_patch) if volume_stem == "separate" else None

    def patch_of(self, values: Float[Tensor, "batch channels *spatial"]) -> tuple[int, ...]:
        """Return the patch size for a batch by its rank.

        Raises:
            ContractError: The batch is neither images nor volumes, or has the wrong number of channels.
        """
        patch: tuple[int, ...]
        if values.ndim == 4:
            patch, channels = self.image_patch, self.image.in_channels
        elif values.ndim == 5:
            patch, channels = self.volume_patch, self.volume_channels
        else:
            raise ContractError(
                f"input of shape {tuple(values.shape)}",
                "neither images (batch, channels, height, width) nor volumes (batch, channels, depth, height, width)",
                "Add the batch and channel axes",
            )
        check_channels(values, channels)
        return patch

    def forward(self, values: Float[Tensor, "batch channels *spatial"]) -> Float[Tensor, "batch tokens dim"]:
        """Embed every patch.

        Args:
            values: A batch of images or of volumes.
        """
        self.patch_of(values)
        if values.ndim == 4:
            tokens = self.image(values)
        elif self.volume is not None:
            tokens = self.volume(values)
        else:
            kernel = inflate_kernel(self.image.weight, self.volume_channels, self.volume_patch)
            tokens = F.conv3d(values, kernel, self.image.bias, self.volume_patch)
        return tokens.flatten(2).transpose(1, 2)
