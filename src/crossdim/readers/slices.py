"""From the places of slices to one volume, or to an error that names the slices at fault.

DICOM PS3.3 C.7.6.2: ImagePositionPatient is the centre of the first pixel, ImageOrientationPatient the directions
along a row and along a column. Slices are ordered by the projection of their positions on the normal of the slices.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num

from crossdim.errors import GeometryError
from crossdim.geometry.affine import LPS_TO_RAS, shear_deg

Triple = tuple[float, float, float]

_COSINE_TOLERANCE = 2e-3
_SPACING_TOLERANCE_MM = 1e-3
_MAX_TILT_DEG, _MAX_SHIFT_MM = 0.5, 0.2
_NAMED = 3
"""Slices that an error names before it says how many more there are."""


@dataclass(frozen=True)
class Slice:
    """One slice of a volume.

    Attributes:
        name: What a user knows it by: a file name, or a frame's number.
        size: Pixels (height, width).
        position: Centre of the first pixel, in DICOM's patient millimetres (LPS+).
        along_row: Unit vector from one column to the next.
        along_column: Unit vector from one row to the next.
        spacing: Millimetres between rows and between columns.
        marks: What else tells it from slices at the same place (echo, time, ...), name to value.
    """

    name: str
    size: tuple[int, int]
    position: Triple
    along_row: Triple
    along_column: Triple
    spacing: tuple[float, float]
    marks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stack:
    """Slices in order.

    Attributes:
        order: Places of the slices, as given, from the first along the normal to the last.
        affine: Index (depth, height, width) to patient millimetres (RAS+).
    """

    order: tuple[int, ...]
    affine: Float64[np.ndarray, "4 4"]


def stack(subject: str, slices: Sequence[Slice]) -> Stack:
    """Order slices by their place, and return where they lie.

    Args:
        subject: The file or folder, for errors.
        slices: At least two, in any order.

    Raises:
        GeometryError: If sizes, spacings or orientations differ, slices are missing, lie at the same place or at
            uneven distances, or are shifted against one another (a tilted gantry).
    """
    directions = np.array([one.along_row + one.along_column for one in slices])
    _alike(subject, slices, "sizes", np.array([one.size for one in slices]), 0.0)
    _alike(subject, slices, "pixel spacings", np.array([one.spacing for one in slices]), _SPACING_TOLERANCE_MM)
    _alike(subject, slices, "orientations", directions, _COSINE_TOLERANCE)
    along_row, along_column = np.array(slices[0].along_row), np.array(slices[0].along_column)
    normal = np.cross(along_row, along_column)
    if not np.allclose([np.dot(along_row, along_column), np.linalg.norm(normal)], [0, 1], atol=1e-3):
        reason = f"the rows and columns of '{slices[0].name}' are not at right angles"
        raise GeometryError(subject, reason, "Export the series again")
    positions = np.array([one.position for one in slices])
    distances = positions @ normal
    order = np.argsort(distances, kind="stable")
    _check_steps(subject, [slices[place] for place in order], distances[order])

    first, last = positions[order[0]], positions[order[-1]]
    step = (last - first) / (len(slices) - 1)
    row_mm, column_mm = slices[0].spacing
    affine = np.eye(4)
    affine[:3, :3] = np.stack([step, along_column * row_mm, along_row * column_mm], axis=1)
    affine[:3, 3] = first
    tilt, shift = shear_deg(affine), np.linalg.norm(last - first - (last - first) @ normal * normal)
    if tilt > _MAX_TILT_DEG and shift > _MAX_SHIFT_MM:
        reason = (
            f"its slices are shifted against one another by {tilt:.1f} degrees (a tilted gantry), "
            f"{shift:.1f} mm from '{slices[order[0]].name}' to '{slices[order[-1]].name}'"
        )
        raise GeometryError(subject, reason, "Correct the tilt, for instance with dcm2niix, and read the NIfTI file")
    drift = np.linalg.norm(positions[order] - (first + np.arange(len(slices))[:, None] * step), axis=1)
    worst = int(drift.argmax())
    if drift[worst] > max(_tolerance_mm(float(np.linalg.norm(step))), row_mm, column_mm):
        reason = f"'{slices[order[worst]].name}' lies {drift[worst]:.2f} mm beside the line of the other slices"
        raise GeometryError(subject, reason, "Export the series again, or leave out that slice")
    return Stack(tuple(int(place) for place in order), LPS_TO_RAS @ affine)


def _alike(
    subject: str, slices: Sequence[Slice], what: str, values: Num[np.ndarray, "slices numbers"], tolerance: float
) -> None:
    """Refuse slices that differ from most of the others."""
    rounded = np.rint(values / (tolerance or 1.0)).astype(np.int64)
    (commonest, _), *_ = Counter(map(tuple, rounded.tolist())).most_common(1)
    usual = values[(rounded == commonest).all(axis=1).argmax()]
    odd = np.flatnonzero((np.abs(values - usual) > tolerance).any(axis=1))
    if odd.size:
        named = [f"'{slices[place].name}' {_numbers(values[place])}" for place in odd.tolist()]
        reason = f"its slices have different {what}: {_numbers(usual)} in most, but {_listed(named)}"
        raise GeometryError(subject, reason, "Move slices of different kinds into folders of their own")


def _numbers(values: Num[np.ndarray, " numbers"]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in np.round(values, 4) + 0.0) + ")"


def _check_steps(subject: str, slices: Sequence[Slice], distances: Float64[np.ndarray, " slices"]) -> None:
    """Refuse slices at the same place and uneven distances; both arguments in order."""
    gaps = np.diff(distances)
    usual = float(np.median(gaps[gaps > 1e-3])) if (gaps > 1e-3).any() else 0.0
    same = [place for place, gap in enumerate(gaps) if gap <= 0.02 * usual]
    if same:
        pairs = [f"'{slices[place].name}' and '{slices[place + 1].name}'" for place in same]
        differ = _differing_marks(slices, same)
        reason = f"has {_counted(len(same), 'pair')} of slices at the same place: {_listed(pairs)}{differ}"
        remedy = "Keep the slices of one volume in the folder" if differ else "Remove the duplicates"
        raise GeometryError(subject, reason, remedy)
    step = (distances[-1] - distances[0]) / (len(slices) - 1)
    off = np.abs(distances - (distances[0] + step * np.arange(len(slices))))
    tolerance = _tolerance_mm(step)
    if off.max() <= tolerance:
        return
    uneven = [place for place, gap in enumerate(gaps) if abs(gap - usual) > tolerance] or [int(off.argmax()) - 1]
    places = [f"{gaps[at]:.2f} mm from '{slices[at].name}' to '{slices[at + 1].name}'" for at in uneven]
    times = gaps[uneven] / usual
    if (times > 1.5).all() and (np.abs(times - times.round()) < 0.1).all():
        missing = int((times.round() - 1).sum())
        reason = f"lacks {_counted(missing, 'slice')}: they are {usual:.2f} mm apart, but it is {_listed(places)}"
        raise GeometryError(subject, reason, "Export the whole series")
    reason = f"its slices are unevenly spaced: mostly {usual:.2f} mm apart, but it is {_listed(places)}"
    raise GeometryError(subject, reason, "Export an evenly spaced series, or resample it")


def _tolerance_mm(step: float) -> float:
    """Return how far a slice may be from its place: 5 % of a step, or what rounding to 0.1 mm does."""
    return min(max(0.05 * step, 0.105), 0.2 * step)


def _differing_marks(slices: Sequence[Slice], same: Sequence[int]) -> str:
    names: dict[str, tuple[str, str]] = {}
    for place in same:
        for (name, one), (_, other) in zip(slices[place].marks, slices[place + 1].marks, strict=True):
            if one != other:
                names.setdefault(name, (one, other))
    return "".join(f"; they differ in {name} ({one}, {other})" for name, (one, other) in names.items())


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"


def _listed(items: Sequence[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")
