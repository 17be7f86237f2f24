"""`crossdim export`: parts of trained models, written for other libraries."""

from pathlib import Path
from typing import Annotated

import typer

from crossdim.cli.console import Json, examples, print_json, show_facts


def register(app: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        app: The command line.
    """
    export = typer.Typer(
        name="export",
        no_args_is_help=True,
        help="Write a part of a trained model for other libraries.",
        epilog=examples("crossdim export image-encoder runs/scenes vit/"),
    )
    export.command(
        "image-encoder",
        epilog=examples(
            "crossdim export image-encoder runs/scenes vit/",
            "crossdim export image-encoder runs/scenes vit/ --image-size 480 640",
        ),
    )(image_encoder)
    app.add_typer(export)


def image_encoder(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run of PiMAE or Uni4Eye, of a detector that looks at images or of a classifier of images, one of "
            "its checkpoints, or a converted model.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="Make the position table for this size instead of the model's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the image encoder as a plain vision transformer, with timm's names.

    OUT gets `model.safetensors`, `config.json`, `contract.json` (the preprocessing) and `README.md` with the lines that
    load it: `timm.create_model("local-dir:OUT", pretrained=True)`.
    """
    from crossdim.convert.plain_vit_file import export_image_encoder

    export = export_image_encoder(model, out, image_size=image_size)
    if as_json:
        print_json({"out": str(export.out), **export.to_dict()})
        return
    height, width = export.contract.size
    show_facts(
        [
            ("written", str(export.out)),
            ("from", export.source),
            ("in", f"images of {height} x {width} pixels; contract.json says how they are prepared"),
            ("out", export.tokens),
            ("load", f'timm.create_model("local-dir:{export.out}", pretrained=True)'),
            *(("note", note) for note in export.notes),
        ]
    )
