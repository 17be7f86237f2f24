"""What a file may declare: checked against limits and the file's own length before any memory is allocated."""

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from crossdim.errors import ReadError

DEFLATE_EXPANSION = 1032
"""zlib's deflate makes at most this many bytes of one (zlib's "technical details")."""

_ALLOWANCE = 2**16
"""Bytes that any file may expand to, so that tiny ones are not judged by a ratio."""


@dataclass(frozen=True)
class Limits:
    """The largest files that are read.

    Attributes:
        max_voxels: Values of an image or a volume, all channels together.
        max_file_bytes: Length of a file.
        max_gzip_bytes: Bytes that are unpacked from a compressed file.
        max_points: Points of a cloud; more are thinned evenly where the file is binary, and refused where it is text.
    """

    max_voxels: int = 2**30
    max_file_bytes: int = 2**34
    max_gzip_bytes: int = 2**32
    max_points: int = 10_000_000


def file_bytes(path: str, limits: Limits) -> int:
    """Return the length of a file that can be read.

    Args:
        path: The file.
        limits: What is allowed.

    Raises:
        ReadError: If it is absent, no regular file, empty, or too large.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReadError(path, "does not exist", "Check the path") from error
    except (OSError, ValueError) as error:
        raise ReadError(path, f"cannot be opened ({error})", "Check the path and its permissions") from error
    if not stat.S_ISREG(status.st_mode):
        raise ReadError(path, "is not a regular file", "Name a file")
    if status.st_size == 0:
        raise ReadError(path, "is empty (0 bytes)", "Copy or export it again")
    if status.st_size > limits.max_file_bytes:
        raise ReadError(
            path,
            f"has {status.st_size} bytes, and the limit is {limits.max_file_bytes}",
            "Raise Limits(max_file_bytes=...) if it is meant to be this large",
        )
    return status.st_size


def check_declared(path: str, shape: Sequence[int], limits: Limits) -> int:
    """Return how many values a header declares.

    Args:
        path: The file, for the error.
        shape: As declared.
        limits: What is allowed.

    Raises:
        ReadError: If a size is not positive, or the values are more than the limit.
    """
    sizes = " x ".join(str(size) for size in shape)
    if not shape or min(shape) < 1:
        raise ReadError(path, f"declares the size {sizes or 'of nothing'}, which holds no values", "Export it again")
    count = math.prod(shape)
    if count > limits.max_voxels:
        raise ReadError(
            path,
            f"declares {sizes} = {count} values, and the limit is {limits.max_voxels}",
            "Check that the header is right, or raise Limits(max_voxels=...)",
        )
    return count


def check_stored(path: str, declared_bytes: int, stored_bytes: int, expansion: int = 1) -> None:
    """Check that what a header declares can be in the file at all.

    Args:
        path: The file, for the error.
        declared_bytes: Unpacked bytes, by the header.
        stored_bytes: Bytes the file has for them.
        expansion: How many bytes the compression makes of one, at most; 1 for none.

    Raises:
        ReadError: If the file is too short.
    """
    if expansion == 1 and declared_bytes > stored_bytes:
        raise ReadError(
            path,
            f"is cut short: its header declares {declared_bytes} bytes of intensities, and {stored_bytes} are there",
            "Copy or export it again",
        )
    if declared_bytes > stored_bytes * expansion + _ALLOWANCE:
        raise ReadError(
            path,
            f"declares {declared_bytes} bytes of intensities, more than {stored_bytes} compressed bytes can hold",
            "Copy or export it again",
        )


def check_unpacked(path: str, declared_bytes: int, limits: Limits) -> None:
    """Check how many bytes have to be unpacked from a compressed file.

    Args:
        path: The file, for the error.
        declared_bytes: Bytes to unpack.
        limits: What is allowed.

    Raises:
        ReadError: If they are more than the limit.
    """
    if declared_bytes > limits.max_gzip_bytes:
        raise ReadError(
            path,
            f"unpacks to {declared_bytes} bytes, and the limit is {limits.max_gzip_bytes}",
            "Raise Limits(max_gzip_bytes=...) if it is meant to be this large",
        )
