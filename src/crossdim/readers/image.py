"""PNG, JPEG and BMP to images."""

import os
import struct
import warnings
from pathlib import PurePath

import numpy as np
from jaxtyping import Shaped
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from crossdim.errors import ReadError
from crossdim.readers.inspection import Opened
from crossdim.readers.intensity import drop_alpha
from crossdim.readers.limits import DEFLATE_EXPANSION, Limits, check_declared, check_stored, file_bytes
from crossdim.samples import Image, IntensityUnit, Origin

FORMATS = {"PNG": "PNG", "JPEG": "JPEG", "MPO": "JPEG", "BMP": "BMP", "DIB": "BMP"}
"""Pillow's names and ours (MPO is a JPEG of several pictures)."""

_OPENED = ("PNG", "JPEG", "BMP", "DIB")

_JPEG_EXPANSION = 2048
"""A JPEG has at least one bit for each block of 64 samples; progressive ones may share it among scans."""

_EXPANSION = {"PNG": DEFLATE_EXPANSION, "JPEG": _JPEG_EXPANSION, "BMP": _JPEG_EXPANSION}

_GREY_MODES = ("1", "L", "LA")
_ORIENTATION_TAG = 274
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error)


def open_image(path: str, limits: Limits) -> Opened:
    """Read the header of a PNG, JPEG or BMP file.

    Args:
        path: The file.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged or too large.
    """
    stored = file_bytes(path, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(path, formats=_OPENED) as picture:
                width, height = picture.size
                mode, name = picture.mode, FORMATS[picture.format or "PNG"]
                noted = picture.getexif() if "exif" in picture.info else {}  # else Pillow unpacks a whole PNG for it
                turn = int(noted.get(_ORIENTATION_TAG, 1))
                frames = getattr(picture, "n_frames", 1)
    except PillowImage.DecompressionBombError as error:
        raise ReadError(path, f"is larger than Pillow reads ({error})", "Scale it down, or save it as TIFF") from error
    except UnidentifiedImageError as error:
        raise ReadError(
            path, "is damaged, or a kind of picture that is not read", "Export it as 8 or 16 bit PNG"
        ) from error
    except _PILLOW_ERRORS as error:
        raise ReadError(path, f"is damaged ({error})", "Copy or export it again") from error
    png_depth, png_samples = _png_layout(path) if name == "PNG" else (0, 0)
    deep = png_depth == 16
    channels = 1 if mode in _GREY_MODES or mode.startswith("I") else 3
    check_declared(path, (channels, height, width), limits)
    row_bits = width * (png_depth * png_samples or 8 * channels)
    check_stored(path, height * -(-row_bits // 8), stored, _EXPANSION[name])
    remarks: tuple[str, ...] = ()
    if frames > 1:
        remarks += (f"holds {frames} pictures, of which the first is read",)
    if mode not in (*_GREY_MODES, "P", "PA", "RGB", "RGBA") and not deep:
        remarks += (f"its colours are converted from {mode} to RGB",)
    unit: IntensityUnit = "uint16" if deep else "uint8"

    def load() -> Image:
        pixels, more = _deep_pixels(path) if deep else _pixels(path)
        return Image(orient(pixels, turn), unit, Origin(path), warnings=remarks + more)

    return Opened(
        path=path,
        select=None,
        kind="image",
        format=name,
        name=PurePath(path).stem,
        shape=(channels, width, height) if turn in (5, 6, 7, 8) else (channels, height, width),
        dtype=unit,
        unit=unit,
        load=load,
        warnings=remarks,
    )


def orient(
    pixels: Shaped[np.ndarray, "*leading height width"], tag: int
) -> Shaped[np.ndarray, "*leading newheight newwidth"]:
    """Turn a picture upright as the camera noted (EXIF 2.3, tag 274 "Orientation").

    Args:
        pixels: As stored.
        tag: 1 to 8; anything else counts as 1, upright.
    """
    turned = {
        2: lambda: pixels[..., ::-1],
        3: lambda: pixels[..., ::-1, ::-1],
        4: lambda: pixels[..., ::-1, :],
        5: lambda: pixels.swapaxes(-1, -2),
        6: lambda: np.rot90(pixels, -1, axes=(-2, -1)),
        7: lambda: pixels[..., ::-1, ::-1].swapaxes(-1, -2),
        8: lambda: np.rot90(pixels, 1, axes=(-2, -1)),
    }
    return np.ascontiguousarray(turned.get(tag, lambda: pixels)())


def _png_layout(path: str) -> tuple[int, int]:
    """Return bits a sample and samples a pixel, by colour type (PNG specification, 11.2.1)."""
    with open(path, "rb") as stream:
        depth, colour_type = stream.read(26)[24:]
    return depth, {2: 3, 4: 2, 6: 4}.get(colour_type, 1)


def _pixels(path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return 8 bit pixels (channels, height, width)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(path, formats=_OPENED) as picture:
                if picture.mode == "PA" or (picture.mode == "P" and "transparency" in picture.info):
                    mode = "RGBA"
                elif picture.mode in ("L", "LA", "RGB", "RGBA"):
                    mode = picture.mode
                else:
                    mode = "L" if picture.mode == "1" else "RGB"
                values = np.array(picture.convert(mode))
    except _PILLOW_ERRORS as error:
        raise ReadError(path, f"is damaged ({error})", "Copy or export it again") from error
    pixels = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    return drop_alpha(pixels) if mode in ("LA", "RGBA") else (pixels, ())


def _deep_pixels(path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return 16 bit pixels of a PNG, which Pillow would reduce to 8 bit if they are coloured."""
    import imagecodecs

    with open(path, "rb") as stream:
        data = stream.read(os.path.getsize(path))
    try:
        values = imagecodecs.png_decode(data)
    except (imagecodecs.PngError, ValueError) as error:
        raise ReadError(path, f"is damaged ({error})", "Copy or export it again") from error
    pixels = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    return drop_alpha(pixels) if len(pixels) in (2, 4) else (pixels, ())
