"""Checkpoint files of Uni4Eye, Uni4Eye++ and facebookresearch/mae → a folder that crossdim loads.

The layout is recognised by its keys and every size is read from the shapes. What the shapes do not say (heads, the
order of colours, the extent of a volume) is assumed as the authors' code has it, and each assumption is written into
``conversion-report.json``.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from crossdim import __version__
from crossdim.convert.keys import KeyReport
from crossdim.convert.layout import Layout, recognise
from crossdim.convert.plan import Choices, Plan
from crossdim.convert.reading import Checkpoint, read_checkpoint
from crossdim.errors import RecipeError

REPORT_NAME = "conversion-report.json"


@dataclass(frozen=True)
class ConversionReport:
    """What was converted, what was assumed, and what became of every key.

    Attributes:
        checkpoint: Name of the file.
        sha256: Hash of the file.
        layout: Whose layout it is, in words.
        architecture: Our class that loads the result.
        out: Folder that was written.
        notes: Every assumption and every change, one sentence each.
        keys: What became of every key.
        not_tensors: Names among the weights that hold no dense tensor.
    """

    checkpoint: str
    sha256: str
    layout: str
    architecture: str
    out: Path
    notes: tuple[str, ...]
    keys: KeyReport
    not_tensors: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``conversion-report.json`` holds it."""
        return {
            "crossdim": __version__,
            "checkpoint": self.checkpoint,
            "sha256": self.sha256,
            "layout": self.layout,
            "architecture": self.architecture,
            "notes": list(self.notes),
            "keys": self.keys.to_dict(),
            "not_tensors": list(self.not_tensors),
        }


def convert_uni4eye(
    checkpoint: str | PathLike[str],
    out: str | PathLike[str],
    *,
    heads: int | None = None,
    inflate: bool = False,
    image_size: int | tuple[int, int] | None = None,
    volume_size: int | tuple[int, int, int] | None = None,
) -> ConversionReport:
    """Convert a checkpoint file and write ``config.json``, ``model.safetensors``, ``contract.json`` and the report.

    Args:
        checkpoint: File of Uni4Eye (dual-branch), Uni4Eye++ or facebookresearch/mae; nothing in it is run.
        out: Folder to make; it appears when it is complete.
        heads: Attention heads of the encoder, if its width is not a usual one.
        inflate: Derive a stem for volumes from the one for images.
        image_size: Image size to interpolate position tables to, in pixels; the checkpoint's own when left out.
        volume_size: Volume size (depth, height, width) the checkpoint was trained with, where its tables do not say.

    Raises:
        ReadError: The file is damaged, or of another layout.
        RecipeError: The folder exists already, or an option does not fit the checkpoint.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(out, "exists already and is not an empty folder", "Choose another folder, or remove it")
    source = read_checkpoint(checkpoint)
    layout = recognise(source)
    plan = Plan(source, layout, Choices(heads, inflate, image_size, volume_size))
    state, keys = plan.fill()
    report = _report(source, layout, plan, folder, keys)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    temporary.mkdir()
    try:
        _write(temporary, plan, state, report)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return report


def _report(source: Checkpoint, layout: Layout, plan: Plan, out: Path, keys: KeyReport) -> ConversionReport:
    with open(source.path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ConversionReport(
        checkpoint=Path(source.path).name,
        sha256=digest,
        layout=layout.name,
        architecture=plan.model.__name__,
        out=out,
        notes=tuple(plan.notes),
        keys=keys,
        not_tensors=source.not_tensors,
    )


def _write(folder: Path, plan: Plan, state: dict[str, Any], report: ConversionReport) -> None:
    from safetensors.torch import save_file

    plan.config.architectures = [plan.model.__name__]
    plan.config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    plan.contract.save_pretrained(folder)
    (folder / REPORT_NAME).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
