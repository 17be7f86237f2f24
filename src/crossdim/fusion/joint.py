"""One transformer over the tokens of several modalities (PiMAE, section 3: the shared encoder and the shared decoder).

Sets of tokens are put one after another, attend to one another, and are taken apart again. Nothing here knows what a
set is: images, points, or anything else of one width.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossdim.encoders.transformer import TransformerLayer, TransformerShape, make_layers
from crossdim.errors import ContractError


class JointTokens(NamedTuple):
    """What a joint encoder puts out.

    Attributes:
        hidden: ``(batch, tokens, dim)``: the class token, if there is one, then all sets.
        sets: The tokens of each set, in the order they were given in.
    """

    hidden: Float[Tensor, "batch tokens dim"]
    sets: tuple[Float[Tensor, "batch _ dim"], ...]


class JointEncoder(nn.Module):
    """Layers in which all tokens of all sets see one another; ``[(batch, tokens, dim), ...]`` → the same.

    Args:
        shape: Sizes.
        class_token: Whether a learned token goes before the sets.
        norm: Whether there is a final norm.
    """

    def __init__(self, shape: TransformerShape, class_token: bool = True, norm: bool = False) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.hidden_size)) if class_token else None
        self.layers = make_layers(shape)
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps) if norm else nn.Identity()

    def forward(
        self,
        sets: Sequence[Float[Tensor, "batch _ dim"]],
        padding_masks: Sequence[Bool[Tensor, "batch _"] | None] | None = None,
    ) -> JointTokens:
        """Encode the sets together.

        Args:
            sets: At least one; each with its position codes and whatever tells it from the others added.
            padding_masks: For each set, True where a token is padding that no token may look at, or None.

        Raises:
            ContractError: There is no set, or not one mask for each.
        """
        hidden, padding = self._join(sets, padding_masks)
        for layer in self.layers:
            hidden = layer(hidden, None, padding)
        hidden = self.norm(hidden)
        first = hidden.shape[1] - sum(tokens.shape[1] for tokens in sets)
        parts = hidden[:, first:].split([tokens.shape[1] for tokens in sets], dim=1)
        return JointTokens(hidden, tuple(parts))

    @torch.no_grad()
    def attention(
        self,
        sets: Sequence[Float[Tensor, "batch _ dim"]],
        of: int,
        over: int,
        queries: Int[Tensor, " queries"] | None = None,
        layer: int = -1,
        padding_masks: Sequence[Bool[Tensor, "batch _"] | None] | None = None,
    ) -> Float[Tensor, "batch looking tokens"]:
        """Return how much tokens of one set look at the tokens of another, as the mean over the heads of one layer.

        The weights of a token over all sets and the class token sum to one.

        Args:
            sets: As in :meth:`forward`.
            of: Which set looks.
            over: Which set it looks at.
            queries: Which tokens of the set look; None for all of them.
            layer: Number of the layer, from 0; negative numbers count from the last.
            padding_masks: As in :meth:`forward`.

        Raises:
            ContractError: There is no such set or layer.
        """
        for name, number, count in (
            ("layer", layer, len(self.layers)),
            ("set", of, len(sets)),
            ("set", over, len(sets)),
        ):
            if not -count <= number < count:
                raise ContractError(f"{name} {number}", f"there are {count}", f"Give a number from 0 to {count - 1}")
        hidden, padding = self._join(sets, padding_masks)
        last = layer % len(self.layers)
        for each in self.layers[:last]:
            hidden = each(hidden, None, padding)
        counts = [tokens.shape[1] for tokens in sets]
        starts = list(accumulate(counts[:-1], initial=hidden.shape[1] - sum(counts)))
        rows = torch.arange(counts[of], device=hidden.device) if queries is None else queries
        looking = self.layers[last]
        assert isinstance(looking, TransformerLayer)
        weights = looking.attention.weights(looking.norm1(hidden), padding, starts[of] + rows)
        return weights.mean(dim=1)[..., starts[over] : starts[over] + counts[over]]

    def _join(
        self,
        sets: Sequence[Float[Tensor, "batch _ dim"]],
        padding_masks: Sequence[Bool[Tensor, "batch _"] | None] | None,
    ) -> tuple[Float[Tensor, "batch tokens dim"], Bool[Tensor, "batch tokens"] | None]:
        """Return one sequence, and where it is padding (None where nothing is)."""
        if not sets:
            raise ContractError("joint encoder", "got no tokens at all", "Give at least one modality")
        if padding_masks is not None and len(padding_masks) != len(sets):
            raise ContractError(
                f"{len(padding_masks)} padding masks",
                f"for {len(sets)} sets of tokens",
                "Give one mask, or None, for each",
            )
        parts = list(sets)
        masks = [None] * len(sets) if padding_masks is None else list(padding_masks)
        if self.cls_token is not None:
            parts.insert(0, self.cls_token.to(parts[0]).expand(parts[0].shape[0], -1, -1))
            masks.insert(0, None)
        hidden = torch.cat(parts, dim=1)
        if all(mask is None for mask in masks):
            return hidden, None
        whole = [
            part.new_zeros(part.shape[:2], dtype=torch.bool) if mask is None else mask
            for part, mask in zip(parts, masks, strict=True)
        ]
        return hidden, torch.cat(whole, dim=1)
