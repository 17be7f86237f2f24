"""NumPy's .npy and .npz, and MedMNIST's .npz, to images and volumes.

Axes by the number of dimensions: 2 ``(height, width)`` is an image; 3 is an image with channels last if the last size
is 1, 3 or 4, else a volume ``(depth, height, width)``; 4 is a volume ``(channels, depth, height, width)``, or with
channels last in MedMNIST files. Arrays carry no place in the patient; see ``ASSUMED_AFFINE``.

Selectors of .npz: ``#array``, ``#array/row``, and for MedMNIST ``#train/12`` (row 12 of ``train_images``).
"""

import io
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from os import stat
from pathlib import PurePath
from typing import IO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from crossdim.errors import ReadError, nearest
from crossdim.geometry.affine import ASSUMED_AFFINE
from crossdim.readers.inspection import Opened
from crossdim.readers.intensity import NO_PLACE, drop_alpha, inferred_unit, plain
from crossdim.readers.limits import (
    DEFLATE_EXPANSION,
    Limits,
    check_declared,
    check_stored,
    check_unpacked,
    file_bytes,
)
from crossdim.readers.selector import no_selector
from crossdim.samples import Image, IntensityUnit, Origin, Volume

_Stream = IO[bytes] | io.BufferedIOBase

_MEDMNIST_PARTS = ("train", "val", "test")
_CACHED_BYTES = 2**29
_EXPANSION = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATE_EXPANSION}
_HEADER_ERRORS = (ValueError, TypeError, KeyError, EOFError, tokenize.TokenError, RecursionError, MemoryError)
ZIP_ERRORS = (
    zipfile.BadZipFile,
    UnicodeError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class ArrayHeader:
    """What stands before the values of an array.

    Attributes:
        shape: As declared.
        dtype: As declared.
        fortran: Whether the first axis is the fastest.
        begins: Where the values begin.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    begins: int

    @property
    def bytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """Size of the first axis; 0 for a single number."""
        return self.shape[0] if self.shape else 0


@dataclass(frozen=True)
class _Chosen:
    """An array of an .npz, and the row of it."""

    name: str
    row: int | None
    channels_last: bool


def open_npy(path: str, select: str | None, limits: Limits) -> Opened:
    """Read the header of an .npy file.

    Args:
        path: The file.
        select: Must be None.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, too large, or holds anything but numbers in 2 to 4 dimensions.
    """
    no_selector(path, select)
    stored = file_bytes(path, limits)
    with open(path, "rb") as stream:
        header = npy_header(path, stream)
    check_declared(path, header.shape, limits)
    check_stored(path, header.begins + header.bytes, stored)

    def values() -> NDArray[np.generic]:
        with open(path, "rb") as stream:
            return _array(path, stream)

    return _opened(path, None, header.shape, header.dtype, values, channels_last=False, format_name="NumPy array")


def open_npz(path: str, select: str | None, limits: Limits) -> Opened:
    """Read the headers of an .npz file.

    Args:
        path: The file.
        select: ``array``, ``array/row``, or for MedMNIST ``train/row``.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, too large, holds anything but numbers, or several arrays and none is chosen.
    """
    file_bytes(path, limits)
    headers = npz_headers(path)
    chosen, needed, choices = _choose(path, select, headers)
    header = headers[chosen.name]
    shape = header.shape if chosen.row is None else header.shape[1:]
    check_declared(path, shape, limits)
    unpacked = header.bytes if chosen.row is None else header.bytes // header.rows * (chosen.row + 1)
    check_unpacked(path, unpacked, limits)

    def values() -> NDArray[np.generic]:
        return _member(path, chosen, header)

    opened = _opened(
        path, select, shape, header.dtype, values, channels_last=chosen.channels_last, format_name="NumPy archive"
    )
    return Opened(**{**vars(opened), "choices": choices, "needs_choice": needed})


def npz_headers(path: str) -> dict[str, ArrayHeader]:
    """Return the shape and type of every array, and check that all can be in the file.

    Args:
        path: The file.

    Raises:
        ReadError: If the archive is damaged, or declares more than it can hold.
    """
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    header = npy_header(f"{path}#{name}", stream)
                declared = header.begins + header.bytes
                expansion = _EXPANSION.get(member.compress_type)
                if declared != member.file_size:
                    reason = f"declares {declared} bytes, and its place in the archive {member.file_size}"
                    raise ReadError(f"{path}#{name}", reason, "Save it again")
                if expansion is not None:
                    check_stored(f"{path}#{name}", declared, member.compress_size, expansion)
                headers[name] = header
    except ZIP_ERRORS as error:
        raise ReadError(path, f"is a damaged .npz file ({error})", "Copy or save it again") from error
    if not headers:
        raise ReadError(path, "holds no arrays", "Save arrays with numpy.savez")
    return headers


def npy_header(path: str, stream: _Stream) -> ArrayHeader:
    """Read the header of an array, and leave the stream at its values.

    Args:
        path: The file, for the error.
        stream: At the beginning of an .npy.

    Raises:
        ReadError: If it is damaged, or the array holds Python objects.
    """
    try:
        version = npy_format.read_magic(stream)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except _HEADER_ERRORS as error:
        raise ReadError(path, f"has a damaged NumPy header ({error})", "Save it again") from error
    if dtype.hasobject:
        reason = "holds Python objects, which can run code when they are read"
        raise ReadError(path, reason, "Save it as an array of numbers")
    return ArrayHeader(shape, dtype, fortran, stream.tell())


def _array(path: str, stream: _Stream) -> NDArray[np.generic]:
    try:
        return npy_format.read_array(stream, allow_pickle=False)
    except (*_HEADER_ERRORS, *ZIP_ERRORS) as error:
        raise ReadError(path, f"is cut short or damaged ({error})", "Copy or save it again") from error


def _choose(path: str, select: str | None, headers: dict[str, ArrayHeader]) -> tuple[_Chosen, str, tuple[str, ...]]:
    """Return what is chosen, why a choice is needed (or nothing), and the choices."""
    parts = {part: name for part in _MEDMNIST_PARTS if (name := f"{part}_images") in headers and headers[name].rows}
    if select is None:
        first = next(iter(parts.values()), next(iter(headers)))
        if parts:
            counts = ", ".join(f"{headers[name].rows} in {part}" for part, name in parts.items())
            choices = tuple(f"{part}/{row}" for part, name in parts.items() for row in range(headers[name].rows))
            return _Chosen(first, 0, True), f"holds many samples ({counts})", choices
        if len(headers) == 1:
            return _Chosen(first, None, False), "", ()
        listing = ", ".join(f"{name} {header.shape}" for name, header in headers.items())
        raise ReadError(path, f"holds several arrays: {listing}", f"Choose one, such as '{path}#{first}'")
    if select in headers:
        return _Chosen(select, None, False), "", ()
    name, _, row = select.rpartition("/")
    medmnist = name in parts and name not in headers
    name = parts[name] if medmnist else name
    if name not in headers:
        known = [*parts, *headers]
        raise ReadError(f"{path}#{select}", "names no array of the file", nearest(name or select, known))
    rows = headers[name].rows
    if not (row.isascii() and row.isdigit() and len(row) < 16 and int(row) < rows):
        reason = f"names no row of {name}, which has {rows}"
        raise ReadError(f"{path}#{select}", reason, f"Use a row from 0 to {max(rows - 1, 0)}")
    return _Chosen(name, int(row), medmnist), "", ()


def _member(path: str, chosen: _Chosen, header: ArrayHeader) -> NDArray[np.generic]:
    place = stat(path)
    if header.bytes <= _CACHED_BYTES:
        values = _whole_member(path, chosen.name, place.st_mtime_ns, place.st_size)
        return values.copy() if chosen.row is None else values[chosen.row].copy()
    with zipfile.ZipFile(path) as archive, archive.open(f"{chosen.name}.npy") as stream:
        if chosen.row is None:
            return _array(path, stream)
        return _one_row(path, stream, header, chosen.row)


@lru_cache(maxsize=2)
def _whole_member(path: str, name: str, changed_ns: int, size: int) -> NDArray[np.generic]:
    """Return an array of an archive, kept because the next row asked for is likely to be of the same one.

    The time and the size of the file are arguments, so that a file that was changed is read again.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        return _array(path, stream)


def _one_row(path: str, stream: _Stream, header: ArrayHeader, row: int) -> NDArray[np.generic]:
    """Read up to one row of an array that is too large to be kept."""
    if header.fortran:
        raise ReadError(path, "is stored with rows scattered (Fortran order)", "Save it in C order")
    shape = header.shape[1:]
    wanted = math.prod(shape) * header.dtype.itemsize
    try:
        stream.seek(header.begins + row * wanted)
        data = stream.read(wanted)
        return np.frombuffer(data, header.dtype).reshape(shape).copy()
    except (*ZIP_ERRORS, ValueError) as error:
        raise ReadError(path, f"is cut short or damaged ({error})", "Copy or save it again") from error


def _opened(
    path: str,
    select: str | None,
    shape: tuple[int, ...],
    dtype: np.dtype,
    values: Callable[[], NDArray[np.generic]],
    *,
    channels_last: bool,
    format_name: str,
) -> Opened:
    if dtype.kind not in "biuf":
        raise ReadError(path, f"holds values of type {dtype}, not plain numbers", "Save it as numbers")
    if not 2 <= len(shape) <= 4:
        reason = f"has the shape {shape}, which is neither an image nor a volume"
        raise ReadError(
            path, reason, "Save (height, width), (depth, height, width) or (channels, depth, height, width)"
        )
    image = len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4))
    last = (image and len(shape) == 3) or (channels_last and len(shape) == 4 and shape[-1] in (1, 3))
    spatial = shape[:-1] if last else shape[-2:] if image else shape[-3:]
    channels = shape[-1] if last else shape[0] if len(shape) == 4 else 1
    alpha = image and channels == 4
    display: dict[str, IntensityUnit] = {"uint8": "uint8", "uint16": "uint16"} if image else {"uint8": "uint8"}
    plain_name = "uint8" if dtype.kind == "b" else "float64" if dtype.itemsize > 8 else dtype.newbyteorder("=").name
    remarks = () if image else (NO_PLACE,)

    def load() -> Image | Volume:
        array = values()
        array = np.moveaxis(array, -1, 0) if last else array
        array = array.reshape(channels, *spatial)
        array, wrong = plain(path, array)
        more = remarks + wrong
        origin = Origin(path, select)
        if image:
            unit = display.get(dtype.name, "arbitrary")
            if alpha:
                array, dropped = drop_alpha(array)
                more += dropped
            return Image(np.ascontiguousarray(array), unit, origin, warnings=more)
        unit, reason = inferred_unit(array) if dtype.kind != "b" else ("arbitrary", ())
        return Volume(np.ascontiguousarray(array), ASSUMED_AFFINE, unit, origin, warnings=more + reason)

    name = PurePath(path).stem if select is None else f"{PurePath(path).stem}#{select}"
    return Opened(
        path=path,
        select=select,
        kind="image" if image else "volume",
        format=format_name,
        name=name,
        shape=(channels - alpha, *spatial),
        dtype=plain_name,
        unit=display.get(dtype.name, "arbitrary"),
        load=load,
        affine=None if image else ASSUMED_AFFINE,
        warnings=remarks,
    )
