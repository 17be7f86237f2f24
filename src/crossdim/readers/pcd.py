"""PCD files of points: text, binary and compressed (the Point Cloud Library's format, version 0.7).

A small parser of our own, because the libraries allocate what a header declares before they look at the file's length;
imagecodecs unpacks the compressed kind (LZF).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from crossdim.errors import ReadError
from crossdim.readers.limits import Limits, check_unpacked, file_bytes
from crossdim.readers.point_table import (
    COLOURS,
    Columns,
    PointTable,
    check_points_stored,
    take_columns,
    take_rows,
    take_text,
)
from crossdim.readers.selector import no_selector

_HEADER_BYTES = 2**16
_TYPES = {
    **{f"I{size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "F4": "<f4",
    "F8": "<f8",
}
_DATA = {"ascii": "PCD (text)", "binary": "PCD (binary)", "binary_compressed": "PCD (compressed)"}
_KEYS = ("version", "fields", "size", "type", "count", "width", "height", "viewpoint", "points", "data")
_PACKED_COLOURS = ("rgb", "rgba")
_LZF_EXPANSION = 88
"""LZF makes at most 264 bytes of three."""

_REMEDY = "Export it again as PCD"


@dataclass(frozen=True)
class _Field:
    name: str
    kind: np.dtype
    values: int
    """How many the field has for each point."""


@dataclass(frozen=True)
class _Layout:
    fields: tuple[_Field, ...]
    count: int
    data: str
    begins: int

    @property
    def row(self) -> np.dtype:
        return np.dtype([(one.name, one.kind, (one.values,)) if one.values > 1 else (one.name, one.kind)
                         for one in self.fields])  # fmt: skip

    @property
    def single(self) -> dict[str, _Field]:
        """The fields with one value a point, which are all that are read; padding is not one."""
        return {one.name: one for one in self.fields if one.values == 1 and not one.name.startswith("_")}


def open_pcd(path: str, select: str | None, limits: Limits) -> PointTable:
    """Read the header of a PCD file.

    Args:
        path: The file.
        select: Must be None.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, or is too short for what it declares.
    """
    no_selector(path, select)
    stored = file_bytes(path, limits)
    with open(path, "rb") as stream:
        layout = _layout(path, stream)
    single = layout.single
    wide = [one.name for one in layout.fields if one.values > 1 and not one.name.startswith("_")]
    packed = next((name for name in _PACKED_COLOURS if name in single and single[name].kind.itemsize == 4), None)
    columns = tuple(name for name in single if name != packed) + (COLOURS if packed else ())
    there = stored - layout.begins
    if layout.data == "binary_compressed":
        _check_compressed(path, layout, there, limits)
    else:
        numbers = sum(one.values for one in layout.fields)
        each = 2 * numbers if layout.data == "ascii" else layout.row.itemsize
        check_points_stored(path, layout.count, max(each * layout.count - 1, 0), there)

    def load(step: int, names: Sequence[str]) -> Columns:
        stored_names = [name for name in names if name not in COLOURS or packed is None]
        if packed and set(COLOURS) & set(names):
            stored_names.append(packed)
        loaded = _load(path, layout, step, stored_names)
        if packed and packed in loaded:
            colours = _unpacked(loaded.pop(packed))
            loaded |= {name: colours[name] for name in names if name in COLOURS}
        return loaded

    remarks = (f"its fields with several values a point ({', '.join(wide)}) are left out",) if wide else ()
    text = layout.data == "ascii"
    return PointTable(path, None, _DATA[layout.data], layout.count, columns, load, text, remarks)


def _layout(path: str, stream: IO[bytes]) -> _Layout:
    said: dict[str, list[str]] = {}
    while "data" not in said:
        line = stream.readline(_HEADER_BYTES)
        if not line.endswith(b"\n") or stream.tell() > _HEADER_BYTES:
            raise ReadError(path, "has a PCD header that does not end", _REMEDY)
        words = line.decode("latin-1").split()
        if not words or words[0].startswith("#"):
            continue
        key = words[0].lower()
        if key not in _KEYS:
            reason = f"has a PCD header with the line '{line.decode('latin-1').strip()[:80]}', which is not PCD"
            raise ReadError(path, reason, _REMEDY)
        said[key] = words[1:]
    data = said["data"][0] if said["data"] else ""
    if data not in _DATA:
        raise ReadError(path, f"has data of the kind '{data}'", f"Save it as one of: {', '.join(_DATA)}")
    names, kinds, sizes = (said.get(key, []) for key in ("fields", "type", "size"))
    counts = _whole(path, "count", said.get("count", ["1"] * len(names)))
    if not names or not len(names) == len(kinds) == len(sizes) == len(counts):
        raise ReadError(path, "has a PCD header whose FIELDS, SIZE, TYPE and COUNT do not match", _REMEDY)
    unknown = [kind + size for kind, size in zip(kinds, sizes, strict=True) if kind + size not in _TYPES]
    if unknown or min(counts) < 1 or sum(counts) > _HEADER_BYTES:
        raise ReadError(path, f"has fields of an unknown type or count ({', '.join(unknown) or counts})", _REMEDY)
    named = [name if name != "_" else f"_{place}" for place, name in enumerate(names)]
    if len(set(named)) < len(named):
        raise ReadError(path, f"names a field twice ({' '.join(names)})", _REMEDY)
    width, height = (_whole(path, key, said.get(key, ["1"]))[0] for key in ("width", "height"))
    count = _whole(path, "points", said.get("points", [str(width * height)]))[0]
    fields = tuple(
        _Field(name, np.dtype(_TYPES[kind + size]), values)
        for name, kind, size, values in zip(named, kinds, sizes, counts, strict=True)
    )
    return _Layout(fields, count, data, stream.tell())


def _whole(path: str, key: str, words: Sequence[str]) -> list[int]:
    if not words or not all(word.isascii() and word.isdigit() and len(word) < 19 for word in words):
        raise ReadError(path, f"has a PCD header with {key.upper()} '{' '.join(words)}', not whole numbers", _REMEDY)
    return [int(word) for word in words]


def _check_compressed(path: str, layout: _Layout, there: int, limits: Limits) -> None:
    packed, unpacked = _compressed_sizes(path, layout)
    needed = layout.row.itemsize * layout.count
    check_points_stored(path, layout.count, packed + 8, there)
    if unpacked != needed or unpacked > packed * _LZF_EXPANSION:
        reason = f"declares {layout.count} points of {needed} bytes, and {packed} bytes that unpack to {unpacked}"
        raise ReadError(path, reason, "Copy or export it again")
    check_unpacked(path, unpacked, limits)


def _compressed_sizes(path: str, layout: _Layout) -> tuple[int, int]:
    with open(path, "rb") as stream:
        stream.seek(layout.begins)
        sizes = stream.read(8)
    if len(sizes) < 8:
        raise ReadError(path, "is cut short behind its header", "Copy or export it again")
    return int.from_bytes(sizes[:4], "little"), int.from_bytes(sizes[4:], "little")


def _load(path: str, layout: _Layout, step: int, names: Sequence[str]) -> Columns:
    with open(path, "rb") as stream:
        stream.seek(layout.begins)
        if layout.data == "binary":
            return take_rows(path, stream.read, layout.row, layout.count, step, names)
        if layout.data == "ascii":
            every = [f"{one.name} {number}" if one.values > 1 else one.name
                     for one in layout.fields for number in range(one.values)]  # fmt: skip
            loaded = take_text(path, stream, every, layout.count, names)
            return {name: _packed_text(layout.single[name], values) for name, values in loaded.items()}
    import imagecodecs

    packed, unpacked = _compressed_sizes(path, layout)
    with open(path, "rb") as stream:
        stream.seek(layout.begins + 8)
        try:
            data = imagecodecs.lzf_decode(stream.read(packed), out=unpacked)
        except imagecodecs.LzfError as error:
            raise ReadError(path, f"has damaged compressed points ({error})", "Copy or export it again") from error
    whole = io.BytesIO(data)
    loaded = {}
    for one in layout.fields:
        if one.name in names:
            loaded |= take_columns(path, whole.read, one.kind, layout.count, step, {one.name: True})
        else:
            whole.seek(one.kind.itemsize * one.values * layout.count, 1)
    return loaded


def _packed_text(one: _Field, values: NDArray) -> NDArray:
    """Return colours that were written as a number in the bytes they stand for; all else as it is."""
    return values.astype(one.kind) if one.name in _PACKED_COLOURS else values


def _unpacked(values: NDArray) -> dict[str, NDArray[np.uint8]]:
    """Return the colours of 0xAARRGGBB, which some files declare as a float of the same bits."""
    bits = values.astype(values.dtype.newbyteorder("<")).view("<u4")
    return {name: (bits >> shift & 255).astype(np.uint8) for name, shift in zip(COLOURS, (16, 8, 0), strict=True)}
