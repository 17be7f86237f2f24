"""A folder of DICOM files to volumes: one for each series, its slices ordered by their place."""

import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from crossdim.errors import GeometryError, ReadError, nearest
from crossdim.readers.dicom import channel_name, inverted_remark, open_dicom, read_slice
from crossdim.readers.dicom_header import MARKS, DicomHeader, NoPictureError, read_header
from crossdim.readers.dicom_pixels import channels, check_colours, rescale_of, unit_of, value_dtype
from crossdim.readers.inspection import Opened
from crossdim.readers.intensity import plain
from crossdim.readers.limits import Limits, check_declared
from crossdim.readers.slices import Slice, stack
from crossdim.samples import Origin, Volume


def open_series(folder: str, files: Sequence[str], select: str | None, limits: Limits) -> Opened:
    """Read the headers of a folder of DICOM files, and order the slices of one series.

    Args:
        folder: The folder.
        files: Its DICOM files.
        select: SeriesInstanceUID or series number, and after a slash which part of it, as in ``11/EchoTime=30``;
            needed if there are several series or parts.
        limits: What is allowed.

    Raises:
        ReadError: If files are damaged, no series or several ones can be meant, or slices do not tell their place.
        GeometryError: If the slices do not make one volume.
    """
    series = group_by_series(files, limits)
    if not series:
        raise ReadError(folder, "holds no DICOM file with a picture", "Name a folder that holds a series")
    wanted, _, part = (select or "").partition("/")
    uid = _choose(folder, wanted or None, series)
    headers = _choose_part(folder, uid, part, parts_of(series[uid]))
    if len(headers) == 1:
        return open_dicom(headers[0].path, None, limits)
    return _open_stack(folder, select, headers, limits)


def group_by_series(files: Sequence[str], limits: Limits) -> dict[str, list[DicomHeader]]:
    """Return the headers of the files with pictures, by SeriesInstanceUID; reports, indices and the like are left out.

    Args:
        files: DICOM files.
        limits: What is allowed.

    Raises:
        ReadError: If a file is damaged.
    """
    series = defaultdict(list)
    for path in files:
        try:
            header = read_header(path, limits)
        except NoPictureError:
            continue
        series[header.series_uid].append(header)
    return dict(series)


def makes_a_volume(headers: Sequence[DicomHeader]) -> bool:
    """Tell whether the files of a series are slices, rather than pictures of their own.

    Args:
        headers: Of the files.
    """
    return len(headers) > 1 and all(header.place is not None and header.frames == 1 for header in headers)


def parts_of(headers: Sequence[DicomHeader]) -> dict[str, list[DicomHeader]]:
    """Separate the volumes that scanners put into one series: planes of a localizer, echoes, time points, ...

    Args:
        headers: Of the files of one series.

    Returns:
        The files of each volume by what tells it from the others, such as ``EchoTime=30``; all of them by an empty
        name if there is one volume, or nothing that separates them.
    """
    whole = {"": list(headers)}
    places = [header.place for header in headers if header.place is not None]
    if len(places) != len(headers) or not makes_a_volume(headers):
        return whole
    by_plane = _grouped(headers, [f"plane={_plane(place)}" for place in places])
    if len(by_plane) > 1 and min(map(len, by_plane.values())) > 1:
        return by_plane
    if not _overlap(places):
        return whole
    for index, mark in enumerate(MARKS):
        groups = _grouped(headers, [f"{mark}={place.marks[index][1]}" for place in places])
        if len(groups) > 1 and all(_is_simple(group) for group in groups.values()):
            return groups
    return whole


def _grouped(headers: Sequence[DicomHeader], names: Sequence[str]) -> dict[str, list[DicomHeader]]:
    groups = defaultdict(list)
    for header, name in zip(headers, names, strict=True):
        groups[name].append(header)
    return dict(groups)


def _plane(place: Slice) -> str:
    normal = np.abs(np.cross(place.along_row, place.along_column))
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def _overlap(places: Sequence[Slice]) -> bool:
    return len({tuple(np.round(place.position, 2).tolist()) for place in places}) < len(places)


def _is_simple(headers: Sequence[DicomHeader]) -> bool:
    return len(headers) > 1 and not _overlap([header.place for header in headers if header.place is not None])


def _choose_part(folder: str, uid: str, part: str, parts: dict[str, list[DicomHeader]]) -> list[DicomHeader]:
    if part in parts:
        return parts[part]
    subject = f"{folder}#{uid}"
    if "" in parts:
        raise ReadError(f"{subject}/{part}", "the series holds one volume only", "Leave out what follows the '/'")
    if part:
        raise ReadError(f"{subject}/{part}", "is no part of the series", nearest(part, parts))
    reason = f"the series holds {len(parts)} volumes: {', '.join(parts)}"
    raise ReadError(subject, reason, f"Choose one, such as '{subject}/{next(iter(parts))}'")


def _choose(folder: str, select: str | None, series: dict[str, list[DicomHeader]]) -> str:
    listing = "; ".join(
        f"'#{uid}' ({', '.join(filter(None, _words(headers)))})" for uid, headers in sorted(series.items())
    )
    if select is None:
        if len(series) == 1:
            return next(iter(series))
        raise ReadError(
            folder, f"holds {len(series)} series: {listing}", f"Choose one, such as '{folder}#{min(series)}'"
        )
    if select in series:
        return select
    numbered = [uid for uid, headers in series.items() if headers[0].series_number == select]
    if len(numbered) == 1:
        return numbered[0]
    reason = "is the number of several series" if numbered else "is no series of the folder"
    raise ReadError(f"{folder}#{select}", f"{reason}, which holds {listing}", "Use one of these")


def _words(headers: Sequence[DicomHeader]) -> tuple[str, ...]:
    first = headers[0]
    number = f"number {first.series_number}" if first.series_number else ""
    return number, first.modality, first.description, f"{len(headers)} file{'s' if len(headers) > 1 else ''}"


def _open_stack(folder: str, select: str | None, headers: Sequence[DicomHeader], limits: Limits) -> Opened:
    slices = [header.place for header in headers if header.place is not None]
    if not makes_a_volume(headers) or len(slices) != len(headers):
        odd = next(header for header in headers if header.place is None or header.frames > 1)
        why = "holds several frames" if odd.frames > 1 else "does not tell its place in the patient"
        reason = f"its {len(headers)} files cannot be ordered: '{os.path.basename(odd.path)}' {why}"
        raise ReadError(folder, reason, "Name one of the files")
    for header in headers:
        check_colours(header)
    made = stack(folder, slices)
    first = headers[made.order[0]]
    _check_alike(folder, headers)
    shape = channels(first), len(headers), first.rows, first.columns
    check_declared(folder, shape, limits)
    unit, odd_unit = unit_of(first, rescale_of(first.dataset))
    remarks = first.remarks + odd_unit + inverted_remark(first)
    dtype = np.result_type(*(value_dtype(header, rescale_of(header.dataset)) for header in headers))
    names = tuple(os.path.basename(headers[at].path) for at in made.order)

    def load() -> Volume:
        voxels = np.stack([read_slice(headers[at], dtype) for at in made.order], axis=1)
        voxels, wrong = plain(folder, voxels)
        origin = Origin(folder, select, names, first.modality or None)
        return Volume(voxels, made.affine, unit, origin, warnings=remarks + wrong)

    return Opened(
        path=folder,
        select=select,
        kind="volume",
        format="DICOM series",
        name=channel_name(first),
        shape=shape,
        dtype=dtype.name,
        unit=unit,
        load=load,
        affine=made.affine,
        warnings=remarks,
    )


def _check_alike(folder: str, headers: Sequence[DicomHeader]) -> None:
    """Refuse slices whose values mean different things, although they lie in line."""
    meanings: dict[str, list[object]] = {
        "kinds of pixels": [(header.photometric, str(channels(header))) for header in headers],
        "units": [unit_of(header, rescale_of(header.dataset))[0] for header in headers],
        "frames of reference": [str(header.dataset.get("FrameOfReferenceUID", "")) for header in headers],
    }
    for what, values in meanings.items():
        odd = next((at for at, value in enumerate(values) if value != values[0]), None)
        if odd is not None:
            names = [os.path.basename(headers[at].path) for at in (0, odd)]
            reason = f"its slices have different {what}: {values[0]} in '{names[0]}', {values[odd]} in '{names[1]}'"
            raise GeometryError(folder, reason, "Move slices of different kinds into folders of their own")
