"""`crossdim convert`: checkpoints of the authors, turned into folders that crossdim loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdim.cli.console import Json, examples, print_json, show_facts

if TYPE_CHECKING:
    from crossdim.convert.report import ConversionReport


def register(app: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        app: The command line.
    """
    convert = typer.Typer(
        name="convert",
        no_args_is_help=True,
        help="Turn a checkpoint of the authors into a folder that crossdim loads; nothing in the file is ever run.",
        epilog=examples("crossdim convert uni4eye checkpoint-99.pth converted/"),
    )
    convert.command(
        epilog=examples(
            "crossdim convert uni4eye checkpoint-99.pth converted/",
            "crossdim convert uni4eye mae_pretrain_vit_base.pth converted/ --inflate --volume-size 64 112 112",
        )
    )(uni4eye)
    app.add_typer(convert)


def uni4eye(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="File of Uni4Eye, Uni4Eye++ or facebookresearch/mae.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    heads: Annotated[int | None, typer.Option(help="Attention heads, if the width is not a usual one.")] = None,
    inflate: Annotated[
        bool, typer.Option("--inflate", help="Derive a stem for volumes from the one for images.")
    ] = False,
    image_size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="HEIGHT WIDTH", help="Interpolate position tables to this size.")
    ] = None,
    volume_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(metavar="DEPTH HEIGHT WIDTH", help="Volume size of the checkpoint, where it does not say."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert Uni4Eye, Uni4Eye++ or MAE weights, and say what became of every key and what was assumed.

    OUT gets `config.json`, `model.safetensors`, `contract.json` and `conversion-report.json`.
    """
    from crossdim.convert.uni4eye import convert_uni4eye

    report = convert_uni4eye(
        checkpoint, out, heads=heads, inflate=inflate, image_size=image_size, volume_size=volume_size
    )
    if as_json:
        print_json(report.to_dict())
    else:
        show_facts(_facts(report))


def _facts(report: "ConversionReport") -> list[tuple[str, str]]:
    keys = report.keys
    return [
        ("written", str(report.out)),
        ("layout", report.layout),
        ("model", report.architecture),
        ("keys", f"{len(keys.used)} used, {len(keys.unused)} unused, {len(keys.missing)} missing"),
        *(("unused", f"{key}: {reason}") for key, reason in keys.unused.items()),
        *(("missing", key) for key in keys.missing),
        *(("changed", f"{key}: {change}") for key, change in keys.reshaped.items()),
        *(("note", note) for note in report.notes),
    ]
