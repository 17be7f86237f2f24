"""`crossdim prepare`: manifests from folders, tables and public data sets, split by patient and audited."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdim.cli.console import Json, bar, examples, print_json, show_facts
from crossdim.errors import RecipeError

if TYPE_CHECKING:
    from crossdim.datasets.audit import Finding
    from crossdim.datasets.manifest import Manifest

Out = Annotated[Path, typer.Option(metavar="JSONL", help="The manifest to write.")]
Fractions = Annotated[
    tuple[float, float, float], typer.Option(metavar="TRAIN VAL TEST", help="Shares of the parts; 1 0 0 for no split.")
]
Seed = Annotated[int, typer.Option(help="Seed of the split; stored in the manifest.")]
Validation = Annotated[float, typer.Option(help="Share of the training part that becomes validation.")]
Audit = Annotated[bool, typer.Option(help="Read every file again and look for leaks, duplicates and empty files.")]

SHOWN = 5
"""Lines of a kind that are printed in full; `--json` has all of them."""


def register(app: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        app: The command line.
    """
    prepare = typer.Typer(
        name="prepare",
        no_args_is_help=True,
        help="Make a manifest (files, labels, patients, splits) of a folder, a table or a public data set.",
        epilog=examples(
            "crossdim prepare folder scans/ --out scans.jsonl",
            "crossdim prepare table grades.csv --path file --label grade --patient pid --out graded.jsonl",
        ),
    )
    prepare.command(
        epilog=examples(
            "crossdim prepare folder scans/ --out scans.jsonl",
            "crossdim prepare folder eyes/ --task disease --patient folder --out eyes.jsonl",
            "crossdim prepare folder eyes/ --task grade --class none --class mild --class severe --ordinal "
            "--patient '(p[0-9]+)_' --out eyes.jsonl",
        )
    )(folder)
    prepare.command(
        epilog=examples(
            "crossdim prepare table grades.csv --path file --label grade --patient pid --out graded.jsonl",
            "crossdim prepare table mr.csv --folder scans/ --path t1 --path flair --label tumour --out mr.jsonl",
            "crossdim prepare table grades.csv --path id --suffix .jpg --label grade "
            "--ordinal grade=none,mild,severe --out graded.jsonl",
        )
    )(table)
    prepare.command(epilog=examples("crossdim prepare medmnist retinamnist.npz --out retina.jsonl"))(medmnist)
    prepare.command(epilog=examples("crossdim prepare idrid IDRiD/ --out idrid.jsonl"))(idrid)
    prepare.command(
        epilog=examples(
            "crossdim prepare decathlon Task04_Hippocampus/ --out hippocampus.jsonl",
            "crossdim prepare decathlon Task03_Liver/ --structures --out liver.jsonl",
        )
    )(decathlon)
    app.add_typer(prepare)


def folder(
    path: Annotated[str, typer.Argument(help="The folder; everything below it that can be read becomes a record.")],
    out: Out,
    task: Annotated[str | None, typer.Option(help="Name of a task whose classes are the folders.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class, in the order of the indices (repeat).")
    ] = None,
    ordinal: Annotated[bool, typer.Option("--ordinal", help="The classes go from least to most.")] = False,
    split_folders: Annotated[
        bool, typer.Option("--split-folders", help="The outermost folders are train, val and test.")
    ] = False,
    patient: Annotated[
        str, typer.Option(help="Patient id: `file`, `folder`, `dicom`, or a regular expression with one group.")
    ] = "file",
    name: Annotated[str | None, typer.Option(help="Name of the data set; the folder's if left out.")] = None,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of everything in a folder; with `--task`, its folders are the classes.

    Parts are drawn by patient: `--patient` says whose file is whose, and by default each file is a patient.
    """
    from crossdim.datasets.folder import from_folder
    from crossdim.datasets.splits import split_by_patient

    with bar(f"reading {path}") as progress:
        manifest = from_folder(
            path,
            task=task,
            classes=classes or (),
            ordinal=ordinal,
            split_folders=split_folders,
            patient=patient,
            name=name,
            progress=progress,
        )
    if not split_folders:
        manifest = split_by_patient(manifest, fractions, seed, stratify=task)
    _finish(manifest, out, audit, as_json)


def table(
    path: Annotated[str, typer.Argument(help="The table: columns with names, in UTF-8, split by comma, ; or tab.")],
    out: Out,
    file: Annotated[list[str], typer.Option("--path", help="Column of files; several are channels (repeat).")],
    label: Annotated[list[str] | None, typer.Option(help="Column of labels, a task of its own (repeat).")] = None,
    identity: Annotated[str | None, typer.Option("--id", help="Column of unique names; the path if left out.")] = None,
    patient: Annotated[str | None, typer.Option(help="Column of patient ids.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of parts; drawn by patient if left out.")] = None,
    suffix: Annotated[str, typer.Option(help="Ending to add to every path, such as .jpg.")] = "",
    folder: Annotated[
        str | None, typer.Option(help="Folder that paths are relative to; the table's if left out.")
    ] = None,
    ordinal: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=A,B,C", help="Classes from least to most (repeat).")
    ] = None,
    multilabel: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Its cells hold several classes: a|b (repeat).")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out rows whose files are absent.")
    ] = False,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of the files that a table names."""
    from crossdim.datasets.splits import split_by_patient
    from crossdim.datasets.table import Columns, from_table

    columns = Columns(tuple(file), tuple(label or ()), identity, patient, split, suffix)
    with bar(f"reading the files of {path}") as progress:
        manifest = from_table(
            path,
            columns,
            folder=folder,
            ordinal=dict(_ordinal_classes(text) for text in ordinal or ()),
            multilabel=multilabel or (),
            missing="skip" if skip_missing else "refuse",
            progress=progress,
        )
    if split is None:
        manifest = split_by_patient(manifest, fractions, seed, stratify=label[0] if label else None)
    _finish(manifest, out, audit, as_json)


def _ordinal_classes(text: str) -> tuple[str, tuple[str, ...]]:
    column, equals, classes = text.partition("=")
    if not equals:
        raise RecipeError(f"--ordinal {text}", "names no classes", "Write it as column=least,more,most")
    return column, tuple(name.strip() for name in classes.split(","))


def medmnist(
    path: Annotated[str, typer.Argument(help="The .npz file.")],
    out: Out,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of a MedMNIST file, with its official parts."""
    from crossdim.datasets.medmnist import from_medmnist

    _finish(from_medmnist(path), out, audit, as_json)


def idrid(
    path: Annotated[str, typer.Argument(help="The folder of the data set.")],
    out: Out,
    validation: Validation = 0.1,
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of IDRiD: fundus photographs with the grades of retinopathy and of macular oedema."""
    from crossdim.datasets.idrid import from_idrid

    with bar(f"reading {path}") as progress:
        manifest = from_idrid(path, validation=validation, seed=seed, progress=progress)
    _finish(manifest, out, audit, as_json)


def decathlon(
    path: Annotated[str, typer.Argument(help="The folder of one task.")],
    out: Out,
    structures: Annotated[
        bool, typer.Option("--structures", help="Make a multi-label task of what each mask holds.")
    ] = False,
    validation: Validation = 0.1,
    seed: Seed = 0,
    audit: Audit = True,
    as_json: Json = False,
) -> None:
    """Make a manifest of a task of the Medical Segmentation Decathlon: CT and MR volumes with masks."""
    from crossdim.datasets.decathlon import from_decathlon

    with bar(f"reading {path}") as progress:
        manifest = from_decathlon(path, structures=structures, validation=validation, seed=seed, progress=progress)
    _finish(manifest, out, audit, as_json)


@dataclass(frozen=True)
class _Summary:
    """What a new manifest holds; the `--json` of every `prepare`."""

    path: str
    name: str
    sha256: str
    kinds: dict[str, int]
    patients: int
    parts: dict[str, int]
    labels: dict[str, dict[str, dict[str, int]]]
    skipped: tuple[dict[str, str], ...]
    findings: tuple[dict[str, str], ...]


def _finish(manifest: "Manifest", out: Path, audit: bool, as_json: bool) -> None:
    """Save the manifest, audit it if asked to, and say what it holds."""
    manifest.save(out)
    findings: list[Finding] = []
    if audit:
        from crossdim.datasets.audit import audit as look_for_problems

        with bar("auditing") as progress:
            findings = look_for_problems(manifest, progress=progress)
    summary = _summarise(manifest, out, findings)
    if as_json:
        print_json(summary)
    else:
        show_facts(_facts(summary))


def _summarise(manifest: "Manifest", out: Path, findings: "list[Finding]") -> _Summary:
    from collections import Counter

    from crossdim.datasets.audit import count_labels
    from crossdim.datasets.manifest import SPLITS

    counts = Counter(record.split for record in manifest.records)
    labels = {
        task: {label: {str(part): count for part, count in parts.items()} for label, parts in classes.items()}
        for task, classes in count_labels(manifest).items()
    }
    return _Summary(
        path=str(out),
        name=manifest.header.name,
        sha256=manifest.sha256,
        kinds=dict(Counter(record.kind for record in manifest.records)),
        patients=len({record.patient_id for record in manifest.records}),
        parts={str(part): count for part in (*SPLITS, None) if (count := counts[part])},
        labels=labels,
        skipped=tuple({"path": skipped.path, "reason": skipped.reason} for skipped in manifest.skipped),
        findings=tuple({"severity": f.severity, "problem": f.problem, "message": f.message} for f in findings),
    )


def _facts(summary: _Summary) -> Iterator[tuple[str, str]]:
    yield "manifest", summary.path
    yield "holds", ", ".join(f"{count} {kind}s" for kind, count in summary.kinds.items())
    yield "patients", str(summary.patients)
    yield "parts", ", ".join(f"{part} {count}" for part, count in summary.parts.items())
    for task, classes in summary.labels.items():
        for label, parts in classes.items():
            yield f"task {task}", f"{label}: {', '.join(f'{part} {count}' for part, count in parts.items())}"
    yield from _first("left out", [f"{skipped['path']}: {skipped['reason']}" for skipped in summary.skipped])
    for severity in ("error", "warning"):
        messages = [finding["message"] for finding in summary.findings if finding["severity"] == severity]
        yield from _first(severity, messages)


def _first(name: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    yield from ((name, line) for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield name, f"and {len(lines) - SHOWN} more; --json lists all"
