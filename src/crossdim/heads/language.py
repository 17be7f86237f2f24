"""Where visual tokens enter a language model: in place of the placeholders in its input."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdim.errors import ContractError


def splice(
    inputs_embeds: Float[Tensor, "batch tokens dim"],
    places: Bool[Tensor, "batch tokens"],
    features: Float[Tensor, "placeholders visual_tokens dim"] | None,
    noun: Literal["volume", "image"],
) -> Float[Tensor, "batch tokens dim"]:
    """Put visual tokens where the placeholders are, in reading order over the batch.

    Args:
        inputs_embeds: Embedded text.
        places: True where ``input_ids`` holds a placeholder.
        features: Visual tokens of each placeholder, or None where there are none.
        noun: What is shown, for the error.

    Raises:
        ContractError: The text has some other number of placeholders; both numbers are named.
    """
    found = int(places.sum())
    shown, each = (0, 1) if features is None else (features.shape[0], features.shape[1])
    if found != shown * each:
        counted = f"{found / each:g} <{noun}> placeholders in the text"
        unit = f" of {each} tokens each" if features is not None else " (counted in tokens)"
        raise ContractError(
            f"{counted}{unit}",
            f"but {shown} {noun}s to show",
            f"Write one <{noun}> for each {noun}, or tell by {noun}_index which one each placeholder shows",
        )
    if features is None or found == 0:
        return inputs_embeds
    return inputs_embeds.masked_scatter(places[..., None], features.to(inputs_embeds))


def positions(attention_mask: Int[Tensor, "batch length"] | Bool[Tensor, "batch length"], tokens: int) -> Tensor:
    """Return position ids of the last tokens, counted over real tokens only: equal for either padding side.

    Args:
        attention_mask: 1 for a real token; cached tokens included.
        tokens: Tokens that are not in the cache.
    """
    counted = attention_mask.long().cumsum(dim=1) - 1
    return counted.clamp_min(0)[:, -tokens:]


def learned_tokens(labels: Int[Tensor, "batch tokens"]) -> Int[Tensor, ""]:
    """Return how many tokens the next-token loss counts.

    Args:
        labels: Token ids, -100 where nothing is learned.
    """
    return (labels[:, 1:] != -100).sum()


def mean_embedding(
    embeds: Float[Tensor, "placeholders tokens dim"], mask: Int[Tensor, "placeholders tokens"]
) -> Float[Tensor, "placeholders dim"]:
    """Return the mean over real tokens.

    Args:
        embeds: Embedded questions.
        mask: 1 for a real token.
    """
    real = mask.to(embeds)[..., None]
    return (embeds * real).sum(dim=1) / real.sum(dim=1).clamp_min(1)


def trimmed(
    ids: Int[Tensor, "placeholders tokens"], mask: Int[Tensor, "placeholders tokens"] | None
) -> tuple[Int[Tensor, "placeholders kept"], Int[Tensor, "placeholders kept"]]:
    """Cut what is padding in every row, so that no encoder reads it.

    Args:
        ids: Token ids.
        mask: 1 for a real token; None if all are.
    """
    if mask is None:
        return ids, torch.ones_like(ids)
    used = mask.bool().any(dim=0).nonzero()[:, 0]
    if len(used) == 0:
        return ids[:, :1], mask[:, :1]
    first, last = int(used[0]), int(used[-1]) + 1
    return ids[:, first:last], mask[:, first:last]
