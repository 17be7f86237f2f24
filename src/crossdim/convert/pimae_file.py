"""Checkpoint files of PiMAE's pre-training → a folder that crossdim loads.

Every size is read from the shapes, the image's extent from the table of positions. What they do not say (heads, numbers
of points and groups, shares of hidden tokens) is assumed as the authors' configuration has it, and each assumption is
written into ``conversion-report.json``.
"""

import math
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from crossdim.convert.keys import Shape
from crossdim.convert.layout import depth
from crossdim.convert.pimae import RELEASED, fill, table_of
from crossdim.convert.pimae_keys import (
    IMAGE_DECODER,
    IMAGE_ENCODER,
    JOINT,
    JOINT_DECODER,
    POINTS_DECODER,
    POINTS_ENCODER,
    STACKS,
)
from crossdim.convert.plan import IMAGENET_MEAN, IMAGENET_STD
from crossdim.convert.reading import Checkpoint, read_checkpoint
from crossdim.convert.report import ConversionReport, appearing, check_free, hash_of, write_model
from crossdim.errors import ReadError, RecipeError
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.models.pimae_config import PimaeConfig
from crossdim.tokens.grid import pair
from crossdim.tokens.positions import sincos_table
from crossdim.transforms.contract import ImageContract, PointsContract, PreprocessingContract, SceneContract

HEAD_WIDTH = 64
"""Width of every attention head in the authors' configuration: 4 of 256, and 3 of 192 in the decoders."""

DRAWN = 20000
"""Points that the authors draw from a scan before sampling."""

_AGAIN = "Download or copy it again"
_TABLE, _DECODER_TABLE = "img_branch.pos_embed", "img_branch.decoder_pos_embed"


def convert_pimae(
    checkpoint: str | PathLike[str],
    out: str | PathLike[str],
    *,
    heads: int | None = None,
    decoder_heads: int | None = None,
) -> ConversionReport:
    """Convert a checkpoint file and write ``config.json``, ``model.safetensors``, ``contract.json`` and the report.

    Args:
        checkpoint: File of PiMAE's pre-training; nothing in it is run.
        out: Folder to make; it appears when it is complete.
        heads: Attention heads of the encoders, if they are not 64 wide.
        decoder_heads: Attention heads of the decoders, if they are not 64 wide.

    Raises:
        ReadError: The file is damaged, or of another layout.
        RecipeError: The folder exists already, or the heads do not fit the checkpoint.
    """
    folder = check_free(out)
    source = read_checkpoint(checkpoint)
    _recognise(source)
    notes: list[str] = []
    config = PimaeConfig(**_sizes(source, notes, heads, decoder_heads), **RELEASED)
    state, keys = fill(source, config)
    if keys.missing:
        lacking = [name for name, ours in table_of(config).items() if ours in keys.missing]
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ReadError(source.path, f"lacks '{lacking[0]}'{more}", _AGAIN)
    report = ConversionReport(
        checkpoint=Path(source.path).name,
        sha256=hash_of([source.path]),
        layout="PiMAE, pre-training",
        architecture=PimaeForPreTraining.__name__,
        out=folder,
        notes=(*notes, *_training_notes()),
        keys=keys,
        not_tensors=source.not_tensors,
    )
    floats = {
        name: tensor.float().contiguous() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    with appearing(folder) as temporary:
        write_model(temporary, config, floats, contract_of(config), report)
    return report


def _recognise(source: Checkpoint) -> None:
    """Refuse what is no pre-training of PiMAE."""
    for stack in STACKS:
        if not any(name.startswith(f"{stack.official}.0.") for name in source.shapes):
            found = ", ".join(list(source.shapes)[:4])
            reason = f"is no checkpoint of PiMAE's pre-training: no '{stack.official}.0' (it begins with {found})"
            raise ReadError(source.path, reason, "Give the file that the authors' pre-training wrote (ckpt-last.pth)")


def _sizes(source: Checkpoint, notes: list[str], heads: int | None, decoder_heads: int | None) -> dict[str, Any]:
    """Return our config's keys, as far as shapes tell them, and the authors' for the rest."""

    def shape(name: str, rank: int) -> Shape:
        found = source.shapes.get(name, ())
        if len(found) != rank:
            reason = f"has '{name}' of shape {found}" if name in source.shapes else f"lacks '{name}'"
            raise ReadError(source.path, reason, _AGAIN)
        return found

    hidden, decoder = shape("cls_token", 3)[-1], shape("img_branch.mask_token", 3)[-1]
    _, channels, *patch = shape("img_branch.patch_embed.proj.weight", 4)
    if channels != 3:
        raise ReadError(source.path, f"takes images of {channels} channels", "Convert a checkpoint for colour images")
    grid = _grid(source, shape(_TABLE, 3), hidden)
    _check_table(source, shape(_DECODER_TABLE, 3), grid, decoder)
    size = (grid[0] * patch[0], grid[1] * patch[1])
    notes.append(f"The table of positions is that of images of {size[0]} x {size[1]} pixels; other sizes work too.")
    members, rest = divmod(shape("pc_branch.increase_dim.0.bias", 1)[0], 3)
    if rest or not members:
        raise ReadError(source.path, "predicts no whole number of points in each group", _AGAIN)
    return {
        "hidden_size": hidden,
        "num_attention_heads": _heads(hidden, heads, "--heads", "encoders", notes),
        "image_size": size,
        "patch_size": tuple(patch),
        "image_num_hidden_layers": depth(source, IMAGE_ENCODER.official),
        "image_intermediate_size": shape(f"{IMAGE_ENCODER.official}.0.mlp.fc1.bias", 1)[0],
        "group_size": members,
        "point_hidden_size": shape("pc_branch.MAE_encoder.encoder.first_conv.0.bias", 1)[0],
        "points_num_hidden_layers": depth(source, POINTS_ENCODER.official),
        "points_intermediate_size": shape(f"{POINTS_ENCODER.official}.0.linear1.bias", 1)[0],
        "joint_num_hidden_layers": depth(source, JOINT.official),
        "joint_intermediate_size": shape(f"{JOINT.official}.0.linear1.bias", 1)[0],
        "decoder_hidden_size": decoder,
        "decoder_num_attention_heads": _heads(decoder, decoder_heads, "--decoder-heads", "decoders", notes),
        "joint_decoder_num_hidden_layers": depth(source, JOINT_DECODER.official),
        "decoder_intermediate_size": shape(f"{JOINT_DECODER.official}.0.mlp.fc1.bias", 1)[0],
        "image_decoder_num_hidden_layers": depth(source, IMAGE_DECODER.official),
        "image_decoder_intermediate_size": shape(f"{IMAGE_DECODER.official}.0.mlp.fc1.bias", 1)[0],
        "points_decoder_num_hidden_layers": depth(source, POINTS_DECODER.official),
        "points_decoder_intermediate_size": shape(f"{POINTS_DECODER.official}.0.mlp.fc1.bias", 1)[0],
        "mask_alignment": "independent",
        "cross_modal_target": _target(source, members, decoder, notes),
    }


def _heads(width: int, chosen: int | None, option: str, where: str, notes: list[str]) -> int:
    if chosen is None and width % HEAD_WIDTH:
        reason = f"cannot be told from a width of {width}, which is no multiple of {HEAD_WIDTH}"
        raise RecipeError(f"number of attention heads of the {where}", reason, f"Give it with {option}")
    if chosen is None:
        notes.append(f"{width // HEAD_WIDTH} heads are assumed in the {where}: {HEAD_WIDTH} wide, as the authors' are.")
        return width // HEAD_WIDTH
    if chosen < 1 or width % chosen:
        raise RecipeError(f"{option} {chosen}", f"does not divide the width {width}", "Give a divisor of the width")
    return chosen


def _grid(source: Checkpoint, shape: Shape, width: int) -> tuple[int, int]:
    """Return rows and columns of the patches: those whose sine-cosine table is the stored one."""
    patches = shape[1]
    if shape[-1] == width:
        table = source[_TABLE].float()[0]
        for rows in range(1, patches + 1):
            if patches % rows == 0 and _same(table, (rows, patches // rows)):
                return rows, patches // rows
    reason = f"has a table of {patches} positions that is not the sine-cosine table of any grid"
    raise ReadError(source.path, reason, "Convert a checkpoint with the authors' fixed positions")


def _check_table(source: Checkpoint, shape: Shape, grid: tuple[int, int], width: int) -> None:
    if shape[1:] != (math.prod(grid), width) or not _same(source[_DECODER_TABLE].float()[0], grid):
        reason = f"has other positions in its decoder than those of {grid[0]} x {grid[1]} patches"
        raise ReadError(source.path, reason, "Convert a checkpoint with the authors' fixed positions")


def _same(table: torch.Tensor, grid: tuple[int, int]) -> bool:
    return torch.allclose(table, sincos_table(grid, table.shape[1])[1:], atol=1e-4)


def _target(source: Checkpoint, members: int, width: int, notes: list[str]) -> str:
    """Return what the cross-modal head predicts for each point, by the number of its values."""
    bias = source.shapes.get("increase_dim_feat.0.bias")
    if bias is None:
        notes.append("There is no head for the image's features: the model is not trained across modalities.")
        return "none"
    if bias != (members * width,):
        reason = f"predicts {bias} values for {members} points, and features of the image are {width} wide"
        raise ReadError(source.path, reason, "Convert a checkpoint whose cross-modal targets are features")
    return "features"


def _training_notes() -> tuple[str, ...]:
    return (
        "2048 points, 128 groups, hidden shares of 0.6, dropout 0.1 and stochastic depth 0.1 are assumed: the file "
        "does not say, and the authors' configuration does.",
        "mask_alignment is 'independent': the released configuration says complement, and the released code takes its "
        "ratio of 0.0 for none.",
        "Further training goes on as released: cross-modal targets from an enlarged map with swapped axes, rounded "
        "pixels, no centres near the origin. Change these keys of config.json to train as the paper says.",
        "The authors read images as BGR and normalise them with the statistics of RGB: so does the contract.",
        "The authors stretch every image to 530 x 730 pixels, and to the model's size after that, and place points in "
        "that frame whatever the camera's; the contract stretches once, and points are placed in the camera's own "
        "frame, unless its scene.frame is set to released. For images of 530 x 730 pixels the places are theirs.",
    )


def contract_of(config: PimaeConfig) -> PreprocessingContract:
    """Return the authors' preprocessing.

    Args:
        config: Of a converted model.
    """
    height, width = pair(config.image_size)
    image = ImageContract(size=(height, width), mean=IMAGENET_MEAN, std=IMAGENET_STD, channel_order="bgr")
    points = PointsContract(drawn=DRAWN, kept=config.num_points, fewest=config.num_groups)
    source = "PiMAE's released code: BGR with the mean and standard deviation of RGB, points in metres, z up"
    return PreprocessingContract(image=image, scene=SceneContract(image=image, points=points), source=source)
