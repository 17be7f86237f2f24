"""`crossdim detect`: boxes in scenes, printed and as pictures, points in colours and a page."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdim.cli.console import Device, Json, complain, examples, load_detector, print_json, provenance
from crossdim.cli.use import ask_each, report_refused, scenes_at

if TYPE_CHECKING:
    from crossdim.inference import Detector
    from crossdim.outputs.detections import FoundBoxes, ShownScene
    from crossdim.samples import Boxes3D, Scene

Model = Annotated[Path, typer.Argument(metavar="RUN", help="A run of finetune detect, or a converted 3DETR.")]
Scenes = Annotated[
    list[str],
    typer.Argument(
        metavar="SCENE...",
        help="Scene folders, folders of frames, files of points, manifests, or `manifest.jsonl#id`.",
    ),
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write report.html there, and of each scene scene.png, points.ply, boxes.ply, detections.json, and "
        "boxes.json, which a scene folder can take as labels.",
    ),
]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="Least score of a box.")]
Oriented = Annotated[
    bool,
    typer.Option(
        "--oriented", help="Let boxes suppress one another by how they overlap as they are turned, not by upright ones."
    ),
]
Tighten = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="METRES",
        help="Fit each box to the points in it and this near it; for labels that end where what is seen ends.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's command.

    Args:
        app: The command line.
    """
    app.command(
        epilog=examples(
            "crossdim detect runs/boxes kitchen/",
            "crossdim detect runs/boxes kitchen/ office/points.ply --save out/",
            "crossdim detect runs/boxes scenes.jsonl --threshold 0.1 --json > boxes.jsonl",
            "crossdim detect runs/things desk.ply --tighten 0.015",
        )
    )(detect)


def detect(
    model: Model,
    scenes: Scenes,
    save: Save = None,
    threshold: Threshold = 0.5,
    oriented: Oriented = False,
    tighten: Tighten = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find objects in scenes: class, score, centre, size and yaw of a box around each.

    A scene that cannot be used is named on stderr, the others go on, and the exit code is 2.
    """
    detector = load_detector(model, device)
    loads, broken = scenes_at(scenes)
    folders = dict(zip(loads, folders_of(loads), strict=True))
    shown: list[ShownScene] = []
    notes: list[str] = []
    find = partial(detector.boxes, oriented=oriented, tighten_m=tighten)

    def look(name: str) -> None:
        from crossdim.outputs.detections import MOST_PICTURES, ShownScene, write_detections

        found = _look(find, name, loads[name](), threshold)
        notes.extend(_notes(found, find))
        picture = None if save is None else write_detections(found, save / folders[name])
        shown.append(ShownScene.of(found, picture if len(shown) < MOST_PICTURES else None))

    _, refused = ask_each(list(loads), look, "detecting")
    for each in shown:
        _print(each.found, as_json)
    for note in notes:
        complain(note)
    if save is not None and shown:
        _write_page(shown, detector, save)
        if not as_json:
            typer.echo(f"written: {save / 'report.html'}")
    report_refused([*broken, *refused])


def _look(find: "Callable[[Scene, float], Boxes3D]", name: str, scene: "Scene", threshold: float) -> "FoundBoxes":
    from crossdim.outputs.detections import FoundBoxes

    return FoundBoxes(name, replace(scene, boxes=find(scene, threshold)), scene.boxes, threshold)


def _notes(found: "FoundBoxes", find: "Callable[[Scene, float], Boxes3D]") -> list[str]:
    """Return what a user should know: warnings of the files, and how near a scene without boxes comes to having one."""
    notes = [f"{found.name}: {warning}" for warning in found.scene.warnings]
    if not len(found.boxes):
        best = find(found.scene, 0.0)
        near = ""
        if len(best) and best.scores is not None:
            near = f"; the best one, {best.labels[0]}, has {best.scores[0]:.3f} (--threshold asks for less)"
        notes.append(f"{found.name}: no box has a score of {found.threshold:g} at least{near}")
    return notes


def _print(found: "FoundBoxes", as_json: bool) -> None:
    from crossdim.outputs.detections import box_rows, detection_data, found_text

    if as_json:
        print_json(detection_data(found))
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    typer.echo(f"{found.name}: {found_text(found)}")
    columns, rows = box_rows(found, in_camera=False)
    if rows:
        numbers = (Column(name, justify="right", no_wrap=True) for name in columns[1:])
        table = Table(Column(columns[0], overflow="fold"), *numbers, box=None, pad_edge=False, header_style="dim")
        for row in rows:
            table.add_row(*map(Text, row))
        Console(highlight=False).print(table)


def _write_page(shown: "list[ShownScene]", detector: "Detector", folder: Path) -> None:
    from crossdim.outputs.detections import detections_document
    from crossdim.outputs.document import save_document

    known = provenance(detector.name, detector.contract.source)
    save_document(detections_document(shown, known), folder / "report.html")


def folders_of(names: Iterable[str]) -> list[str]:
    """Return a folder for the files of each scene: none of its own for a single one, else one that its name tells.

    Args:
        names: Of scenes.
    """
    given = list(names)
    if len(given) == 1:
        return [""]
    folders: list[str] = []
    for name in given:
        last = Path(name.replace("#", "/")).stem
        plain = re.sub(r"[^\w.-]+", "-", last).strip(".-") or "scene"
        taken, number = plain, 2
        while taken.lower() in {folder.lower() for folder in folders}:
            taken, number = f"{plain}-{number}", number + 1
        folders.append(taken)
    return folders
