"""An image encoder of ours as a plain vision transformer: the names, order and arguments of timm's.

What a plain one has no place for is added up beforehand: the embedding that tells patches from points goes into the
position table, and a stem that takes blue first is turned to take red first. The tokens stay the same numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nextafter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossdim.encoders.transformer import TransformerShape
from crossdim.errors import ContractError, ReadError
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.models.pimae_config import PimaeConfig
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.tokens.grid import Grid, grid_of, pair
from crossdim.tokens.positions import interpolate_table, sincos_table

NORM_EPS = 1e-6
"""Of every norm in timm's vision transformers; no argument that JSON can hold changes it."""

_PREFIXES = ("pimae.", "detr3d.", "uni4eye.")
"""What the names of a model with heads begin with, and those of its base model do not."""

_LAYER = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Parts of a layer: our name → timm's."""


@dataclass(frozen=True)
class PlainVit:
    """A plain vision transformer; images → tokens.

    Attributes:
        arguments: Of timm's ``VisionTransformer``.
        weights: Its state dict, in the numbers they came in.
        grid: Patches along (height, width).
    """

    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    grid: Grid


def plain_vit(
    config: PimaeConfig | Detr3dConfig | Uni4EyeConfig,
    state: Mapping[str, Tensor],
    size: tuple[int, int],
    channel_order: Literal["rgb", "bgr"] = "rgb",
) -> PlainVit:
    """Return the image encoder of a model as a plain vision transformer.

    PiMAE's and the detector's has no class token and no norm at its end, Uni4Eye's has both; its tokens are those of
    the encoder before anything is pooled.

    Args:
        config: Of the model.
        state: Its weights; parts that are not of the image encoder are neither read nor needed.
        size: (height, width) of the images, which the position table is made for.
        channel_order: Of the images that the model takes; the plain one takes ``rgb``.

    Raises:
        ContractError: The size is no multiple of the patch, or the model is none that timm's arguments can describe.
        ReadError: A weight is missing, or has not the shape that the config asks for.
    """
    source = _Source(state)
    patch, width = pair(config.patch_size), int(config.hidden_size)
    grid = grid_of(size, patch)
    alone = isinstance(config, Uni4EyeConfig)
    shape = config.encoder_shape() if isinstance(config, Uni4EyeConfig) else config.image_shape()
    if shape.layer_norm_eps != NORM_EPS:
        reason = f"is not the {NORM_EPS:g} of timm's vision transformers"
        raise ContractError(f"layer_norm_eps {shape.layer_norm_eps:g}", reason, "Use the run with crossdim.load")
    stem, layers = ("patch_embed.image", "encoder.layers") if alone else ("patch_embed", "image_encoder.layers")
    kernel = source.take(f"{stem}.weight", (width, config.num_channels, *patch))
    weights = {
        "patch_embed.proj.weight": kernel.flip(1) if channel_order == "bgr" else kernel,
        "patch_embed.proj.bias": source.take(f"{stem}.bias", (width,)),
    }
    if isinstance(config, Uni4EyeConfig):
        weights["cls_token"] = source.take("cls_token", (1, 1, width))
        weights["pos_embed"] = _positions(config, source, grid).to(kernel)
        weights |= {f"norm.{end}": source.take(f"encoder.norm.{end}", (width,)) for end in ("weight", "bias")}
    else:
        embedding = source.take("image_embedding", (1, 1, width))
        weights["pos_embed"] = sincos_table(grid, width)[None, 1:].to(embedding) + embedding
    weights |= _layers(shape, source, layers)
    arguments = {
        "img_size": list(size),
        "patch_size": list(patch),
        "in_chans": config.num_channels,
        "num_classes": 0,
        "global_pool": "",
        "embed_dim": width,
        "depth": shape.num_layers,
        "num_heads": shape.num_heads,
        "mlp_ratio": _ratio(shape.intermediate_size, width),
        "qkv_bias": shape.qkv_bias,
        "class_token": alone,
        "final_norm": alone,
        "fc_norm": False,
    }
    return PlainVit(arguments, {name: weight.contiguous() for name, weight in weights.items()}, grid)


@dataclass(frozen=True)
class _Source:
    """Weights by the names of a base model, whatever the model around it."""

    state: Mapping[str, Tensor]

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        found = next((prefix + name for prefix in ("", *_PREFIXES) if prefix + name in self.state), None)
        if found is None:
            reason = "is missing, so that there is no image encoder"
            raise ReadError(f"weight '{name}'", reason, "Give a whole run, checkpoint or converted model")
        tensor = self.state[found].detach()
        if tuple(tensor.shape) != shape:
            reason = f"has shape {tuple(tensor.shape)} where config.json asks for {shape}"
            raise ReadError(f"weight '{name}'", reason, "Give config.json and weights of one and the same model")
        return tensor


def _positions(config: Uni4EyeConfig, source: _Source, grid: Grid) -> Float[Tensor, "1 positions dim"]:
    width = config.hidden_size
    if config.image_positions == "none":
        return torch.zeros_like(sincos_table(grid, width))[None]
    if config.image_positions == "sincos":
        return sincos_table(grid, width)[None]
    old = grid_of(pair(config.image_size), pair(config.patch_size))
    return interpolate_table(source.take("positions.image_table", (1, 1 + old[0] * old[1], width)), old, grid)


def _layers(shape: TransformerShape, source: _Source, ours: str) -> dict[str, Tensor]:
    width, inside = shape.hidden_size, shape.intermediate_size
    outputs = {"attention.qkv": 3 * width, "mlp.fc1": inside}
    inputs = {"norm1": (), "norm2": (), "mlp.fc2": (inside,)}
    weights = {}
    for layer in range(shape.num_layers):
        for part, theirs in _LAYER.items():
            out = outputs.get(part, width)
            weights[f"blocks.{layer}.{theirs}.weight"] = source.take(
                f"{ours}.{layer}.{part}.weight", (out, *inputs.get(part, (width,)))
            )
            if part != "attention.qkv" or shape.qkv_bias:
                weights[f"blocks.{layer}.{theirs}.bias"] = source.take(f"{ours}.{layer}.{part}.bias", (out,))
    return weights


def _ratio(inside: int, width: int) -> float:
    """Return the ratio whose product with the width, rounded down as timm does, is the width inside the MLPs."""
    ratio = inside / width
    return ratio if int(width * ratio) == inside else nextafter(ratio, inf)
