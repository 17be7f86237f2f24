"""`crossdim prepare` for scenes: points with a picture, its camera and boxes."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crossdim.cli.console import Json, bar, examples
from crossdim.cli.summary import Audit, Fractions, Out, Seed, Validation, finish

if TYPE_CHECKING:
    from crossdim.datasets.manifest import Manifest


def register(prepare: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        prepare: The `prepare` command.
    """
    prepare.command(
        epilog=examples(
            "crossdim prepare scenes recordings/ --out scenes.jsonl",
            "crossdim prepare scenes kitchen/ --patient file --fractions 0.8 0.2 0 --out kitchen.jsonl",
        )
    )(scenes)
    prepare.command(
        epilog=examples(
            "crossdim prepare sunrgbd SUNRGBD/ --out sunrgbd.jsonl",
            "crossdim prepare sunrgbd sunrgbd/ --layout votenet --labels v2 --out sunrgbd.jsonl",
        )
    )(sunrgbd)
    prepare.command(epilog=examples("crossdim prepare kitti KITTI/ --lists ImageSets/ --out kitti.jsonl"))(kitti)
    prepare.command(epilog=examples("crossdim prepare osd osd_rgbd/ --out osd.jsonl"))(osd)
    prepare.command(epilog=examples("crossdim prepare scannet ScanNet/ --out scannet.jsonl"))(scannet)


def scenes(
    path: Annotated[str, typer.Argument(help="A scene folder, a folder of frames, or a folder with any of them.")],
    out: Out,
    patient: Annotated[
        str, typer.Option(help="What stays together: `folder` (its frames), `file`, or an expression with one group.")
    ] = "folder",
    name: Annotated[str | None, typer.Option(help="Name of the data set; the folder's if left out.")] = None,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of recordings of one's own: pictures with depth or points, and `camera.json`.

    A scene folder holds image, depth or points, `camera.json` and perhaps `boxes.json`. A folder of frames holds `rgb`
    with `depth` or `points`, whose files have the same stems, and one `camera.json`. Frames of one folder show one
    place, and stay in one part unless `--patient` says otherwise.
    """
    from crossdim.datasets.scene_folder import from_scene_folder

    with bar(f"reading {path}") as progress:
        manifest = from_scene_folder(path, patient=patient, name=name, progress=progress)
    finish(_split(manifest, fractions, seed), out, audit, as_json)


def sunrgbd(
    path: Annotated[str, typer.Argument(help="The folder of the data set.")],
    out: Out,
    layout: Annotated[
        Literal["votenet", "trainval", "raw"] | None,
        typer.Option(help="What to read; the first that is there if left out."),
    ] = None,
    labels: Annotated[
        Literal["v1", "v2"], typer.Option(help="Edition of the boxes; papers compare on v1. Raw frames have none.")
    ] = "v1",
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of SUN RGB-D, in VoteNet's layout, as it starts from, or of the raw frames.

    The published parts are kept; `--fractions` and `--seed` are for raw frames, which have none.
    """
    from crossdim.datasets.sunrgbd import from_sunrgbd

    with bar(f"reading {path}") as progress:
        manifest = from_sunrgbd(path, layout=layout, labels=labels, progress=progress)
    finish(_split(manifest, fractions, seed), out, audit, as_json)


def kitti(
    path: Annotated[str, typer.Argument(help="The folder with training/ (velodyne, image_2, calib, label_2).")],
    out: Out,
    lists: Annotated[
        str | None, typer.Option(help="Folder of train.txt, val.txt, test.txt; ImageSets in the folder if left out.")
    ] = None,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of KITTI's object detection set: laser scans with a picture.

    Where there are no lists of its parts, these are drawn, by drive if the devkit's `mapping` is in the folder.
    """
    from crossdim.datasets.kitti import from_kitti

    with bar(f"reading {path}") as progress:
        manifest = from_kitti(path, lists=lists, progress=progress)
    finish(_split(manifest, fractions, seed), out, audit, as_json)


def osd(
    path: Annotated[str, typer.Argument(help="The folder with index.json.")],
    out: Out,
    validation: Validation = 0.1,
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of the Object Segmentation Database: depth and pictures of things on a table."""
    from crossdim.datasets.osd import from_osd

    with bar(f"reading {path}") as progress:
        manifest = from_osd(path, validation=validation, seed=seed, progress=progress)
    finish(manifest, out, audit, as_json)


def scannet(
    path: Annotated[str, typer.Argument(help="The folder with scans/, or with VoteNet's exported arrays.")],
    out: Out,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of ScanNet: scanned rooms, without pictures.

    The published lists are kept if they are in the folder; else parts are drawn by room.
    """
    from crossdim.datasets.scannet import from_scannet

    with bar(f"reading {path}") as progress:
        manifest = from_scannet(path, progress=progress)
    finish(_split(manifest, fractions, seed), out, audit, as_json)


def _split(manifest: "Manifest", fractions: tuple[float, float, float], seed: int) -> "Manifest":
    """Return the manifest with its published parts, or with drawn ones if it has none."""
    from crossdim.datasets.splits import split_by_patient

    if any(record.split is not None for record in manifest.records):
        return manifest
    return split_by_patient(manifest, fractions, seed, stratify=next(iter(manifest.header.tasks), None))
