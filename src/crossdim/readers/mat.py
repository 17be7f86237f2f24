"""MATLAB's .mat files of points: version 5 (MATLAB 5 to 7.2) and, with h5py, version 7.3 (HDF5).

VoteNet's SUN RGB-D keeps the points of a frame in the array ``instance``: x, y, z, red, green, blue. Taken is the array
``instance``, ``points`` or ``pc``, else the only table of numbers with 3 to 16 columns; ``#name`` chooses another one.

Version 5 has a small parser of our own ("MAT-File Format", MathWorks 2024, chapter 1): scipy's allocates what an
element declares before it looks at the file's length.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from crossdim.errors import ReadError
from crossdim.readers.limits import DEFLATE_EXPANSION, Limits, check_unpacked, file_bytes
from crossdim.readers.point_arrays import choose_table, column_names, is_table
from crossdim.readers.point_table import Columns, PointTable, check_points_stored, take_columns

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x800
_MOST_NAME_BYTES = 4096
_CHUNK = 2**16
_REMEDY = "Save it again with MATLAB's save -v7"


@dataclass(frozen=True)
class _Array:
    """A table of numbers in the file.

    Attributes:
        name: Of the variable.
        shape: (rows, columns), stored column by column.
        kind: Type of the values as stored.
        element: Where its element begins in the file.
        compressed: Whether the element is packed.
        begins: Where its values begin in the unpacked element.
    """

    name: str
    shape: tuple[int, int]
    kind: np.dtype
    element: int
    compressed: bool
    begins: int


def open_mat(path: str, select: str | None, limits: Limits) -> PointTable:
    """Read the headers of a .mat file of points.

    Args:
        path: The file.
        select: Name of the array.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, holds no table of points, or several and none is chosen, or is of version 7.3 and
            h5py is not installed.
    """
    file_bytes(path, limits)
    with open(path, "rb") as stream:
        start = stream.read(_HEADER_BYTES)
    if start.startswith(b"MATLAB 7.3"):
        from crossdim.readers.mat_hdf5 import open_mat_hdf5

        return open_mat_hdf5(path, select, limits)
    arrays = _arrays(path, start, limits)
    chosen = arrays[choose_table(path, select, {name: one.shape for name, one in arrays.items()})]
    count, columns = chosen.shape
    names = column_names(columns)

    def load(step: int, wanted: Sequence[str]) -> Columns:
        with open(path, "rb") as stream:
            read = _reader(path, stream, chosen.element, chosen.compressed, limits)
            read(chosen.begins)
            return take_columns(path, read, chosen.kind, count, step, {name: name in wanted for name in names})

    return PointTable(path, select, "MATLAB 5", count, names, load)


def _arrays(path: str, start: bytes, limits: Limits) -> dict[str, _Array]:
    """Return the tables of numbers, by looking at the beginning of every element."""
    orders = {b"IM": "<", b"MI": ">"}
    if len(start) < _HEADER_BYTES or start[126:128] not in orders:
        raise ReadError(path, "has a damaged MATLAB header", _REMEDY)
    order = orders[start[126:128]]
    found: dict[str, _Array] = {}
    with open(path, "rb") as stream:
        stored = stream.seek(0, 2)
        place = _HEADER_BYTES
        while place + 8 <= stored:
            stream.seek(place)
            kind, size = np.frombuffer(stream.read(8), f"{order}u4").tolist()
            if kind not in (_MATRIX, _COMPRESSED):
                raise ReadError(path, f"holds an element of the unknown type {kind}", _REMEDY)
            if size > stored - place - 8:
                reason = f"is cut short: an element declares {size} bytes, and {stored - place - 8} are there"
                raise ReadError(path, reason, "Copy or export it again")
            array = _matrix(path, stream, place, size, kind == _COMPRESSED, order, limits)
            if array is not None:
                found[array.name] = array
            place += 8 + size
    return found


def _matrix(
    path: str, stream: IO[bytes], place: int, size: int, compressed: bool, order: str, limits: Limits
) -> _Array | None:
    """Return what an element says of itself if it is a table of real numbers, else None."""
    parts = _Parts(path, _reader(path, stream, place, compressed, limits), order)
    kind, declared, _ = parts.tag()
    if kind != _MATRIX:
        raise ReadError(path, f"holds an element of the unknown type {kind}", _REMEDY)
    if declared == 0:
        return None
    flags = int.from_bytes(parts.short()[:4], "little" if order == "<" else "big")
    sizes = parts.short()
    shape = np.frombuffer(sizes[: len(sizes) // 4 * 4], f"{order}i4").tolist()
    if flags & 0xFF not in _NUMERIC_CLASSES or flags & _COMPLEX or not is_table(shape) or min(shape) < 0:
        return None
    name = parts.short().decode("latin-1")
    kind, length, inside = parts.tag()
    if kind not in _NUMBERS:
        raise ReadError(f"{path}#{name}", f"holds values of the unknown type {kind}", _REMEDY)
    values = np.dtype(order + _NUMBERS[kind])
    needed = shape[0] * shape[1] * values.itemsize
    if length != needed:
        reason = f"declares {shape[0]} x {shape[1]} values of {needed} bytes, and {length} bytes of them"
        raise ReadError(f"{path}#{name}", reason, "Copy or export it again")
    if inside is None:
        check_points_stored(path, shape[0], needed, size * DEFLATE_EXPANSION if compressed else size + 8 - parts.taken)
    if compressed:
        check_unpacked(path, needed, limits)
    return _Array(name, (shape[0], shape[1]), values, place, compressed, parts.taken - (0 if inside is None else 4))


class _Parts:
    """Reads what stands before the values of an element, and counts the bytes."""

    def __init__(self, path: str, read: Callable[[int], bytes], order: str) -> None:
        self.taken = 0
        self._path, self._read, self._order = path, read, order

    def tag(self) -> tuple[int, int, bytes | None]:
        """Return type and length of the next part, and its bytes where they stand in the tag itself (at most 4)."""
        data = self._take(8)
        first, second = np.frombuffer(data, f"{self._order}u4").tolist()
        if first >> 16:
            length = min(first >> 16, 4)
            return first & 0xFFFF, length, data[4 : 4 + length]
        return first, second, None

    def short(self) -> bytes:
        """Return the next part, which is a name or a few numbers."""
        _, length, inside = self.tag()
        if inside is not None:
            return inside
        if length > _MOST_NAME_BYTES:
            raise ReadError(self._path, f"declares {length} bytes for the name or the sizes of an array", _REMEDY)
        return self._take(-(-length // 8) * 8)[:length]

    def _take(self, count: int) -> bytes:
        data = self._read(count)
        self.taken += count
        if len(data) < count:
            raise ReadError(self._path, "is cut short inside an element", "Copy or export it again")
        return data


def _reader(path: str, stream: IO[bytes], place: int, compressed: bool, limits: Limits) -> Callable[[int], bytes]:
    """Return what reads an element from its tag on, unpacked."""
    stream.seek(place + 8 * compressed)
    if not compressed:
        return stream.read
    unpacked = _unpacked(path, stream)
    waiting = bytearray()

    def read(count: int) -> bytes:
        while len(waiting) < count:
            more = next(unpacked, b"")
            if not more:
                break
            waiting.extend(more)
        data = bytes(waiting[:count])
        del waiting[:count]
        return data

    return read


def _unpacked(path: str, stream: IO[bytes]) -> Iterator[bytes]:
    inflate: Any = zlib.decompressobj()
    try:
        while not inflate.eof and (packed := inflate.unconsumed_tail or stream.read(_CHUNK)):
            yield inflate.decompress(packed, _CHUNK) or b""
    except zlib.error as error:
        raise ReadError(path, f"has damaged compressed values ({error})", "Copy or export it again") from error
