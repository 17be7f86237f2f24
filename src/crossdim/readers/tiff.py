"""TIFF to images and, with several pages, to volumes."""

import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import PurePath

import imagecodecs
import numpy as np
import tifffile

from crossdim.errors import ReadError
from crossdim.geometry.affine import ASSUMED_AFFINE
from crossdim.readers.image import orient
from crossdim.readers.inspection import Opened
from crossdim.readers.intensity import NO_PLACE, drop_alpha, plain
from crossdim.readers.limits import DEFLATE_EXPANSION, Limits, check_declared, check_stored, file_bytes
from crossdim.readers.selector import choose_index
from crossdim.samples import Image, IntensityUnit, Origin, Volume

_DEPTH_AXES = "ZIQ"
_CHANNEL_AXES = "SC"
_EXPANSION: dict[int, int] = {
    tifffile.COMPRESSION.NONE: 1,
    tifffile.COMPRESSION.PACKBITS: 64,
    tifffile.COMPRESSION.LZW: 4096,
    tifffile.COMPRESSION.ADOBE_DEFLATE: DEFLATE_EXPANSION,
    tifffile.COMPRESSION.DEFLATE: DEFLATE_EXPANSION,
}
"""Bytes that a compressed one makes at most, where the method has such a bound."""

_READ_COLOURS = (
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.RGB,
    tifffile.PHOTOMETRIC.PALETTE,
    tifffile.PHOTOMETRIC.YCBCR,
)
_TIFF_ERRORS = (
    tifffile.TiffFileError,
    imagecodecs.DelayedImportError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What tifffile and its codecs raise on damaged files."""


class _Complaints(logging.Handler):
    """Turns what tifffile logs as an error, and reads past, into an error: such files lack slices."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def __enter__(self) -> None:
        logging.getLogger("tifffile").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tifffile").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Raise what would be printed."""
        raise tifffile.TiffFileError(record.getMessage())


@dataclass(frozen=True)
class _Layout:
    """How an array of the file becomes (channels, [depth,] height, width)."""

    order: tuple[int, ...]
    axes: int
    shape: tuple[int, ...]
    photometric: int
    bits: int
    turn: int
    alpha: bool
    colours: np.ndarray | None


def open_tiff(path: str, select: str | None, limits: Limits) -> Opened:
    """Read the header of a TIFF file.

    Pages of one size are the slices of a volume. Pages of several sizes are several pictures, of which one is chosen.

    Args:
        path: The file.
        select: Which of several pictures, from 0.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, too large, or of a kind that is not read.
    """
    stored = file_bytes(path, limits)
    try:
        with _Complaints(), tifffile.TiffFile(path) as file:
            pictures = file.series
            index = choose_index(path, select, len(pictures), "picture")
            picture = pictures[index]
            declared = tuple(int(size) for size in picture.shape)
            count = check_declared(path, declared, limits)
            dtype = np.dtype(picture.dtype)
            layout = _layout(path, picture)
            expansion = _EXPANSION.get(int(picture.keyframe.compression))
    except _TIFF_ERRORS as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(path, f"is a damaged TIFF file ({error})", "Copy or export it again") from error
    if expansion is not None:
        check_stored(path, -(-count * layout.bits // 8), stored, expansion)
    if dtype.kind not in "biuf":
        raise ReadError(path, f"holds values of type {dtype}, not plain numbers", "Export it as 8 or 16 bit")
    volume = len(layout.shape) == 4
    remarks = (NO_PLACE,) if volume else ()
    units: dict[int, IntensityUnit] = {8: "uint8", 1: "uint8", 16: "uint16"}
    unit = units.get(layout.bits, "arbitrary") if dtype.kind in "bu" and layout.colours is None else "arbitrary"
    unit = "uint8" if layout.colours is not None else unit

    def load() -> Image | Volume:
        values, more = _load(path, index, layout)
        values, wrong = plain(path, values)
        origin = Origin(path, select)
        if volume:
            return Volume(values, ASSUMED_AFFINE, unit, origin, warnings=remarks + more + wrong)
        return Image(values, unit, origin, warnings=remarks + more + wrong)

    several = len(pictures) > 1
    return Opened(
        path=path,
        select=select,
        kind="volume" if volume else "image",
        format="TIFF",
        name=PurePath(path).stem,
        shape=layout.shape,
        dtype="uint8" if layout.colours is not None or dtype.kind == "b" else dtype.newbyteorder("=").name,
        unit=unit,
        load=load,
        affine=ASSUMED_AFFINE if volume else None,
        warnings=remarks,
        choices=tuple(str(number) for number in range(len(pictures))) if several else (),
        needs_choice=f"holds {len(pictures)} pictures of different sizes" if several and select is None else "",
    )


def _layout(path: str, picture: tifffile.TiffPageSeries) -> _Layout:
    page = picture.keyframe
    axes = picture.axes
    sizes = dict(zip(axes, (int(size) for size in picture.shape), strict=True))
    if len(sizes) != len(axes) or "Y" not in sizes or "X" not in sizes:
        raise ReadError(path, f"has the axes {axes}, which are no picture", "Export it as a plain TIFF")
    if sizes.get("T", 1) > 1:
        reason = f"is a film of {sizes['T']} points in time"
        raise ReadError(path, reason, "Save one point in time, or save the slices as a z-stack")
    depth = [axis for axis in axes if axis in _DEPTH_AXES]
    channels = [axis for axis in axes if axis in _CHANNEL_AXES]
    unknown = [axis for axis in axes if axis not in {*"YXT", *_DEPTH_AXES, *_CHANNEL_AXES} and sizes[axis] > 1]
    if len(depth) > 1 or len(channels) > 1 or unknown:
        reason = f"has the axes {axes} of {' x '.join(map(str, sizes.values()))}, more than a volume has"
        raise ReadError(path, reason, "Export one volume of it as a plain TIFF")
    photometric = page.photometric
    if photometric not in _READ_COLOURS:
        name = getattr(photometric, "name", photometric)
        raise ReadError(path, f"has colours of the kind {name}, which are not read", "Export it as grey or RGB")
    samples = sizes[channels[0]] if channels else 1
    extra = {int(kind) for kind in page.extrasamples}
    rgb = photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
    alpha = (rgb and samples == 4) or (not rgb and samples == 2 and bool(extra & {1, 2}))
    colours = None
    if photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None and not channels:
        colours = (page.colormap >> 8).astype(np.uint8)
    kept = 3 if colours is not None else samples - alpha
    turn = page.tags.valueof(274, default=1)
    height, width = (sizes["X"], sizes["Y"]) if turn in (5, 6, 7, 8) else (sizes["Y"], sizes["X"])
    wanted = [*channels, *depth, "Y", "X"]
    order = tuple(axes.index(axis) for axis in wanted) + tuple(
        place for place, axis in enumerate(axes) if axis not in wanted
    )
    return _Layout(
        order=order,
        axes=len(wanted),
        shape=(kept, *(sizes[axis] for axis in depth), height, width),
        photometric=int(photometric),
        bits=int(page.bitspersample),
        turn=int(turn),
        alpha=alpha,
        colours=colours,
    )


def _load(path: str, index: int, layout: _Layout) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the intensities as (channels, [depth,] height, width)."""
    try:
        with _Complaints(), tifffile.TiffFile(path) as file:
            values = _arranged(file.series[index].asarray(), layout)
    except _TIFF_ERRORS as error:
        raise ReadError(path, f"is a damaged TIFF file ({error})", "Copy or export it again") from error
    return drop_alpha(values) if layout.alpha else (values, ())


def _arranged(values: np.ndarray, layout: _Layout) -> np.ndarray:
    values = values.transpose(layout.order)
    values = values.reshape(values.shape[: layout.axes])  # what is left are axes of length 1
    if layout.axes < len(layout.shape):
        values = values[None]
    if layout.colours is not None:
        values = np.ascontiguousarray(layout.colours[:, values[0]])
    elif values.dtype.kind == "b":
        values = values.astype(np.uint8) * np.uint8(255)
    if layout.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind in "bu":
        values = np.array(2 ** max(layout.bits, 8) - 1, values.dtype) - values
    return orient(values, layout.turn)
