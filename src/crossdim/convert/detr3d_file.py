"""Checkpoint files of 3DETR, or of PiMAE's detector, → a folder that crossdim loads.

Widths, depths, classes and bins are read from the shapes; what they do not say (heads, queries, costs, weights of the
losses) from the arguments that the file holds. Where it holds none, those of the authors' scripts are assumed, and
``conversion-report.json`` says so.
"""

from os import PathLike
from pathlib import Path
from typing import Any

from crossdim.convert.detr3d import fill, official_config
from crossdim.convert.layout import depth
from crossdim.convert.reading import Checkpoint, read_checkpoint
from crossdim.convert.report import ConversionReport, appearing, check_free, hash_of, write_model
from crossdim.errors import ReadError, RecipeError
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import PRESETS, SCANNET, Detr3dConfig
from crossdim.transforms.contract import PointsContract, PreprocessingContract, SceneContract

HEAD_WIDTH = 64
"""Width of every attention head in the authors' scripts: 4 of 256."""

_AGAIN = "Download or copy it again"
_DEFAULTS: dict[str, Any] = {
    "preenc_npoints": 2048,
    "enc_dropout": 0.1,
    "dec_dropout": 0.1,
    "mlp_dropout": 0.3,
    "matcher_cls_cost": 1,
    "matcher_objectness_cost": 5,
    "matcher_center_cost": 5,
    "matcher_giou_cost": 3,
    "loss_no_object_weight": 0.1,
    "loss_sem_cls_weight": 1,
    "loss_angle_cls_weight": 0.1,
    "loss_angle_reg_weight": 0.5,
    "loss_center_weight": 5.0,
    "loss_size_weight": 1.0,
    "loss_giou_weight": 0,
    "nqueries": 128,
}
"""Of the authors' script for SUN RGB-D."""

_SCANNET: dict[str, Any] = {"matcher_objectness_cost": 0, "matcher_center_cost": 0, "matcher_giou_cost": 2}
_SCANNET |= {"loss_no_object_weight": 0.25, "loss_giou_weight": 1, "nqueries": 256}
"""Of their script for ScanNet, where it differs."""


def convert_3detr(
    checkpoint: str | PathLike[str], out: str | PathLike[str], *, heads: int | None = None
) -> ConversionReport:
    """Convert a checkpoint file and write ``config.json``, ``model.safetensors``, ``contract.json`` and the report.

    Args:
        checkpoint: File of 3DETR's training, or of PiMAE's fine-tuning; nothing in it is run.
        out: Folder to make; it appears when it is complete.
        heads: Attention heads of encoder and decoder, if the file does not say and they are not 64 wide.

    Raises:
        ReadError: The file is damaged, or of another layout.
        RecipeError: The folder exists already, the heads do not fit, or the model is not the plain one.
    """
    folder = check_free(out)
    source = read_checkpoint(checkpoint)
    notes: list[str] = []
    config = official_config(_arguments(source, heads, notes))
    state, keys = fill(source, config)
    if keys.missing:
        raise ReadError(source.path, f"has nothing for '{keys.missing[0]}'", _AGAIN)
    report = ConversionReport(
        checkpoint=Path(source.path).name,
        sha256=hash_of([source.path]),
        layout="3DETR",
        architecture=Detr3dForObjectDetection.__name__,
        out=folder,
        notes=(*notes, *_notes(config)),
        keys=keys,
        not_tensors=source.not_tensors,
    )
    floats = {
        name: tensor.float().contiguous() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    with appearing(folder) as temporary:
        write_model(temporary, config, floats, contract_of(config), report)
    return report


def _arguments(source: Checkpoint, heads: int | None, notes: list[str]) -> dict[str, Any]:
    """Return the authors' arguments as shapes tell them, else as the file says, else as their scripts have them."""
    for name in ("pre_encoder.mlp_module.layer0.conv.weight", "mlp_heads.sem_cls_head.layers.8.bias"):
        if name not in source.shapes:
            found = ", ".join(list(source.shapes)[:4])
            reason = f"is no checkpoint of 3DETR: no '{name}' (it begins with {found})"
            raise ReadError(source.path, reason, "Give the file that the authors' training wrote (checkpoint_best.pth)")

    def length(name: str) -> int:
        if name not in source.shapes:
            raise ReadError(source.path, f"lacks '{name}'", _AGAIN)
        return source.shapes[name][0]

    classes = length("mlp_heads.sem_cls_head.layers.8.bias") - 1
    told = {
        "num_semcls": classes,
        "num_angle_bin": length("mlp_heads.angle_cls_head.layers.8.bias"),
        "enc_dim": length("encoder.layers.0.norm1.weight"),
        "enc_nlayers": depth(source, "encoder.layers"),
        "enc_ffn_dim": length("encoder.layers.0.linear1.bias"),
        "dec_dim": length("decoder.norm.weight"),
        "dec_nlayers": depth(source, "decoder.layers"),
        "dec_ffn_dim": length("decoder.layers.0.linear1.bias"),
    }
    arguments = dict(source.arguments)
    assumed = dict(_DEFAULTS | (_SCANNET if classes == len(SCANNET) else {}))
    for key, width in (("enc_nhead", told["enc_dim"]), ("dec_nhead", told["dec_dim"])):
        if heads is not None or key not in arguments:
            assumed[key] = _heads(width, heads)
            arguments.pop(key, None)
    lacking = sorted(set(assumed) - set(arguments))
    if lacking:
        values = ", ".join(f"{key} {assumed[key]}" for key in lacking)
        notes.append(f"The file does not say, and the authors' scripts have: {values}.")
    return {**assumed, **arguments, **told}


def _heads(width: int, chosen: int | None) -> int:
    if chosen is None and width % HEAD_WIDTH:
        reason = f"cannot be told from a width of {width}, which is no multiple of {HEAD_WIDTH}"
        raise RecipeError("number of attention heads", reason, "Give it with --heads")
    if chosen is not None and (chosen < 1 or width % chosen):
        raise RecipeError(f"--heads {chosen}", f"does not divide the width {width}", "Give a divisor of the width")
    return chosen or width // HEAD_WIDTH


def _notes(config: Detr3dConfig) -> tuple[str, ...]:
    known = any(config.id2label == preset.get("id2label") for preset in PRESETS.values())
    count = len(config.id2label or ())
    return (
        f"The {count} classes are taken for {'SUN RGB-D' if count == 10 else 'ScanNet'}'s, in the authors' order."
        if known
        else f"The {count} classes are numbered: the file does not name them. Write their names into config.json.",
        "Further training goes on as released: overlaps of some turned boxes count as none in the generalised IoU "
        "(giou 'released'), no tokens near the origin. Change these keys of config.json to train as the paper says.",
        f"{config.num_points} points are drawn from a scan, as in the authors' scripts.",
    )


def contract_of(config: Detr3dConfig) -> PreprocessingContract:
    """Return the authors' preprocessing.

    Args:
        config: Of a converted model.
    """
    points = PointsContract(drawn=config.num_points, kept=config.num_points, fewest=config.num_groups)
    source = "3DETR's released code: points in metres, z up, drawn at random"
    return PreprocessingContract(scene=SceneContract(points=points), source=source)
