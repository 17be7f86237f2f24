"""Masks as pure functions of given noise (MAE, section 3; Uni4Eye, section 2.2).

The same noise gives the same mask, so runs replay and parity is exact.

Differs from the authors' code: at least one token stays visible (theirs keeps none for ten tokens at a ratio of 0.9).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdim.errors import ContractError


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
    if not 0 <= ratio < 1:
        raise ContractError(f"mask ratio {ratio}", "outside [0, 1)", "Use a share of hidden tokens such as 0.75")
    return max(1, int(tokens * (1 - ratio)))


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
