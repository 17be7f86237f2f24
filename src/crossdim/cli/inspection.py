"""`crossdim inspect`: what a file is, or a table of what a folder holds."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdim.cli.console import Json, bar, examples, print_json, show_facts
from crossdim.errors import CrossdimError, ReadError, RecipeError

if TYPE_CHECKING:
    from crossdim.readers import Inspection

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
            "crossdim inspect scans/ --json > scans.jsonl",
        )
    )(inspect)


def inspect(
    path: Annotated[str, typer.Argument(help="A file, a DICOM series, or a folder of files; `#` selects inside one.")],
    save: Annotated[Path | None, typer.Option(metavar="PNG", help="Write a picture of the one file.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a file is: kind, shape, spacing, orientation, intensities, and what is wrong with it.

    A folder gives a table with a row for each file. The exit code is 2 if anything could not be read.
    """
    from crossdim import readers

    sources = readers.find_readable(path) if Path(path).is_dir() else [path]
    if not sources:
        raise ReadError(path, "holds no file that crossdim can read", "Check the folder, or name one file")
    if len(sources) == 1:
        _inspect_one(sources[0], save, as_json)
    elif save:
        raise RecipeError("--save", f"makes a picture of one file, and {path} holds {len(sources)}", "Name one file")
    else:
        _inspect_all(path, sources, as_json)


def _inspect_one(source: str, save: Path | None, as_json: bool) -> None:
    from crossdim import readers

    inspection = readers.inspect(source)
    if as_json:
        print_json(inspection)
    else:
        show_facts(_facts(inspection))
    if save:
        from crossdim.outputs.pictures import preview, save_figure

        save_figure(preview(readers.read(source)), save)


def _inspect_all(folder: str, sources: list[str], as_json: bool) -> None:
    from crossdim import readers

    inspections: list[Inspection] = []
    refused: list[CrossdimError] = []
    with bar(f"inspecting {folder}") as progress:
        for done, source in enumerate(sources, 1):
            try:
                inspections.append(readers.inspect(source))
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
    if refused:
        raise typer.Exit(2)


def _facts(inspection: "Inspection") -> list[tuple[str, str]]:
    """Return the lines about one file, without those that do not apply to it."""
    low, high = inspection.intensity_min, inspection.intensity_max
    choices = [f"#{choice}" for choice in inspection.choices[:CHOICES_SHOWN]]
    more = len(inspection.choices) - len(choices)
    facts = [
        ("path", inspection.path),
        ("kind", inspection.kind),
        ("format", inspection.format),
        ("shape", f"{_sizes(inspection.shape)} ({_axes(inspection.shape)})"),
        ("spacing", f"{_sizes(inspection.spacing_mm)} mm" if inspection.spacing_mm else ""),
        ("orientation", inspection.orientation or ""),
        ("type", inspection.dtype),
        ("intensities", f"{low:g} to {high:g}, {inspection.unit}"),
        ("choices", ", ".join(choices) + (f" and {more} more" if more > 0 else "")),
        *(("problem", problem) for problem in inspection.problems),
    ]
    return [(name, value) for name, value in facts if value]


def _axes(shape: tuple[int, ...]) -> str:
    return " x ".join(("channels", "depth", "height", "width") if len(shape) == 4 else ("channels", "height", "width"))


def _sizes(sizes: tuple[float, ...] | None) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes or ())


def _show_table(folder: str, inspections: list["Inspection"], refused: list[CrossdimError]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        Column("path", overflow="fold"),
        "kind",
        "format",
        "shape",
        "spacing mm",
        "orientation",
        "intensities",
        Column("problems", overflow="fold"),
    )
    for found in inspections:
        row = (
            str(Path(found.path).relative_to(folder)) if Path(found.path).is_relative_to(folder) else found.path,
            found.kind,
            found.format,
            _sizes(found.shape),
            _sizes(found.spacing_mm),
            found.orientation or "",
            f"{found.intensity_min:g} to {found.intensity_max:g}, {found.unit}",
            "; ".join(found.problems),
        )
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    console.print(table)
    kinds = Counter(found.kind for found in inspections)
    troubled = sum(bool(found.problems) for found in inspections)
    counts = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(kinds.items()))
    console.print(
        f"{counts or 'nothing readable'}; {troubled} with problems; {len(refused)} not readable", markup=False
    )
    for refusal in refused:
        console.print(str(refusal), markup=False)
