"""Which format a file has: by its content, checked against its name."""

import os
from typing import Literal

from crossdim.errors import ReadError
from crossdim.readers.content import first_bytes, looks_like_float32, nifti_magic
from crossdim.readers.limits import Limits, file_bytes

Format = Literal["picture", "tiff", "nifti", "dicom", "npy", "npz", "ply", "pcd", "bin", "mat"]

ALWAYS_POINTS: tuple[Format, ...] = ("ply", "pcd", "bin", "mat")
"""Formats that hold points and nothing else; arrays may hold them."""

_NAMES: dict[Format, str] = {
    "picture": "a PNG, JPEG or BMP picture",
    "tiff": "a TIFF file",
    "nifti": "a NIfTI file",
    "dicom": "a DICOM file",
    "npy": "a NumPy array",
    "npz": "a NumPy archive",
    "ply": "a PLY file",
    "pcd": "a PCD file",
    "bin": "a laser scan of float32",
    "mat": "a MATLAB file",
}
_ENDINGS: dict[str, Format] = {
    ".png": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
    ".bmp": "picture",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".hdr.gz": "nifti",
    ".img": "nifti",
    ".img.gz": "nifti",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".npy": "npy",
    ".npz": "npz",
    ".ply": "ply",
    ".pcd": "pcd",
    ".bin": "bin",
    ".mat": "mat",
}
_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "picture"),
    (b"\xff\xd8\xff", "picture"),
    (b"BM", "picture"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "npz"),
    (b"ply\n", "ply"),
    (b"ply\r", "ply"),
    (b"# .PCD", "pcd"),
    (b"VERSION ", "pcd"),
    (b"MATLAB 5.0 ", "mat"),
    (b"MATLAB 7.3 ", "mat"),
)
_DISPLAYED: tuple[Format, ...] = ("picture", "tiff")
_KINDS_READ = "PNG, JPEG, BMP, TIFF, NIfTI, DICOM, .npy, .npz, PLY, PCD, .bin and .mat files are read"


def ending_format(path: str) -> Format | None:
    """Return the format that a file's name promises, or None.

    Args:
        path: The file.
    """
    name = os.path.basename(path).lower()
    return next((_ENDINGS[ending] for ending in sorted(_ENDINGS, key=len, reverse=True) if name.endswith(ending)), None)


def content_format(path: str) -> Format | None:
    """Return the format that a file has, or None.

    Args:
        path: The file.
    """
    if ending_format(path) == "bin":
        return "bin" if looks_like_float32(path) else None
    start, compressed = first_bytes(path)
    if nifti_magic(start):
        return "nifti"
    if compressed:
        return None
    if start[128:132] == b"DICM":
        return "dicom"
    found = next((format_ for magic, format_ in _MAGIC if start.startswith(magic)), None)
    if found == "npz" and ending_format(path) != "npz":
        return None
    if found is None and start[:1] and start[:4] in _FIRST_ELEMENTS:
        return "dicom"
    return found


_FIRST_ELEMENTS = {
    group.to_bytes(2, order) + element.to_bytes(2, order)
    for group, elements in (
        (0x0002, (0x0000, 0x0001, 0x0002)),
        (0x0008, (0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0016)),
    )
    for element in elements
    for order in ("little", "big")
}
"""The tags that DICOM data sets without the marker 'DICM' begin with."""


def detect(path: str, limits: Limits) -> Format:
    """Return the format of a file.

    Args:
        path: The file.
        limits: What is allowed.

    Raises:
        ReadError: If it is absent or empty, is of no kind that is read, or is not what its name says.
    """
    file_bytes(path, limits)
    promised = ending_format(path)
    try:
        found = content_format(path)
    except OSError as error:
        raise ReadError(path, f"cannot be opened ({error})", "Check its permissions") from error
    if found is None and promised == "nifti" and path.lower().removesuffix(".gz").endswith((".hdr", ".img")):
        return "nifti"
    if found is None and promised is None:
        raise ReadError(path, f"is of no kind that is read; {_KINDS_READ}", "Convert it to one of these")
    if found is None:
        reason = f"is named like {_NAMES[promised or 'npz']}, and is none"
        raise ReadError(path, reason, "Copy or export it again, or correct its name")
    if promised not in (None, found) and not (promised in _DISPLAYED and found in _DISPLAYED):
        reason = f"is named like {_NAMES[promised or found]}, and is {_NAMES[found]}"
        raise ReadError(path, reason, "Correct its name")
    return found


def is_readable(path: str) -> bool:
    """Tell quickly whether a file looks like one that is read, by its name or else its first bytes.

    Args:
        path: The file.
    """
    if ending_format(path) not in (None, "bin"):
        return True
    try:
        return os.path.isfile(path) and content_format(path) is not None
    except OSError:
        return False
