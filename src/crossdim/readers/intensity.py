"""What all readers do with intensities: plain native numbers, faults named, Hounsfield units recognised."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossdim.errors import ReadError
from crossdim.readers.inspection import finite_range
from crossdim.samples import IntensityUnit

NO_PLACE = "tells no spacing and no orientation: 1 mm and axial slices from the feet up are assumed"
"""Said of volumes that get ``ASSUMED_AFFINE``."""

_HU_LOWEST, _HU_AIR, _HU_BONE = -8192, -900, 300


def plain(path: str, values: NDArray[np.generic]) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Return values in the machine's byte order and a type that tensors know, and what is wrong with them.

    Args:
        path: The file, for the error.
        values: Numbers or truth values.

    Raises:
        ReadError: If no value is finite.
    """
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    elif values.dtype.kind == "f" and values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    elif not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind != "f":
        return values, ()
    wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
    if wrong == values.size:
        raise ReadError(path, "holds no finite value, only NaN or infinity", "Export it again")
    share = f"{wrong} of {values.size} values are NaN or infinite"
    return values, (share,) if wrong else ()


def inferred_unit(values: NDArray[np.generic]) -> tuple[IntensityUnit, tuple[str, ...]]:
    """Return the unit of a volume whose header names none, and how it was found.

    Whole numbers that reach from air (-900 or less) to bone (300 or more) are taken for Hounsfield units.

    Args:
        values: The volume's values.
    """
    if values.dtype == np.uint8:
        return "uint8", ()
    low, high = finite_range(values)
    if not (_HU_LOWEST <= low <= _HU_AIR and high >= _HU_BONE):
        return "arbitrary", ()
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        if not np.array_equal(finite, np.rint(finite)):
            return "arbitrary", ()
    return "HU", (f"taken for Hounsfield units, because whole numbers reach from {low:g} to {high:g}",)


def drop_alpha(pixels: NDArray[Any]) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Return the colours without the last channel, and a word about what was dropped.

    Args:
        pixels: (channels, ...), alpha last; an opaque pixel has the largest whole number, or 1.
    """
    alpha = pixels[-1]
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    if (alpha == opaque).all():
        return pixels[:-1], ("its alpha channel (opaque everywhere) is left out",)
    share = f"{float((alpha < opaque).mean()):.2%}"
    return pixels[:-1], (f"its alpha channel is left out, although {share} of the pixels are not opaque",)
