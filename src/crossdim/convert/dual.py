"""The dual-branch Uni4Eye of the authors: their configuration and state dict → ours (``uni4eye/dual``).

Their options become named ones of ours: one norm for both decoders (``shared_decoder_norm``), the gradient map of
images in rounded bytes (``gradient_target="uint8"``, without scale), position tables from the state dict.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crossdim.convert.keys import KeyReport, Shape, fill
from crossdim.errors import RecipeError, nearest
from crossdim.models.uni4eye import Uni4EyeForPreTraining, Uni4EyeModel
from crossdim.models.uni4eye_config import Uni4EyeConfig, pair, triple


def expected_shapes(config: Uni4EyeConfig, model: type[Uni4EyeForPreTraining | Uni4EyeModel]) -> dict[str, Shape]:
    """Return the shape of every tensor of a model, without making them.

    Args:
        config: Sizes.
        model: Which of our models.
    """
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in model(config).state_dict().items()}


def convert_dual(
    weights: Mapping[str, Tensor], official: Mapping[str, Any]
) -> tuple[Uni4EyeConfig, dict[str, Tensor], KeyReport]:
    """Convert the state dict of ``MaskedAutoencoderViT23D_2decoder``.

    Args:
        weights: State dict with the authors' names.
        official: Sizes under the names of the authors' code (``img_size``, ``embed_dim``, ...).

    Returns:
        Config and state dict of :class:`~crossdim.models.uni4eye.Uni4EyeForPreTraining`, and the report of all keys.

    Raises:
        RecipeError: A size is missing or not supported.
        ReadError: A tensor does not have the shape that the sizes ask for.
    """
    config = _dual_config(weights, official)
    state, report = fill(weights, expected_shapes(config, Uni4EyeForPreTraining), {}, {}, shared_norm=True)
    return config, state, report


def _dual_config(weights: Mapping[str, Tensor], official: Mapping[str, Any]) -> Uni4EyeConfig:
    def size(key: str) -> Any:
        if key not in official:
            raise RecipeError(f"config key '{key}'", "is missing", f"Add it. {nearest(key, official)}")
        return official[key]

    gelu = official.get("gelu", "exact (erf)")
    if not str(gelu).startswith("exact"):
        raise RecipeError("config key 'gelu'", f"is '{gelu}', and only the exact one is known", "Convert an exact one")
    hidden, decoder_hidden, ratio = size("embed_dim"), size("decoder_embed_dim"), size("mlp_ratio")
    patch, image_size = pair(size("patch_size")), pair(size("img_size"))
    volume_patch = triple(official.get("patch_size3", official["patch_size"]))
    maps = weights["decoder_pred21.bias"].shape[0] if "decoder_pred21.bias" in weights else patch[0] * patch[1]
    return Uni4EyeConfig(
        hidden_size=hidden,
        num_hidden_layers=size("depth"),
        num_attention_heads=size("num_heads"),
        intermediate_size=int(hidden * ratio),
        qkv_bias=bool(official.get("qkv_bias", True)),
        layer_norm_eps=float(official.get("layer_norm_eps", 1e-6)),
        image_size=image_size,
        num_channels=size("in_chans"),
        patch_size=patch,
        volume_size=triple(size("vol_size")),
        num_volume_channels=int(official.get("in_chans3", 1)),
        volume_patch_size=volume_patch,
        image_positions="table",
        volume_positions="table",
        decoder_hidden_size=decoder_hidden,
        decoder_num_hidden_layers=size("decoder_depth"),
        decoder_num_attention_heads=size("decoder_num_heads"),
        decoder_intermediate_size=int(decoder_hidden * ratio),
        mask_ratio=size("mask_ratio"),
        volume_mask_ratio=size("mask_ratio"),
        shared_decoder_norm=True,
        gradient_target="uint8_chw" if maps == 3 * patch[0] * patch[1] else "uint8",
        edge_scale=1.0,
    )
