"""One DICOM file to an image, or with several frames to a volume."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from crossdim.errors import ReadError
from crossdim.readers.dicom_header import DICOM_ERRORS, DicomHeader, floats, one_line, read_header, slice_at
from crossdim.readers.dicom_pixels import (
    Rescale,
    channels,
    check_colours,
    intensities,
    is_inverted,
    rescale_of,
    stored_pixels,
    unit_of,
    value_dtype,
)
from crossdim.readers.inspection import Opened
from crossdim.readers.intensity import plain
from crossdim.readers.limits import Limits, check_declared
from crossdim.readers.selector import choose_index
from crossdim.readers.slices import Slice, Stack, stack
from crossdim.samples import Image, Origin, Volume


def open_dicom(path: str, select: str | None, limits: Limits) -> Opened:
    """Read the header of a DICOM file.

    Frames that all tell their place become a volume. Frames that do not (a film) are images, of which one is chosen.

    Args:
        path: The file.
        select: Which frame, from 0.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, too large, or of a kind that is not read.
        GeometryError: If its frames do not make one volume.
    """
    header = read_header(path, limits)
    check_colours(header)
    index = choose_index(path, select, header.frames, "frame")
    try:
        slices = frame_slices(header) if header.frames > 1 and select is None else None
        rescales = frame_rescales(header)
    except DICOM_ERRORS as error:
        raise ReadError(path, f"has a damaged header ({one_line(error)})", "Export it again") from error
    if slices is not None:
        return _open_volume(header, rescales, stack(path, slices), limits)
    return _open_image(header, rescales[index], select, index)


def inverted_remark(header: DicomHeader) -> tuple[str, ...]:
    """Say that small values were bright, if they were.

    Args:
        header: Of the file.
    """
    return ("was stored with small values bright, and is inverted",) if is_inverted(header) else ()


def frame_rescales(header: DicomHeader) -> list[Rescale]:
    """Return the rescaling of every frame.

    Args:
        header: Of the file.
    """
    own = rescale_of(header.dataset)
    groups = _frame_groups(header)
    if not groups:
        return [own] * header.frames
    transforms = [_item(shared_and_own, "PixelValueTransformationSequence") for shared_and_own in groups]
    return [own if one is None else rescale_of(one) for one in transforms]


def frame_slices(header: DicomHeader) -> list[Slice] | None:
    """Return the place of every frame, or None if the file does not tell all of them.

    Args:
        header: Of the file.
    """
    size = header.rows, header.columns
    if header.place is not None and header.dataset.get("GridFrameOffsetVector") is not None:
        return _dose_slices(header, header.place)
    slices = []
    for number, group in enumerate(_frame_groups(header)):
        position, orientation = _item(group, "PlanePositionSequence"), _item(group, "PlaneOrientationSequence")
        measures = _item(group, "PixelMeasuresSequence")
        if position is None or orientation is None or measures is None:
            return None
        place = slice_at(
            f"frame {number}",
            size,
            floats(position, "ImagePositionPatient", 3),
            floats(orientation, "ImageOrientationPatient", 6),
            floats(measures, "PixelSpacing", 2),
        )
        if place is None:
            return None
        slices.append(place)
    return slices or None


def _dose_slices(header: DicomHeader, first: Slice) -> list[Slice]:
    """Return the places of frames that state their distances from the first one (RT dose, NM; PS3.3 C.8.8.3.2)."""
    offsets = floats(header.dataset, "GridFrameOffsetVector", header.frames) or ()
    normal = np.cross(first.along_row, first.along_column)
    start = np.array(first.position)
    # the first offset is 0, or the first frame's own coordinate
    places = [start + (offset - offsets[0]) * normal for offset in offsets]
    return [
        Slice(
            f"frame {number}",
            first.size,
            (float(place[0]), float(place[1]), float(place[2])),
            first.along_row,
            first.along_column,
            first.spacing,
        )
        for number, place in enumerate(places)
    ]


def _frame_groups(header: DicomHeader) -> list[tuple[Dataset, ...]]:
    """Return each frame's own and shared functional groups, or nothing if the file has none."""
    own = header.dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = tuple(header.dataset.get("SharedFunctionalGroupsSequence") or ())[:1]
    if len(own) != header.frames:
        return []
    return [(group, *shared) for group in own]


def _item(groups: Sequence[Dataset], keyword: str) -> Dataset | None:
    for group in groups:
        if sequence := group.get(keyword):
            return sequence[0]
    return None


def _open_image(header: DicomHeader, rescale: Rescale, select: str | None, index: int) -> Opened:
    unit, odd = unit_of(header, rescale)
    remarks = header.remarks + odd + inverted_remark(header)
    dtype = value_dtype(header, rescale)
    several = header.frames > 1

    def load() -> Image:
        stored, dataset = stored_pixels(header, index if several else None)
        pixels, wrong = plain(header.path, intensities(stored[0], header, dataset, rescale, dtype))
        return Image(
            np.ascontiguousarray(pixels),
            unit,
            Origin(header.path, select, modality=header.modality or None),
            header.pixel_spacing,
            remarks + wrong,
        )

    return Opened(
        path=header.path,
        select=select,
        kind="image",
        format="DICOM",
        name=channel_name(header),
        shape=(channels(header), header.rows, header.columns),
        dtype=dtype.name,
        unit=unit,
        load=load,
        pixel_spacing_mm=header.pixel_spacing,
        warnings=remarks,
        choices=tuple(str(number) for number in range(header.frames)) if several else (),
        needs_choice=f"holds {header.frames} frames that tell no place in the patient"
        if several and select is None
        else "",
    )


def _open_volume(header: DicomHeader, rescales: Sequence[Rescale], made: Stack, limits: Limits) -> Opened:
    check_declared(header.path, (channels(header), header.frames, header.rows, header.columns), limits)
    unit, odd = unit_of(header, rescales[0])
    remarks = header.remarks + odd + inverted_remark(header)
    dtype = np.result_type(*(value_dtype(header, rescale) for rescale in set(rescales)))

    def load() -> Volume:
        stored, dataset = stored_pixels(header)
        frames = [intensities(stored[at], header, dataset, rescales[at], dtype) for at in made.order]
        voxels, wrong = plain(header.path, np.stack(frames, axis=1))
        origin = Origin(header.path, modality=header.modality or None)
        return Volume(voxels, made.affine, unit, origin, warnings=remarks + wrong)

    return Opened(
        path=header.path,
        select=None,
        kind="volume",
        format="DICOM (multi-frame)",
        name=channel_name(header),
        shape=(channels(header), header.frames, header.rows, header.columns),
        dtype=dtype.name,
        unit=unit,
        load=load,
        affine=made.affine,
        warnings=remarks,
    )


def channel_name(header: DicomHeader) -> str:
    """Return what a file's series is called.

    Args:
        header: Of the file.
    """
    return header.description or os.path.splitext(os.path.basename(header.path))[0]


def read_slice(header: DicomHeader, dtype: np.dtype) -> NDArray[np.generic]:
    """Return the intensities of a file with one frame as ``(channels, height, width)``.

    Args:
        header: Of the file.
        dtype: Type of the result for grey pixels.

    Raises:
        ReadError: If they are damaged, or compressed in a way that is not read.
    """
    stored, dataset = stored_pixels(header)
    return intensities(stored[0], header, dataset, rescale_of(header.dataset), dtype)
