"""`crossdim prepare anatomy-qa`: questions with exact answers from volumes whose structures are labelled."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crossdim.cli.console import Json, bar, examples
from crossdim.cli.summary import Fractions, finish

if TYPE_CHECKING:
    from crossdim.datasets.manifest import Manifest

Plane = Literal["axial", "coronal", "sagittal"]


def register(prepare: typer.Typer) -> None:
    """Add this module's command.

    Args:
        prepare: The group `crossdim prepare`.
    """
    prepare.command(
        "anatomy-qa",
        epilog=examples(
            "crossdim prepare anatomy-qa Task04_Hippocampus/ --plane coronal --out hippocampus-qa/",
            "crossdim prepare anatomy-qa scans/ --labels masks/ --names names.json --spacing 3 3 3 --out qa/",
            "crossdim prepare anatomy-qa --labels labelmaps/ --names table.txt --unnamed ignore --synthetic 4 "
            "--spacing 4 4 4 --out heads-qa/",
        ),
    )(anatomy_qa)


def anatomy_qa(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of manifest.jsonl and the volumes.")],
    images: Annotated[
        str | None,
        typer.Argument(help="Folder of images, or of a data set (Decathlon, images + labels, TotalSegmentator)."),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Folder of label maps named as the images, or of masks.")] = None,
    names: Annotated[
        str | None, typer.Option(help="What the values stand for: JSON, dataset.json, a table in text, CSV or XML.")
    ] = None,
    types: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Types of question, split by commas; all if left out.")
    ] = None,
    plane: Annotated[
        Plane, typer.Option(help="Plane whose slices are counted, and left out of fields of view.")
    ] = "axial",
    fields_of_view: Annotated[int, typer.Option(help="Random fields of view of each case; 0 for all of it.")] = 4,
    coverage: Annotated[
        tuple[float, float], typer.Option(metavar="LEAST MOST", help="Share of the slices in a field of view.")
    ] = (0.3, 0.8),
    synthetic: Annotated[
        int, typer.Option(help="Make this many random contrasts of each map; 0 takes the images.")
    ] = 0,
    same_contrast: Annotated[
        bool, typer.Option("--same-contrast", help="Give a structure the same intensity in all synthetic volumes.")
    ] = False,
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="D H W", help="Spacing of the volumes written, in mm along the file's slices, rows, columns."
        ),
    ] = None,
    patient: Annotated[
        str, typer.Option(help="Patient id: `file`, `folder`, or a regular expression with one group.")
    ] = "file",
    min_slices: Annotated[int, typer.Option(help="Slices that something spans at least to be visible.")] = 2,
    min_share: Annotated[float, typer.Option(help="Share of it that is in the field of view, at least.")] = 0.5,
    margin: Annotated[float, typer.Option(help="Distance in mm from the field of view, at least, to be absent.")] = 3.0,
    reach: Annotated[float, typer.Option(help="Distance in mm within which neighbours are looked for.")] = 15.0,
    unnamed: Annotated[
        Literal["refuse", "ignore"], typer.Option(help="What is done with values that have no name.")
    ] = "refuse",
    handedness: Annotated[
        Literal["refuse", "geometry"], typer.Option(help="What is done where names and geometry disagree on the side.")
    ] = "refuse",
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "anatomy questions",
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Annotated[int, typer.Option(help="Seed of the views, the contrasts, the balance and the split.")] = 0,
    audit: Annotated[bool, typer.Option(help="Read every volume again and look for problems.")] = False,
    as_json: Json = False,
) -> None:
    """Make questions about anatomy whose answers are exact, from label maps with names.

    Asked is whether, on which side and in which slices a structure is visible, how large it is, which of two is
    larger, what lies beside it, how many are visible; and reports are written. What is visible varies from one field
    of view to the next, and answers to the same words are equally frequent in each part: the words alone do not tell
    them. The accuracy of guessing from the words is printed.
    """
    from crossdim.datasets.anatomy_asking import TYPES
    from crossdim.datasets.anatomy_cases import find_cases
    from crossdim.datasets.anatomy_questions import AnatomyOptions, build_anatomy_questions
    from crossdim.datasets.anatomy_seen import Rules
    from crossdim.datasets.anatomy_views import Views
    from crossdim.datasets.synthetic_contrast import ContrastOptions

    cases, found = find_cases(images, labels, names, patient)
    wanted = tuple(part.strip() for part in types.split(",")) if types else TYPES
    options = AnatomyOptions(
        names=found,
        types=wanted,
        rules=Rules(plane, min_slices, min_share, margin, reach),
        views=Views(fields_of_view, coverage),
        synthetic=synthetic,
        contrast=ContrastOptions(same_means=same_contrast),
        spacing_mm=spacing,
        seed=seed,
        fractions=fractions,
        unnamed=unnamed,
        handedness=handedness,
        name=name,
    )
    with bar(f"looking at {len(cases)} label maps") as progress:
        manifest = build_anatomy_questions(cases, out, options, progress)
    finish(_with_blind(manifest), out / "manifest.jsonl", audit, as_json)


def _with_blind(manifest: "Manifest") -> "Manifest":
    """Return the manifest with a note on what each type of question is worth blind."""
    from dataclasses import replace

    from crossdim.datasets.anatomy_balance import blind_accuracy

    notes = [
        f"{kind}: {blind.accuracy:.1%} of {blind.questions} test questions right from their words alone"
        + (f", chance {blind.chance:.1%}" if blind.chance else "")
        for kind, blind in blind_accuracy(manifest).items()
        if kind != "report" and blind.questions
    ]
    return replace(manifest, notes=(*manifest.notes, *notes))
