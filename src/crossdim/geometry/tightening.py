"""Boxes drawn in, or let out, to the points that they stand around.

A detector says where things are better than where exactly they end. Where the boxes that are wanted end where what is
seen of a thing ends, the points say that: the box becomes the smallest upright box around the points in and near it.
Boxes that are meant to go on behind what is seen (SUN RGB-D, ScanNet) would become too small.
"""

import numpy as np
from jaxtyping import Float

from crossdim.errors import GeometryError
from crossdim.geometry.boxes import contains

STEP_DEG = 1.5
"""Between the yaws that are tried, over a quarter turn."""

EVEN = 1.02
"""Rectangles whose areas differ by no more are equally small: the one nearest to the wanted yaw is taken."""

LEAST_SIZE = 0.01
"""Metres that a box measures at least."""

FEWEST_POINTS = 5
"""A box with fewer points in and near it stays as it is."""


def smallest_rectangle(
    points: Float[np.ndarray, "points 2"], yaw: float = 0.0, stray: float = 0.0
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"], float]:
    """Return the smallest rectangle around points: its centre, its full size along its own x and y, its yaw.

    Args:
        points: x and y in metres; at least one.
        yaw: The rectangle's x lies within an eighth of a turn of it (radians).
        stray: Share of the points that may lie beyond each side.

    Raises:
        GeometryError: There are no points.
    """
    if not len(points):
        raise GeometryError("points", "are none, so nothing can be drawn around them", "Give at least one")
    turns = np.deg2rad(np.arange(-45, 45, STEP_DEG))
    cosines, sines = np.cos(yaw + turns), np.sin(yaw + turns)
    axes = np.stack([cosines, sines, -sines, cosines], axis=-1).reshape(-1, 2, 2)
    first = int(stray * len(points))
    last = len(points) - 1 - first
    sides = np.partition(axes @ points.T, (first, last), axis=-1)  # (yaws, 2, points)
    low, high = sides[..., first].T, sides[..., last].T
    areas = (high - low).prod(axis=0)
    small = np.flatnonzero(areas <= EVEN * areas.min())
    best = small[np.abs(turns[small]).argmin()]
    size = np.maximum((high - low)[:, best], LEAST_SIZE)
    return axes[best].T @ ((low + high)[:, best] / 2), size, float(yaw + turns[best])


def tightened(
    boxes: Float[np.ndarray, "boxes 7"], points: Float[np.ndarray, "points 3"], margin_m: float
) -> Float[np.ndarray, "boxes 7"]:
    """Return each box as the smallest one around the points in it and near it.

    Points in another box and not in this one are the other's. A box keeps its foot, because what a thing stands on
    is seldom seen, and turns by an eighth of a turn at most. A box with hardly a point stays.

    Args:
        boxes: Centre, full size, yaw.
        points: Of the scene, in the same metres.
        margin_m: How far outside a box, on every side, its points may lie.

    Raises:
        GeometryError: A box has no size or is not finite, or the margin is negative.
    """
    if not margin_m >= 0:
        raise GeometryError("margin", f"is {margin_m:g} m", "Give 0 or more")
    grown = boxes.copy()
    grown[:, 3:6] += 2 * margin_m
    inside, near = contains(points, boxes), contains(points, grown)
    own = near & (inside | ~inside.any(axis=0))
    return np.array(
        [_around(box, points[mine]) for box, mine in zip(boxes, own, strict=True)], dtype=boxes.dtype
    ).reshape(-1, 7)


def _around(box: Float[np.ndarray, "7"], points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "7"]:
    if len(points) < FEWEST_POINTS:
        return box
    center, size, yaw = smallest_rectangle(points[:, :2], float(box[6]))
    foot, top = box[2] - box[5] / 2, box[2] + box[5] / 2
    highest = points[:, 2].max()
    if highest - foot >= LEAST_SIZE:
        top = highest
    return np.array([*center, (foot + top) / 2, *size, top - foot, yaw])
