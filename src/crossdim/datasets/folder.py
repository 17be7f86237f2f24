"""A folder of files, 2D and 3D mixed, nested as it may be, with or without a folder per class."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from crossdim.datasets.manifest import Header, Manifest, Progress, Record, Skipped, SplitName, Task, source_of
from crossdim.datasets.scan import SPLIT_WORDS, in_order, kinds_of, patient_rule, relative, task_of
from crossdim.errors import ReadError, RecipeError, nearest


def from_folder(
    folder: str | os.PathLike[str],
    *,
    task: str | None = None,
    classes: Sequence[str] = (),
    ordinal: bool = False,
    split_folders: bool = False,
    patient: str = "file",
    name: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of everything in a folder that can be read; a DICOM series is one record.

    Every file is opened once. What is left out, and why, is in the manifest's ``skipped``; hidden files are ignored.

    Args:
        folder: The folder.
        task: Name of a task whose classes are the folders (``healthy/…``, ``sick/…``); None for no labels.
        classes: The classes in the order of their indices; sorted names of the folders if left out.
        ordinal: Whether the classes go from least to most; needs ``classes``.
        split_folders: Whether the outermost folders are the parts (``train/healthy/…``, ``val``, ``test``).
        patient: Where the patient id comes from: ``file``, ``folder``, ``dicom`` or a regular expression with one
            group (see :func:`crossdim.datasets.scan.patient_rule`). ``file`` takes every file for a patient of its
            own: use another one where a patient has several.
        name: Name of the data set; the folder's if left out.
        progress: Called after each file.

    Raises:
        ReadError: If the folder is none, or nothing in it can be used.
        RecipeError: If an argument is wrong or contradicts the folders.
    """
    from crossdim import readers

    root = os.path.abspath(folder)
    if not os.path.isdir(root):
        raise ReadError(root, "is not a folder", "Give the folder that holds the files")
    if (ordinal or classes) and task is None:
        raise RecipeError("classes", "are given without a task", "Name the task that the folders are classes of")
    if ordinal and not classes:
        raise RecipeError(f"task '{task}'", "is ordinal, and the order is not given", "List the classes in their order")
    whose = patient_rule(patient)
    sources = readers.find_readable(root)
    kinds, unreadable = kinds_of([*sources, *_others(root, sources)], progress)
    skipped = list(unreadable)

    records: list[Record] = []
    class_of: dict[str, str] = {}
    for path, kind in kinds.items():
        part, label, base, problem = _place(root, path, split_folders, labelled=task is not None)
        patient_id = None if problem else whose(root, base, path)
        if patient_id is None:
            skipped.append(Skipped(path, problem or f"the rule '{patient}' finds no patient in its path"))
            continue
        place = relative(root, path)
        class_of[place] = label
        records.append(Record(id=place, patient_id=patient_id, split=part, kind=kind, paths=(place,)))
    if not records:
        first = f"; first {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise ReadError(root, f"holds nothing to make a record of ({len(skipped)} files left out{first})",
                        "Check the folder, or look at one file with `crossdim inspect`")  # fmt: skip
    tasks: dict[str, Task] = {}
    if task is not None:
        tasks[task] = about = _task(task, class_of, classes, ordinal)
        records = [
            record.model_copy(update={"labels": {task: about.classes.index(class_of[record.id])}}) for record in records
        ]
    header = Header(name=name or os.path.basename(root) or "data", root=root, tasks=tasks,
                    source=f"folder; patients by {patient}")  # fmt: skip
    return Manifest(header, tuple(records), tuple(skipped))


def _others(root: str, sources: Sequence[str]) -> Iterator[str]:
    """Yield the files that stand in no source, so that opening them says why; hidden ones apart."""
    from crossdim import readers

    known = set(sources)
    series = {source_of(source) for source in sources if os.path.isdir(source_of(source))}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(folder, name)
            is_slice = folder in series and readers.is_readable(path)
            voxels_of = re.sub(r"\.img(\.gz)?$", ".hdr", path)  # the second file of a NIfTI pair
            if not (name.startswith(".") or path in known or is_slice or known & {voxels_of, f"{voxels_of}.gz"}):
                yield path


def _place(
    root: str, path: str, split_folders: bool, *, labelled: bool
) -> tuple[SplitName | None, str, str, str | None]:
    """Return what the folders say: part, class, the folder below which patients begin, and what is wrong."""
    source = source_of(path)
    folders = list(PurePath(relative(root, source)).parts)
    if not os.path.isdir(source):
        folders.pop()
    base, part = root, None
    if split_folders:
        part = SPLIT_WORDS.get(folders[0].casefold()) if folders else None
        if part is None:
            return None, "", root, "lies in no folder named train, val or test"
        base = os.path.join(base, folders.pop(0))
    if not labelled:
        return part, "", base, None
    if not folders:
        return part, "", base, "lies in no folder of a class"
    return part, folders[0], os.path.join(base, folders[0]), None


def _task(name: str, class_of: dict[str, str], classes: Sequence[str], ordinal: bool) -> Task:
    found = set(class_of.values())
    unknown = sorted(found - set(classes)) if classes else []
    if unknown:
        raise RecipeError(f"folder '{unknown[0]}'", "is not among the classes given", nearest(unknown[0], classes))
    return task_of(f"task '{name}'", "ordinal" if ordinal else "multiclass", classes or in_order(found))
