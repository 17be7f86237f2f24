"""Towers made elsewhere: what each family wants as input, and where its patch tokens are.

One adapter for each ``model_type``. Intensities are our contract's: a tower's own image processor is not used (Med-2E3
as released hands [0, 1] values to SigLIP). Class and register tokens are dropped; grey slices fill all channels.

SigLIP and CLIP have a table of positions: slices are resized to its size. SigLIP 2 wants patches, a mask and their
grid, and is given its table's grid. DINOv2, DINOv3 and Uni4Eye take any size: slices are resized to the nearest
multiple of the patch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from crossdim.encoders.transformer import layers_used
from crossdim.errors import ContractError, nearest
from crossdim.tokens.grid import Grid, grid_of, patchify


@dataclass(frozen=True)
class Adapter:
    """Where a family keeps its parts.

    Attributes:
        layers: Path of the list of layers.
        norm: Path of the final norm.
        any_size: Whether images of any size may come, as long as the patch divides it.
        unused: Beginnings of the names of parameters that no feature depends on.
    """

    layers: str
    norm: str
    any_size: bool = False
    unused: tuple[str, ...] = ()


_POOLED = Adapter("encoder.layers", "post_layernorm", unused=("head.",))
_OURS = Adapter("encoder.layers", "encoder.norm", any_size=True)

IMAGE_TOWERS = {
    "siglip_vision_model": _POOLED,
    "siglip2_vision_model": _POOLED,
    "clip_vision_model": _POOLED,
    "dinov2": Adapter("encoder.layer", "layernorm", any_size=True, unused=("embeddings.mask_token",)),
    "dinov3_vit": Adapter("model.layer", "norm", any_size=True, unused=("embeddings.mask_token",)),
    "uni4eye": _OURS,
}
"""Families that may look at slices."""

VOLUME_TOWERS = {"vision_transformer_3d": _OURS, "uni4eye": _OURS}
"""Families that may look at volumes."""

Kind = Literal["slices", "volumes"]


@dataclass(frozen=True)
class SliceView:
    """How slices are looked at.

    Attributes:
        layer: Hidden state that is used; 0 is the first layer's input, negative numbers count from the last layer.
        norm: Whether the tower's final norm follows.
        mean: Subtracted from the intensities, one for all channels or one for each.
        std: Divides them, likewise.
        chunk: Slices that the tower takes at once where no graph is built; 0 for all.
    """

    layer: int = -1
    norm: bool = False
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    chunk: int = 0


def learns(part: nn.Module) -> bool:
    """Return whether any parameter of a part is trainable."""
    return any(parameter.requires_grad for parameter in part.parameters())


def graph_of(part: nn.Module) -> torch.set_grad_enabled:
    """Return a context in which a frozen part builds no graph."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and learns(part))


def adapter_of(config: PreTrainedConfig, kind: Kind) -> Adapter:
    """Return the adapter of a tower.

    Args:
        config: The tower's config.
        kind: What it looks at.

    Raises:
        ContractError: No adapter for this family.
    """
    known = IMAGE_TOWERS if kind == "slices" else VOLUME_TOWERS
    if config.model_type not in known:
        near = nearest(str(config.model_type), known)
        raise ContractError(f"tower of type '{config.model_type}'", f"cannot look at {kind}", near)
    return known[config.model_type]


def _patch_size(config: PreTrainedConfig) -> tuple[int, int]:
    patch = config.patch_size
    return (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))


def slice_size(config: PreTrainedConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size that a tower sees of a slice.

    Args:
        config: The tower's config.
        size: ``(height, width)`` of the slice.
    """
    adapter, patch = adapter_of(config, "slices"), _patch_size(config)
    if config.model_type == "siglip2_vision_model":
        side = isqrt(config.num_patches)
        return side * patch[0], side * patch[1]
    if not adapter.any_size:
        own = config.image_size
        return (own, own) if isinstance(own, int) else (int(own[0]), int(own[1]))
    height, width = (max(1, round(length / p)) * p for length, p in zip(size, patch, strict=True))
    return height, width


def slice_grid(config: PreTrainedConfig, size: tuple[int, int]) -> Grid:
    """Return the number of patches that a tower makes of a slice, ``(rows, columns)``.

    Args:
        config: The tower's config.
        size: ``(height, width)`` of the slice.
    """
    return grid_of(slice_size(config, size), _patch_size(config))


def slice_images(
    config: PreTrainedConfig, images: Float[Tensor, "images channels height width"], view: SliceView
) -> Float[Tensor, "images tower_channels rows columns"]:
    """Return images as a tower wants them: its size, its channels, and normalised if that is asked for.

    Args:
        config: The tower's config.
        images: Grey or coloured images, prepared by our contract.
        view: Mean and standard deviation are used.

    Raises:
        ContractError: The images have some other number of channels.
    """
    size, channels = slice_size(config, (images.shape[2], images.shape[3])), config.num_channels
    if images.shape[1] not in (1, channels):
        raise ContractError(
            f"images of {images.shape[1]} channels",
            f"do not fit a tower of {channels}",
            "Give grey images, or as many channels as the tower has",
        )
    if tuple(images.shape[2:]) != size:
        resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
        images = resized.to(images.dtype)
    if images.shape[1] != channels:
        images = images.expand(-1, channels, -1, -1)
    if view.mean is not None:
        images = images - torch.as_tensor(view.mean).to(images).reshape(-1, 1, 1)
    if view.std is not None:
        images = images / torch.as_tensor(view.std).to(images).reshape(-1, 1, 1)
    return images


def encode_slices(
    tower: PreTrainedModel, images: Float[Tensor, "images channels height width"], view: SliceView
) -> Float[Tensor, "images tokens dim"]:
    """Return a tower's patch tokens of each slice, some slices at a time; a frozen tower builds no graph.

    Args:
        tower: The encoder.
        images: Grey or coloured images, prepared by our contract.
        view: How slices are looked at.
    """
    with graph_of(tower):
        at_once = view.chunk if view.chunk and not torch.is_grad_enabled() else max(1, len(images))
        tokens = [
            slice_tokens(tower, slice_images(tower.config, chunk, view), view.layer, view.norm)
            for chunk in images.to(tower.dtype).split(at_once)
        ]
    return tokens[0] if len(tokens) == 1 else torch.cat(tokens)


def slice_tokens(
    tower: PreTrainedModel, images: Float[Tensor, "images channels height width"], layer: int = -1, norm: bool = False
) -> Float[Tensor, "images tokens dim"]:
    """Return a tower's patch tokens of each image, in raster order.

    Args:
        tower: The encoder.
        images: What :func:`slice_images` returns.
        layer: 0 is the input of the first layer; negative numbers count from the last layer.
        norm: Whether the tower's final norm follows.
    """
    config: Any = tower.config
    adapter = adapter_of(config, "slices")
    if config.model_type == "uni4eye":
        return _uni4eye_tokens(tower, images, layer, norm)
    arguments: dict[str, Tensor] = {"pixel_values": images}
    if config.model_type == "siglip2_vision_model":
        grid = torch.tensor(grid_of(tuple(images.shape[2:]), _patch_size(config)), device=images.device)
        patches = patchify(images, _patch_size(config))
        arguments = {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long, device=images.device),
            "spatial_shapes": grid.expand(len(images), 2),
        }
    hidden = tower(**arguments, output_hidden_states=True).hidden_states
    chosen = hidden[layers_used(layer, len(hidden) - 1)]
    if norm:
        chosen = tower.get_submodule(adapter.norm)(chosen)
    leading = {"clip_vision_model": 1, "dinov2": 1, "dinov3_vit": 1 + getattr(config, "num_register_tokens", 0)}
    return chosen[:, leading.get(config.model_type, 0) :]


def volume_tokens(
    tower: PreTrainedModel,
    voxel_values: Float[Tensor, "volumes channels depth height width"],
    layer: int = -1,
    norm: bool = False,
) -> Float[Tensor, "volumes tokens dim"]:
    """Return a tower's patch tokens of each volume, in raster order.

    Args:
        tower: The encoder.
        voxel_values: Volumes; sizes are multiples of the patch.
        layer: 0 is the input of the first layer; negative numbers count from the last layer.
        norm: Whether the tower's final norm follows.
    """
    adapter_of(tower.config, "volumes")
    if tower.config.model_type == "uni4eye":
        return _uni4eye_tokens(tower, voxel_values, layer, norm)
    return tower(voxel_values, layer=layer, norm=norm)


def _uni4eye_tokens(
    tower: Any, values: Float[Tensor, "batch channels *spatial"], layer: int, norm: bool
) -> Float[Tensor, "batch tokens dim"]:
    tokens, cls_token = tower.embed(values)
    return tower.encoder.hidden_state(torch.cat([cls_token, tokens], dim=1), layer, norm)[:, 1:]


def unused_parameters(
    tower: PreTrainedModel, kind: Kind, layer: int = -1, norm: bool = False
) -> Iterator[nn.Parameter]:
    """Yield the parameters that the chosen features do not depend on, so that they can be frozen.

    Args:
        tower: The encoder.
        kind: What it looks at.
        layer: The hidden state that is used.
        norm: Whether the final norm is used.
    """
    adapter = adapter_of(tower.config, kind)
    layers = tower.get_submodule(adapter.layers)
    assert isinstance(layers, nn.ModuleList)
    used = layers_used(layer, len(layers))
    beginnings = (*adapter.unused, *(f"{adapter.layers}.{place}." for place in range(used, len(layers))))
    if not norm:
        beginnings = (*beginnings, f"{adapter.norm}.")
    if tower.config.model_type == "uni4eye":
        inflated = kind == "volumes" and tower.config.volume_stem == "inflated"
        other = "patch_embed.volume." if kind == "slices" else "patch_embed.image."
        beginnings = beginnings if inflated else (*beginnings, other)
    for name, parameter in tower.named_parameters():
        if name.startswith(beginnings):
            yield parameter


def freeze_unused(tower: PreTrainedModel, kind: Kind, layer: int = -1, norm: bool = False) -> None:
    """Freeze what :func:`unused_parameters` names: it would get no gradient.

    Args:
        tower: The encoder.
        kind: What it looks at.
        layer: The hidden state that is used.
        norm: Whether the final norm is used.
    """
    for parameter in unused_parameters(tower, kind, layer, norm):
        parameter.requires_grad_(False)
