"""3DETR and PiMAE's detector of the authors: their arguments and state dict → ours (``pimae/detector``).

Both are the same code: PiMAE's is 3DETR with six layers in the encoder, of which pre-training fills three and three.
Ours are then six layers of the encoder that sees points alone, which computes the same.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crossdim.convert.keys import KeyReport, Shape
from crossdim.errors import ReadError, RecipeError, nearest
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import SCANNET, SUNRGBD, Detr3dConfig

RELEASED: dict[str, Any] = {"giou": "released", "skip_points_near_origin": True}
"""How the authors' code differs from the paper, as options of ours."""

_PLAIN: dict[str, Any] = {
    "enc_type": "vanilla",
    "enc_pos_embed": None,
    "enc_activation": "relu",
    "pos_embed": "fourier",
}
_PLAIN |= {"use_color": False}
"""Arguments that have one value in every model that can be converted."""

_SAME = {
    "num_queries": "nqueries",
    "num_groups": "preenc_npoints",
    "hidden_size": "enc_dim",
    "points_num_hidden_layers": "enc_nlayers",
    "points_intermediate_size": "enc_ffn_dim",
    "num_attention_heads": "enc_nhead",
    "dropout": "enc_dropout",
    "decoder_hidden_size": "dec_dim",
    "decoder_num_hidden_layers": "dec_nlayers",
    "decoder_intermediate_size": "dec_ffn_dim",
    "decoder_num_attention_heads": "dec_nhead",
    "decoder_dropout": "dec_dropout",
    "head_dropout": "mlp_dropout",
    "angle_bins": "num_angle_bin",
    "class_cost": "matcher_cls_cost",
    "objectness_cost": "matcher_objectness_cost",
    "center_cost": "matcher_center_cost",
    "giou_cost": "matcher_giou_cost",
    "no_object_weight": "loss_no_object_weight",
    "class_weight": "loss_sem_cls_weight",
    "angle_class_weight": "loss_angle_cls_weight",
    "angle_residual_weight": "loss_angle_reg_weight",
    "center_weight": "loss_center_weight",
    "size_weight": "loss_size_weight",
    "giou_weight": "loss_giou_weight",
}
"""Our keys, and the authors' arguments that say the same."""

_FIXED = {"group_size": ("preenc_nsample", 64), "group_radius": ("preenc_radius", 0.2)}
"""Our keys, and what the authors' code states in place of an argument."""

_PARAMETERS = r"\.(weight|bias)"
_NORM = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
_ATTENTION = {"self_attn": "self_attention", "multihead_attn": "cross_attention"}
_HEADS = {"sem_cls": "classes", "center": "center", "size": "size", "angle_cls": "angle_class"}
_HEADS |= {"angle_residual": "angle_residual"}
_ENDS = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
_ENDS |= {"out_proj.weight": "proj.weight", "out_proj.bias": "proj.bias"}
_RENAMES = (
    (r"pre_encoder\.mlp_module\.layer(\d+)\.conv\.weight", r"detr3d.set_abstraction.mlp.maps.\1.weight"),
    (rf"pre_encoder\.mlp_module\.layer(\d+)\.bn\.bn{_NORM}", r"detr3d.set_abstraction.mlp.norms.\1.\2"),
    (rf"encoder\.layers\.(\d+)\.(norm[12]){_PARAMETERS}", r"detr3d.points_encoder.layers.\1.\2.\3"),
    (rf"encoder\.layers\.(\d+)\.linear([12]){_PARAMETERS}", r"detr3d.points_encoder.layers.\1.mlp.fc\2.\3"),
    (rf"decoder\.layers\.(\d+)\.(norm[123]){_PARAMETERS}", r"detr3d.decoder.layers.\1.\2.\3"),
    (rf"decoder\.layers\.(\d+)\.linear([12]){_PARAMETERS}", r"detr3d.decoder.layers.\1.mlp.fc\2.\3"),
    (rf"decoder\.norm{_PARAMETERS}", r"detr3d.decoder.norm.\1"),
    (rf"query_projection\.layers\.0{_PARAMETERS}", r"detr3d.query_projection.fc1.\1"),
    (rf"query_projection\.layers\.2{_PARAMETERS}", r"detr3d.query_projection.fc2.\1"),
    (r"pos_embedding\.gauss_B", r"detr3d.positions.waves"),
)


def our_name(name: str) -> str | None:
    """Return our name for a weight of the authors; None if there is none.

    Args:
        name: Key in the authors' state dict.
    """
    for pattern, ours in _RENAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    if match := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(self_attn|multihead_attn)\.(.+)", name):
        stack, number, which, end = match.groups()
        place, attention = ("points_encoder", "attention") if stack == "encoder" else ("decoder", _ATTENTION[which])
        return f"detr3d.{place}.layers.{number}.{attention}.{_ENDS[end]}" if end in _ENDS else None
    if match := re.fullmatch(rf"encoder_to_decoder_projection\.layers\.(\d+){_NORM}", name):
        return f"detr3d.projection.{_convolution_or_norm(int(match[1]), 3)}.{match[2]}"
    if match := re.fullmatch(rf"mlp_heads\.(\w+)_head\.layers\.(\d+){_NORM}", name):
        head, number = _HEADS.get(match[1]), int(match[2])
        inside = "linear" if number == 8 else f"mlp.{_convolution_or_norm(number, 4)}"
        return f"box_heads.heads.{head}.{inside}.{match[3]}"
    return None


def _convolution_or_norm(number: int, step: int) -> str:
    """Return our place of a layer among convolutions, norms, ReLU and maybe dropout, ``step`` layers for each map."""
    place, kind = divmod(number, step)
    return f"{('maps', 'norms', 'none', 'none')[kind]}.{place}"


def convert_detector(
    weights: Mapping[str, Tensor], official: Mapping[str, Any]
) -> tuple[Detr3dConfig, dict[str, Tensor], KeyReport]:
    """Convert the state dict of the authors' detector.

    Args:
        weights: State dict with the authors' names.
        official: Arguments of the authors' training, and ``num_semcls`` and ``num_angle_bin`` of the data set; at the
            top or under ``detector``.

    Returns:
        Config and state dict of :class:`~crossdim.models.detr3d.Detr3dForObjectDetection`, and the report of all keys.

    Raises:
        RecipeError: A size is missing or not supported.
        ReadError: A tensor does not have the shape that the sizes ask for.
    """
    config = official_config(official.get("detector", official))
    state, report = fill(weights, config)
    return config, state, report


def official_config(official: Mapping[str, Any]) -> Detr3dConfig:
    """Return our config for the authors' arguments.

    Args:
        official: Under the names of the authors' command line.

    Raises:
        RecipeError: A size is missing or not supported.
    """
    for key, value in _PLAIN.items():
        if official.get(key, value) != value:
            reason = f"is {official[key]}, and only {value} can be converted"
            raise RecipeError(f"argument '{key}'", reason, "Convert a model with the plain encoder, without colours")
    for key in (*_SAME.values(), "num_semcls"):
        if key not in official:
            raise RecipeError(f"argument '{key}'", "is missing", f"Add it. {nearest(key, official)}")
    sizes: dict[str, Any] = {ours: official[key] for ours, key in _SAME.items()}
    sizes |= {ours: official.get(key, fixed) for ours, (key, fixed) in _FIXED.items()}
    return Detr3dConfig(
        **sizes,
        joint_num_hidden_layers=0,
        num_points=40000 if official["num_semcls"] == len(SCANNET) else 20000,
        id2label=class_names(official["num_semcls"]),
        **RELEASED,
    )


def class_names(count: int) -> dict[int, str]:
    """Return the classes of SUN RGB-D or ScanNet, which their number tells, or numbered ones.

    Args:
        count: Number of classes.
    """
    known = {len(each): each for each in (SUNRGBD, SCANNET)}
    return dict(enumerate(known.get(count, tuple(f"class {number}" for number in range(count)))))


def fill(weights: Mapping[str, Tensor], config: Detr3dConfig) -> tuple[dict[str, Tensor], KeyReport]:
    """Give every weight of the authors its place in our model.

    Args:
        weights: The authors' state dict; only what is used is read.
        config: Of our model.

    Raises:
        ReadError: A tensor does not have the shape that the sizes ask for, or belongs to a layer of another design.
    """
    with torch.device("meta"):
        model = Detr3dForObjectDetection(config)
    expected: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state, used, unused, reshaped = dict[str, Tensor](), dict[str, str](), dict[str, str](), dict[str, str]()
    for name in weights:
        ours = our_name(name)
        if ours not in expected:
            unused[name] = _why_unused(name)
            continue
        tensor, wanted = weights[name], expected[ours]
        if tensor.ndim > len(wanted) and tuple(tensor.shape) == (*wanted, *(1,) * (tensor.ndim - len(wanted))):
            tensor, reshaped[name] = (
                tensor.reshape(wanted),
                "a convolution with a kernel of one point, now a linear map",
            )
        if tuple(tensor.shape) != wanted:
            reason = f"has shape {tuple(tensor.shape)} where the sizes ask for {wanted}"
            raise ReadError(f"key '{name}'", reason, "Give the sizes this checkpoint was trained with")
        state[ours], used[name] = tensor, ours
    missing = tuple(name for name in expected if name not in state)
    return state, KeyReport(used, unused, missing, reshaped)


def _why_unused(name: str) -> str:
    if re.match(r"(encoder|decoder|pre_encoder|mlp_heads|encoder_to_decoder_projection|query_projection)\.", name):
        reason = "has no place in a detector of these sizes"
        raise ReadError(f"key '{name}'", reason, "Give the sizes this checkpoint was trained with")
    return "3DETR has nothing of this name"
