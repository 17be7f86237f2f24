"""Checkpoint files of Uni4Eye, Uni4Eye++ and facebookresearch/mae → a folder that crossdim loads.

The layout is recognised by its keys and every size is read from the shapes. What the shapes do not say (heads, the
order of colours, the extent of a volume) is assumed as the authors' code has it, and each assumption is written into
``conversion-report.json``.
"""

from os import PathLike
from pathlib import Path

from crossdim.convert.keys import KeyReport
from crossdim.convert.layout import Layout, recognise
from crossdim.convert.plan import Choices, Plan
from crossdim.convert.reading import Checkpoint, read_checkpoint
from crossdim.convert.report import REPORT_NAME, ConversionReport, appearing, check_free, hash_of, write_model

__all__ = ["REPORT_NAME", "ConversionReport", "convert_uni4eye"]


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
    folder = check_free(out)
    source = read_checkpoint(checkpoint)
    layout = recognise(source)
    plan = Plan(source, layout, Choices(heads, inflate, image_size, volume_size))
    state, keys = plan.fill()
    report = _report(source, layout, plan, folder, keys)
    with appearing(folder) as temporary:
        write_model(temporary, plan.config, state, plan.contract, report)
    return report


def _report(source: Checkpoint, layout: Layout, plan: Plan, out: Path, keys: KeyReport) -> ConversionReport:
    return ConversionReport(
        checkpoint=Path(source.path).name,
        sha256=hash_of([source.path]),
        layout=layout.name,
        architecture=plan.model.__name__,
        out=out,
        notes=tuple(plan.notes),
        keys=keys,
        not_tensors=source.not_tensors,
    )
