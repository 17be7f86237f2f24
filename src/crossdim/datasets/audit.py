"""What can be wrong with a data set before anything is trained on it: leaks, duplicates, empty or unreadable files."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crossdim.datasets.manifest import SPLITS, Manifest, Progress, Record, SplitName
from crossdim.datasets.scan import values_of
from crossdim.errors import CrossdimError

Problem = Literal[
    "unreadable",
    "wrong_kind",
    "constant",
    "patient_in_several_splits",
    "duplicate_across_splits",
    "duplicate",
    "conflicting_labels",
    "class_without_examples",
]

ERRORS: tuple[Problem, ...] = ("unreadable", "wrong_kind", "patient_in_several_splits", "duplicate_across_splits")
"""What makes results wrong, or training stop; the other findings want a look."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        problem: What kind of thing.
        message: What it is, in a sentence without the final full stop.
        records: Ids of the records it is about.
    """

    problem: Problem
    message: str
    records: tuple[str, ...] = ()

    @property
    def severity(self) -> Literal["error", "warning"]:
        """``error`` for what makes results wrong or stops training, else ``warning``."""
        return "error" if self.problem in ERRORS else "warning"


def audit(manifest: Manifest, *, read_files: bool = True, progress: Progress | None = None) -> list[Finding]:
    """Return everything that is wrong with a data set, the worst first.

    Duplicates are files whose pixels are the same, whatever their names and formats.

    Args:
        manifest: The data set.
        read_files: Whether to read every file; without, only patients and classes are looked at.
        progress: Called after each file.
    """
    findings = [*_patient_leaks(manifest.records), *_absent_classes(manifest)]
    if read_files:
        findings += _content(manifest, progress)
    return sorted(findings, key=lambda finding: (finding.severity, finding.problem, finding.records))


def count_labels(manifest: Manifest) -> dict[str, dict[str, dict[SplitName | None, int]]]:
    """Return how often each class occurs in each part: task to class to part to number of records.

    Args:
        manifest: The data set; the parts are those it has, None for records in none.
    """
    parts = _parts(manifest)
    counts = {
        name: {label: dict.fromkeys(parts, 0) for label in task.classes} for name, task in manifest.header.tasks.items()
    }
    for record in manifest.records:
        for name, label in record.labels.items():
            for index in label if isinstance(label, tuple) else (label,):
                counts[name][manifest.header.tasks[name].classes[index]][record.split] += 1
    return counts


def _parts(manifest: Manifest) -> list[SplitName | None]:
    present = {record.split for record in manifest.records}
    return [part for part in (*SPLITS, None) if part in present]


def _patient_leaks(records: Iterable[Record]) -> Iterator[Finding]:
    by_patient = defaultdict(list)
    for record in records:
        by_patient[record.patient_id].append(record)
    for patient, theirs in by_patient.items():
        parts = _in_words(theirs)
        if len(parts) > 1:
            message = f"patient '{patient}' is in {' and '.join(parts)}"
            yield Finding("patient_in_several_splits", message, tuple(record.id for record in theirs))


def _absent_classes(manifest: Manifest) -> Iterator[Finding]:
    for task, classes in count_labels(manifest).items():
        for part in _parts(manifest):
            absent = [label for label, counts in classes.items() if counts[part] == 0]
            if absent and len(absent) < len(classes):
                where = part or "the records in no split"
                yield Finding("class_without_examples", f"task '{task}': {where} has no '{', '.join(absent)}'")


def _content(manifest: Manifest, progress: Progress | None) -> Iterator[Finding]:
    """Yield what reading every file shows."""
    from crossdim import readers

    same: defaultdict[str, list[Record]] = defaultdict(list)
    for done, record in enumerate(manifest.records, 1):
        try:
            noun = readers.read_channels(manifest.resolve(record))
        except CrossdimError as error:
            yield Finding("unreadable", str(error).removesuffix("."), (record.id,))
        else:
            if noun.kind != record.kind:
                yield Finding("wrong_kind", f"'{record.id}' is {_a(noun.kind)}, not {_a(record.kind)}", (record.id,))
            values = values_of(noun)
            if values.size == 0 or bool((values == values.flat[0]).all()):
                yield Finding("constant", f"'{record.id}' holds one value only", (record.id,))
            else:
                same[_fingerprint(values)].append(record)
        if progress:
            progress(done, len(manifest))
    for records in same.values():
        if len(records) > 1:
            yield from _duplicates(records)


def _duplicates(records: list[Record]) -> Iterator[Finding]:
    ids = tuple(record.id for record in records)
    parts = _in_words(records)
    shown = ", ".join(f"'{name}'" for name in ids)
    if len(parts) > 1:
        yield Finding("duplicate_across_splits", f"{shown} are the same, in {' and '.join(parts)}", ids)
    else:
        yield Finding("duplicate", f"{shown} are the same", ids)
    labels: defaultdict[str, Counter[object]] = defaultdict(Counter)
    for record in records:
        for task, label in record.labels.items():
            labels[task][label] += 1
    for task, given in labels.items():
        if len(given) > 1:
            message = f"{shown} are the same, with {len(given)} different labels for task '{task}'"
            yield Finding("conflicting_labels", message, ids)


def _in_words(records: Iterable[Record]) -> list[str]:
    """Return the parts that records are in, in the usual order; those in none do not count."""
    present = {record.split for record in records}
    return [part for part in SPLITS if part in present]


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _fingerprint(values: np.ndarray) -> str:
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
