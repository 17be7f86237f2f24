"""What the readers of scene data sets share: going through the frames, numbers in text files, and checked boxes.

A frame that lacks a file, or whose calibration or labels are damaged, is left out and named in ``Manifest.skipped``;
only where no frame at all can be used is that an error.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from crossdim import readers
from crossdim.datasets.manifest import Progress, Record, Skipped, SplitName
from crossdim.datasets.scene_record import SceneBox
from crossdim.errors import CrossdimError, ReadError

AGAIN = "Copy or unpack it again"


def collect(
    root: Path, names: Sequence[str], make: Callable[[str], Record], progress: Progress | None = None
) -> tuple[tuple[Record, ...], tuple[Skipped, ...]]:
    """Return a record of every frame that can be used, and why the others cannot.

    Args:
        root: The data set, for the error.
        names: Of the frames.
        make: Makes the record of one; a ``CrossdimError`` is why it cannot.
        progress: Called after each frame.

    Raises:
        ReadError: If none can be used.
    """
    records, skipped = [], []
    for done, name in enumerate(names, 1):
        try:
            records.append(make(name))
        except CrossdimError as error:
            skipped.append(Skipped(error.subject, error.reason))
        if progress:
            progress(done, len(names))
    if not records:
        if not skipped:
            raise ReadError(root, "holds no frame", "Name the folder of the data set")
        reason = f"none of its {len(names)} frames can be used; the first: {skipped[0].path} {skipped[0].reason}"
        raise ReadError(root, reason, "Mend the files, or unpack the data set again")
    return tuple(records), tuple(skipped)


def needed(path: Path, what: str) -> Path:
    """Return a file that has to be there.

    Args:
        path: The file.
        what: What it is, in words.

    Raises:
        ReadError: If it is not there.
    """
    if not path.is_file():
        raise ReadError(path, f"is missing: it is the {what} of the frame", "Unpack the data set again")
    return path


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a picture as it is read.

    Args:
        path: The file.

    Raises:
        ReadError: If it is absent or damaged.
    """
    height, width = readers.inspect(needed(path, "picture"), intensity=False).shape[-2:]
    return height, width


def lines_of(path: Path, what: str) -> list[str]:
    """Return the lines of a text file that are not empty.

    Args:
        path: The file.
        what: What it is, in words.

    Raises:
        ReadError: If it is absent or no text.
    """
    try:
        return [line for line in needed(path, what).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ReadError(path, "is not text", AGAIN) from error


def numbers(path: Path, words: Sequence[str], count: int, what: str) -> Float[np.ndarray, " count"]:
    """Return words of a text file as numbers.

    Args:
        path: The file, for the error.
        words: That are to be numbers.
        count: How many there have to be.
        what: What they are, for the error.

    Raises:
        ReadError: If there are more or fewer, or one is not a finite number.
    """
    if len(words) != count:
        raise ReadError(path, f"has {len(words)} numbers for {what} and needs {count}", AGAIN)
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise ReadError(path, f"holds what is not a number for {what} ({error})", AGAIN) from error
    if not np.isfinite(values).all():
        raise ReadError(path, f"holds {what} that are not finite", AGAIN)
    return values


def load_array(path: Path, what: str) -> np.ndarray:
    """Return the array of a .npy file.

    Args:
        path: The file.
        what: What it is, in words.

    Raises:
        ReadError: If it is absent, damaged, or holds anything but numbers.
    """
    needed(path, what)
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReadError(path, f"is damaged ({error})", AGAIN) from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ReadError(path, "is not one array of numbers", AGAIN)
    return values


def box(path: Path, label: str, center: Sequence[float], size: Sequence[float], yaw: float) -> SceneBox:
    """Return a box of a label file, in plain numbers.

    Args:
        path: The label file, for the error.
        label: The class.
        center: In scene metres.
        size: Full lengths.
        yaw: Any angle in radians; it is brought between -pi and pi.

    Raises:
        ReadError: If the size is not positive, or a number is not finite.
    """
    values = [float(value) for value in (*center, *size, np.arctan2(np.sin(yaw), np.cos(yaw)))]
    try:
        return SceneBox(
            label=label,
            center_m=(values[0], values[1], values[2]),
            size_m=(values[3], values[4], values[5]),
            yaw_rad=values[6],
        )
    except ValidationError as error:
        shown = ", ".join(f"{value:g}" for value in values[3:6])
        reason = f"has a box '{label}' with the sizes {shown} m, which must be finite and above 0"
        raise ReadError(path, reason, AGAIN) from error


def split_lists(root: Path, lists: dict[SplitName, Iterable[Path]]) -> dict[str, SplitName]:
    """Return the part of each name that published lists give (one name a line); none where there are no lists.

    Args:
        root: The data set, for the error.
        lists: Files of each part; those that are absent do not count.

    Raises:
        ReadError: If a name is in the lists of two parts.
    """
    part_of: dict[str, SplitName] = {}
    for part, files in lists.items():
        for file in files:
            if not file.is_file():
                continue
            for name in (line.strip() for line in lines_of(file, "list")):
                if part_of.setdefault(name, part) != part:
                    reason = f"'{name}' is in the lists of {part_of[name]} and {part}"
                    raise ReadError(root, reason, "Mend the lists: no frame may be in two parts")
    return part_of
