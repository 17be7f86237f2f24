"""Stored DICOM pixels to intensities that mean something.

The order is the standard's (PS3.4 N.2): decompression, modality transform (rescale or table), and for pictures the
presentation: MONOCHROME1 is inverted and palettes become colours, so that a larger value is always brighter.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pydicom.pixels
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut

from crossdim.errors import ReadError
from crossdim.readers.dicom_codecs import plugin_for
from crossdim.readers.dicom_header import DICOM_ERRORS, DicomHeader, one_line, read_dataset
from crossdim.samples import IntensityUnit

MEASURED = frozenset({"CT", "MR", "PT", "NM", "RTDOSE", "SEG"})
"""Modalities whose intensities are measured, not meant for display."""

_QUANTITATIVE = frozenset({"CT", "PT", "RTDOSE"})
"""Modalities whose numbers must not be inverted for display."""

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREYS = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Rescale:
    """``value = slope * stored + intercept``; ``kind`` is RescaleType."""

    slope: float = 1.0
    intercept: float = 0.0
    kind: str = ""
    stated: bool = False


def rescale_of(dataset: Dataset) -> Rescale:
    """Return the rescaling that a file, or a frame's PixelValueTransformation, states.

    Args:
        dataset: The attributes.
    """
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    dose = dataset.get("DoseGridScaling")
    if slope is None and intercept is None:
        return Rescale(float(dose), 0.0, "", True) if dose else Rescale()
    kind = str(dataset.get("RescaleType") or "").strip().upper()
    return Rescale(1.0 if slope is None else float(slope), float(intercept or 0.0), kind, True)


def check_colours(header: DicomHeader) -> None:
    """Refuse pixels that cannot become grey or RGB.

    Args:
        header: Of the file.

    Raises:
        ReadError: If they cannot.
    """
    known = _COLOURS if header.samples == 3 else (*_GREYS, "PALETTE COLOR")
    if header.photometric not in known or header.samples not in (1, 3):
        reason = f"has {header.samples} samples a pixel of the kind {header.photometric}, which are not read"
        raise ReadError(header.path, reason, "Export it as grey or RGB")


def channels(header: DicomHeader) -> int:
    """Return the number of channels that a file's pixels become.

    Args:
        header: Of the file.
    """
    return 3 if header.samples == 3 or header.photometric == "PALETTE COLOR" else 1


def unit_of(header: DicomHeader, rescale: Rescale) -> tuple[IntensityUnit, tuple[str, ...]]:
    """Return what the intensities mean, and what is odd about it.

    Args:
        header: Of the file.
        rescale: Of the file or its first frame.
    """
    if header.photometric == "PALETTE COLOR":
        return "uint8", ()
    depths: dict[int, IntensityUnit] = {8: "uint8", 16: "uint16"}
    if header.samples == 3:
        return depths.get(header.bits_stored, "arbitrary"), ()
    if rescale.stated and (rescale.kind == "HU" or (header.modality == "CT" and not rescale.kind)):
        return "HU", ()
    if header.modality == "CT":
        reason = f"rescales to '{rescale.kind}'" if rescale.kind else "states no rescaling"
        return "arbitrary", (f"is CT and {reason}: its values are not taken for Hounsfield units",)
    untouched = (rescale.slope, rescale.intercept) == (1.0, 0.0) and "ModalityLUTSequence" not in header.dataset
    if header.bits_stored == 8 and not header.signed and untouched and header.modality not in MEASURED:
        return "uint8", ()
    return "arbitrary", ()


def value_dtype(header: DicomHeader, rescale: Rescale) -> np.dtype:
    """Return the smallest type that holds a file's intensities exactly.

    Args:
        header: Of the file.
        rescale: Of the file or of one frame.
    """
    allocated = int(header.dataset.get("BitsAllocated") or 16)
    stored = np.dtype(f"{'i' if header.signed else 'u'}{max(allocated, 8) // 8}")
    if header.float_bits:
        return np.dtype(f"f{header.float_bits // 8}")
    if header.photometric == "PALETTE COLOR":
        return np.dtype(np.uint8)
    if "ModalityLUTSequence" in header.dataset:
        return np.dtype(np.uint16)
    if header.samples == 3:
        return stored
    if (rescale.slope, rescale.intercept) == (1.0, 0.0):
        return stored
    if rescale.slope.is_integer() and rescale.intercept.is_integer():
        ends = [end * rescale.slope + rescale.intercept for end in stored_range(header)]
        for kind in (np.int16, np.int32):
            if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
                return np.dtype(kind)
    return np.dtype(np.float64 if allocated > 16 else np.float32)


def stored_range(header: DicomHeader) -> tuple[int, int]:
    """Return the smallest and the largest value that the stored bits can hold.

    Args:
        header: Of the file.
    """
    half = 2 ** (header.bits_stored - 1) if header.bits_stored else 0
    return (-half, half - 1) if header.signed else (0, 2 * half - 1)


def is_inverted(header: DicomHeader) -> bool:
    """Tell whether small values are bright, and are to be turned round.

    Args:
        header: Of the file.
    """
    inverse = header.dataset.get("PresentationLUTShape") == "INVERSE" or header.photometric == "MONOCHROME1"
    return inverse and header.samples == 1 and header.modality not in _QUANTITATIVE and not header.float_bits


def stored_pixels(header: DicomHeader, frame: int | None = None) -> tuple[NDArray[np.generic], Dataset]:
    """Return decompressed pixels ``(frames, height, width, samples)`` and the attributes with all tables.

    Args:
        header: Of the file.
        frame: The only frame wanted; None for all.

    Raises:
        ReadError: If they are damaged, or compressed in a way that is not read.
    """
    try:
        plugin = plugin_for(header.syntax, header.bits_stored)
    except NotImplementedError as error:
        reason = f"is compressed in a way that is not read ({header.syntax.name})"
        raise ReadError(header.path, reason, "Have it exported uncompressed") from error
    dataset, _ = read_dataset(header.path, pixels=True)
    count = 1 if frame is not None else header.frames
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of padding and the like
            values = pydicom.pixels.pixel_array(dataset, index=frame, decoding_plugin=plugin)
        values = values.reshape(count, header.rows, header.columns, header.samples)
    except DICOM_ERRORS as error:
        reason = f"has damaged pixels ({one_line(error)})"
        raise ReadError(header.path, reason, "Copy or export it again") from error
    return values, dataset


def intensities(
    stored: NDArray[np.generic], header: DicomHeader, dataset: Dataset, rescale: Rescale, dtype: np.dtype
) -> NDArray[np.generic]:
    """Return one frame's intensities ``(channels, height, width)``.

    Args:
        stored: ``(height, width, samples)``.
        header: Of the file.
        dataset: The file's attributes with all tables.
        rescale: Of the file or of the frame.
        dtype: Type of the result for grey pixels.

    Raises:
        ReadError: If a table is damaged.
    """
    if header.samples == 3:
        return np.moveaxis(stored, -1, 0)
    grey = stored[..., 0]
    try:
        if header.photometric == "PALETTE COLOR":
            return _eight_bits(np.moveaxis(apply_color_lut(grey, dataset)[..., :3], -1, 0))
        if "ModalityLUTSequence" in dataset:
            table = dataset.ModalityLUTSequence[0]
            top = float(2 ** int(table.LUTDescriptor[2]) - 1)
            values = apply_modality_lut(grey, dataset)
            return (top - values if is_inverted(header) else values).astype(dtype)[None]
    except DICOM_ERRORS as error:
        raise ReadError(header.path, f"has a damaged table ({one_line(error)})", "Export it again") from error
    low, high = stored_range(header)
    if is_inverted(header):
        grey = low + high - grey.astype(np.int64)
    if (rescale.slope, rescale.intercept) != (1.0, 0.0):
        grey = grey.astype(np.float64) * rescale.slope + rescale.intercept
    return grey.astype(dtype)[None]


def _eight_bits(colours: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return a palette's colours as 8 bit; those of 16 bit have them on top, or below as older files do."""
    wide = colours.astype(np.uint16)
    return (wide >> 8 if wide.max(initial=0) > 255 else wide).astype(np.uint8)
