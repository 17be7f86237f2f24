"""Masks as pure functions of given noise (MAE, section 3; Uni4Eye, section 2.2; PiMAE, section 3.2).

The same noise gives the same mask, so runs replay and parity is exact.

Differs from the authors' code: at least one token stays visible (theirs keeps none for ten tokens at a ratio of 0.9);
points outside the picture or behind the camera hit no patch (PiMAE's stops there, or takes a patch of another row).
"""

from math import ceil
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.tokens.grid import grid_of
from crossdim.tokens.neighbours import nearest_neighbours
from crossdim.tokens.sampling import gather_points

Alignment = Literal["uniform", "complement"]
PixelConvention = Literal["centre", "released"]
PointMasking = Literal["random", "block"]


class Mask(NamedTuple):
    """Which tokens are visible.

    Attributes:
        ids_keep: ``(batch, kept)`` indices of the visible tokens, in the order the encoder sees them.
        ids_restore: ``(batch, tokens)`` inverse of the shuffling permutation.
        mask: ``(batch, tokens)`` float, 1 where a token is hidden.
    """

    ids_keep: Int[Tensor, "batch kept"]
    ids_restore: Int[Tensor, "batch tokens"]
    mask: Float[Tensor, "batch tokens"]


def kept_tokens(tokens: int, ratio: float) -> int:
    """Return how many tokens stay visible: ``int(tokens * (1 - ratio))``, at least one.

    Raises:
        ContractError: The ratio is outside [0, 1).
    """
    check_ratio(ratio)
    return max(1, int(tokens * (1 - ratio)))


def check_ratio(ratio: float) -> None:
    """Refuse a share of hidden tokens that leaves none, or that is no share.

    Raises:
        ContractError: The ratio is outside [0, 1).
    """
    if not 0 <= ratio < 1:
        raise ContractError(f"mask ratio {ratio}", "outside [0, 1)", "Use a share of hidden tokens such as 0.75")


def mask_by_noise(noise: Float[Tensor, "batch tokens"], ratio: float, of: int | None = None) -> Mask:
    """Hide the tokens with the largest noise.

    Args:
        noise: One score per token; uniform noise gives MAE's random masking.
        ratio: Share of hidden tokens, in [0, 1).
        of: Tokens that the ratio is a share of, where fewer than all hold data; the others are hidden besides.
    """
    kept = kept_tokens(noise.shape[1] if of is None else of, ratio)
    ids_shuffle = torch.argsort(noise, dim=1)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    return Mask(ids_shuffle[:, :kept], ids_restore, (ids_restore >= kept).to(torch.float32))


def block_noise(
    noise: Float[Tensor, "batch tokens"], grid: tuple[int, ...], block: tuple[int, ...]
) -> Float[Tensor, "batch tokens"]:
    """Turn token noise into noise that hides whole blocks of neighbouring tokens together.

    Blocks are ordered by the noise of their first token; inside a block the token's own noise breaks the tie, so the
    count of hidden tokens stays exact and at most one block is hidden in part.

    Args:
        noise: Uniform in [0, 1).
        grid: Tokens along each axis.
        block: Tokens per block along each axis; a grid that is no multiple of it has smaller blocks at its end.
    """
    index = torch.arange(noise.shape[1], device=noise.device).reshape(grid)
    first = index
    for axis, width in enumerate(block):
        places = torch.arange(grid[axis], device=noise.device)
        first = first.index_select(axis, places - places % width)
    rank = torch.argsort(torch.argsort(noise, dim=1), dim=1)
    return rank[:, first.flatten()].to(noise.dtype) + noise


def hide_padding_first(
    noise: Float[Tensor, "batch tokens"], padding_mask: Bool[Tensor, "batch tokens"] | None
) -> Float[Tensor, "batch tokens"]:
    """Raise the noise of padded tokens above all others, so that the encoder sees data and not padding.

    Args:
        noise: Any finite scores.
        padding_mask: True where a token is padding.
    """
    if padding_mask is None:
        return noise
    return torch.where(padding_mask, noise + noise.max() + 1, noise)


def random_point_mask(noise: Float[Tensor, "batch groups"], ratio: float) -> Bool[Tensor, "batch groups"]:
    """Hide exactly ``int(ratio * groups)`` groups of points: those with the largest noise.

    Args:
        noise: Uniform noise gives a uniformly random mask.
        ratio: Share of hidden groups, in [0, 1).

    Returns:
        True where a group is hidden.

    Raises:
        ContractError: The ratio is outside [0, 1).
    """
    check_ratio(ratio)
    hidden = int(ratio * noise.shape[1])
    order = noise.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(noise, dtype=torch.bool).scatter_(1, order[:, :hidden], True)


def block_point_mask(
    centers: Float[Tensor, "batch groups 3"], noise: Float[Tensor, "batch groups"], ratio: float
) -> Bool[Tensor, "batch groups"]:
    """Hide one block: the ``int(ratio * groups)`` groups nearest to the one with the largest noise, itself included.

    Args:
        centers: Of the groups, in metres.
        noise: Uniform noise makes every group the middle of the block equally often.
        ratio: Share of hidden groups, in [0, 1).

    Returns:
        True where a group is hidden.

    Raises:
        ContractError: The ratio is outside [0, 1).
    """
    check_ratio(ratio)
    mask = torch.zeros_like(noise, dtype=torch.bool)
    hidden = int(ratio * noise.shape[1])
    if not hidden:
        return mask
    middle = gather_points(centers, noise.argmax(dim=1, keepdim=True))
    return mask.scatter_(1, nearest_neighbours(centers, middle, hidden)[:, 0], True)


def point_mask(
    kind: PointMasking, centers: Float[Tensor, "batch groups 3"], noise: Float[Tensor, "batch groups"], ratio: float
) -> Bool[Tensor, "batch groups"]:
    """Hide groups of points; see :func:`random_point_mask` and :func:`block_point_mask`.

    Args:
        kind: Which of the two.
        centers: Of the groups, in metres.
        noise: One score per group.
        ratio: Share of hidden groups, in [0, 1).
    """
    return block_point_mask(centers, noise, ratio) if kind == "block" else random_point_mask(noise, ratio)


def visible_first(mask: Bool[Tensor, "batch groups"]) -> tuple[Int[Tensor, "batch groups"], int]:
    """Return the order that puts visible groups before hidden ones, each in their own order, and how many are visible.

    Args:
        mask: True where a group is hidden.

    Raises:
        ContractError: The samples hide different numbers of groups, or all or none of them.
    """
    counts = set(mask.sum(dim=1).tolist())
    if len(counts) != 1 or not counts < set(range(1, mask.shape[1])):
        raise ContractError(
            f"point mask of shape {tuple(mask.shape)}",
            f"hides {sorted(counts)} groups",
            "Hide equally many groups of every sample, neither all nor none",
        )
    return mask.to(torch.uint8).argsort(dim=1, stable=True), mask.shape[1] - counts.pop()


def patches_of(
    u: Float[Tensor, "batch points"],
    v: Float[Tensor, "batch points"],
    size: tuple[int, int],
    patch: tuple[int, int],
    depths: Float[Tensor, "batch points"] | None = None,
    convention: PixelConvention = "centre",
) -> tuple[Int[Tensor, "batch points"], Bool[Tensor, "batch points"]]:
    """Return the patch that each projected point falls into, and whether it falls into any.

    Args:
        u: Columns as shares of the picture's width.
        v: Rows as shares of its height.
        size: Height and width of the picture that the model sees.
        patch: Of its patches.
        depths: In front of the camera in metres; points behind it are in no patch.
        convention: ``centre``: the picture covers [0, 1); ``released``: the authors', who scale by ``size - 1``.

    Returns:
        Places of the patches in raster order (0 where there is none), and True where there is one.
    """
    rows, columns = grid_of(size, patch)
    less = 1 if convention == "released" else 0
    column = torch.floor(u * (size[1] - less) / patch[1])
    row = torch.floor(v * (size[0] - less) / patch[0])
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    if depths is not None:
        inside &= depths > 0
    place = torch.where(inside, row * columns + column, torch.zeros_like(row))
    return place.long(), inside


def patches_hit(
    place: Int[Tensor, "batch points"], inside: Bool[Tensor, "batch points"], patches: int
) -> Bool[Tensor, "batch patches"]:
    """Return the patches that at least one point falls into.

    Args:
        place: Patch of each point.
        inside: Which of them count.
        patches: Number of patches.
    """
    counts = torch.zeros(len(place), patches, dtype=torch.int64, device=place.device)
    return counts.scatter_add_(1, place, inside.long()) > 0


def aligned_mask(
    hit: Bool[Tensor, "batch tokens"], noise: Float[Tensor, "batch tokens"], ratio: float, alignment: Alignment
) -> Mask:
    """Hide image patches according to which of them the hidden points fall into (PiMAE, section 3.2).

    Args:
        hit: Patches that hidden points fall into.
        noise: Uniform in [0, 1); decides among patches that are hit, and among the others.
        ratio: Share of hidden patches, in [0, 1); ``ceil(tokens * (1 - ratio))`` stay visible.
        alignment: ``uniform`` hides the patches that are hit, so that both modalities miss the same; ``complement``
            shows them, so that one modality shows what the other misses.

    Raises:
        ContractError: The ratio is outside [0, 1).
    """
    check_ratio(ratio)
    kept = ceil(hit.shape[1] * (1 - ratio))
    score = hit.to(noise.dtype) + noise / 2
    ids_shuffle = score.argsort(dim=1, descending=alignment == "complement", stable=True)
    ids_restore = ids_shuffle.argsort(dim=1)
    return Mask(ids_shuffle[:, :kept], ids_restore, (ids_restore >= kept).to(torch.float32))


def patch_mask(
    noise: Float[Tensor, "batch tokens"],
    ratio: float,
    hit: Bool[Tensor, "batch tokens"] | None = None,
    alignment: Alignment | Literal["independent"] = "complement",
) -> Mask:
    """Hide image patches: independently of the points, or aligned with the patches that hidden ones fall into.

    Args:
        noise: Uniform in [0, 1).
        ratio: Share of hidden patches, in [0, 1).
        hit: Patches that hidden points fall into; None for an independent mask.
        alignment: What ``hit`` means, if anything; see :func:`aligned_mask`.
    """
    if hit is None or alignment == "independent":
        return mask_by_noise(noise, ratio)
    return aligned_mask(hit, noise, ratio, alignment)
