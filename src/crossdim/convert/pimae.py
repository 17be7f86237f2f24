"""PiMAE's pre-training of the authors: their configuration and state dict → ours (``pimae/pretrain``).

What their code does and ours does not by default becomes named options of ours: targets sampled from an enlarged map
with swapped axes, pixels rounded and scaled by one less than the size, no centres near the origin.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crossdim.convert.keys import KeyReport, Shape
from crossdim.convert.pimae_keys import (
    IMAGE_DECODER,
    IMAGE_ENCODER,
    JOINT,
    JOINT_DECODER,
    POINTS_DECODER,
    POINTS_ENCODER,
    names,
    place,
)
from crossdim.errors import RecipeError, nearest
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.models.pimae_config import PimaeConfig
from crossdim.tokens.grid import pair

RELEASED: dict[str, Any] = {
    "cross_modal_sampling": "upsampled",
    "cross_modal_axes": "vu",
    "pixel_convention": "released",
    "skip_points_near_origin": True,
    "embed_hidden_points": True,
}
"""How the authors' code differs from the paper, as options of ours."""

IMAGE_SIZE = (256, 352)
"""Of the authors' images; their configuration does not state it."""

_ALIGNMENTS = {0.0: "independent", 1.0: "uniform"}
"""``hp_overlap_ratio`` as their code acts on it: 0 is taken for "none" there, so that complement is never reached."""


def convert_pretrain(
    weights: Mapping[str, Tensor], official: Mapping[str, Any]
) -> tuple[PimaeConfig, dict[str, Tensor], KeyReport]:
    """Convert the state dict of the authors' pre-training model.

    Args:
        weights: State dict with the authors' names.
        official: Sizes under the names of the authors' configuration (``img_model``, ``pc_model``, ``joint_model``),
            at the top or under ``pretrain``; ``img_size`` may be added.

    Returns:
        Config and state dict of :class:`~crossdim.models.pimae.PimaeForPreTraining`, and the report of all keys.

    Raises:
        RecipeError: A size is missing or not supported.
        ReadError: A tensor does not have the shape that the sizes ask for.
    """
    config = official_config(official.get("pretrain", official))
    state, report = fill(weights, config)
    return config, state, report


def fill(weights: Mapping[str, Tensor], config: PimaeConfig) -> tuple[dict[str, Tensor], KeyReport]:
    """Give every weight of the authors its place in our model.

    Args:
        weights: The authors' state dict; only what is used is read.
        config: Of our model.

    Raises:
        ReadError: A tensor does not have the shape that the sizes ask for.
    """
    return place(weights, expected_shapes(config), table_of(config))


def table_of(config: PimaeConfig) -> dict[str, str]:
    """Return key of the authors → our key.

    Args:
        config: Of our model.
    """
    depths = {
        IMAGE_ENCODER: config.image_num_hidden_layers,
        POINTS_ENCODER: config.points_num_hidden_layers,
        JOINT: config.joint_num_hidden_layers,
        JOINT_DECODER: config.joint_decoder_num_hidden_layers,
        IMAGE_DECODER: config.image_decoder_num_hidden_layers,
        POINTS_DECODER: config.points_decoder_num_hidden_layers,
    }
    return names(depths)


def expected_shapes(config: PimaeConfig) -> dict[str, Shape]:
    """Return the shape of every tensor of our model, without making them.

    Args:
        config: Its sizes.
    """
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in PimaeForPreTraining(config).state_dict().items()}


class _Sizes:
    """The authors' configuration, which is a tree; what is missing or differs is named by its path."""

    def __init__(self, official: Mapping[str, Any]) -> None:
        self.official = official

    def __call__(self, path: str) -> Any:
        value: Any = self.official
        for key in path.split("."):
            if not isinstance(value, Mapping) or key not in value:
                near = value if isinstance(value, Mapping) else ()
                raise RecipeError(f"config key '{path}'", "is missing", f"Add it. {nearest(key, near)}")
            value = value[key]
        return value

    def same(self, *paths: str) -> Any:
        values = [self(path) for path in paths]
        for path, value in zip(paths, values, strict=True):
            if value != values[0]:
                reason = f"is {value} where '{paths[0]}' is {values[0]}; both have to be the same"
                raise RecipeError(f"config key '{path}'", reason, "Convert a model whose parts fit together")
        return values[0]


def official_config(official: Mapping[str, Any]) -> PimaeConfig:
    """Return our config for the authors'.

    Args:
        official: ``img_model``, ``pc_model`` and ``joint_model``, and maybe ``img_size`` and ``npoints``.

    Raises:
        RecipeError: A size is missing or not supported.
    """
    size = _Sizes(official)
    points = "pc_model.transformer_config"
    hidden = size.same(f"{points}.trans_dim", "img_model.encoder.trans_dim", "joint_model.encoder.trans_dim")
    decoder = size.same(f"{points}.decoder_trans_dim", "img_model.decoder.trans_dim", "joint_model.decoder.trans_dim")
    patch = pair(size("img_model.patch_size"))
    return PimaeConfig(
        hidden_size=hidden,
        dropout=size.same(f"{points}.dropout", "joint_model.encoder.dropout"),
        image_size=pair(official.get("img_size", IMAGE_SIZE)),
        patch_size=patch,
        image_num_hidden_layers=size("img_model.encoder.depth"),
        num_attention_heads=size("img_model.encoder.num_heads"),
        image_intermediate_size=int(hidden * size("img_model.encoder.mlp_ratio")),
        num_points=official.get("npoints", 2048),
        num_groups=size("pc_model.num_group"),
        group_size=size("pc_model.group_size"),
        points_num_hidden_layers=size(f"{points}.depth"),
        points_num_attention_heads=size(f"{points}.num_heads"),
        points_intermediate_size=size(f"{points}.dim_feedforward"),
        joint_num_hidden_layers=size("joint_model.encoder.depth"),
        joint_num_attention_heads=size("joint_model.encoder.num_heads"),
        joint_intermediate_size=size("joint_model.encoder.dim_feedforward"),
        decoder_hidden_size=decoder,
        joint_decoder_num_hidden_layers=size("joint_model.decoder.depth"),
        decoder_num_attention_heads=size("joint_model.decoder.num_heads"),
        decoder_intermediate_size=int(decoder * size("joint_model.decoder.mlp_ratio")),
        image_decoder_num_hidden_layers=size("img_model.decoder.depth"),
        image_decoder_num_attention_heads=size("img_model.decoder.num_heads"),
        image_decoder_intermediate_size=int(decoder * size("img_model.encoder.mlp_ratio")),
        points_decoder_num_hidden_layers=size(f"{points}.decoder_depth"),
        points_decoder_num_attention_heads=size(f"{points}.decoder_num_heads"),
        points_decoder_intermediate_size=4 * decoder,
        points_decoder_drop_path_rate=size(f"{points}.drop_path_rate"),
        image_mask_ratio=size("joint_model.mask_ratio"),
        points_mask_ratio=size(f"{points}.mask_ratio"),
        points_masking="random" if size(f"{points}.mask_type") == "rand" else "block",
        mask_alignment=_alignment(size("joint_model.hp_overlap_ratio")),
        cross_modal_target=_target(size("joint_model.pc2img.feat"), size("joint_model.pc2img.rgb")),
        chamfer=_chamfer(size("pc_model.loss")),
        **RELEASED,
    )


def _alignment(ratio: Any) -> Any:
    if ratio not in _ALIGNMENTS:
        reason = f"is {ratio}, which the authors' code refuses too"
        raise RecipeError("config key 'joint_model.hp_overlap_ratio'", reason, "Give 0.0 or 1.0")
    return _ALIGNMENTS[ratio]


def _target(features: Any, pixels: Any) -> Any:
    if features and pixels:
        reason = "asks for both features and pixels, which the authors' code cannot do either"
        raise RecipeError("config key 'joint_model.pc2img'", reason, "Choose one of the two")
    return "features" if features else "pixels" if pixels else "none"


def _chamfer(loss: Any) -> Any:
    if loss not in ("cdl1", "cdl2"):
        raise RecipeError("config key 'pc_model.loss'", f"is '{loss}'", "Give cdl1 or cdl2")
    return str(loss).removeprefix("cd")
