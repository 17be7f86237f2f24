"""A pre-norm vision transformer over padded batches or packed sequences.

Layers follow MAE/timm: one qkv projection, exact GELU, LayerNorm before each branch, stochastic depth on each residual.
With ``activation="relu"`` and ``dropout`` they are the layers of 3DETR.

Unusual here: a sequence may hold several samples. ``segment_lengths`` then says how long each one is, and attention
stays inside the segments: segments of equal length are batched together, so nothing of size ``tokens²`` over the whole
sequence is built.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from crossdim.errors import ContractError


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of a stack of layers.

    Attributes:
        hidden_size: Width of the tokens.
        num_layers: Number of layers.
        num_heads: Attention heads; divides the width.
        intermediate_size: Width inside the MLP.
        qkv_bias: Whether the qkv projection has a bias.
        layer_norm_eps: Epsilon of every LayerNorm.
        drop_path_rate: Stochastic depth of the last layer; grows linearly from 0 at the first.
        activation: Between the MLP's two maps.
        dropout: Chance of each attention weight, of each value inside the MLP, and of each value that a branch adds to
            its residual, to be zero while training.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    drop_path_rate: float = 0.0
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ContractError(
                f"hidden_size {self.hidden_size}",
                f"does not divide by the {self.num_heads} attention heads",
                "Choose a width that is a multiple of the number of heads",
            )


def check_segments(hidden: Float[Tensor, "batch tokens dim"], segment_lengths: Sequence[int] | None) -> None:
    """Refuse segment lengths that do not describe the sequence.

    Raises:
        ContractError: The batch is not one sequence, or the lengths do not add up to it.
    """
    if segment_lengths is None:
        return
    if hidden.shape[0] != 1 or sum(segment_lengths) != hidden.shape[1] or min(segment_lengths) < 1:
        raise ContractError(
            f"segment lengths {list(segment_lengths)}",
            f"add up to {sum(segment_lengths)} for a batch of {hidden.shape[0]} x {hidden.shape[1]} tokens",
            "Pack all samples into one sequence and give each one's length, at least 1",
        )


def layers_used(layer: int, layers: int) -> int:
    """Return how many layers come before a chosen hidden state.

    Args:
        layer: 0 is the input of the first layer; negative numbers count from the last layer.
        layers: Layers of the stack.

    Raises:
        ContractError: There is no such layer.
    """
    if not -layers - 1 <= layer <= layers:
        raise ContractError(
            f"layer {layer}", f"is not among the {layers} layers", f"Give a number from {-layers - 1} to {layers}"
        )
    return layer % (layers + 1)


class Attention(nn.Module):
    """Multi-head self-attention; ``(batch, tokens, dim)`` → the same.

    Args:
        shape: Sizes; only the width, heads, bias and dropout are used.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.num_heads, self.dropout = shape.num_heads, shape.dropout
        self.qkv = nn.Linear(shape.hidden_size, 3 * shape.hidden_size, bias=shape.qkv_bias)
        self.proj = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        segment_lengths: Sequence[int] | None = None,
        padding_mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend within each sample.

        Args:
            hidden: Tokens.
            segment_lengths: Lengths of the samples packed into one sequence, or None.
            padding_mask: True where a token is padding that no token may look at; not for packed sequences.
        """
        qkv = self._project(hidden)
        if segment_lengths is None:
            seen = None if padding_mask is None else ~padding_mask[:, None, None]
            mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], seen, self._drop)
        else:
            mixed = self._attend_segments(qkv, segment_lengths, self._drop)
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))

    def weights(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        padding_mask: Bool[Tensor, "batch tokens"] | None = None,
        queries: Int[Tensor, " queries"] | None = None,
    ) -> Float[Tensor, "batch heads looking tokens"]:
        """Return how much each token looks at every other; the weights of a token sum to one.

        Args:
            hidden: Tokens.
            padding_mask: True where a token is padding.
            queries: Which tokens look; None for all of them.
        """
        query, key, _ = self._project(hidden)
        if queries is not None:
            query = query[:, :, queries]
        scores = (query @ key.transpose(-1, -2)).float() / query.shape[-1] ** 0.5
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask[:, None, None], float("-inf"))
        return scores.softmax(dim=-1)

    @property
    def _drop(self) -> float:
        return self.dropout if self.training else 0.0

    def _project(self, hidden: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "3 batch heads tokens width"]:
        return rearrange(self.qkv(hidden), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)

    @staticmethod
    def _attend_segments(
        qkv: Float[Tensor, "three 1 heads tokens width"], lengths: Sequence[int], dropout: float
    ) -> Float[Tensor, "1 heads tokens width"]:
        places: dict[int, list[int]] = defaultdict(list)
        for place, length in enumerate(lengths):
            places[length].append(place)
        pieces = qkv[:, 0].split(list(lengths), dim=2)
        mixed: list[Tensor] = [pieces[0][0]] * len(pieces)
        for same in places.values():
            query, key, value = torch.stack([pieces[place] for place in same], dim=1)
            for place, result in zip(
                same, F.scaled_dot_product_attention(query, key, value, None, dropout), strict=True
            ):
                mixed[place] = result
        return torch.cat(mixed, dim=1)[None]


class MLP(nn.Module):
    """Two linear maps with exact GELU or ReLU between; ``(batch, tokens, dim)`` → the same.

    Args:
        shape: Sizes; only the two widths, the activation and the dropout are used.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.activation, self.dropout = shape.activation, shape.dropout
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, hidden: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Map each token by itself."""
        activate = F.gelu if self.activation == "gelu" else F.relu
        return self.fc2(F.dropout(activate(self.fc1(hidden)), self.dropout, self.training))


class TransformerLayer(GradientCheckpointingLayer):
    """LayerNorm → attention → residual → LayerNorm → MLP → residual.

    Args:
        shape: Sizes.
        drop_path_rate: Chance that a sample skips a branch while training.
    """

    def __init__(self, shape: TransformerShape, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_path_rate, self.dropout = drop_path_rate, shape.dropout
        self.norm1 = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.attention = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.mlp = MLP(shape)

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        segment_lengths: Sequence[int] | None = None,
        padding_mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Apply the layer.

        Args:
            hidden: Tokens.
            segment_lengths: Lengths of the samples packed into one sequence, or None.
            padding_mask: True where a token is padding that no token may look at; not for packed sequences.
        """
        mixed = self.attention(self.norm1(hidden), segment_lengths, padding_mask)
        hidden = hidden + self._drop_path(F.dropout(mixed, self.dropout, self.training), segment_lengths)
        mapped = self.mlp(self.norm2(hidden))
        return hidden + self._drop_path(F.dropout(mapped, self.dropout, self.training), segment_lengths)

    def _drop_path(
        self, branch: Float[Tensor, "batch tokens dim"], segment_lengths: Sequence[int] | None
    ) -> Float[Tensor, "batch tokens dim"]:
        if not self.training or self.drop_path_rate == 0:
            return branch
        samples = branch.shape[0] if segment_lengths is None else len(segment_lengths)
        keep = 1 - self.drop_path_rate
        scale = torch.empty(samples, device=branch.device, dtype=branch.dtype).bernoulli_(keep) / keep
        if segment_lengths is None:
            return branch * scale[:, None, None]
        return branch * scale.repeat_interleave(torch.tensor(segment_lengths, device=branch.device))[None, :, None]


def make_layers(shape: TransformerShape) -> nn.ModuleList:
    """Return the layers of a stack, with stochastic depth growing from the first to the last.

    Args:
        shape: Sizes.
    """
    last = max(1, shape.num_layers - 1)
    return nn.ModuleList(
        TransformerLayer(shape, shape.drop_path_rate * place / last) for place in range(shape.num_layers)
    )


class TransformerEncoder(nn.Module):
    """A stack of layers and a final norm; ``(batch, tokens, dim)`` → the same.

    Args:
        shape: Sizes.
        norm: Whether there is a final norm.
    """

    def __init__(self, shape: TransformerShape, norm: bool = True) -> None:
        super().__init__()
        self.layers = make_layers(shape)
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps) if norm else nn.Identity()

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        segment_lengths: Sequence[int] | None = None,
        padding_mask: Bool[Tensor, "batch tokens"] | None = None,
        positions: Float[Tensor, "batch tokens dim"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode padded batches, or one packed sequence when segment lengths are given.

        Args:
            hidden: Tokens with their position codes added.
            segment_lengths: Lengths of the samples packed into the one sequence of the batch, or None.
            padding_mask: True where a token is padding that no token may look at; not for packed sequences.
            positions: Codes that are added before every layer, for tokens that come without.

        Raises:
            ContractError: The lengths do not describe the sequence.
        """
        check_segments(hidden, segment_lengths)
        for layer in self.layers:
            hidden = layer(hidden if positions is None else hidden + positions, segment_lengths, padding_mask)
        return self.norm(hidden)

    def hidden_state(
        self, hidden: Float[Tensor, "batch tokens dim"], layer: int = -1, norm: bool = False
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return what one layer puts out; the last layer with the norm is :meth:`forward`.

        Args:
            hidden: Tokens with their position codes added.
            layer: 0 is the input, 1 the first layer's output; negative numbers count from the last layer.
            norm: Whether the final norm follows.

        Raises:
            ContractError: There is no such layer.
        """
        for each in self.layers[: layers_used(layer, len(self.layers))]:
            hidden = each(hidden)
        return self.norm(hidden) if norm else hidden
