"""`crossdim inspect`: what a file or a scene is, or a table of what a folder holds."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdim.cli.console import Json, bar, examples, print_json, show_facts
from crossdim.errors import CrossdimError, ReadError, RecipeError

if TYPE_CHECKING:
    from crossdim.readers import Inspection
    from crossdim.readers.inspection import SceneFacts
    from crossdim.readers.scene_folder import OpenedScene
    from crossdim.samples import Image, PointCloud, Scene, Volume

CHOICES_SHOWN = 6


def register(app: typer.Typer) -> None:
    """Add this module's command.

    Args:
        app: The command line.
    """
    app.command(
        epilog=examples(
            "crossdim inspect brain.nii.gz",
            "crossdim inspect series/ --save preview.png",
            "crossdim inspect 'retinamnist.npz#train/12'",
            "crossdim inspect room/ --save room.png",
            "crossdim inspect 'scenes.jsonl#000134' --save scene.png",
            "crossdim inspect scans/ --json > scans.jsonl",
            "crossdim inspect archive/ --no-intensities",
        )
    )(inspect)


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="A file, a DICOM series, a scene, or a folder or manifest of them; `#` selects inside one."
        ),
    ],
    save: Annotated[Path | None, typer.Option(metavar="PNG", help="Write a picture of the one file.")] = None,
    intensities: Annotated[
        bool, typer.Option(help="Read the intensities too; without, headers alone, which is faster.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Say what a file is: kind, shape, spacing, orientation, intensities, and what is wrong with it.

    Of points and scenes: how many, where, and how dense they are, what the camera sees of them, and the boxes.
    A folder or a manifest gives a table with a row for each file, scene or frame. The exit code is 2 if anything could
    not be read.
    """
    sources = _sources(path)
    if not sources:
        raise ReadError(path, "holds no file that crossdim can read", "Check the folder, or name one file")
    if len(sources) == 1:
        _inspect_one(sources[0], save, intensities, as_json)
    elif save:
        reason = f"makes a picture of one file, and {path} holds {len(sources)}"
        raise RecipeError("--save", reason, f"Name one, such as '{_name(sources[0])}'")
    else:
        _inspect_all(path, sources, intensities, as_json)


def _sources(path: str) -> Sequence["str | OpenedScene"]:
    from crossdim import readers
    from crossdim.readers.selector import split_selector

    if Path(path).is_dir():
        return readers.find_readable(path)
    if split_selector(path)[0].endswith(".jsonl"):
        from crossdim.datasets.scenes import sources_of

        return sources_of(path)
    return [path]


def _name(source: "str | OpenedScene") -> str:
    return source if isinstance(source, str) else f"{source.path}#{source.sources.origin.select}"


def _inspection(source: "str | OpenedScene", intensities: bool) -> "Inspection":
    from crossdim import readers

    if isinstance(source, str):
        return readers.inspect(source, intensity=intensities)
    from crossdim.readers.scene_inspection import inspect_scene

    return inspect_scene(source, intensity=intensities)


def _read(source: "str | OpenedScene") -> "Image | Volume | PointCloud | Scene":
    from crossdim import readers

    return readers.read(source) if isinstance(source, str) else source.read()


def _inspect_one(source: "str | OpenedScene", save: Path | None, intensities: bool, as_json: bool) -> None:
    inspection = _inspection(source, intensities)
    if save:
        _save_picture(source, save)
    if as_json:
        print_json(inspection)
    else:
        show_facts([*_facts(inspection), *([("picture", str(save))] if save else [])])
    if inspection.contradicts:
        raise typer.Exit(2)


def _save_picture(source: "str | OpenedScene", save: Path) -> None:
    from crossdim.outputs.pictures import preview, save_figure
    from crossdim.samples import PointCloud, Scene

    noun = _read(source)
    if isinstance(noun, PointCloud | Scene):
        from crossdim.outputs.pictures.scenes import scene_picture

        save_figure(scene_picture(noun), save)
    else:
        save_figure(preview(noun), save)


def _inspect_all(folder: str, sources: Sequence["str | OpenedScene"], intensities: bool, as_json: bool) -> None:
    inspections: list[Inspection] = []
    refused: list[CrossdimError] = []
    with bar(f"inspecting {folder}") as progress:
        for done, source in enumerate(sources, 1):
            try:
                inspections.append(_inspection(source, intensities))
            except CrossdimError as error:
                refused.append(error)
            progress(done, len(sources))
    if as_json:
        for inspection in inspections:
            print_json(inspection)
        for refusal in refused:
            print_json({"path": refusal.subject, "error": refusal.reason, "remedy": refusal.remedy})
    else:
        _show_table(folder, inspections, refused)
    if refused or any(inspection.contradicts for inspection in inspections):
        raise typer.Exit(2)


def _facts(inspection: "Inspection") -> list[tuple[str, str]]:
    """Return the lines about one file, without those that do not apply to it."""
    choices = [f"#{choice}" for choice in inspection.choices[:CHOICES_SHOWN]]
    more = len(inspection.choices) - len(choices)
    facts = [
        ("path", inspection.path),
        ("kind", inspection.kind),
        ("format", inspection.format),
        ("shape", f"{_sizes(inspection.shape)} ({_axes(inspection)})" if inspection.shape else ""),
        ("spacing", f"{_sizes(inspection.spacing_mm)} mm" if inspection.spacing_mm else ""),
        ("orientation", inspection.orientation or ""),
        ("type", inspection.dtype),
        ("intensities", _intensities(inspection)),
        *(_scene_facts(inspection.scene) if inspection.scene else ()),
        ("choices", ", ".join(choices) + (f" and {more} more" if more > 0 else "")),
        *(("problem", problem) for problem in inspection.problems),
    ]
    return [(name, value) for name, value in facts if value]


def _scene_facts(scene: "SceneFacts") -> list[tuple[str, str]]:
    """Return the lines about points, camera and boxes; those that do not apply are empty."""
    camera = ""
    if scene.camera and scene.view_deg:
        height, width = scene.camera
        camera = f"{height} x {width} pixels (height x width), sees {_sizes(scene.view_deg)} degrees"
    return [
        ("points", "" if scene.points is None else str(scene.points)),
        ("extent", f"{_extent(scene)} m (x, y, z)" if scene.low_m else ""),
        ("a point every", f"{scene.spacing_m:.3g} m" if scene.spacing_m is not None else ""),
        ("with", ", ".join([*["colours"] * scene.colors, *scene.attributes])),
        ("camera", camera),
        ("in view", f"{scene.in_view:.1%} of the points" if scene.in_view is not None else ""),
        ("boxes", "" if scene.boxes is None else _boxes(scene.boxes)),
    ]


def _extent(scene: "SceneFacts") -> str:
    return ", ".join(
        f"{low:.3g} to {high:.3g}" for low, high in zip(scene.low_m or (), scene.high_m or (), strict=True)
    )


def _boxes(boxes: dict[str, int]) -> str:
    classes = sorted(boxes.items(), key=lambda one: -one[1])
    shown = ", ".join(f"{count} {label}" for label, count in classes[:CHOICES_SHOWN])
    more = len(classes) - CHOICES_SHOWN
    return (
        f"{sum(boxes.values())}" + (f": {shown}" if shown else "") + (f" and {more} more classes" if more > 0 else "")
    )


def _intensities(inspection: "Inspection") -> str:
    low, high = inspection.intensity_min, inspection.intensity_max
    unit = inspection.unit or ""
    return unit if low is None or high is None else f"{low:.5g} to {high:.5g}, {unit}"


def _axes(inspection: "Inspection") -> str:
    if inspection.kind == "points" or len(inspection.shape) == 2:
        return "points x columns"
    axes = ("channels", "depth", "height", "width")
    return " x ".join(axes if len(inspection.shape) == 4 else ("channels", "height", "width"))


def _sizes(sizes: Sequence[float | int], between: str = " x ") -> str:
    return between.join(f"{size:.4g}" if isinstance(size, float) else str(size) for size in sizes)


def _show_table(folder: str, inspections: list["Inspection"], refused: list[CrossdimError]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    columns = ("kind", "shape", "spacing mm", "orientation")
    table = Table(
        Column("path", overflow="fold"),
        *(Column(name, no_wrap=True) for name in columns),
        Column("contents", overflow="fold"),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for found in inspections:
        row = (
            _below(found.path, folder),
            found.kind,
            _sizes(found.shape, "\u00d7"),
            _sizes(found.spacing_mm or (), "\u00d7"),
            found.orientation or "",
            _intensities(found) if found.scene is None else _in_short(found.scene),
        )
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, markup=False)
    console.print(table)
    troubled = [found for found in inspections if found.problems]
    for found in troubled:
        console.print(f"{_below(found.path, folder)}: {'; '.join(found.problems)}")
    for refusal in refused:
        console.print(str(refusal))
    kinds = Counter(found.kind for found in inspections)
    counts = ", ".join(_counted(count, kind) for kind, count in sorted(kinds.items()))
    console.print(f"{counts or 'nothing'} read, {len(troubled)} with problems; {len(refused)} not readable")


def _in_short(scene: "SceneFacts") -> str:
    """Return the cell about points, camera and boxes."""
    sizes = [high - low for low, high in zip(scene.low_m or (), scene.high_m or (), strict=True)]
    parts = [
        f"{scene.points} points" if scene.points is not None else "",
        f"{' x '.join(f'{size:.3g}' for size in sizes)} m" if sizes else "",
        f"{scene.in_view:.0%} in view" if scene.in_view is not None else "",
        _counted(sum(scene.boxes.values()), "box") if scene.boxes is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _counted(count: int, kind: str) -> str:
    if kind == "points":
        return f"{count} cloud{'s' if count > 1 else ''} of points"
    several = "" if count == 1 else "es" if kind == "box" else "s"
    return f"{count} {kind}{several}"


def _below(path: str, folder: str) -> str:
    if path.startswith(f"{folder}#"):
        return path.removeprefix(folder)
    return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path
