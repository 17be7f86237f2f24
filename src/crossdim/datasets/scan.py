"""What those who look through files share: opening every file once, and finding out whose it is."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossdim.datasets.manifest import Progress, Skipped, SplitName, Task, TaskKind, source_of
from crossdim.errors import CrossdimError, ReadError, RecipeError
from crossdim.samples import Image, Volume

Kind = Literal["image", "volume"]

SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What people call the parts of a data set, in folders and tables (in small letters)."""

PatientRule = Callable[[str, str, str], str | None]
"""From (root, folder below which patients begin, path with selector), all absolute, to a patient id or None."""

_REMEDY = "Give 'file', 'folder', 'dicom', or an expression such as '(sub-\\d+)'"


def kinds_of(
    paths: Sequence[str], progress: Progress | None = None, *, intensity: bool = True
) -> tuple[dict[str, Kind], tuple[Skipped, ...]]:
    """Open every file, and return what those that can be read are, and why the others cannot.

    Args:
        paths: Absolute paths as ``readers.read`` takes them.
        progress: Called after each file.
        intensity: Whether to read the intensities too, which finds more faults and takes longer.
    """
    from crossdim import readers

    kinds: dict[str, Kind] = {}
    skipped = []
    for done, path in enumerate(paths, 1):
        try:
            found = readers.inspect(path, intensity=intensity)
        except CrossdimError as error:
            skipped.append(Skipped(path, error.reason))
        else:
            if found.needs_choice:
                shown = " to ".join(dict.fromkeys(f"#{choice}" for choice in (found.choices[0], found.choices[-1])))
                skipped.append(Skipped(path, f"{found.problems[0]}: name one of {shown} in a table"))
            elif found.kind == "points" or found.kind == "scene":
                skipped.append(Skipped(path, f"is {found.kind}, for which there is `crossdim prepare scenes`"))
            else:
                kinds[path] = found.kind
        if progress:
            progress(done, len(paths))
    return kinds, tuple(skipped)


def absent_files(
    place: str, root: str, needed: Mapping[str, Sequence[str]], missing: Literal["refuse", "skip"]
) -> set[str]:
    """Return the files that are not there.

    Args:
        place: Who names them, for the error.
        root: Absolute folder that they are looked for in.
        needed: What needs them (``row 2``), and the absolute paths that it needs.
        missing: Whether any absent file is an error, or only that something of everything is absent.

    Raises:
        ReadError: If files are absent that are to be there.
    """
    there = {file: os.path.exists(source_of(file)) for files in needed.values() for file in files}
    absent = [(who, file) for who, files in needed.items() for file in files if not there[file]]
    if absent and (missing == "refuse" or len({who for who, _ in absent}) == len(needed)):
        shown = ", ".join(f"{who}: {relative(root, file)}" for who, file in absent[:5])
        count = len({file for _, file in absent})
        reason = f"{count} files are not in {root} ({shown}{', ...' if len(absent) > 5 else ''})"
        raise ReadError(place, reason, "Check the folder and the suffix, or skip what is missing")
    return {file for _, file in absent}


def values_of(noun: Image | Volume) -> NDArray[np.generic]:
    """Return the intensities of an image or a volume.

    Args:
        noun: What was read.
    """
    return noun.pixels if isinstance(noun, Image) else noun.voxels


def relative(root: str, path: str) -> str:
    """Return a path as manifests hold it: relative to the root with forward slashes, absolute outside it.

    Args:
        root: Absolute folder.
        path: Absolute path, with or without selector.
    """
    source = source_of(path)
    try:
        return PurePath(source).relative_to(root).as_posix() + path[len(source) :]
    except ValueError:
        return path


def in_order(names: Iterable[str]) -> list[str]:
    """Return names sorted as people count: ``grade 2`` before ``grade 10``.

    Args:
        names: Any names.
    """

    def key(name: str) -> tuple[list[str | int], str]:
        # split at numbers, so that text and numbers take turns and are compared with their like
        parts = re.split(r"(\d+)", name.casefold())
        return [int(part) if place % 2 else part for place, part in enumerate(parts)], name

    return sorted(names, key=key)


def task_of(place: str, kind: TaskKind, classes: Sequence[str]) -> Task:
    """Return a task of these classes.

    Args:
        place: Where they come from, for the error.
        kind: The kind of task.
        classes: Their names in the order of their indices.

    Raises:
        RecipeError: If there is nothing to tell apart: fewer than two classes (than one for multilabel), or the same
            one twice.
    """
    twice = [name for name, times in Counter(classes).items() if times > 1]
    if twice:
        raise RecipeError(place, f"has the class '{twice[0]}' twice", "List every class once")
    if len(classes) < (1 if kind == "multilabel" else 2):
        reason = f"has {len(classes)} classes ({', '.join(classes)}), too few to tell apart"
        raise RecipeError(place, reason, "Check where the classes come from, or make a manifest without labels")
    return Task(kind=kind, classes=tuple(classes))


def patient_rule(patient: str) -> PatientRule:
    r"""Return what finds the patient of a file.

    Args:
        patient: ``file``: every file, and every series folder, is a patient of its own. ``folder``: the first folder
            below the class (below the root where there are no classes) is a patient. ``dicom``: the file's PatientID
            is, hashed so that it does not leave the file; other files count as with ``file``. Anything else is a
            regular expression with one group, searched in the path relative to the root, such as ``(sub-\d+)``.

    Raises:
        RecipeError: If it is none of these.
    """
    named: dict[str, PatientRule] = {"file": _by_file, "folder": _by_folder, "dicom": _by_dicom}
    if patient in named:
        return named[patient]
    try:
        expression = re.compile(patient)
    except re.error as error:
        raise RecipeError(f"patient '{patient}'", f"is not a regular expression ({error})", _REMEDY) from error
    if expression.groups != 1:
        raise RecipeError(f"patient '{patient}'", f"has {expression.groups} groups and needs one", _REMEDY)

    def search(root: str, base: str, path: str) -> str | None:
        found = expression.search(relative(root, source_of(path)))
        return found[1] or None if found else None

    return search


def _by_file(root: str, base: str, path: str) -> str:
    return re.sub(r"(\.nii)?\.[A-Za-z]\w{1,5}$", "", relative(root, source_of(path)))


def _by_folder(root: str, base: str, path: str) -> str | None:
    source = source_of(path)
    parts = PurePath(os.path.relpath(source, base)).parts
    folders = parts if os.path.isdir(source) else parts[:-1]
    return folders[0] if folders else None


def _by_dicom(root: str, base: str, path: str) -> str:
    import pydicom
    from pydicom.errors import InvalidDicomError

    source = source_of(path)
    selector = path.removeprefix(source).removeprefix("#")
    files = sorted(entry.path for entry in os.scandir(source) if entry.is_file()) if os.path.isdir(source) else [source]
    for file in files:
        try:
            tags = ["PatientID", "SeriesInstanceUID", "SeriesNumber"]
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        except InvalidDicomError:
            continue
        series = (str(header.get("SeriesInstanceUID")), str(header.get("SeriesNumber")))
        if header.get("PatientID") and (not selector or selector in series):
            return f"dicom-{hashlib.sha256(str(header.PatientID).encode()).hexdigest()[:12]}"
    return _by_file(root, base, path)
