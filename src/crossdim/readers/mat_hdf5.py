"""MATLAB's .mat files of version 7.3, which are HDF5: with h5py, which is not installed with crossdim."""

from collections.abc import Sequence

import numpy as np

from crossdim.errors import ReadError
from crossdim.readers.limits import DEFLATE_EXPANSION, Limits, check_unpacked
from crossdim.readers.point_arrays import choose_table, column_names, is_table
from crossdim.readers.point_table import Columns, PointTable, check_points_stored

_CHUNK_ROWS = 2**18


def open_mat_hdf5(path: str, select: str | None, limits: Limits) -> PointTable:
    """Read the headers of a .mat file of version 7.3.

    Args:
        path: The file.
        select: Name of the array.
        limits: What is allowed.

    Raises:
        ReadError: If h5py is not installed, the file is damaged, or holds no table of points.
    """
    try:
        import h5py
    except ImportError as error:
        reason = "is a MATLAB 7.3 file, which needs h5py"
        raise ReadError(path, reason, "Install it with: pip install 'crossdim[points]', or save with -v7") from error
    try:
        with h5py.File(path, "r") as file:
            found = {name: one for name, one in file.items() if isinstance(one, h5py.Dataset)}
            shapes = {
                name: (one.shape[1], one.shape[0])
                for name, one in found.items()
                if one.shape is not None and one.dtype.kind in "iuf" and is_table(one.shape[::-1])
            }
            name = choose_table(path, select, shapes)
            chosen = found[name]
            count, columns = shapes[name]
            if chosen.is_virtual or chosen.external:
                reason = "keeps its values in other files"
                raise ReadError(f"{path}#{name}", reason, "Save the points in this file")
            needed = chosen.size * chosen.dtype.itemsize
            stored = chosen.id.get_storage_size()
            check_points_stored(path, count, needed, stored * (DEFLATE_EXPANSION if chosen.compression else 1))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(path, f"is a damaged MATLAB 7.3 file ({error})", "Copy or export it again") from error
    check_unpacked(path, needed, limits)
    names = column_names(columns)

    def load(step: int, wanted: Sequence[str]) -> Columns:
        kept: Columns = {}
        try:
            with h5py.File(path, "r") as file:
                values = file[name]
                for place, column in enumerate(names):
                    if column in wanted:
                        starts = range(0, count, _CHUNK_ROWS)
                        kept[column] = np.concatenate(
                            [values[place, a : a + _CHUNK_ROWS][-a % step :: step] for a in starts]
                        )
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ReadError(path, f"is cut short or damaged ({error})", "Copy or export it again") from error
        return kept

    return PointTable(path, select, "MATLAB 7.3", count, names, load)
