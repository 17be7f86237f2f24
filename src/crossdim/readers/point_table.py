"""What every format of points comes down to: named columns, taken evenly, made into one cloud.

A header says how many points there are and what is known of each; ``PointTable`` keeps that, checked against the file's
length, and a function that reads some of the columns of every so-manieth point. Nothing here allocates what a header
declares: at most ``Limits.max_points`` points are kept, and files are read in chunks.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import NDArray

from crossdim.errors import ReadError
from crossdim.readers.limits import Limits
from crossdim.samples import Origin, PointCloud

Columns = dict[str, NDArray[Any]]

COORDINATES = ("x", "y", "z")
COLOURS = ("red", "green", "blue")
MOST_ATTRIBUTES = 16
"""Columns beside coordinates and colours that are kept."""

_ALIASES = {
    **{name: name for name in (*COORDINATES, *COLOURS)},
    **dict(zip("rgb", COLOURS, strict=True)),
    **{f"diffuse_{name}": name for name in COLOURS},
    "scalar_intensity": "intensity",
    "reflectance": "intensity",
}
_CHUNK_BYTES = 2**22
_LONGEST_LINE = 2**16
_MILLIMETRE_BOUND = 2**14
"""float32 no longer tells a millimetre from this distance on (in metres)."""


@dataclass(frozen=True)
class PointTable:
    """The columns of a file of points, by a header that was checked.

    Attributes:
        path: The file.
        select: What was chosen inside it.
        format: In words.
        count: How many points there are.
        columns: Name of each column, as in the file.
        load: From a step and names to these columns of every step-th point.
        text: Whether it is text, which cannot be thinned without reading all of it.
        warnings: What the header shows.
    """

    path: str
    select: str | None
    format: str
    count: int
    columns: tuple[str, ...]
    load: Callable[[int, Sequence[str]], Columns]
    text: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def named(self) -> dict[str, str]:
        """Our name of each column and the file's; a name that comes twice stays as it is in the file."""
        ours: dict[str, str] = {}
        for column in self.columns:
            name = _ALIASES.get(column.lower(), column)
            ours[column if name in ours else name] = column
        return ours


def to_cloud(table: PointTable, limits: Limits) -> PointCloud:
    """Read the points of a table: in metres as they stand, without those that are not finite.

    Args:
        table: With a header that was checked.
        limits: What is allowed; more points are thinned evenly.

    Raises:
        ReadError: If it holds no point at all, or text with more points than are allowed.
    """
    check_columns(table)
    step = max(1, -(-table.count // limits.max_points))
    if step > 1 and table.text:
        reason = f"is text with {table.count} points, and the limit is {limits.max_points}"
        raise ReadError(table.path, reason, "Save it as binary, which is thinned, or raise Limits(max_points=...)")
    named = table.named
    others = [name for name in named if name not in (*COORDINATES, *COLOURS)]
    wanted = [name for name in named if name in (*COORDINATES, *COLOURS, *others[:MOST_ATTRIBUTES])]
    loaded = table.load(step, [named[name] for name in wanted])
    columns = {name: loaded.pop(named[name]) for name in wanted}
    remarks = list(table.warnings)
    if step > 1:
        kept = len(columns["x"])
        remarks.append(f"one in {step} of its {table.count} points is read ({kept}), as Limits(max_points=...) says")
    if left := others[MOST_ATTRIBUTES:]:
        remarks.append(f"{len(left)} of its columns are left out, from '{left[0]}' on")
    points, finite, remark = _coordinates(table.path, columns)
    remarks += remark
    if not finite.all():
        columns = {name: values[finite] for name, values in columns.items()}
    colors, remark = _colors(columns)
    remarks += remark
    attributes = {name: _native(values) for name, values in columns.items()}
    return PointCloud(points, Origin(table.path, table.select), colors, attributes, tuple(remarks))


def check_columns(table: PointTable) -> None:
    """Check that there are points, and that each has a place.

    Args:
        table: Of any format.

    Raises:
        ReadError: If there are none, or a coordinate is not among the columns.
    """
    if table.count < 1:
        raise ReadError(table.path, "holds no points", "Export it again, or leave it out")
    absent = [name for name in COORDINATES if name not in table.named]
    if absent:
        reason = f"has no column {', '.join(absent)} (it has {', '.join(table.columns) or 'none'})"
        raise ReadError(table.path, reason, "Export points with the coordinates x, y and z")


def take_rows(
    path: str, read: Callable[[int], bytes], row: np.dtype, count: int, step: int, names: Sequence[str]
) -> Columns:
    """Return columns of every step-th row of a table that is stored row by row.

    Args:
        path: The file, for the error.
        read: Returns the next so many bytes.
        row: Structured type of one row.
        count: Rows of the table.
        step: 1 keeps all.
        names: Fields of ``row`` that are kept.

    Raises:
        ReadError: If the bytes end before the rows do.
    """
    kept = {name: np.empty(-(-count // step), row[name]) for name in names}
    chunk = max(1, _CHUNK_BYTES // row.itemsize)
    filled = 0
    for start in range(0, count, chunk):
        rows = min(chunk, count - start)
        part = np.frombuffer(_exactly(path, read, rows * row.itemsize), row)[-start % step :: step]
        for name, values in kept.items():
            values[filled : filled + len(part)] = part[name]
        filled += len(part)
    return kept


def take_columns(
    path: str, read: Callable[[int], bytes], kind: np.dtype, count: int, step: int, columns: Mapping[str, bool]
) -> Columns:
    """Return columns of every step-th row of a table that is stored column by column.

    Args:
        path: The file, for the error.
        read: Returns the next so many bytes.
        kind: Type of all values.
        count: Rows of the table.
        step: 1 keeps all.
        columns: All columns in their order, and whether each is kept.

    Raises:
        ReadError: If the bytes end before the columns do.
    """
    kept: Columns = {}
    last = max(place for place, wanted in enumerate(columns.values()) if wanted)
    for name, wanted in itertools.islice(columns.items(), last + 1):
        row = np.dtype([(name, kind)])
        kept |= take_rows(path, read, row, count, step, [name] if wanted else [])
    return kept


def take_text(path: str, stream: IO[bytes], columns: Sequence[str], count: int, names: Sequence[str]) -> Columns:
    """Return columns of a table that is written as text, one row a line.

    Args:
        path: The file, for the error.
        stream: At the first row.
        columns: All columns in their order.
        count: Rows of the table.
        names: Columns that are kept.

    Raises:
        ReadError: If lines are missing, or one does not hold a number for every column.
    """
    places = [columns.index(name) for name in names]
    kept = {name: np.empty(count, np.float64) for name in names}
    chunk = max(1, _CHUNK_BYTES // (8 * len(columns)))
    for start in range(0, count, chunk):
        rows = min(chunk, count - start)
        lines = list(itertools.islice(_lines(path, stream), rows))
        try:
            part = np.loadtxt(lines, ndmin=2, comments=None, encoding="latin-1") if lines else np.empty((0, 0))
        except ValueError as error:
            reason = f"holds a line that is not {len(columns)} numbers ({error})"
            raise ReadError(path, reason, "Export it again") from error
        if len(part) < rows:
            reason = f"is cut short: its header declares {count} points, and {start + len(part)} are there"
            raise ReadError(path, reason, "Copy or export it again")
        if part.shape[1] != len(columns):
            reason = f"holds lines of {part.shape[1]} numbers, and its header declares {len(columns)}"
            raise ReadError(path, reason, "Export it again")
        for name, place in zip(names, places, strict=True):
            kept[name][start : start + rows] = part[:, place]
    return kept


def check_points_stored(path: str, count: int, needed: int, there: int) -> None:
    """Check that the points that a header declares can be in the file at all.

    Args:
        path: The file, for the error.
        count: Points, by the header.
        needed: Bytes that they take, at least.
        there: Bytes that the file has for them.

    Raises:
        ReadError: If the file is too short.
    """
    if needed > there:
        reason = f"is cut short: its header declares {count} points, which take {needed} bytes, and {there} are there"
        raise ReadError(path, reason, "Copy or export it again")


def _lines(path: str, stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ReadError(path, f"holds a line of more than {_LONGEST_LINE} bytes", "Export it again")
        if line.strip():
            yield line


def _exactly(path: str, read: Callable[[int], bytes], count: int) -> bytes:
    data = read(count)
    if len(data) < count:
        raise ReadError(path, f"is cut short: {len(data)} bytes are where {count} should be", "Copy or export it again")
    return data


def _coordinates(
    path: str, columns: Columns
) -> tuple[Float32[np.ndarray, "kept 3"], Bool[np.ndarray, "points"], list[str]]:
    """Take the coordinates out of the columns; return those that are finite, which are, and what is wrong with them."""
    remarks = []
    columns_m = [columns.pop(name) for name in COORDINATES]
    with np.errstate(over="ignore"):
        points = np.stack([column.astype(np.float32) for column in columns_m], axis=-1)
    finite = np.asarray(np.isfinite(points).all(axis=1))
    wrong = len(points) - int(np.count_nonzero(finite))
    if wrong == len(points):
        raise ReadError(path, f"holds no finite point: all {wrong} are NaN or infinite", "Export it again")
    if wrong:
        remarks.append(f"{wrong} of {len(points)} points are NaN or infinite and left out")
        points = points[finite]
    farthest = float(np.abs(points).max())
    if farthest > _MILLIMETRE_BOUND and any(column.dtype.itemsize > 4 for column in columns_m):
        lost = f"{float(np.spacing(np.float32(farthest))):.2g}"
        remarks.append(f"coordinates of up to {farthest:.0f} are kept to {lost} only: move the scene to its origin")
    return points, finite, remarks


def _colors(columns: Columns) -> tuple[UInt8[np.ndarray, "points 3"] | None, list[str]]:
    """Take the colours out of the columns, if there are any that can be told to be colours."""
    if not all(name in columns for name in COLOURS):
        return None, []
    values = np.stack([columns[name] for name in COLOURS], axis=-1)
    remarks = []
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        remarks.append(f"{int(np.count_nonzero(~finite.all(axis=1)))} colours are NaN or infinite and taken for black")
        values = np.where(finite, values, 0)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        values = values >> 8
    elif low < 0 or high > 255:
        return None, [f"its colours reach from {low:g} to {high:g}, neither to 1 nor to 255, and stay attributes"]
    elif values.dtype.kind == "f" and high <= 1:
        values = np.rint(values * 255)
    for name in COLOURS:
        del columns[name]
    return np.ascontiguousarray(np.rint(values).astype(np.uint8)), remarks


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
