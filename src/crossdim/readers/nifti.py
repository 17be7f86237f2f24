"""NIfTI 1 and 2, single files and .hdr/.img pairs, plain or gzip-compressed, to volumes.

NIfTI's index (i, j, k) is our (width, height, depth): k counts slices in what scanners and converters write.
"""

import gzip
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling, array_from_file
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from crossdim.errors import ReadError
from crossdim.geometry.affine import check_affine, farthest_corner_mm, shear_deg, spacing_mm
from crossdim.readers.content import GZIP_ERRORS, GZIP_MAGIC, first_bytes, nifti_magic, pair_member
from crossdim.readers.inspection import Opened
from crossdim.readers.intensity import drop_alpha, inferred_unit, plain
from crossdim.readers.limits import (
    DEFLATE_EXPANSION,
    Limits,
    check_declared,
    check_stored,
    check_unpacked,
    file_bytes,
)
from crossdim.readers.selector import choose_index
from crossdim.samples import Origin, Volume

_LARGEST_OFFSET = 2**26
"""Headers with their extensions are far smaller."""

_LARGEST_SCALE = 1e30
_TAIL_BYTES = 2**16
_RGB_TYPES = {3: "RGB", 4: "RGBA"}
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
_SHEAR_SHOWN_DEG = 0.5
_HEADER_ERRORS = (
    HeaderDataError,
    WrapStructError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    np.linalg.LinAlgError,
)

Header = Nifti1Header | Nifti2Header


@dataclass(frozen=True)
class _Stored:
    """Where the voxels of one volume lie in a file."""

    path: str
    compressed: bool
    offset: int
    shape: tuple[int, int, int]
    dtype: np.dtype
    slope: float
    intercept: float


def open_nifti(path: str, select: str | None, limits: Limits) -> Opened:
    """Read the header of a NIfTI file.

    Args:
        path: The file, or either file of a pair.
        select: Which volume of a 4D file, from 0.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, too large, or of a kind that is not read.
        GeometryError: If its affine cannot be used.
    """
    file_bytes(path, limits)
    header_path = path
    if path.lower().removesuffix(".gz").endswith(".img"):
        header_path = pair_member(path, ".hdr") or ""
        if not header_path:
            raise ReadError(path, "lacks the .hdr file that belongs to it", "Put both files of the pair in one folder")
    header, voxel_path = _header(header_path, limits)
    shape, channels, dtype = _layout(path, header)
    count = shape[3]
    index = choose_index(path, select, count, "volume")
    affine, remarks = _affine(path, header, shape[:3])
    load = _loader(path, select, header, voxel_path, index, limits)
    return Opened(
        path=path,
        select=select,
        kind="volume",
        format="NIfTI-2" if isinstance(header, Nifti2Header) else "NIfTI-1",
        name=_stem(path) if select is None else f"{_stem(path)}#{select}",
        shape=(min(channels, 3), shape[2], shape[1], shape[0]),
        dtype=dtype,
        unit="uint8" if dtype == "uint8" else "arbitrary",
        load=lambda: load(affine, remarks),
        affine=affine,
        warnings=remarks,
        choices=tuple(str(number) for number in range(count)) if count > 1 else (),
        needs_choice=f"holds {count} volumes" if count > 1 and select is None else "",
    )


def _stem(path: str) -> str:
    return PurePath(path.removesuffix(".gz")).stem


def _header(path: str, limits: Limits) -> tuple[Header, str]:
    """Return the header and the file that holds the voxels."""
    file_bytes(path, limits)
    start, _ = first_bytes(path)
    if not nifti_magic(start):
        if len(start) < 348:
            raise ReadError(path, "is damaged: its header cannot be unpacked", "Copy or export it again")
        reason = "is no NIfTI file (an Analyze 7.5 header tells no orientation)"
        raise ReadError(path, reason, "Convert it to NIfTI and check which side is left")
    second, pair = start[4:7] in (b"n+2", b"ni2"), b"ni1\0" in start[344:348] or start[4:8] == b"ni2\0"
    kinds: dict[tuple[bool, bool], type[Header]] = {
        (False, False): Nifti1Header,
        (False, True): Nifti1PairHeader,
        (True, False): Nifti2Header,
        (True, True): Nifti2PairHeader,
    }
    kind = kinds[second, pair]
    try:
        header = kind(start[: kind.sizeof_hdr], check=False)
    except _HEADER_ERRORS as error:
        raise ReadError(path, f"has a damaged NIfTI header ({error})", "Export it again") from error
    voxels = pair_member(path, ".img") if pair else path
    if voxels is None:
        raise ReadError(path, "lacks the .img file that belongs to it", "Put both files of the pair in one folder")
    return header, voxels


def _layout(path: str, header: Header) -> tuple[tuple[int, int, int, int], int, str]:
    """Return (i, j, k, volumes), channels, and the type of the values as read."""
    try:
        declared = tuple(int(size) for size in header.get_data_shape())
        stored = header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
    except _HEADER_ERRORS as error:
        raise ReadError(path, f"has a damaged NIfTI header ({error})", "Export it again") from error
    check_declared(path, declared, Limits(max_voxels=2**62))
    if any(size > 1 for size in declared[4:]):
        sizes = " x ".join(map(str, declared))
        raise ReadError(path, f"has {len(declared)} dimensions ({sizes}), such as a field of vectors has",
                        "Save one component of it as a 3D file")  # fmt: skip
    shape = (*declared, 1, 1, 1)[:4]
    channels = len(stored.names) if stored.names else 1
    if (stored.names and channels not in _RGB_TYPES) or stored.kind not in "iufV":
        raise ReadError(path, f"holds values of type {stored}, which are not read", "Save the magnitude as float32")
    scaled = (slope, intercept) not in ((None, None), (1.0, 0.0))
    if stored.names:
        name = "uint8"
    elif scaled and stored.kind in "iu":
        name = "float32" if stored.itemsize < 4 else "float64"
    else:
        name = "float64" if stored.itemsize > 8 else stored.newbyteorder("=").name
    return (shape[0], shape[1], shape[2], shape[3]), channels, name


def _affine(path: str, header: Header, size: tuple[int, ...]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the affine for (depth, height, width), and what is odd about it."""
    remarks: tuple[str, ...] = ()
    try:
        sform, sform_code = header.get_sform(coded=True)
        qform, qform_code = header.get_qform(coded=True)
        best = header.get_best_affine()
        unit = header.get_xyzt_units()[0]
    except _HEADER_ERRORS as error:
        raise ReadError(path, f"has a damaged orientation ({error})", "Export it again") from error
    if not sform_code and not qform_code:
        remarks += ("tells no orientation: the NIfTI default is assumed",)
    best = np.asarray(best, np.float64)
    check_affine(best, path)
    if sform_code and qform_code:
        apart = farthest_corner_mm(sform, qform, size)
        if not apart <= max(spacing_mm(best)):
            remarks += (f"its two orientations (sform, qform) are up to {apart:.1f} mm apart: sform is used",)
    if unit in _MILLIMETRES:
        best = np.diag([_MILLIMETRES[unit]] * 3 + [1.0]) @ best
        remarks += (f"its spacing is in {unit}s, and is converted to millimetres",)
    if (shear := shear_deg(best)) > _SHEAR_SHOWN_DEG:
        remarks += (f"its axes miss right angles by {shear:.1f} degrees",)
    return best[:, [2, 1, 0, 3]], remarks


def _loader(
    path: str, select: str | None, header: Header, voxel_path: str, index: int, limits: Limits
) -> Callable[[NDArray[np.float64], tuple[str, ...]], Volume]:
    """Check that the voxels can be there, and return what reads them."""
    stored_bytes = file_bytes(voxel_path, limits)
    shape, channels, _ = _layout(path, header)
    dtype = header.get_data_dtype()
    try:
        offset = int(header.get_data_offset())
        slope, intercept = header.get_slope_inter()
    except _HEADER_ERRORS as error:
        raise ReadError(path, f"has a damaged NIfTI header ({error})", "Export it again") from error
    if any(abs(number) > _LARGEST_SCALE for number in (slope, intercept) if number is not None):
        raise ReadError(path, f"scales its values by {slope} and {intercept}", "Export it again")
    if not 0 <= offset <= _LARGEST_OFFSET:
        raise ReadError(path, f"declares that its voxels begin at byte {offset}", "Export it again")
    values = check_declared(path, (channels, *shape[:3]), limits) // channels
    with open(voxel_path, "rb") as stream:
        compressed = stream.read(2) == GZIP_MAGIC
    end = offset + values * shape[3] * dtype.itemsize
    check_stored(path, end, stored_bytes, DEFLATE_EXPANSION if compressed else 1)
    place = _Stored(
        path=voxel_path,
        compressed=compressed,
        offset=offset + index * values * dtype.itemsize,
        shape=shape[:3],
        dtype=dtype,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
    )
    if compressed:
        check_unpacked(path, place.offset + values * dtype.itemsize, limits)

    def load(affine: NDArray[np.float64], remarks: tuple[str, ...]) -> Volume:
        voxels, more = _voxels(path, place)
        voxels, wrong = plain(path, voxels)
        unit, reason = ("uint8", ()) if len(voxels) > 1 else inferred_unit(voxels)
        return Volume(voxels, affine, unit, Origin(path, select), warnings=remarks + more + wrong + reason)

    return load


def _voxels(path: str, place: _Stored) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Return (channels, depth, height, width)."""
    try:
        with open(place.path, "rb") as file:
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if place.compressed else file
            stored = array_from_file(place.shape, place.dtype, stream, place.offset, order="F", mmap=False)
            stream.read(_TAIL_BYTES)  # gzip compares its checksum when it meets the end
    except (*GZIP_ERRORS, OSError, ValueError) as error:
        raise ReadError(path, f"is cut short or damaged ({error})", "Copy or export it again") from error
    if place.dtype.names:
        colours = np.stack([stored[name].transpose(2, 1, 0) for name in place.dtype.names])
        return drop_alpha(colours) if len(colours) == 4 else (colours, ())
    if (place.slope, place.intercept) != (1.0, 0.0):
        stored = _scaled(stored, place)
    return stored.transpose(2, 1, 0)[None], ()


def _scaled(stored: NDArray[np.generic], place: _Stored) -> NDArray[np.generic]:
    wide = place.dtype.itemsize > 4 or (place.dtype.itemsize == 4 and place.dtype.kind != "f")
    kind = np.float64 if wide else np.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # infinities are reported with the file's name
        return apply_read_scaling(stored, kind(place.slope), kind(place.intercept)).astype(kind, copy=False)
