"""`crossdim prepare` for questions: manifests with dialogues, from the data sets of Med-2E3 and from tables."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crossdim.cli.console import Json, bar, examples
from crossdim.cli.summary import Audit, Fractions, Out, Seed, Validation, finish
from crossdim.errors import RecipeError

if TYPE_CHECKING:
    from crossdim.datasets.manifest import Manifest, SplitName

Folder = Annotated[str | None, typer.Option(help="Folder that paths are relative to; the file's own if left out.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out what is about files that are absent.")]
ReportSeed = Annotated[int, typer.Option("--seed", help="Of the split, and of the words that ask for reports.")]


def register(prepare: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        prepare: The group `crossdim prepare`.
    """
    prepare.command(
        epilog=examples(
            "crossdim prepare dialogues questions.csv --folder scans/ --out questions.jsonl",
            "crossdim prepare dialogues fragen.csv --column question=Frage --column volume=Datei --out fragen.jsonl",
        )
    )(dialogues)
    prepare.command(
        epilog=examples(
            "crossdim prepare med2e3 m3d_finetune.json --folder data/ --out m3d.jsonl",
            "crossdim prepare med2e3 train.json --test closed.json --test-answers closed_answers.json --out m3d.jsonl",
        )
    )(med2e3)
    prepare.command("m3d-cap", epilog=examples("crossdim prepare m3d-cap M3D_Cap.json --out captions.jsonl"))(m3d_cap)
    prepare.command(
        "m3d-vqa",
        epilog=examples(
            "crossdim prepare m3d-vqa M3D_VQA_train.csv --test M3D_VQA_test.csv --folder M3D/ --out vqa.jsonl"
        ),
    )(m3d_vqa)
    prepare.command("vqa-rad", epilog=examples("crossdim prepare vqa-rad VQA_RAD/ --out vqa_rad.jsonl"))(vqa_rad)
    prepare.command(
        "ct-rate",
        epilog=examples("crossdim prepare ct-rate CT-RATE/dataset/ --no-audit --out ct_rate.jsonl"),
    )(ct_rate)


def dialogues(
    path: Annotated[str, typer.Argument(help="The table: columns volume, question, and answer, choices, type, …")],
    out: Out,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN", help="What a column is called in the table (repeat).")
    ] = None,
    folder: Folder = None,
    skip_missing: SkipMissing = False,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of a table of questions about files.

    Columns: `volume` (several with |), `question`, and if they are there `answer`, `choices` (yes|no), `type`, `form`
    (closed, open, report), `patient`, `split`, `dialogue` (turns that belong together), `extent` (six numbers in mm).
    """
    from crossdim.datasets.dialogue_table import from_dialogue_table

    columns = dict(_renamed(text) for text in column or ())
    with bar(f"reading the files of {path}") as progress:
        manifest = from_dialogue_table(
            path, columns=columns, folder=folder, missing=_missing(skip_missing), progress=progress
        )
    finish(_split(manifest, fractions, seed), out, audit, as_json)


def med2e3(
    path: Annotated[str, typer.Argument(help="The JSON file, as the authors train on.")],
    out: Out,
    answers: Annotated[str | None, typer.Option(help="Its answers, where they are in a file of their own.")] = None,
    val: Annotated[list[str] | None, typer.Option(help="A JSON file of the validation part (repeat).")] = None,
    test: Annotated[list[str] | None, typer.Option(help="A JSON file of the test part (repeat).")] = None,
    test_answers: Annotated[
        list[str] | None, typer.Option(help="The answers of each --test, in the same order (repeat).")
    ] = None,
    folder: Folder = None,
    patient: Annotated[
        str, typer.Option(help="Patient id: `parent` folder, `file`, `folder`, `dicom`, or an expression with a group.")
    ] = "parent",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse samples without `question`, as the authors' code does.")
    ] = False,
    skip_missing: SkipMissing = False,
    validation: Validation = 0.1,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of Med-2E3's own JSON: conversations about volumes or images.

    With `--test`, PATH is the training part, and `--validation` of it is set apart unless there is `--val`; without,
    parts are drawn by patient.
    """
    from crossdim.datasets.med2e3_json import Source, from_med2e3

    tests, their_answers = test or [], test_answers or []
    if their_answers and len(their_answers) != len(tests):
        reason = f"is given {len(their_answers)} times, and --test {len(tests)} times"
        raise RecipeError("--test-answers", reason, "Give one for each --test, or none")
    answers_of = dict(zip(tests, their_answers, strict=False))
    sources = [
        Source(path, "train" if val or tests else None, answers),
        *(Source(one, "val") for one in val or ()),
        *(Source(one, "test", answers_of.get(one)) for one in tests),
    ]
    with bar(f"reading the files of {path}") as progress:
        manifest = from_med2e3(
            sources,
            folder=folder,
            patient=patient,
            strict=strict,
            missing=_missing(skip_missing),
            progress=progress,
        )
    finish(_split(manifest, fractions, seed, validation), out, audit, as_json)


def m3d_cap(
    path: Annotated[str, typer.Argument(help="M3D_Cap.json.")],
    out: Out,
    folder: Folder = None,
    skip_missing: SkipMissing = False,
    validation: Validation = 0.1,
    seed: ReportSeed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of M3D-Cap: volumes with reports, in the official parts."""
    from crossdim.datasets.m3d_cap import from_m3d_cap

    with bar(f"reading the files of {path}") as progress:
        manifest = from_m3d_cap(path, folder=folder, seed=seed, missing=_missing(skip_missing), progress=progress)
    finish(_split(manifest, None, seed, validation), out, audit, as_json)


def m3d_vqa(
    path: Annotated[str, typer.Argument(help="The CSV file of the training part, or the only one.")],
    out: Out,
    val: Annotated[list[str] | None, typer.Option(help="A CSV file of the validation part (repeat).")] = None,
    test: Annotated[list[str] | None, typer.Option(help="A CSV file of the test part (repeat).")] = None,
    ask: Annotated[
        Literal["closed", "open", "both"], typer.Option(help="Ask each row as a choice, openly, or both ways.")
    ] = "closed",
    folder: Folder = None,
    skip_missing: SkipMissing = False,
    validation: Validation = 0.1,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of M3D-VQA: questions of five types about the volumes of M3D-Cap.

    With `--test`, PATH is the training part, and `--validation` of it is set apart unless there is `--val`; without,
    parts are drawn by patient.
    """
    from crossdim.datasets.m3d_vqa import from_m3d_vqa

    tables: dict[SplitName | None, list[str]] = {None: [path]}
    if val or test:
        tables = {"train": [path], "val": val or [], "test": test or []}
    with bar(f"reading the files of {path}") as progress:
        manifest = from_m3d_vqa(tables, folder=folder, ask=ask, missing=_missing(skip_missing), progress=progress)
    finish(_split(manifest, fractions, seed, validation), out, audit, as_json)


def vqa_rad(
    path: Annotated[str, typer.Argument(help="The folder with questions.json and images.")],
    out: Out,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of VQA-RAD: questions about single images, split by image and never by question."""
    from crossdim.datasets.vqa_rad import TASK, from_vqa_rad

    with bar(f"reading {path}") as progress:
        manifest = from_vqa_rad(path, progress=progress)
    stratify = TASK if TASK in manifest.header.tasks else None
    finish(_split(manifest, fractions, seed, stratify=stratify), out, audit, as_json)


def ct_rate(
    path: Annotated[str, typer.Argument(help="The folder that holds train or valid.")],
    out: Out,
    reports: Annotated[list[str] | None, typer.Option("--report", help="A CSV file of reports (repeat).")] = None,
    questions: Annotated[list[str] | None, typer.Option("--vqa", help="A JSON file of questions (repeat).")] = None,
    validation: Validation = 0.1,
    seed: ReportSeed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of CT-RATE: chest CT with reports and questions, as far as it is on the disk.

    Its validation part is the test part here; `--validation` of the training part is set apart.
    """
    from crossdim.datasets.ct_rate import from_ct_rate

    with bar(f"reading {path}") as progress:
        manifest = from_ct_rate(path, reports=reports or (), questions=questions or (), seed=seed, progress=progress)
    finish(_split(manifest, None, seed, validation), out, audit, as_json)


def _missing(skip: bool) -> Literal["refuse", "skip"]:
    return "skip" if skip else "refuse"


def _renamed(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not equals or not column:
        raise RecipeError(f"--column {text}", "names no column of the table", "Write it as question=Frage")
    return name, column


def _split(
    manifest: "Manifest",
    fractions: tuple[float, float, float] | None,
    seed: int,
    validation: float = 0.0,
    stratify: str | None = None,
) -> "Manifest":
    """Draw parts where the data set has none, and a validation part where it has all but that one."""
    from crossdim.datasets.splits import carve_validation, split_by_patient

    parts = {record.split for record in manifest.records}
    if parts == {None}:
        return split_by_patient(manifest, fractions, seed, stratify) if fractions else manifest
    return carve_validation(manifest, validation, seed) if validation and _lacks_validation(parts) else manifest


def _lacks_validation(parts: "Iterable[str | None]") -> bool:
    return "train" in parts and "val" not in parts
