"""The manifest: the one dataset format. JSONL; a header in the first line, then one record a line.

A manifest names files and never holds pixels. Paths are relative to the header's ``root``, which in a saved file is
relative to the manifest's own folder where the data lie in or below it (so the two travel together), and absolute
elsewhere. In memory ``root`` is always absolute.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from crossdim.datasets.dialogue import Dialogue
from crossdim.datasets.scene_record import SceneBox, SceneCamera, SceneFiles
from crossdim.errors import ReadError, RecipeError, nearest
from crossdim.readers.selector import split_selector

SplitName = Literal["train", "val", "test"]
TaskKind = Literal["multiclass", "multilabel", "ordinal"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

Progress = Callable[[int, int], None]
"""Called with (how many are done, how many there are) while something takes long."""

Labels = dict[str, int | tuple[int, ...]]

Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Task(_Strict):
    """One question that labels answer.

    Attributes:
        kind: ``multiclass`` (one class), ``ordinal`` (one class, in order) or ``multilabel`` (any number of classes).
        classes: The classes' names; a label is an index into them. Ordinal classes go from least to most.
    """

    kind: TaskKind
    classes: tuple[str, ...]

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"must be different names, at least one, and are {list(classes)}")
        return classes


class Header(_Strict):
    """The first line of a manifest.

    Attributes:
        crossdim_manifest: Version of the format.
        name: What the data set is called in reports.
        root: Folder that the records' paths are relative to.
        tasks: The questions that labels answer, by name.
        split_seed: Seed of the split that was drawn, if one was.
        source: Where the data come from, in words.
    """

    crossdim_manifest: Literal[1] = 1
    name: str = Field(min_length=1)
    root: str
    tasks: dict[str, Task] = {}
    split_seed: int | None = None
    source: str = ""


class Record(_Strict):
    """One sample.

    Attributes:
        id: Unique in the manifest.
        patient_id: Records with the same one never lie in different splits.
        split: The part of the data it belongs to, or None before a split was made.
        kind: Whether it is read as an image or as a volume; ``text`` has no file, only dialogues; ``scene`` has its
            files in ``scene`` and none in ``paths``.
        paths: Files relative to the manifest's root, with ``#selector`` where needed; several are channels.
        labels: Task name to class index (to a tuple of indices, rising, for multilabel). A task left out is unknown.
        extra: Anything else worth keeping; ``segmentation…`` keys hold paths of masks.
        dialogues: Questions and answers about the sample.
        more: Further images or volumes of the same kind that the dialogues are about, each with its own paths.
        scene: Points, picture, camera and boxes of a record of kind ``scene``.
    """

    id: str = Field(min_length=1)
    patient_id: str = Field(min_length=1)
    split: SplitName | None = None
    kind: Literal["image", "volume", "text", "scene"]
    paths: tuple[str, ...] = ()
    labels: Labels = {}
    extra: dict[str, str | float | int] = {}
    dialogues: tuple[Dialogue, ...] = ()
    more: tuple[tuple[str, ...], ...] = ()
    scene: SceneFiles | None = None

    @model_validator(mode="after")
    def _files_where_needed(self) -> "Record":
        without_paths = self.kind in ("text", "scene")
        if without_paths == bool(self.paths):
            needs = "no file" if without_paths else "at least one file"
            raise ValueError(f"paths: a record of kind '{self.kind}' needs {needs}, and this one has {len(self.paths)}")
        if (self.kind == "scene") != (self.scene is not None):
            raise ValueError(f"scene: a record of kind '{self.kind}' needs {'one' if self.scene is None else 'none'}")
        if any(not paths for paths in self.more) or (self.more and without_paths):
            raise ValueError(f"every entry of 'more' needs at least one file, and a {self.kind} record has none")
        if self.dialogues and self.kind == "scene":
            raise ValueError("dialogues are about images and volumes, and this record is a scene")
        names = [dialogue.id for dialogue in self.dialogues]
        if len(set(names)) < len(names):
            raise ValueError(f"two dialogues have the same id ({max(names, key=names.count)})")
        return self


@dataclass(frozen=True)
class Skipped:
    """A file that was found but did not become a record.

    Attributes:
        path: The file as it was found, with its row where a table named it.
        reason: Why not.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A data set: a header and its records, checked against each other.

    Attributes:
        header: Name, root, tasks, seed and source.
        records: The samples, in the file's order.
        skipped: What the scan that built it had to leave out; reported once, not saved.
        notes: What the reader that built it decided on the way; reported once, not saved.

    Raises:
        RecipeError: If two records share an id, or a label names no task or no class of its task.
    """

    header: Header
    records: tuple[Record, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self.header, self.records, lambda index: f"manifest '{self.header.name}', record {index + 1}")
        absolute = os.path.abspath(self.header.root)
        if absolute != self.header.root:
            object.__setattr__(self, "header", self.header.model_copy(update={"root": absolute}))

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Read and check a manifest.

        Args:
            path: The JSONL file.

        Raises:
            ReadError: If there is no such file, or it is not UTF-8 text.
            RecipeError: If a line is not what it should be, naming file, line and field.
        """
        header, records, lines = _parse(path)
        _check(header, records, lambda index: f"{path}, line {lines[index]}")
        root = os.path.join(os.path.dirname(os.path.abspath(path)), header.root)
        return cls(header.model_copy(update={"root": os.path.normpath(root)}), records)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the manifest; an existing file is replaced at once or not at all.

        Args:
            path: The JSONL file; its folder is made if need be.
        """
        target = Path(os.path.abspath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        root = Path(self.header.root)
        inside = root == target.parent or target.parent in root.parents
        stored = root.relative_to(target.parent).as_posix() if inside else str(root)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(self.header.model_copy(update={"root": stored}).model_dump_json() + "\n")
                file.writelines(record.model_dump_json() + "\n" for record in self.records)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def split(self, name: str) -> "Manifest":
        """Return the records of one split (none if the manifest has no such part).

        Args:
            name: ``train``, ``val`` or ``test``.

        Raises:
            RecipeError: If there is no split of that name.
        """
        if name not in SPLITS:
            raise RecipeError(f"split '{name}'", "is not a split", nearest(name, SPLITS))
        return self._with(record for record in self.records if record.split == name)

    def for_task(self, task: str) -> "Manifest":
        """Return the records that have a label for a task.

        Args:
            task: Name of a task in the header.

        Raises:
            RecipeError: If the header has no such task.
        """
        self.task(task)
        return self._with(record for record in self.records if task in record.labels)

    def task(self, name: str) -> Task:
        """Return a task by its name.

        Args:
            name: Name of a task in the header.

        Raises:
            RecipeError: If the header has no such task.
        """
        tasks = self.header.tasks
        if name not in tasks:
            remedy = nearest(name, tasks) if tasks else "Make the manifest with labels"
            raise RecipeError(f"task '{name}'", f"is not a task of manifest '{self.header.name}'", remedy)
        return tasks[name]

    def resolve(self, record: Record) -> tuple[str, ...]:
        """Return a record's absolute paths with their selectors, as ``readers.read_channels`` takes them.

        Args:
            record: A record of this manifest.
        """
        return tuple(self.absolute(path) for path in record.paths)

    def resolve_all(self, record: Record) -> tuple[tuple[str, ...], ...]:
        """Return the absolute paths of every image or volume of a record: its own, then ``more``.

        Args:
            record: A record of this manifest; a scene's files are a group each.
        """
        if record.scene is not None:
            return tuple((self.absolute(path),) for path in record.scene.paths)
        groups = ((record.paths,) if record.paths else ()) + record.more
        return tuple(tuple(self.absolute(path) for path in paths) for paths in groups)

    def absolute(self, path: str) -> str:
        """Return the absolute form of a path relative to the root (such as ``extra["segmentation"]``).

        Args:
            path: A path as records hold it.
        """
        return os.path.normpath(os.path.join(self.header.root, path))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of what the manifest says, wherever it and its data lie: header without root, then the records."""
        digest = hashlib.sha256(_canonical(self.header.model_dump(exclude={"root"})))
        for record in self.records:
            unused = {name for name in ("dialogues", "more", "scene") if not getattr(record, name)}
            digest.update(_canonical(record.model_dump(exclude=unused)))  # as before there were these
        return digest.hexdigest()

    def data_hash(self, progress: Progress | None = None) -> str:
        """Return a SHA-256 of the manifest and of every byte of the files that it reads.

        Every file is read once, whatever the number of records in it (0.5 to 2 GB a second and core where the disk
        keeps up), so call it once a run and keep the answer. A DICOM series counts with all files in its folder.

        Args:
            progress: Called after each file.

        Raises:
            ReadError: If a file is missing.
        """
        groups = (paths for record in self.records for paths in self.resolve_all(record))
        sources = sorted({source_of(path) for paths in groups for path in paths})
        digest = hashlib.sha256(self.sha256.encode())
        for done, source in enumerate(sources, 1):
            for file in _files_of(source):
                digest.update(os.path.relpath(file, self.header.root).encode())
                with open(file, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            if progress:
                progress(done, len(sources))
        return digest.hexdigest()

    def _with(self, records: Iterable[Record]) -> "Manifest":
        return Manifest(self.header, tuple(records))


def source_of(path: str) -> str:
    """Return the file or folder of a path that may end in ``#selector``.

    Args:
        path: A path as ``readers.read`` takes it; a file whose own name holds the ``#`` is that file.
    """
    return split_selector(path)[0]


def _files_of(source: str) -> list[str]:
    if os.path.isdir(source):
        return sorted(entry.path for entry in os.scandir(source) if entry.is_file())
    if not os.path.isfile(source):
        raise ReadError(source, "is in the manifest but not on the disk", "Restore it, or prepare the manifest again")
    return [source]


def _canonical(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _parse(path: str | os.PathLike[str]) -> tuple[Header, tuple[Record, ...], list[int]]:
    """Return header, records, and each record's line number."""
    header: Header | None = None
    records, lines = [], []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if header is None:
                    header = _validated(Header, line, f"{path}, line {number}")
                else:
                    records.append(_validated(Record, line, f"{path}, line {number}"))
                    lines.append(number)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ReadError(path, "is not a file", "Make a manifest with `crossdim prepare`") from error
    except UnicodeDecodeError as error:
        raise ReadError(path, "is not UTF-8 text, so not a manifest", "Give the .jsonl file") from error
    if header is None:
        raise RecipeError(path, "is empty", "Make a manifest with `crossdim prepare`")
    return header, tuple(records), lines


def _validated(model: type[Model], line: str, place: str) -> Model:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
    if first["type"] == "json_invalid":
        raise RecipeError(place, f"is not JSON ({first['ctx']['error']})", "Mend the line, or prepare it again")
    fields = tuple(str(part) for part in first["loc"])
    if fields[:1] in (("labels",), ("extra",)):
        fields = fields[:2]  # what follows names a branch of the union of allowed types
    subject = f"{place}, field '{'.'.join(fields)}'" if fields else place
    if first["type"] == "extra_forbidden":
        raise RecipeError(subject, "is not known here", nearest(fields[-1], _names_beside(model, fields)))
    if first["type"] == "missing":
        raise RecipeError(subject, "is missing", f"Add it: a {model.__name__.lower()} needs it")
    given = json.dumps(first["input"], ensure_ascii=False)
    shown = given if len(given) <= 60 else f"{given[:57]}..."
    reason = first["msg"].removeprefix("Value error, ")
    remedy = "Mend the line, or prepare the manifest again"
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        remedy = nearest(first["input"], first["ctx"]["expected"].split("'")[1::2])
    raise RecipeError(subject, f"{reason[:1].lower()}{reason[1:]}, not {shown}", remedy)


def _names_beside(model: type[BaseModel], fields: Sequence[str]) -> Iterable[str]:
    if model is Header:
        return (Task if len(fields) > 1 else Header).model_fields
    if fields[0] == "scene" and len(fields) > 1:
        inside: dict[str, type[BaseModel]] = {"camera": SceneCamera, "boxes": SceneBox}
        return (inside[fields[1]] if len(fields) > 2 else SceneFiles).model_fields
    return model.model_fields


def _check(header: Header, records: Sequence[Record], place: Callable[[int], str]) -> None:
    first_with: dict[str, int] = {}
    for index, record in enumerate(records):
        earlier = first_with.setdefault(record.id, index)
        if earlier != index:
            reason = f"'{record.id}' is already the id of {place(earlier)}"
            raise RecipeError(f"{place(index)}, field 'id'", reason, "Give every record an id of its own")
        for name, label in record.labels.items():
            subject = f"{place(index)}, field 'labels.{name}'"
            if name not in header.tasks:
                remedy = nearest(name, header.tasks) if header.tasks else "Add the task to the header"
                raise RecipeError(subject, f"'{name}' is not a task of the header", remedy)
            problem = _label_problem(header.tasks[name], label)
            if problem:
                raise RecipeError(subject, problem, f"The classes are 0 to {len(header.tasks[name].classes) - 1}")


def _label_problem(task: Task, label: int | tuple[int, ...]) -> str | None:
    if isinstance(label, tuple) != (task.kind == "multilabel"):
        wanted = "lists of class indices" if task.kind == "multilabel" else "one class index each"
        return f"{task.kind} labels are {wanted}, not {json.dumps(label)}"
    indices = label if isinstance(label, tuple) else (label,)
    outside = [index for index in indices if not 0 <= index < len(task.classes)]
    if outside:
        return f"class index {outside[0]} is outside the {len(task.classes)} classes"
    if list(indices) != sorted(set(indices)):
        return f"class indices must rise and not repeat, and are {list(indices)}"
    return None
