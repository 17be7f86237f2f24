"""Files of points to point clouds: PLY, PCD, KITTI's .bin, NumPy's .npy and .npz, MATLAB's .mat.

Coordinates are taken as they stand for metres, x, y and z in a right-handed scene with z up; ``inspect`` says where
that is doubtful.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from crossdim.errors import ReadError
from crossdim.readers.formats import Format, detect
from crossdim.readers.limits import Limits
from crossdim.readers.mat import open_mat
from crossdim.readers.pcd import open_pcd
from crossdim.readers.ply import open_ply
from crossdim.readers.point_arrays import open_bin, open_npy_points, open_npz_points
from crossdim.readers.point_table import PointTable, to_cloud
from crossdim.readers.selector import split_selector
from crossdim.samples import PointCloud

_OPENERS: dict[Format, Callable[[str, str | None, Limits], PointTable]] = {
    "ply": open_ply,
    "pcd": open_pcd,
    "bin": open_bin,
    "npy": open_npy_points,
    "npz": open_npz_points,
    "mat": open_mat,
}

POINT_FORMATS = tuple(_OPENERS)


@dataclass(frozen=True)
class OpenedPoints:
    """A file of points whose header was read and checked, and whose points were not."""

    table: PointTable
    limits: Limits

    @property
    def kind(self) -> Literal["points"]:
        """The word for what it is read as."""
        return "points"

    @property
    def path(self) -> str:
        """The file."""
        return self.table.path

    def read(self) -> PointCloud:
        """Read the points.

        Raises:
            ReadError: If they are damaged, not finite, or text and more than is allowed.
        """
        return to_cloud(self.table, self.limits)


def open_points(path: str, select: str | None, format_: Format, limits: Limits) -> OpenedPoints:
    """Read the header of a file of points.

    Args:
        path: The file.
        select: What is chosen inside it.
        format_: As ``formats.detect`` says.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, holds no points, or is too short for what it declares.
    """
    if format_ not in _OPENERS:
        raise ReadError(path, "is no file of points", "Give a PLY, PCD, .bin, .npy, .npz or .mat file of points")
    return OpenedPoints(_OPENERS[format_](path, select, limits), limits)


def read_points(
    path: str | os.PathLike[str], *, columns: int | None = None, limits: Limits | None = None
) -> PointCloud:
    """Read a file as points, also where ``read`` would take it for a picture or a volume.

    Args:
        path: A PLY, PCD, .bin, .npy, .npz or .mat file; ``#name`` selects an array.
        columns: How many numbers a point has, for .bin, which does not say; None for KITTI's four. The same as the
            selector ``#6``.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, or holds no points.
    """
    allowed = limits or Limits()
    source, select = split_selector(os.fspath(path))
    format_ = detect(source, allowed)
    if columns is not None:
        if format_ != "bin" or select is not None:
            raise ReadError(source, "says itself how many columns it has", "Leave out columns")
        select = str(columns)
    return open_points(source, select, format_, allowed).read()
