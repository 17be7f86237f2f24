"""The first bytes of files: enough to tell what they are, without loading any library for them."""

import gzip
import os
import zlib

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)

_HEADER_BYTES = 540


def nifti_magic(start: bytes) -> bool:
    """Tell whether bytes are the beginning of a NIfTI header.

    Args:
        start: At least the first 348 bytes of a file, unpacked.
    """
    return start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")


def first_bytes(path: str, count: int = _HEADER_BYTES) -> tuple[bytes, bool]:
    """Return the beginning of a file, and whether it was unpacked by gzip (it is empty if that failed).

    Args:
        path: The file.
        count: How many bytes.
    """
    with open(path, "rb") as stream:
        start = stream.read(count)
        if not start.startswith(GZIP_MAGIC):
            return start, False
        stream.seek(0)
        try:
            return gzip.GzipFile(fileobj=stream).read(count), True
        except GZIP_ERRORS:
            return b"", True


def pair_member(path: str, ending: str) -> str | None:
    """Return the other file of a .hdr/.img pair, or None if there is none.

    Args:
        path: Either file of the pair.
        ending: ``.hdr`` or ``.img``.
    """
    stem = os.path.splitext(path.removesuffix(".gz"))[0]
    candidates = [stem + form + zipped for form in (ending, ending.upper()) for zipped in ("", ".gz")]
    return next((name for name in candidates if os.path.isfile(name)), None)


def looks_like_float32(path: str) -> bool:
    """Tell whether a file may hold little-endian float32 numbers of a laser scan, which no header says.

    Bytes of another kind, taken for float32, are mostly numbers that are no distance: far too large or too small.

    Args:
        path: The file.
    """
    with open(path, "rb") as stream:
        start = stream.read(4096)
    values = np.frombuffer(start[: len(start) // 4 * 4], "<f4")
    with np.errstate(invalid="ignore"):
        sizes = np.abs(values)
        plausible = (sizes < 1e6) & (sizes > 1e-6) | (values == 0) | np.isnan(values)
    return bool(values.size and plausible.mean() > 0.9)
