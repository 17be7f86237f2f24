"""What a field of view of a label map shows: which structures, how large, where, and what lies beside them.

Everything is measured on the label map's own voxels inside the field of view, in the patient's coordinates. So answers
do not depend on how a file's axes are ordered or turned, and change when its voxels are mirrored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Integer, Num

from crossdim.datasets.anatomy_map import PATIENT_AXIS, Anatomy, Box, Organ, Plane
from crossdim.datasets.dialogue import ExtentMM
from crossdim.errors import RecipeError
from crossdim.geometry.affine import spacing_mm, to_patient_mm

Direction = Literal["superior", "inferior", "anterior", "posterior", "left", "right"]
Status = Literal["visible", "absent", "unclear"]

EDGE = "the edge of the scan"
"""What lies beside a structure that is cut off by the field of view."""

DIRECTIONS: dict[Direction, tuple[int, int]] = {
    "right": (0, 1), "left": (0, -1), "anterior": (1, 1), "posterior": (1, -1), "superior": (2, 1), "inferior": (2, -1),
}  # fmt: skip
"""Patient axis (x, y, z) and sign of each direction."""

_LINES = 2500
"""Lines along which the neighbours of a structure are looked for; they are thinned out to about this many."""


@dataclass(frozen=True)
class Rules:
    """When something counts as seen, and as beside something.

    Attributes:
        plane: The plane whose slices are counted.
        min_slices: Slices of the written volume that a structure spans at least to be visible.
        min_share: Share of the structure that is in the field of view at least for it to be visible.
        margin_mm: Distance from the field of view at least for it to be absent.
        reach_mm: How far a neighbour is looked for.
        neighbour_share: Share of the lines from a structure's surface that meet the neighbour first, at least.
    """

    plane: Plane = "axial"
    min_slices: int = 2
    min_share: float = 0.5
    margin_mm: float = 3.0
    reach_mm: float = 15.0
    neighbour_share: float = 0.6

    def __post_init__(self) -> None:
        if self.min_slices < 1 or not 0 < self.min_share <= 1 or not 0.5 < self.neighbour_share <= 1:
            reason = "min_slices is below 1, min_share not in (0, 1], or neighbour_share not in (0.5, 1]"
            raise RecipeError("rules of what is seen", reason, "Keep the defaults, or give values in range")
        if min(self.margin_mm, self.reach_mm) < 0:
            raise RecipeError("rules of what is seen", "margin_mm or reach_mm is below 0", "Give millimetres")


@dataclass(frozen=True)
class Seen:
    """How much of a structure a field of view shows.

    Attributes:
        status: Visible, absent, or neither beyond doubt.
        volume_ml: Of the visible part.
        extent_mm: Box around the visible part; None if nothing of it is in the field of view.
        slices: First and last slice of the written volume whose centre lies within the extent.
    """

    status: Status
    volume_ml: float = 0.0
    extent_mm: ExtentMM | None = None
    slices: tuple[int, int] | None = None


ABSENT = Seen("absent")


@dataclass(frozen=True, eq=False)
class Frame:
    """A field of view and the voxels it is written with.

    Attributes:
        box: The field of view in the label map's voxels.
        size: Voxels written along (depth, height, width).
        affine: Of what is written.
    """

    box: Box
    size: tuple[int, int, int]
    affine: Float[np.ndarray, "4 4"]

    @classmethod
    def of(cls, box: Box, affine: Float[np.ndarray, "4 4"], wanted_mm: Sequence[float] | None) -> "Frame":
        """Return the frame of a field of view; its edges stay where they are to the fraction of a voxel.

        Args:
            box: The field of view.
            affine: Of the label map.
            wanted_mm: Spacing along (depth, height, width), met as nearly as whole voxels allow; None keeps it.
        """
        low, high = np.array(box[0]), np.array(box[1])
        size = high - low
        if wanted_mm is not None:
            size = np.maximum(1, np.rint(size * spacing_mm(affine) / np.array(wanted_mm))).astype(int)
        step = (high - low) / size
        written = affine.copy()
        written[:3, :3] = affine[:3, :3] * step
        written[:3, 3] = to_patient_mm(low - 0.5 + step / 2, affine)
        return cls(box, (int(size[0]), int(size[1]), int(size[2])), written)

    def cut(self, values: Num[np.ndarray, "depth height width"]) -> Num[np.ndarray, "d h w"]:
        """Return the part of an array that is in the field of view, with the voxels that it has.

        Args:
            values: Of the whole label map.
        """
        return values[tuple(slice(low, high) for low, high in zip(*self.box, strict=True))]

    def resample(self, values: Num[np.ndarray, "d h w"]) -> Num[np.ndarray, "newd newh neww"]:
        """Return intensities with the voxels that are written: averages where they get fewer, linear where more.

        Args:
            values: Intensities of the field of view; any number of voxels.
        """
        if values.shape == self.size:
            return values
        result: Float32[np.ndarray, "d h w"] = values.astype(np.float32)
        for axis, length in enumerate(self.size):
            if result.shape[axis] != length:
                weights = _weights(result.shape[axis], length)
                result = np.moveaxis(weights @ np.moveaxis(result, axis, -2), -2, axis)
        return np.rint(result).astype(values.dtype) if values.dtype.kind in "iu" else result

    def nearest(self, labels: Integer[np.ndarray, "d h w"], size: Sequence[int]) -> Integer[np.ndarray, "d2 h2 w2"]:
        """Return labels with another number of voxels, each from the nearest.

        Args:
            labels: Of the field of view.
            size: Voxels wanted along (depth, height, width).
        """
        picks = [((np.arange(n) + 0.5) * old / n).astype(int) for old, n in zip(labels.shape, size, strict=True)]
        return labels[np.ix_(*picks)]


def _weights(old: int, new: int) -> Float32[np.ndarray, "new old"]:
    if new < old:
        edges = np.arange(new + 1) * old / new
        shared = np.minimum(edges[1:, None], np.arange(1, old + 1)) - np.maximum(edges[:-1, None], np.arange(old))
        return (np.maximum(shared, 0) * new / old).astype(np.float32)
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old))).astype(np.float32)


def look(anatomy: Anatomy, frame: Frame, rules: Rules) -> dict[str, Seen]:
    """Return what a field of view shows of every structure of the map.

    Args:
        anatomy: The map.
        frame: The field of view.
        rules: When something counts as seen.
    """
    axis, _ = anatomy.axes[PATIENT_AXIS[rules.plane]]
    seen = {name: _seen(organ, anatomy.map.affine, axis, (frame, rules)) for name, organ in anatomy.organs.items()}
    return seen | {name: Seen("unclear") for name in anatomy.doubtful}


def _seen(organ: Organ, affine: Float[np.ndarray, "4 4"], axis: int, how: tuple[Frame, Rules]) -> Seen:
    frame, rules = how
    inside, start = _part(organ, np.array(frame.box))
    voxels = int(np.count_nonzero(inside))
    if not voxels:
        margin = np.ceil(rules.margin_mm / np.array(spacing_mm(affine))).astype(int)
        near, _ = _part(organ, np.array(frame.box) + np.stack([-margin, margin]))
        return Seen("unclear") if near.any() else ABSENT
    spans = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low = start + [span[0] for span in spans]
    high = start + [span[-1] + 1 for span in spans]
    step = (frame.box[1][axis] - frame.box[0][axis]) / frame.size[axis]
    centres = frame.box[0][axis] + (np.arange(frame.size[axis]) + 0.5) * step
    shown = np.flatnonzero((centres >= low[axis]) & (centres <= high[axis]))
    enough = len(shown) >= rules.min_slices and voxels >= rules.min_share * organ.voxels
    return Seen(
        status="visible" if enough else "unclear",
        volume_ml=voxels * abs(float(np.linalg.det(affine[:3, :3]))) / 1000,
        extent_mm=_extent_mm(low, high, affine),
        slices=(int(shown[0]), int(shown[-1])) if len(shown) else None,
    )


def _part(organ: Organ, box: Integer[np.ndarray, "2 3"]) -> tuple[Bool[np.ndarray, "d h w"], Integer[np.ndarray, "3"]]:
    """Return the organ's mask inside a box, and the index of the mask's first voxel."""
    low = np.clip(box[0], organ.low, None)
    picks = tuple(slice(max(0, a - o), max(0, b - o)) for o, a, b in zip(organ.low, box[0], box[1], strict=True))
    return organ.mask[picks], low


def _extent_mm(
    low: Integer[np.ndarray, "3"], high: Integer[np.ndarray, "3"], affine: Float[np.ndarray, "4 4"]
) -> ExtentMM:
    corners = np.array(list(np.ndindex(2, 2, 2))) * (high - low) + low - 0.5
    points = to_patient_mm(corners, affine)
    x, y, z = [(round(float(a), 3), round(float(b), 3)) for a, b in zip(points.min(0), points.max(0), strict=True)]
    return (*x, *y, *z)


def neighbours(
    anatomy: Anatomy, frame: Frame, seen: Mapping[str, Seen], rules: Rules
) -> dict[tuple[str, Direction], str]:
    """Return what lies directly beside each visible structure, where that is beyond doubt.

    From each voxel of the structure's surface in a direction, a line is followed until it meets another named
    structure or the edge of the field of view; nameless tissue and background are looked through.

    Args:
        anatomy: The map.
        frame: The field of view.
        seen: What of each structure is in it.
        rules: How far is looked, and how many of the lines must agree.
    """
    name_of = {organ.value: name for name, organ in anatomy.organs.items()}
    named = np.isin(np.arange(int(anatomy.map.labels.max()) + 1), sorted(name_of))
    labels = frame.cut(anatomy.map.labels)
    found: dict[tuple[str, Direction], str] = {}
    for name, what in seen.items():
        if what.status != "visible":
            continue
        organ = anatomy.organs[name]
        for direction, (patient_axis, sign) in DIRECTIONS.items():
            axis, runs = anatomy.axes[patient_axis]
            reach = int(rules.reach_mm / spacing_mm(anatomy.map.affine)[axis])
            part = _towards(labels, organ, frame.box, axis, sign * runs, reach)
            if not len(part):
                continue
            votes = _first_met(part, organ.value, reach, named)
            values, counts = np.unique(votes, return_counts=True)
            best = int(counts.argmax())
            value = int(values[best])
            if value == 0 or counts[best] < rules.neighbour_share * len(votes):
                continue
            other = EDGE if value < 0 else name_of[value]
            if value < 0 or seen[other].status == "visible":
                found[name, direction] = other
    return found


def _towards(
    labels: Int32[np.ndarray, "d h w"], organ: Organ, box: Box, axis: int, sign: int, reach: int
) -> Int32[np.ndarray, "lines length"]:
    """Return the lines through an organ's part of a field of view, running in a direction and ending at its reach."""
    picks = []
    for a in range(3):
        low = max(organ.low[a] - box[0][a], 0)
        high = min(organ.low[a] + organ.mask.shape[a], box[1][a]) - box[0][a]
        if a == axis:
            low, high = (low, min(high + reach, labels.shape[a])) if sign > 0 else (max(low - reach, 0), high)
        picks.append(slice(low, high))
    lines = np.moveaxis(labels[tuple(picks)], axis, -1)[..., ::sign]
    step = max(1, int(np.sqrt(lines.shape[0] * lines.shape[1] / _LINES)))
    lines = lines[step // 2 :: step, step // 2 :: step].reshape(-1, lines.shape[-1])
    return lines[(lines == organ.value).any(axis=1)]


def _first_met(
    lines: Int32[np.ndarray, "lines length"], value: int, reach: int, named: Bool[np.ndarray, " values"]
) -> Int32[np.ndarray, " lines"]:
    """Return for each line the first named label behind a structure, -1 for the edge of the scan, 0 for nothing."""
    length = lines.shape[1]
    last = length - 1 - (lines == value)[:, ::-1].argmax(axis=1)
    candidates = named[lines] & (np.arange(length) > last[:, None])
    first = candidates.argmax(axis=1)
    rows = np.arange(len(lines))
    met = candidates[rows, first]
    within = first - last <= reach
    at_edge = length - 1 - last < reach
    return np.where(met, np.where(within, lines[rows, first], 0), np.where(at_edge, -1, 0)).astype(np.int32)
