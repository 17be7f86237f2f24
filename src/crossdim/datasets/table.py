"""A table (CSV) that names files, with labels, patients and parts in columns."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from crossdim.datasets.manifest import Header, Labels, Manifest, Progress, Record, Skipped, SplitName, Task
from crossdim.datasets.scan import SPLIT_WORDS, Kind, absent_files, in_order, kinds_of, relative, task_of
from crossdim.errors import ReadError, RecipeError, nearest

_MISSING = {"", "na", "n/a", "nan", "null"}


@dataclass(frozen=True)
class Columns:
    """Which column holds what.

    Attributes:
        path: File relative to the folder; several columns are the channels of one sample.
        labels: One task each, named as the column.
        id: Unique name of a sample; the path if left out.
        patient: Patient id; every sample is a patient of its own if left out.
        split: ``train``, ``val`` or ``test`` (``validation``, ``testing``, ... are understood).
        suffix: Ending to add to every path, such as ``.jpg``, where the column leaves it out.
    """

    path: str | tuple[str, ...] = "path"
    labels: tuple[str, ...] = ()
    id: str | None = None
    patient: str | None = None
    split: str | None = None
    suffix: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The columns of paths, also where there is one."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclass(frozen=True)
class _Row:
    """A row of the table; ``number`` as a spreadsheet counts, ``files`` absolute."""

    number: int
    cells: Mapping[str, str]
    id: str
    patient: str
    files: tuple[str, ...]


def from_table(
    table: str | os.PathLike[str],
    columns: Columns,
    *,
    folder: str | os.PathLike[str] | None = None,
    ordinal: Mapping[str, Sequence[str]] | None = None,
    multilabel: Sequence[str] = (),
    separator: str = "|",
    missing: Literal["refuse", "skip"] = "refuse",
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of the files that a table names. Every file is opened once.

    The separator of columns (comma, semicolon or tab) is seen from the first line. Rows are counted as spreadsheets
    do, the names of the columns being row 1. A cell that is empty, ``NA``, ``N/A``, ``NaN`` or ``null`` is no label.

    Args:
        table: The file, in UTF-8.
        columns: Which column holds what.
        folder: Folder that paths are relative to; the table's own if left out.
        ordinal: Classes from least to most, for each ordinal column of labels.
        multilabel: Columns whose cells hold several classes (``drusen|oedema``); the separator alone means none.
        separator: What stands between them.
        missing: What to do about files that are not there: refuse the table, or list them in ``skipped``.
        progress: Called after each file.

    Raises:
        ReadError: If the table is not there or no UTF-8 text, or files are missing.
        RecipeError: If a column is missing, or a cell holds what it should not, naming row and column.
    """
    place = os.path.abspath(table)
    root = os.path.abspath(folder if folder is not None else os.path.dirname(place))
    ordinal = ordinal or {}
    _check_columns(columns, (*ordinal, *multilabel))
    rows = _rows(place, root, columns)
    _check_ids(place, rows)
    tasks = {column: _task(place, rows, column, ordinal, multilabel, separator) for column in columns.labels}

    labels = [_labels(place, row, tasks, separator) for row in rows]
    splits = [
        split_named(row.cells[columns.split], f"{place}, row {row.number}, column '{columns.split}'")
        if columns.split
        else None
        for row in rows
    ]
    gone = absent_files(place, root, {f"row {row.number}": row.files for row in rows}, missing)
    kinds, unreadable = kinds_of(sorted({file for row in rows for file in row.files} - gone), progress)
    why_not = {skip.path: skip.reason for skip in unreadable} | dict.fromkeys(gone, "is not there")

    records, skipped = [], []
    for row, label, split in zip(rows, labels, splits, strict=True):
        problem = _problem(row, kinds, why_not)
        if problem:
            skipped.append(Skipped(f"{place}, row {row.number}", problem))
            continue
        paths = tuple(relative(root, file) for file in row.files)
        kind = kinds[row.files[0]]
        records.append(Record(id=row.id, patient_id=row.patient, split=split, kind=kind, paths=paths, labels=label))
    name = os.path.splitext(os.path.basename(place))[0]
    header = Header(name=name, root=root, tasks=tasks, source=f"table {os.path.basename(place)}")
    return Manifest(header, tuple(records), tuple(skipped))


def read_rows(
    table: str | os.PathLike[str], needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table one by one: their number as a spreadsheet counts, and their cells by column.

    The separator of columns (comma, semicolon or tab) is seen from the first line; rows without any text are passed
    over; cells are stripped, and empty where a row ends early.

    Args:
        table: The file, in UTF-8.
        needed: Columns that must be there.
        optional: Columns whose cells are empty where the table has no such column.

    Raises:
        ReadError: If the table is not there or no UTF-8 text.
        RecipeError: If a needed column is missing.
    """
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            lines = csv.reader(file, delimiter=max(",;\t", key=first.count))
            header = [name.strip() for name in next(lines, [])]
            for name in needed:
                if name not in header:
                    raise RecipeError(
                        f"{table}, column '{name}'", "is not in the table", nearest(name, filter(None, header))
                    )
            wanted = {name: header.index(name) for name in (*needed, *optional) if name in header}
            blank = dict.fromkeys(optional, "")
            for number, line in enumerate(lines, 2):
                if any(cell.strip() for cell in line):
                    cells = {name: line[at].strip() if at < len(line) else "" for name, at in wanted.items()}
                    yield number, blank | cells
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ReadError(table, "is not a file", "Check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReadError(table, f"is not a table in UTF-8 ({error})", "Save it as CSV in UTF-8") from error


def _rows(table: str, root: str, columns: Columns) -> list[_Row]:
    wanted = (*columns.paths, *columns.labels, columns.id, columns.patient, columns.split)
    rows = []
    for number, cells in read_rows(table, [name for name in wanted if name is not None]):
        empty = [name for name in (*columns.paths, columns.id, columns.patient) if name is not None and not cells[name]]
        if empty:
            raise RecipeError(f"{table}, row {number}", f"column '{empty[0]}' is empty", "Fill it in, or drop the row")
        files = tuple(os.path.normpath(os.path.join(root, cells[name] + columns.suffix)) for name in columns.paths)
        id_ = cells[columns.id] if columns.id else relative(root, files[0])
        rows.append(_Row(number, cells, id_, cells[columns.patient] if columns.patient else id_, files))
    if not rows:
        raise RecipeError(table, "has no row below the names of its columns", "Give a table with one row a sample")
    return rows


def _check_columns(columns: Columns, described: Iterable[str]) -> None:
    for name in described:
        if name not in columns.labels:
            remedy = nearest(name, columns.labels) if columns.labels else "Add it to the labels"
            raise RecipeError(f"column '{name}'", "is described, and is not one of the labels", remedy)


def _check_ids(table: str, rows: Sequence[_Row]) -> None:
    first_with: dict[str, int] = {}
    for row in rows:
        earlier = first_with.setdefault(row.id, row.number)
        if earlier != row.number:
            reason = f"'{row.id}' is already in row {earlier}"
            raise RecipeError(
                f"{table}, row {row.number}", reason, "Name a column that is different in every row as id"
            )


def _task(
    table: str,
    rows: Sequence[_Row],
    column: str,
    ordinal: Mapping[str, Sequence[str]],
    multilabel: Sequence[str],
    separator: str,
) -> Task:
    """Return the task of a column: its kind, and the classes given or found."""
    place = f"{table}, column '{column}'"
    if column in ordinal:
        return task_of(place, "ordinal", ordinal[column])
    cells = [row.cells[column] for row in rows if row.cells[column].casefold() not in _MISSING]
    if column in multilabel:
        return task_of(place, "multilabel", in_order({name for cell in cells for name in _names(cell, separator)}))
    return task_of(place, "multiclass", in_order(set(cells)))


def _names(cell: str, separator: str) -> list[str]:
    return [name.strip() for name in cell.split(separator) if name.strip()]


def _labels(table: str, row: _Row, tasks: Mapping[str, Task], separator: str) -> Labels:
    labels: Labels = {}
    for column, task in tasks.items():
        cell = row.cells[column]
        if cell.casefold() in _MISSING:
            continue
        if task.kind == "multilabel":
            labels[column] = tuple(sorted({task.classes.index(name) for name in _names(cell, separator)}))
        elif cell in task.classes:
            labels[column] = task.classes.index(cell)
        else:
            place = f"{table}, row {row.number}, column '{column}'"
            raise RecipeError(place, f"'{cell}' is none of the classes", nearest(cell, task.classes))
    return labels


def split_named(word: str, place: str) -> SplitName | None:
    """Return the part that a cell names, or None where it names none.

    Args:
        word: The cell.
        place: Where it stands, for the error.

    Raises:
        RecipeError: If the word is unknown.
    """
    word = word.casefold()
    if word in _MISSING:
        return None
    if word not in SPLIT_WORDS:
        raise RecipeError(place, f"'{word}' is no part of a data set", nearest(word, SPLIT_WORDS))
    return SPLIT_WORDS[word]


def _problem(row: _Row, kinds: Mapping[str, Kind], why_not: Mapping[str, str]) -> str | None:
    for file in row.files:
        if file in why_not:
            return f"{file} {why_not[file]}"
    if len({kinds[file] for file in row.files}) > 1:
        return "its channels are images and volumes"
    return None
