"""Names of PiMAE's weights in the authors' code and ours, and the report of what became of each.

The authors' point and joint layers keep query, key and value in one ``in_proj_weight``, as ours do; their convolutions
over groups of points have a kernel of one point, which is a linear map.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from crossdim.convert.keys import KeyReport, Shape
from crossdim.errors import ReadError


class Stack(NamedTuple):
    """Layers of one kind.

    Attributes:
        official: Their name in the authors' state dict, before the number.
        ours: Their name in our model, before the number.
        detr: Whether they are layers of 3DETR; else they are those of a vision transformer.
    """

    official: str
    ours: str
    detr: bool


IMAGE_ENCODER = Stack("img_branch.blocks", "pimae.image_encoder.layers", False)
POINTS_ENCODER = Stack("pc_branch.MAE_encoder.blocks.layers", "pimae.points_encoder.layers", True)
JOINT = Stack("blocks.layers", "pimae.joint.layers", True)
JOINT_DECODER = Stack("decoder_blocks", "joint_decoder.layers", False)
IMAGE_DECODER = Stack("img_branch.decoder_blocks", "image_decoder.layers", False)
POINTS_DECODER = Stack("pc_branch.MAE_decoder.blocks", "points_decoder.layers", False)
STACKS = (IMAGE_ENCODER, POINTS_ENCODER, JOINT, JOINT_DECODER, IMAGE_DECODER, POINTS_DECODER)

_BOTH = ("weight", "bias")
_VIT_LAYER = {
    f"{official}.{end}": f"{ours}.{end}"
    for official, ours in (
        ("norm1", "norm1"),
        ("attn.qkv", "attention.qkv"),
        ("attn.proj", "attention.proj"),
        ("norm2", "norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    )
    for end in _BOTH
}
_DETR_LAYER = {
    "self_attn.in_proj_weight": "attention.qkv.weight",
    "self_attn.in_proj_bias": "attention.qkv.bias",
} | {
    f"{official}.{end}": f"{ours}.{end}"
    for official, ours in (
        ("norm1", "norm1"),
        ("self_attn.out_proj", "attention.proj"),
        ("norm2", "norm2"),
        ("linear1", "mlp.fc1"),
        ("linear2", "mlp.fc2"),
    )
    for end in _BOTH
}
_TOKENS = {
    "modality_img_embedding": "pimae.image_embedding",
    "modality_pc_embedding": "pimae.points_embedding",
    "cls_token": "pimae.joint.cls_token",
    "decoder_modality_img_embed": "image_decoder_embedding",
    "decoder_modality_pc_embed": "points_decoder_embedding",
    "img_branch.mask_token": "image_mask_token",
    "pc_branch.mask_token": "points_mask_token",
}
_NETWORK = "pc_branch.MAE_encoder.encoder."
_MAPS = {
    "img_branch.patch_embed.proj": "pimae.patch_embed",
    f"{_NETWORK}first_conv.0": "pimae.point_tokens.first_conv.0",
    f"{_NETWORK}first_conv.1": "pimae.point_tokens.first_conv.1",
    f"{_NETWORK}first_conv.3": "pimae.point_tokens.first_conv.3",
    f"{_NETWORK}second_conv.0": "pimae.point_tokens.second_conv.0",
    f"{_NETWORK}second_conv.1": "pimae.point_tokens.second_conv.1",
    f"{_NETWORK}second_conv.3": "pimae.point_tokens.second_conv.3",
    "pc_branch.MAE_encoder.pos_embed.0": "pimae.point_positions.fc1",
    "pc_branch.MAE_encoder.pos_embed.2": "pimae.point_positions.fc2",
    "img_branch.decoder_embed": "image_decoder_embed",
    "pc_branch.decoder_embed": "points_decoder_embed",
    "pc_branch.decoder_pos_embed.0": "points_decoder_positions.fc1",
    "pc_branch.decoder_pos_embed.2": "points_decoder_positions.fc2",
    "decoder_norm": "joint_decoder.norm",
    "img_branch.decoder_norm": "image_decoder.norm",
    "pc_branch.MAE_decoder.norm": "points_decoder.norm",
    "img_branch.decoder_pred": "image_head",
    "pc_branch.increase_dim.0": "points_head",
    "increase_dim_feat.0": "cross_modal_head",
}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_POSITIONS = "the sine-cosine table, which is computed"
_UNUSED = {
    "img_branch.pos_embed": _POSITIONS,
    "img_branch.decoder_pos_embed": _POSITIONS,
    "img_branch.cls_token": "never read: images have no class token of their own",
    "img_branch.norm.weight": "never read: the image encoder ends without a norm",
    "img_branch.norm.bias": "never read: the image encoder ends without a norm",
    "pc_branch.MAE_encoder.norm.weight": "never read: the points' encoder ends without a norm",
    "pc_branch.MAE_encoder.norm.bias": "never read: the points' encoder ends without a norm",
    "norm.weight": "never read: the joint encoder ends without a norm",
    "norm.bias": "never read: the joint encoder ends without a norm",
}


def names(depths: Mapping[Stack, int]) -> dict[str, str]:
    """Return key of the authors → our key, for every weight that has a place.

    Args:
        depths: Layers of every stack.
    """
    table = dict(_TOKENS)
    for official, ours in _MAPS.items():
        table |= {f"{official}.{end}": f"{ours}.{end}" for end in _BOTH}
    for place in ("first_conv.1", "second_conv.1"):
        table |= {f"{_NETWORK}{place}.{end}": f"pimae.point_tokens.{place}.{end}" for end in _STATISTICS}
    for stack, depth in depths.items():
        layer = _DETR_LAYER if stack.detr else _VIT_LAYER
        for number in range(depth):
            table |= {
                f"{stack.official}.{number}.{official}": f"{stack.ours}.{number}.{ours}"
                for official, ours in layer.items()
            }
    return table


def place(
    weights: Mapping[str, Tensor], expected: Mapping[str, Shape], table: Mapping[str, str]
) -> tuple[dict[str, Tensor], KeyReport]:
    """Give every weight of the authors its place in our model.

    Args:
        weights: The authors' state dict; only what is used is read.
        expected: Shape of every tensor of our model.
        table: Key of the authors → our key.

    Returns:
        Our state dict, and the report of all keys.

    Raises:
        ReadError: A tensor has not the shape that the sizes ask for, or a layer has more to it than PiMAE's.
    """
    state: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    unused: dict[str, str] = {}
    reshaped: dict[str, str] = {}
    for name in weights:
        ours = table.get(name)
        if ours is None or ours not in expected:
            unused[name] = _why_unused(name, known=ours is not None)
            continue
        tensor, wanted = weights[name], expected[ours]
        if tensor.ndim == 3 and tuple(tensor.shape) == (*wanted, 1):
            tensor, reshaped[name] = tensor[..., 0], "a convolution with a kernel of one point, now a linear map"
        if tuple(tensor.shape) != wanted:
            reason = f"has shape {tuple(tensor.shape)} where the sizes ask for {wanted}"
            raise ReadError(f"key '{name}'", reason, "Give the sizes this checkpoint was trained with")
        state[ours], used[name] = tensor, ours
    missing = tuple(name for name in expected if name not in state)
    return state, KeyReport(used, unused, missing, reshaped)


def _why_unused(name: str, known: bool) -> str:
    if name in _UNUSED:
        return _UNUSED[name]
    if known:
        return "the converted model has no such part"
    if any(re.match(rf"{re.escape(stack.official)}\.\d+\.", name) for stack in STACKS):
        reason = "has no place among the layers of PiMAE that the sizes ask for"
        raise ReadError(f"key '{name}'", reason, "Give the sizes this checkpoint was trained with")
    return "PiMAE has nothing of this name"
