"""`crossdim prepare`: manifests from folders, tables and public data sets, split by patient and audited."""

from typing import Annotated

import typer

from crossdim.cli import anatomy_preparation, dialogue_preparation, room_preparation, scene_preparation
from crossdim.cli.console import Json, bar, examples
from crossdim.cli.summary import Audit, Fractions, Out, Seed, Validation, finish
from crossdim.errors import RecipeError


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
    dialogue_preparation.register(prepare)
    anatomy_preparation.register(prepare)
    scene_preparation.register(prepare)
    room_preparation.register(prepare)
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
    finish(manifest, out, audit, as_json)


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
    finish(manifest, out, audit, as_json)


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

    finish(from_medmnist(path), out, audit, as_json)


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
    finish(manifest, out, audit, as_json)


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
    finish(manifest, out, audit, as_json)
