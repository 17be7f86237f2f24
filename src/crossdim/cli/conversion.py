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
        epilog=examples(
            "crossdim convert uni4eye checkpoint-99.pth converted/",
            "crossdim convert med2e3 Med-2E3-M3D/ converted/",
            "crossdim convert pimae ckpt-last.pth converted/",
            "crossdim convert 3detr checkpoint_best.pth converted/",
        ),
    )
    convert.command(
        epilog=examples(
            "crossdim convert uni4eye checkpoint-99.pth converted/",
            "crossdim convert uni4eye mae_pretrain_vit_base.pth converted/ --inflate --volume-size 64 112 112",
        )
    )(uni4eye)
    convert.command(
        epilog=examples(
            "crossdim convert med2e3 Med-2E3-M3D/ converted/",
            "crossdim convert med2e3 M3D-CLIP/ m3d-tower/",
            "crossdim convert med2e3 Med-2E3-M3D/ as-released/ --random-text-projection 0",
        )
    )(med2e3)
    convert.command(epilog=examples("crossdim convert pimae ckpt-last.pth converted/"))(pimae)
    convert.command("3detr", epilog=examples("crossdim convert 3detr checkpoint_best.pth converted/"))(detr3d)
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
    _show(report, as_json)


def med2e3(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Med-2E3's released folder, or M3D-CLIP's folder or file.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    random_text_projection: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            min=0,
            help="Draw the projection of the question at random, as the authors' loader leaves it, instead of loading "
            "it. Slice scores then do not follow the question.",
        ),
    ] = None,
    question_tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="BERT's vocab.txt or tokenizer folder, where the released folder has none."),
    ] = None,
    heads: Annotated[int | None, typer.Option(help="Heads of the 3D encoder, if nothing else says.")] = None,
    as_json: Json = False,
) -> None:
    """Convert Med-2E3, or M3D-CLIP's vision transformer alone, which can serve as the 3D encoder of a new model.

    OUT gets `config.json`, the weights, `contract.json` and `conversion-report.json`; of Med-2E3 also `processor.json`
    and the tokenizers.
    """
    from crossdim.convert.med2e3 import convert_med2e3

    report = convert_med2e3(
        source,
        out,
        random_text_projection=random_text_projection,
        heads=heads,
        question_tokenizer=question_tokenizer,
    )
    _show(report, as_json)


def pimae(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="File that PiMAE's pre-training wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    heads: Annotated[int | None, typer.Option(help="Heads of the encoders, if they are not 64 wide.")] = None,
    decoder_heads: Annotated[int | None, typer.Option(help="Heads of the decoders, if they are not 64 wide.")] = None,
    as_json: Json = False,
) -> None:
    """Convert PiMAE's pre-training, and say what became of every key and what was assumed.

    OUT gets `config.json`, `model.safetensors`, `contract.json` and `conversion-report.json`.
    """
    from crossdim.convert.pimae_file import convert_pimae

    _show(convert_pimae(checkpoint, out, heads=heads, decoder_heads=decoder_heads), as_json)


def detr3d(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="File that 3DETR's training wrote, or PiMAE's fine-tuning.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    heads: Annotated[int | None, typer.Option(help="Heads, if the file does not say and they are not 64 wide.")] = None,
    as_json: Json = False,
) -> None:
    """Convert a 3D detector of 3DETR or PiMAE, and say what became of every key and what was assumed.

    OUT gets `config.json`, `model.safetensors`, `contract.json` and `conversion-report.json`.
    """
    from crossdim.convert.detr3d_file import convert_3detr

    _show(convert_3detr(checkpoint, out, heads=heads), as_json)


def _show(report: "ConversionReport", as_json: bool) -> None:
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
