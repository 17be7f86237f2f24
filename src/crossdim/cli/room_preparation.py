"""`crossdim prepare rooms` and `table-tops`: synthetic scenes, seen by a camera with a depth sensor."""

from pathlib import Path
from typing import Annotated

import typer

from crossdim.cli.console import Json, bar, examples
from crossdim.cli.summary import Fractions, finish


def register(prepare: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        prepare: The group `crossdim prepare`.
    """
    prepare.command(
        epilog=examples(
            "crossdim prepare rooms --out rooms/",
            "crossdim prepare rooms --count 1000 --size 480 640 --seed 1 --out many-rooms/",
        )
    )(rooms)
    prepare.command(
        name="table-tops",
        epilog=examples(
            "crossdim prepare table-tops --out tables/",
            "crossdim prepare table-tops --count 1000 --size 480 640 --seed 1 --out many-tables/",
        ),
    )(table_tops)


def rooms(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of manifest.jsonl and the scene folders.")],
    count: Annotated[int, typer.Option(help="Number of rooms; the kinds are equally frequent.")] = 120,
    size: Annotated[tuple[int, int], typer.Option(metavar="HEIGHT WIDTH", help="Size of the pictures in pixels.")] = (
        240,
        320,
    ),
    fractions: Fractions = (0.6, 0.2, 0.2),
    seed: Annotated[int, typer.Option(help="Seed of the rooms and of the split.")] = 0,
    audit: Annotated[bool, typer.Option(help="Read every file again and look for problems.")] = False,
    as_json: Json = False,
) -> None:
    """Make furnished rooms: pictures, depth with a sensor's noise and gaps, cameras, and boxes of what can be seen.

    Bedrooms, offices, living rooms, dining rooms and bathrooms; the kind of room is the manifest's task. The points
    come from a rendered depth picture: what stands in front hides what stands behind.
    """
    from crossdim.datasets.rooms import make_rooms

    with bar("drawing rooms") as progress:
        manifest = make_rooms(out, count, size, seed=seed, fractions=fractions, progress=progress)
    finish(manifest, out / "manifest.jsonl", audit, as_json)


def table_tops(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of manifest.jsonl and the scene folders.")],
    count: Annotated[int, typer.Option(help="Number of tables; the kinds of arrangements are equally frequent.")] = 120,
    size: Annotated[tuple[int, int], typer.Option(metavar="HEIGHT WIDTH", help="Size of the pictures in pixels.")] = (
        180,
        240,
    ),
    fractions: Fractions = (0.8, 0.0, 0.2),
    seed: Annotated[int, typer.Option(help="Seed of the tables and of the split.")] = 0,
    audit: Annotated[bool, typer.Option(help="Read every file again and look for problems.")] = False,
    as_json: Json = False,
) -> None:
    """Make tables with two to five things: pictures, depth as a sensor reads it, cameras, and boxes of what is seen.

    Packages, tins, bowls and mugs, apart, touching, hidden in part and stacked. Labels are those of the Object
    Segmentation Database: one class, `object`, and boxes from the foot of a thing to its highest seen point.
    """
    from crossdim.datasets.table_tops import make_table_tops

    with bar("drawing tables") as progress:
        manifest = make_table_tops(out, count, size, seed=seed, fractions=fractions, progress=progress)
    finish(manifest, out / "manifest.jsonl", audit, as_json)
