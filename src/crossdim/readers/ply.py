"""PLY files of points: text and binary, in both byte orders (Turk's "The PLY Polygon File Format", 1994).

The element ``vertex`` holds the points; what comes before it is skipped, and what comes after it (faces) is not read.
A small parser of our own, because the libraries allocate what a header declares before they look at the file's length.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from crossdim.errors import ReadError
from crossdim.readers.limits import Limits, file_bytes
from crossdim.readers.point_table import Columns, PointTable, check_points_stored, take_rows, take_text
from crossdim.readers.selector import no_selector

_HEADER_BYTES = 2**17
_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
    "int64": "i8",
    "uint64": "u8",
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_REMEDY = "Export it again as PLY"


@dataclass
class _Element:
    name: str
    count: int
    columns: dict[str, str] = field(default_factory=dict)
    """NumPy's type of each property; of a list, the types of its length and of its items, divided by a space."""

    @property
    def has_lists(self) -> bool:
        return any(" " in kind for kind in self.columns.values())

    def row(self, order: str) -> np.dtype:
        return np.dtype([(name, order + kind) for name, kind in self.columns.items()])


def open_ply(path: str, select: str | None, limits: Limits) -> PointTable:
    """Read the header of a PLY file.

    Args:
        path: The file.
        select: Must be None.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, holds no vertices, or is too short for what it declares.
    """
    no_selector(path, select)
    stored = file_bytes(path, limits)
    with open(path, "rb") as stream:
        order, elements = _header(path, stream)
        vertex, begins = _vertices(path, stream, order, elements, stored)
    text = order == ""
    columns = tuple(vertex.columns)
    row = vertex.row(order or "<")
    needed = 2 * len(columns) * vertex.count - 1 if text else row.itemsize * vertex.count
    check_points_stored(path, vertex.count, needed, stored - begins)

    def load(step: int, names: Sequence[str]) -> Columns:
        with open(path, "rb") as stream:
            stream.seek(begins)
            if text:
                return take_text(path, stream, columns, vertex.count, names)
            return take_rows(path, stream.read, row, vertex.count, step, names)

    words = {"": "PLY (text)", "<": "PLY (binary)", ">": "PLY (binary, big-endian)"}
    return PointTable(path, None, words[order], vertex.count, columns, load, text)


def _header(path: str, stream: IO[bytes]) -> tuple[str, list[_Element]]:
    """Return the byte order (empty for text) and the elements, and leave the stream behind the header."""
    order: str | None = None
    elements: list[_Element] = []
    while True:
        line = stream.readline(_HEADER_BYTES)
        if not line.endswith(b"\n") or stream.tell() > _HEADER_BYTES:
            raise ReadError(path, "has a PLY header that does not end", _REMEDY)
        match line.decode("latin-1").split():
            case ["end_header"]:
                break
            case ["format", words, _] if words in _ORDERS:
                order = _ORDERS[words]
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 19:
                elements.append(_Element(name, int(count)))
            case ["property", "list", size, item, name] if (
                elements and size in _TYPES and item in _TYPES and _TYPES[size][0] != "f"
            ):
                _add(path, elements[-1], name, f"{_TYPES[size]} {_TYPES[item]}")
            case ["property", kind, name] if elements and kind in _TYPES:
                _add(path, elements[-1], name, _TYPES[kind])
            case [] | ["ply" | "comment" | "obj_info", *_]:
                continue
            case _:
                reason = f"has a PLY header with the line '{line.decode('latin-1').strip()[:80]}', which is not PLY"
                raise ReadError(path, reason, _REMEDY)
    if order is None:
        raise ReadError(path, "has a PLY header without its format", _REMEDY)
    return order, elements


def _add(path: str, element: _Element, name: str, kind: str) -> None:
    if name in element.columns:
        raise ReadError(path, f"declares the property '{name}' of '{element.name}' twice", _REMEDY)
    element.columns[name] = kind


def _vertices(
    path: str, stream: IO[bytes], order: str, elements: Sequence[_Element], stored: int
) -> tuple[_Element, int]:
    """Return the vertices' element and where its first row begins."""
    for element in elements:
        if element.name == "vertex":
            if element.has_lists:
                names = ", ".join(name for name, kind in element.columns.items() if " " in kind)
                raise ReadError(path, f"holds lists for each vertex ({names})", "Export the points without them")
            if not element.columns:
                raise ReadError(path, "declares vertices without properties", _REMEDY)
            return element, stream.tell()
        if element.count and element.columns:
            _skip(path, stream, order, element, stored)
    raise ReadError(path, "declares no vertices", "Export the points as the element 'vertex'")


def _skip(path: str, stream: IO[bytes], order: str, element: _Element, stored: int) -> None:
    """Pass over an element that comes before the vertices."""
    least = 1 if order == "" else sum(np.dtype(kind.split()[0]).itemsize for kind in element.columns.values())
    if element.count * least > stored - stream.tell():
        reason = f"is cut short: it declares {element.count} of '{element.name}', more than {stored} bytes can hold"
        raise ReadError(path, reason, "Copy or export it again")
    if order == "":
        for _ in range(element.count):
            stream.readline()
    elif not element.has_lists:
        stream.seek(element.count * element.row(order).itemsize, 1)
    else:
        _skip_lists(path, stream, order, element)


def _skip_lists(path: str, stream: IO[bytes], order: str, element: _Element) -> None:
    kinds = [[np.dtype(order + part) for part in kind.split()] for kind in element.columns.values()]
    for _ in range(element.count):
        for size, *item in kinds:
            data = stream.read(size.itemsize)
            if len(data) < size.itemsize:
                raise ReadError(path, f"is cut short in '{element.name}'", "Copy or export it again")
            if item:
                length = struct.unpack((order or "<") + size.char, data)[0]
                if length < 0:
                    raise ReadError(path, f"holds a list of {length} items in '{element.name}'", _REMEDY)
                stream.seek(int(length) * item[0].itemsize, 1)
