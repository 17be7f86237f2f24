"""What a DICOM file says about its pixels and their place, read without the pixels."""

import io
import math
import os
import struct
import warnings
import zlib
from dataclasses import dataclass

import pydicom
from pydicom import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from crossdim.errors import ReadError
from crossdim.readers.limits import (
    DEFLATE_EXPANSION,
    Limits,
    check_declared,
    check_stored,
    check_unpacked,
    file_bytes,
)
from crossdim.readers.slices import Slice

DICOM_ERRORS = (
    ArithmeticError,
    AttributeError,
    AssertionError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom and its codecs raise on damaged files."""

MARKS = (
    "EchoTime",
    "EchoNumbers",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "DiffusionBValue",
    "InversionTime",
    "FlipAngle",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ImageType",
)
"""Attributes that can tell slices at the same place from one another."""

_TAGS = (
    *MARKS,
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "DoseGridScaling",
    "FrameOfReferenceUID",
    "GridFrameOffsetVector",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImagerPixelSpacing",
    "InstanceNumber",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelSpacing",
    "PlanarConfiguration",
    "PresentationLUTShape",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Rows",
    "SOPClassUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SharedFunctionalGroupsSequence",
    "TotalPixelMatrixColumns",
)
_PIXEL_TAGS = (
    "AlphaPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "BluePaletteColorLookupTableDescriptor",
    "DoubleFloatPixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "GreenPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableDescriptor",
    "PaletteColorLookupTableUID",
    "PixelData",
    "RedPaletteColorLookupTableData",
    "RedPaletteColorLookupTableDescriptor",
    "SegmentedBluePaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
)
_PIXEL_GROUP = 0x7FE0
_FLOAT_ELEMENTS = {0x0008: 32, 0x0009: 64}
_BITS_ALLOCATED = (1, 8, 16, 32, 64)
_RLE_EXPANSION = 64
_ITEM_BYTES = 8
"""Of a compressed frame, before its first byte (PS3.5 A.4)."""

_DEFLATED_UID = str(DeflatedExplicitVRLittleEndian).encode()
_UNDEFINED_LENGTH = 0xFFFFFFFF


class NoPictureError(ReadError):
    """A DICOM file that is whole, and holds something else than a picture: a report, an index, a plan."""


class BoundedReader(io.BufferedReader):
    """A file that never allocates more than it holds, whatever length is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most what is left."""
        place = self.tell()
        left = max(self.seek(0, io.SEEK_END) - place, 0)
        self.seek(place)
        return super().read(left if size is None or size < 0 else min(size, left))


@dataclass(frozen=True)
class DicomHeader:
    """One file.

    Attributes:
        path: The file.
        rows: Height in pixels.
        columns: Width in pixels.
        frames: Number of frames.
        samples: Values of a pixel as stored.
        bits_stored: Bits of a value that mean something.
        signed: Whether values can be negative.
        float_bits: 32 or 64 for floating-point pixels, else 0.
        photometric: How values become colours.
        syntax: Transfer syntax.
        modality: ``CT``, ``MR``, ...; empty if not given.
        series_uid: Of the series; empty if not given.
        series_number: Of the series; empty if not given.
        description: Of the series; empty if not given.
        place: Where the (first) slice lies; None if the file does not tell.
        pixel_spacing: Millimetres between rows and columns; None if the file does not tell.
        dataset: The attributes.
        remarks: What is odd about the file.
    """

    path: str
    rows: int
    columns: int
    frames: int
    samples: int
    bits_stored: int
    signed: bool
    float_bits: int
    photometric: str
    syntax: UID
    modality: str
    series_uid: str
    series_number: str
    description: str
    place: Slice | None
    pixel_spacing: tuple[float, float] | None
    dataset: Dataset
    remarks: tuple[str, ...]


def read_dataset(path: str, *, pixels: bool) -> tuple[Dataset, tuple[int, int] | None]:
    """Return the attributes of a file, and where its pixels begin if they were not read: (element, bytes left).

    Args:
        path: The file.
        pixels: Whether to read the pixels and the tables that belong to them.

    Raises:
        ReadError: If the file is damaged.
    """
    tags: list[str] = [*_TAGS, *_PIXEL_TAGS] if pixels else list(_TAGS)
    try:
        with warnings.catch_warnings(), BoundedReader(io.FileIO(path)) as stream:
            warnings.simplefilter("ignore")  # pydicom warns of values that are read all the same
            dataset = pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=tags, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
            deflated = dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
            pixel_data = None if pixels or deflated else _pixel_data(dataset, stream)
    except DICOM_ERRORS as error:
        raise ReadError(path, f"is a damaged DICOM file ({one_line(error)})", "Copy or export it again") from error
    return dataset, pixel_data


def read_header(path: str, limits: Limits) -> DicomHeader:
    """Read what a file says, and check that its pixels can be in it.

    Args:
        path: The file.
        limits: What is allowed.

    Raises:
        NoPictureError: If it holds something else.
        ReadError: If it is damaged or too large.
    """
    stored = file_bytes(path, limits)
    _check_deflated(path, limits)
    dataset, pixel_data = read_dataset(path, pixels=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "Rows" not in dataset or "Columns" not in dataset:
                raise NoPictureError(path, f"holds no pixels ({_kind(dataset)})", "Name a file or series with pixels")
            header = _header(path, dataset, pixel_data)
            if (bits := int(dataset.get("BitsAllocated") or 16)) not in _BITS_ALLOCATED:
                raise ReadError(path, f"declares {bits} bits a value", "Export it again")
            if header.float_bits:
                values = header.rows * header.columns * header.frames * header.samples
                expected = values * header.float_bits // 8
            else:
                expected = get_expected_length(dataset)
            compressed, encapsulated = header.syntax.is_compressed, header.syntax.is_encapsulated
    except DICOM_ERRORS as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(path, f"has a damaged header ({one_line(error)})", "Export it again") from error
    if dataset.get("TotalPixelMatrixColumns"):
        raise ReadError(path, "is a whole-slide picture made of tiles", "Export a region of it as a picture")
    check_declared(path, (header.rows, header.columns, header.samples), limits)
    if header.syntax == DeflatedExplicitVRLittleEndian:
        check_stored(path, expected, stored, DEFLATE_EXPANSION)
    elif pixel_data is None:
        raise ReadError(path, "has a header and no pixels", "Export it again")
    elif encapsulated and header.frames * _ITEM_BYTES > pixel_data[1]:
        reason = f"declares {header.frames} frames, more than {pixel_data[1]} compressed bytes can hold"
        raise ReadError(path, reason, "Copy or export it again")
    elif header.syntax == RLELossless:
        check_stored(path, expected, pixel_data[1], _RLE_EXPANSION)
    elif not compressed:
        check_stored(path, expected, pixel_data[1])
    return header


def floats(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return an attribute's numbers, or None if it is absent or empty.

    Args:
        dataset: The attributes.
        keyword: Which one.
        count: How many numbers it must have.

    Raises:
        ValueError: If it has another number of them, or one is not finite.
    """
    value = dataset.get(keyword)
    if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
        return None
    numbers = tuple(float(number) for number in (value if hasattr(value, "__len__") else [value]))
    if len(numbers) != count:
        raise ValueError(f"{keyword} has {len(numbers)} numbers instead of {count}")
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{keyword} holds a number that is not finite")
    return numbers


def slice_at(
    name: str,
    size: tuple[int, int],
    position: tuple[float, ...] | None,
    orientation: tuple[float, ...] | None,
    spacing: tuple[float, ...] | None,
    marks: tuple[tuple[str, str], ...] = (),
) -> Slice | None:
    """Return where a slice lies, or None unless position, orientation and spacing are all known.

    Args:
        name: What a user knows it by.
        size: Pixels (height, width).
        position: ImagePositionPatient.
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing.
        marks: What else tells it from slices at the same place.
    """
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        return None
    x, y, z, *column = orientation
    return Slice(
        name=name,
        size=size,
        position=(position[0], position[1], position[2]),
        along_row=(x, y, z),
        along_column=(column[0], column[1], column[2]),
        spacing=(spacing[0], spacing[1]),
        marks=marks,
    )


def one_line(error: BaseException) -> str:
    """Return what a library's error says, on one line of bearable length.

    Args:
        error: The error.
    """
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:197]}..."


def _header(path: str, dataset: Dataset, pixel_data: tuple[int, int] | None) -> DicomHeader:
    bits_allocated = int(dataset.get("BitsAllocated") or 0)
    spacing = floats(dataset, "PixelSpacing", 2)
    size = int(dataset.Rows), int(dataset.Columns)
    place = slice_at(
        os.path.basename(path),
        size,
        floats(dataset, "ImagePositionPatient", 3),
        floats(dataset, "ImageOrientationPatient", 6),
        spacing,
        tuple((name, _text(dataset, name) or "none") for name in MARKS),
    )
    remarks: tuple[str, ...] = ()
    if spacing is None and (spacing := floats(dataset, "ImagerPixelSpacing", 2)) is not None:
        remarks += ("its spacing is the detector's, not the patient's",)
    return DicomHeader(
        path=path,
        rows=size[0],
        columns=size[1],
        frames=int(dataset.get("NumberOfFrames") or 1),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        bits_stored=int(dataset.get("BitsStored") or bits_allocated),
        signed=bool(dataset.get("PixelRepresentation")),
        float_bits=_FLOAT_ELEMENTS.get(pixel_data[0], 0) if pixel_data else 0,
        photometric=str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip(),
        syntax=UID(dataset.file_meta.TransferSyntaxUID),
        modality=_text(dataset, "Modality"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        series_number=_text(dataset, "SeriesNumber"),
        description=_text(dataset, "SeriesDescription"),
        place=place,
        pixel_spacing=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        dataset=dataset,
        remarks=remarks,
    )


def _kind(dataset: Dataset) -> str:
    sop_class = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    return getattr(sop_class, "name", "of no stated kind")


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    words = value if isinstance(value, MultiValue) else [] if value is None else [value]
    return "\\".join(" ".join(str(word).split()) for word in words)


def _guessed_syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax that a file without one was read with."""
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _pixel_data(dataset: Dataset, stream: BoundedReader) -> tuple[int, int] | None:
    """Return (element, bytes that are there) of the pixels that reading stopped at, or None if there are none."""
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    start = stream.read(8 if implicit else 12)
    if len(start) < (8 if implicit else 12) or struct.unpack(f"{order}H", start[:2])[0] != _PIXEL_GROUP:
        return None
    (element,) = struct.unpack(f"{order}H", start[2:4])
    (length,) = struct.unpack(f"{order}L", start[-4:])
    place = stream.tell()
    left = stream.seek(0, io.SEEK_END) - place
    return element, left if length == _UNDEFINED_LENGTH else min(left, length)


def _check_deflated(path: str, limits: Limits) -> None:
    """Unpack a file that is compressed as a whole, keeping nothing, and refuse one that unpacks to too much."""
    with open(path, "rb") as stream:
        start = stream.read(1024)
        if start[128:136] != b"DICM\2\0\0\0" or _DEFLATED_UID not in start:
            return
        stream.seek(144 + struct.unpack("<L", start[140:144])[0])
        inflate, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), 0
        try:
            while data := inflate.unconsumed_tail or stream.read(2**16):
                unpacked += len(inflate.decompress(data, 2**20))
                check_unpacked(path, unpacked, limits)
        except zlib.error as error:
            raise ReadError(path, f"is a damaged DICOM file ({error})", "Copy or export it again") from error
