"""Files to images, volumes, points and scenes.

``read`` takes a path, of a file, a folder with a DICOM series or a scene's folder, and finds the format by its content.
What stands behind a ``#`` selects one of several things: ``bold.nii.gz#3`` (a volume of a 4D file), ``folder#11`` (a
DICOM series by number or SeriesInstanceUID), ``film.dcm#0`` (a frame), ``a.npz#name`` and ``a.npz#name/12`` (an array,
a row of it), ``retinamnist.npz#train/12`` (a MedMNIST sample), ``scan.tif#1`` (a picture), ``frames#0001`` (a frame of
a folder of frames), ``scan.bin#6`` (points of six numbers), ``cloud.npy#points`` (a table that is to be points).

What is wrong with a file is a ``ReadError`` or ``GeometryError`` with its name, the reason and the remedy; what a user
should know and can live with is in the ``warnings`` of what is returned.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crossdim.errors import GeometryError, ReadError
from crossdim.geometry.affine import farthest_corner_mm, spacing_mm
from crossdim.readers.folder import dicom_files, find_readable
from crossdim.readers.formats import ALWAYS_POINTS, detect, is_readable
from crossdim.readers.grids import open_grid
from crossdim.readers.inspection import Inspection, Opened
from crossdim.readers.limits import Limits, check_declared
from crossdim.readers.selector import split_selector
from crossdim.samples import Image, IntensityUnit, Origin, PointCloud, Scene, Volume

if TYPE_CHECKING:
    from crossdim.readers.pointcloud import OpenedPoints
    from crossdim.readers.scene_folder import OpenedScene

__all__ = ["Inspection", "Limits", "find_readable", "inspect", "is_readable", "read", "read_channels"]

Path = str | os.PathLike[str]

_APART = 0.1
"""Share of a voxel that co-registered volumes may be apart."""


def read(path: Path, *, limits: Limits | None = None) -> Image | Volume | PointCloud | Scene:
    """Read an image, a volume, points or a scene.

    Args:
        path: A file, a folder with a DICOM series, or a scene's folder; may end in ``#selector``.
        limits: The largest files that are read.

    Raises:
        ReadError: If it is absent, damaged, too large, not what it says it is, or holds several and none is chosen.
        GeometryError: If its slices or orientation contradict themselves.
    """
    return _open(path, limits or Limits()).read()


def inspect(path: Path, *, limits: Limits | None = None, intensity: bool = True) -> Inspection:
    """Say what a file is.

    A file with several images or volumes that are alike is described by the first one, if none is chosen.

    Args:
        path: As for ``read``.
        limits: The largest files that are read.
        intensity: Whether to read the intensities too. Without, the unit is what the header says, and only problems
            that the header shows are found; a folder of a thousand files then takes seconds.

    Raises:
        ReadError: As ``read`` does.
        GeometryError: As ``read`` does.
    """
    opened = _open(path, limits or Limits())
    if isinstance(opened, Opened):
        return opened.inspect(intensity=intensity)
    from crossdim.readers.scene_inspection import inspect_points, inspect_scene

    if opened.kind == "points":
        return inspect_points(opened, intensity=intensity)
    return inspect_scene(opened, intensity=intensity)


def read_channels(paths: Sequence[Path], *, limits: Limits | None = None) -> Image | Volume:
    """Read co-registered files as the channels of one image or volume, in this order.

    Channels are named by the series' descriptions, or by the files. One path is read as ``read`` does.

    Args:
        paths: As for ``read``; grey, alike in size, and volumes within a tenth of a voxel at the same place.
        limits: The largest files that are read.

    Raises:
        ReadError: As ``read`` does, or if they are not alike in kind, size or number of channels.
        GeometryError: If volumes do not lie at the same place.
    """
    if not paths:
        raise ReadError("read_channels", "got no files", "Give at least one path")
    allowed = limits or Limits()
    opened = [_grid(_open(path, allowed)) for path in paths]
    if len(opened) == 1:
        return opened[0].read()
    _check_together(opened)
    channels, *size = opened[0].shape
    check_declared(opened[0].path, (channels * len(opened), *size), allowed)
    nouns = [one.read() for one in opened]
    units: set[IntensityUnit] = {noun.unit for noun in nouns}
    warnings = tuple(
        dict.fromkeys(f"{one.name}: {word}" for one, n in zip(opened, nouns, strict=True) for word in n.warnings)
    )
    if len(units) > 1:
        warnings += (f"its channels have different units ({', '.join(sorted(units))})",)
    unit = units.pop() if len(units) == 1 else "arbitrary"
    values = np.concatenate([noun.pixels if isinstance(noun, Image) else noun.voxels for noun in nouns])
    origin = _joint_origin([noun.origin for noun in nouns])
    first = nouns[0]
    if isinstance(first, Image):
        return Image(values, unit, origin, first.spacing_mm, warnings)
    return Volume(values, first.affine, unit, origin, _unique([one.name for one in opened]), warnings)


def _open(path: Path, limits: Limits) -> "Opened | OpenedPoints | OpenedScene":
    """Read the header of what a path names; formats are imported when they are met."""
    source, select = split_selector(os.fspath(path))
    if os.path.isdir(source):
        return _open_folder(source, select, limits)
    format_ = detect(source, limits)
    if format_ in ALWAYS_POINTS or (format_ in ("npy", "npz") and _array_of_points(source, select, limits)):
        from crossdim.readers.pointcloud import open_points

        return open_points(source, select, format_, limits)
    return open_grid(source, select, format_, limits)


def _array_of_points(source: str, select: str | None, limits: Limits) -> bool:
    from crossdim.readers.point_arrays import holds_points

    return holds_points(source, select, limits)


def _grid(opened: "Opened | OpenedPoints | OpenedScene") -> Opened:
    if isinstance(opened, Opened):
        return opened
    what = "points" if opened.kind == "points" else "a scene"
    raise ReadError(opened.path, f"holds {what}, not pixels or voxels", "Give an image or a volume")


def _open_folder(folder: str, select: str | None, limits: Limits) -> "Opened | OpenedScene":
    from crossdim.readers.scene_folder import open_scene, scene_layout

    if scene_layout(folder):
        return open_scene(folder, select, limits)
    from crossdim.readers.dicom_series import open_series

    files = dicom_files(folder)
    if not files and os.path.isfile(os.path.join(folder, "camera.json")):
        reason = "holds camera.json, and neither image.*, depth.* nor points.* beside it, nor frames below it"
        raise ReadError(folder, reason, "Name the files so, or see docs/reference/formats.md for a folder of frames")
    if not files:
        others = find_readable(folder, limits=limits)
        reason = "is a folder without DICOM files"
        if others:
            raise ReadError(folder, f"{reason} of its own; it holds {len(others)} files to read",
                            f"Name one of them, such as '{others[0]}'")  # fmt: skip
        raise ReadError(
            folder, f"{reason} or anything else that is read", "Name a file, or a folder with a DICOM series"
        )
    return open_series(folder, files, select, limits)


def _check_together(opened: Sequence[Opened]) -> None:
    first = opened[0]
    for other in opened:
        subject = f"{other.path}#{other.select}" if other.select else other.path
        if other.shape[0] != 1:
            reason = f"has {other.shape[0]} channels of its own, and is to be one channel"
            raise ReadError(subject, reason, "Give grey files")
        if (other.kind, other.shape) != (first.kind, first.shape):
            reason = f"is {_described(other)}, and '{first.path}' is {_described(first)}"
            raise ReadError(subject, reason, "Give co-registered files of one size")
        if first.affine is None or other.affine is None:
            continue
        apart = farthest_corner_mm(first.affine, other.affine, other.shape[1:])
        if apart > _APART * min(spacing_mm(first.affine)):
            reason = f"does not lie where '{first.path}' lies: corners are up to {apart:.2f} mm apart"
            raise GeometryError(subject, reason, "Register the files to one another, and resample them to one grid")


def _described(one: Opened) -> str:
    return f"{'an image' if one.kind == 'image' else 'a volume'} of {' x '.join(map(str, one.shape[1:]))}"


def _joint_origin(origins: Sequence[Origin]) -> Origin:
    paths = [one.path if one.select is None else f"{one.path}#{one.select}" for one in origins]
    names = {one.slice_names for one in origins}
    modalities = {one.modality for one in origins}
    return Origin(
        path=", ".join(paths),
        slice_names=names.pop() if len(names) == 1 else (),
        modality=modalities.pop() if len(modalities) == 1 else None,
    )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Number the later ones of equal names."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(result)
