"""Layers in which queries look at one another and at a memory: the pre-norm decoder of DETR as 3DETR uses it.

Positions are added to what looks and to what is looked at, in every layer, and never to what is passed on.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from crossdim.encoders.transformer import MLP, TransformerShape


class CrossAttention(nn.Module):
    """Multi-head attention with separate query, key and value; ``(batch, queries, dim)`` → the same.

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
        query: Float[Tensor, "batch queries dim"],
        key: Float[Tensor, "batch tokens dim"],
        value: Float[Tensor, "batch tokens dim"],
    ) -> Float[Tensor, "batch queries dim"]:
        """Look.

        Args:
            query: What looks.
            key: What is looked at.
            value: What is passed on.
        """
        weights = self.qkv.weight.chunk(3)
        biases = (None, None, None) if self.qkv.bias is None else self.qkv.bias.chunk(3)
        q, k, v = (
            rearrange(F.linear(*each), "b n (h d) -> b h n d", h=self.num_heads)
            for each in zip((query, key, value), weights, biases, strict=True)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, None, self.dropout if self.training else 0.0)
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))


class DecoderLayer(GradientCheckpointingLayer):
    """Self-attention → attention to the memory → MLP, each behind a LayerNorm and added to what went in.

    Args:
        shape: Sizes.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.dropout = shape.dropout
        self.norm1, self.norm2, self.norm3 = (
            nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps) for _ in range(3)
        )
        self.self_attention = CrossAttention(shape)
        self.cross_attention = CrossAttention(shape)
        self.mlp = MLP(shape)

    def forward(
        self,
        hidden: Float[Tensor, "batch queries dim"],
        memory: Float[Tensor, "batch tokens dim"],
        query_positions: Float[Tensor, "batch queries dim"],
        memory_positions: Float[Tensor, "batch tokens dim"],
    ) -> Float[Tensor, "batch queries dim"]:
        """Apply the layer.

        Args:
            hidden: Queries.
            memory: What they look at.
            query_positions: Codes of the queries' places.
            memory_positions: Codes of the memory's places.
        """
        normed = self.norm1(hidden)
        looking = normed + query_positions
        hidden = hidden + self._drop(self.self_attention(looking, looking, normed))
        looking = self.norm2(hidden) + query_positions
        hidden = hidden + self._drop(self.cross_attention(looking, memory + memory_positions, memory))
        return hidden + self._drop(self.mlp(self.norm3(hidden)))

    def _drop(self, branch: Float[Tensor, "batch queries dim"]) -> Float[Tensor, "batch queries dim"]:
        return F.dropout(branch, self.dropout, self.training)


class TransformerDecoder(nn.Module):
    """A stack of layers, and one norm for what each of them puts out.

    Args:
        shape: Sizes.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(
        self,
        memory: Float[Tensor, "batch tokens dim"],
        query_positions: Float[Tensor, "batch queries dim"],
        memory_positions: Float[Tensor, "batch tokens dim"],
        start: Float[Tensor, "batch queries dim"] | None = None,
    ) -> Float[Tensor, "layers batch queries dim"]:
        """Return the queries behind every layer.

        Args:
            memory: What the queries look at.
            query_positions: Codes of the queries' places.
            memory_positions: Codes of the memory's places.
            start: What the queries begin with; None begins with nothing but their places.
        """
        hidden, every = torch.zeros_like(query_positions) if start is None else start, []
        for layer in self.layers:
            hidden = layer(hidden, memory, query_positions, memory_positions)
            every.append(self.norm(hidden))
        return torch.stack(every)
