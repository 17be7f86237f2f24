"""What can be wrong with a data set before anything is trained on it: leaks, duplicates, empty or unreadable files."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crossdim.datasets.dialogue import Turn
from crossdim.datasets.manifest import SPLITS, Manifest, Progress, Record, SplitName
from crossdim.datasets.scan import values_of
from crossdim.errors import CrossdimError

Problem = Literal[
    "unreadable",
    "wrong_kind",
    "constant",
    "box_without_points",
    "patient_in_several_splits",
    "duplicate_across_splits",
    "duplicate",
    "conflicting_labels",
    "class_without_examples",
    "question_without_answer",
    "conflicting_answers",
    "empty_reference",
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
        read_files: Whether to read every file; without, only patients, classes and dialogues are looked at.
        progress: Called after each file.
    """
    findings = [*_patient_leaks(manifest.records), *_absent_classes(manifest), *_dialogues(manifest.records)]
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


def count_questions(manifest: Manifest) -> dict[str, dict[str, dict[SplitName | None, int]]]:
    """Return how many questions there are: form to type to part to number of turns.

    Args:
        manifest: The data set; the parts are those it has, None for records in none.
    """
    parts = _parts(manifest)
    counts: dict[str, dict[str, dict[SplitName | None, int]]] = {}
    for record, _, turns in _said(manifest.records):
        for turn in turns:
            counts.setdefault(turn.form, {}).setdefault(turn.type, dict.fromkeys(parts, 0))[record.split] += 1
    return {form: dict(sorted(counts[form].items())) for form in sorted(counts)}


def _said(records: Iterable[Record]) -> Iterator[tuple[Record, str, tuple[Turn, ...]]]:
    for record in records:
        for dialogue in record.dialogues:
            yield record, dialogue.id, dialogue.turns


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


def _dialogues(records: Sequence[Record]) -> Iterator[Finding]:
    """Yield questions without an answer, answers without a word, and answers that contradict one another."""
    silent, wordless = [], []
    given: defaultdict[tuple[object, tuple[str, ...]], dict[str, tuple[str, str]]] = defaultdict(dict)
    for record, name, turns in _said(records):
        before: tuple[str, ...] = ()
        for turn in turns:
            before += (_plain(turn.question),)
            if not turn.answer:
                silent.append((record.id, name))
            elif not any(sign.isalnum() for sign in turn.answer):
                wordless.append((record.id, name))
            elif turn.form != "report":
                key = ((record.paths or record.id, record.more, turn.choices), before)
                given[key].setdefault(_plain(turn.answer), (record.id, turn.answer))
    yield from _counted("question_without_answer", silent, "no answer: they can be asked, not trained or measured on")
    yield from _counted("empty_reference", wordless, "an answer without a letter or digit")
    for (_, before), answers in given.items():
        if len(answers) > 1:
            shown = ", ".join(f"'{answer}'" for _, answer in answers.values())
            ids = tuple(dict.fromkeys(record for record, _ in answers.values()))
            yield Finding("conflicting_answers", f"'{ids[0]}' is asked '{before[-1]}' and answered {shown}", ids)


def _counted(problem: Problem, found: Sequence[tuple[str, str]], what: str) -> Iterator[Finding]:
    if found:
        record, dialogue = found[0]
        message = f"{len(found)} questions have {what}; the first is dialogue '{dialogue}' of '{record}'"
        yield Finding(problem, message, tuple(dict.fromkeys(record for record, _ in found)))


def _plain(text: str) -> str:
    """Return a text as it is compared: in small letters, without the last sign."""
    return " ".join(text.casefold().split()).rstrip(" .?!")


def _content(manifest: Manifest, progress: Progress | None) -> Iterator[Finding]:
    """Yield what reading every file shows."""
    from crossdim import readers

    same: defaultdict[str, list[Record]] = defaultdict(list)
    together = {paths for record in manifest.records if record.more for paths in manifest.resolve_all(record)}
    seen: set[tuple[object, ...]] = set()
    for done, record in enumerate(manifest.records, 1):
        if record.scene is not None:
            yield from _scene(manifest, record, same)
        for paths in manifest.resolve_all(record) if record.scene is None else ():
            if paths in together and (paths, record.split) in seen:
                continue  # alone here and with others there is no duplicate
            seen.add((paths, record.split))
            try:
                noun = readers.read_channels(paths)
            except CrossdimError as error:
                yield Finding("unreadable", str(error).removesuffix("."), (record.id,))
                continue
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


def _scene(manifest: Manifest, record: Record, same: defaultdict[str, list[Record]]) -> Iterator[Finding]:
    """Yield what reading a scene shows, and add it to those that may be the same."""
    from crossdim.datasets.scenes import load_scene
    from crossdim.geometry.boxes import as_array, contains

    try:
        scene = load_scene(manifest, record)
    except CrossdimError as error:
        yield Finding("unreadable", str(error).removesuffix("."), (record.id,))
        return
    if scene.image is not None and bool((scene.image.pixels == scene.image.pixels.flat[0]).all()):
        yield Finding("constant", f"the picture of '{record.id}' holds one value only", (record.id,))
    if scene.points is not None:
        same[_fingerprint(scene.points.points)].append(record)
    elif scene.image is not None:
        same[_fingerprint(scene.image.pixels)].append(record)
    if scene.points is not None and scene.boxes is not None and len(scene.boxes):
        held = contains(scene.points.points.astype(np.float64), as_array(scene.boxes)).any(axis=-1)
        if not held.all():
            empty = [label for label, any_point in zip(scene.boxes.labels, held.tolist(), strict=True) if not any_point]
            message = (
                f"{len(empty)} of {len(held)} boxes of '{record.id}' hold no point ({', '.join(sorted(set(empty)))})"
            )
            yield Finding("box_without_points", message, (record.id,))


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
