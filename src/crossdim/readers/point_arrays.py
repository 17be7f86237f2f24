"""Tables of numbers as points: KITTI's .bin, NumPy's .npy and .npz.

What is taken for points, when nobody says so: of an .npz the array ``pc`` or ``points``; of an .npy, or an array that
was chosen in an .npz, a table of floats with 3 to 9 columns and at least 256 rows, which no picture is. Behind the
``#`` it can be said: ``boxes.npy#points``, and for .bin the number of columns, ``000017.bin#6``.

Columns are x, y, z, then: the intensity, where there is one more (KITTI); red, green, blue, where there are three or
more and all of these lie between 0 and 1 or are whole numbers up to 255. The others are attributes ``column 6`` and so
on, counted from 0.
"""

import zipfile
from collections.abc import Callable, Sequence

import numpy as np

from crossdim.errors import ReadError, nearest
from crossdim.readers.array import ZIP_ERRORS, ArrayHeader, npy_header, npz_headers
from crossdim.readers.limits import Limits, check_stored, check_unpacked, file_bytes
from crossdim.readers.point_table import (
    COLOURS,
    COORDINATES,
    Columns,
    PointTable,
    take_columns,
    take_rows,
)

POINT_ARRAYS = ("pc", "points")
POINT_TABLES = ("instance", "points", "pc")
KITTI_COLUMNS = 4
MOST_COLUMNS = 64

_MOST_TABLE_COLUMNS = 16
_CERTAIN_COLUMNS = (3, 9)
_CERTAIN_ROWS = 256


def open_bin(path: str, select: str | None, limits: Limits) -> PointTable:
    """Look at a file of little-endian float32 without a header, as KITTI's laser scans are.

    Args:
        path: The file.
        select: How many numbers a point has; None for KITTI's four: x, y, z, intensity.
        limits: What is allowed.

    Raises:
        ReadError: If its length is not that of a whole number of points.
    """
    if select is not None and not (select.isascii() and select.isdigit() and 3 <= int(select[:4]) <= MOST_COLUMNS):
        reason = "does not say how many numbers a point has"
        raise ReadError(f"{path}#{select}", reason, f"Use '#3' to '#{MOST_COLUMNS}', such as '#6' for x y z r g b")
    columns = KITTI_COLUMNS if select is None else int(select)
    stored = file_bytes(path, limits)
    if stored % (4 * columns):
        reason = f"has {stored} bytes, which is not a whole number of points of {columns} float32"
        raise ReadError(path, reason, f"Say how many numbers a point has, such as '{path}#6', or copy it again")
    names = column_names(columns)
    row = np.dtype([(name, "<f4") for name in names])
    count = stored // row.itemsize

    def load(step: int, wanted: Sequence[str]) -> Columns:
        with open(path, "rb") as stream:
            return take_rows(path, stream.read, row, count, step, wanted)

    return PointTable(path, select, "float32 (.bin)", count, names, load)


def holds_points(path: str, select: str | None, limits: Limits) -> bool:
    """Tell whether an .npy or .npz file is to be read as points.

    Args:
        path: The file.
        select: What was chosen inside it.
        limits: What is allowed.

    Raises:
        ReadError: If its header is damaged.
    """
    file_bytes(path, limits)
    if path.lower().endswith(".npz"):
        headers = npz_headers(path)
        name = _chosen(select, headers)
        return name is not None and (name in POINT_ARRAYS or _certain(headers[name])) and _a_table(headers[name])
    if select is not None:
        return select == "points"
    with open(path, "rb") as stream:
        return _certain(npy_header(path, stream))


def open_npy_points(path: str, select: str | None, limits: Limits) -> PointTable:
    """Read the header of an .npy file of points.

    Args:
        path: The file.
        select: None or ``points``.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, or no table of numbers with a column for each coordinate.
    """
    stored = file_bytes(path, limits)
    with open(path, "rb") as stream:
        header = npy_header(path, stream)
    check_stored(path, header.begins + header.bytes, stored)
    names = _checked_names(path, header)

    def load(step: int, wanted: Sequence[str]) -> Columns:
        with open(path, "rb") as stream:
            stream.seek(header.begins)
            return _take(path, stream.read, header, names, step, wanted)

    return PointTable(path, select, "NumPy array", header.shape[0], names, load)


def open_npz_points(path: str, select: str | None, limits: Limits) -> PointTable:
    """Read the headers of an .npz file with points.

    Args:
        path: The file.
        select: Name of the array; None for ``pc`` or ``points``.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, unpacks to more than is allowed, or the array is no table of numbers.
    """
    headers = npz_headers(path)
    name = _chosen(select, headers)
    if name is None:
        reason = f"has no array 'pc' or 'points' (it has {', '.join(headers)})"
        raise ReadError(path, reason, f"Choose one, such as '{path}#{next(iter(headers))}'")
    header = headers[name]
    check_unpacked(path, header.bytes, limits)
    names = _checked_names(f"{path}#{name}", header)

    def load(step: int, wanted: Sequence[str]) -> Columns:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
                npy_header(path, stream)
                return _take(path, stream.read, header, names, step, wanted)
        except ReadError:
            raise
        except ZIP_ERRORS as error:
            raise ReadError(path, f"is cut short or damaged ({error})", "Copy or save it again") from error

    return PointTable(path, select, "NumPy archive", header.shape[0], names, load)


def column_names(columns: int) -> tuple[str, ...]:
    """Return what the columns of a table without names are.

    Args:
        columns: At least 3.
    """
    more = columns - len(COORDINATES)
    if more == 1:
        return (*COORDINATES, "intensity")
    numbered = tuple(f"column {place}" for place in range(len(COORDINATES), columns))
    return COORDINATES + (numbered if more < len(COLOURS) else COLOURS + numbered[len(COLOURS) :])


def choose_table(path: str, select: str | None, shapes: dict[str, tuple[int, int]]) -> str:
    """Return the name of the array that holds the points.

    Args:
        path: The file, for the error.
        select: As the user names it.
        shapes: (rows, columns) of every table of numbers with columns enough.

    Raises:
        ReadError: If there is none, none of the name, or several.
    """
    if select is not None:
        if select not in shapes:
            remedy = nearest(select, shapes) if shapes else "Name a file with points"
            raise ReadError(f"{path}#{select}", "names no table of numbers with 3 to 16 columns of the file", remedy)
        return select
    named = [name for name in POINT_TABLES if name in shapes] or list(shapes)
    if not named:
        raise ReadError(path, "holds no table of numbers with 3 to 16 columns", "Save the points as (points, columns)")
    if len(named) > 1 and named[0] not in POINT_TABLES:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ReadError(path, f"holds several tables: {listing}", f"Choose one, such as '{path}#{named[0]}'")
    return named[0]


def is_table(shape: Sequence[int]) -> bool:
    """Tell whether an array may be a table of points.

    Args:
        shape: (rows, columns).
    """
    return len(shape) == 2 and 3 <= shape[1] <= _MOST_TABLE_COLUMNS


def _chosen(select: str | None, headers: dict[str, ArrayHeader]) -> str | None:
    if select is not None:
        return select if select in headers else None
    return next((name for name in POINT_ARRAYS if name in headers), None)


def _a_table(header: ArrayHeader) -> bool:
    return len(header.shape) == 2 and 3 <= header.shape[1] <= MOST_COLUMNS


def _certain(header: ArrayHeader) -> bool:
    low, high = _CERTAIN_COLUMNS
    table = header.dtype.kind == "f" and len(header.shape) == 2
    return table and low <= header.shape[1] <= high and header.shape[0] >= _CERTAIN_ROWS


def _checked_names(path: str, header: ArrayHeader) -> tuple[str, ...]:
    if header.dtype.kind not in "iuf":
        raise ReadError(path, f"holds values of type {header.dtype}, not plain numbers", "Save points as float32")
    if not _a_table(header):
        reason = f"has the shape {header.shape}, which is no table of points"
        raise ReadError(path, reason, f"Save (points, columns) with 3 to {MOST_COLUMNS} columns, x, y and z first")
    return column_names(header.shape[1])


def _take(
    path: str,
    read: Callable[[int], bytes],
    header: ArrayHeader,
    names: tuple[str, ...],
    step: int,
    wanted: Sequence[str],
) -> Columns:
    count = header.shape[0]
    if header.fortran:
        return take_columns(path, read, header.dtype, count, step, {name: name in wanted for name in names})
    return take_rows(path, read, np.dtype([(name, header.dtype) for name in names]), count, step, wanted)
