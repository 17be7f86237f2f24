"""Boxes turned about the vertical: corners, contents, exact 3D IoU and generalised IoU, non-maximum suppression.

A box is seven numbers: its centre (x, y, z), its full size along its own x, y and z, and its yaw about +z,
anticlockwise seen from above. Everything serves numpy and torch; the overlaps are differentiable in torch.

The common area of two rectangles is exact. Seen from the second rectangle, which is then upright, the outline of the
first one is clipped to it: every point outside moves to the nearest point of the rectangle. What moves runs along the
border and encloses nothing, so the clipped outline encloses the common area, and by Green's theorem the area is the
integral of x dy along it. Each of the four edges gives one term in closed form: no vertices are sorted or counted, and
edges that coincide or touch are no special case.

Differs from the code of 3DETR and PiMAE:

* their generalised IoU skips the intersection of some turned boxes (a shortcut on two corners); this one is exact;
* boxes are turned about the vertical of the scene, not about the y of a camera; the angle has the opposite sign.
"""

from math import pi
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Bool, Float, Int

from crossdim.errors import GeometryError
from crossdim.samples import Boxes3D, Camera

Symmetry = Literal["none", "half_turn", "quarter_turn"]
"""The turn about the vertical after which a box looks the same."""

EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Which of the ``corners`` the twelve edges of a box join."""

_SIGNS_X = (-0.5, 0.5, 0.5, -0.5)
_SIGNS_Y = (-0.5, -0.5, 0.5, 0.5)


def as_array(boxes: Boxes3D) -> Float[np.ndarray, "boxes 7"]:
    """Return boxes as seven numbers each: centre, size, yaw.

    Args:
        boxes: Of a scene.
    """
    return np.concatenate([boxes.centers_m, boxes.sizes_m, boxes.yaws_rad[:, None]], axis=1)


def poses_in_camera(boxes: Boxes3D, camera: Camera) -> Float[np.ndarray, "boxes 4 4"]:
    """Return where boxes are seen from a camera, and how they are turned there: from a box's own axes to the camera's.

    Sizes stay what they are. A level camera sees boxes turned about its y axis alone; a tilted one, as they say.

    Args:
        boxes: Of a scene.
        camera: Of the same scene.
    """
    poses = np.tile(np.eye(4), (len(boxes), 1, 1))
    cosine, sine = np.cos(boxes.yaws_rad), np.sin(boxes.yaws_rad)
    poses[:, :2, :2] = np.stack([np.stack([cosine, -sine], axis=-1), np.stack([sine, cosine], axis=-1)], axis=-2)
    poses[:, :3, 3] = boxes.centers_m
    return camera.camera_from_scene @ poses


def check_boxes(boxes: Float[Any, "*batch 7"]) -> None:
    """Check that boxes are finite, have a positive size along each of their axes, and a volume in their number type.

    Args:
        boxes: Centre, size, yaw.

    Raises:
        GeometryError: For the first box that is not finite or has no size.
    """
    xp = array_namespace(boxes)
    volume = volumes(boxes)
    finite = xp.all(xp.isfinite(boxes), axis=-1) & xp.isfinite(volume)
    bad = ~(finite & xp.all(boxes[..., 3:6] > 0, axis=-1) & (volume > 0))
    if not bool(xp.any(bad)):
        return
    number = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int8)))
    values = [float(f"{float(value):.4g}") for value in xp.reshape(boxes, (-1, 7))[number]]
    what = "has a size that is not positive" if bool(xp.reshape(finite, (-1,))[number]) else "is not finite"
    raise GeometryError(f"box {number}", f"{values} {what}", "Give centre, full size and yaw in metres and radians")


def corners(
    centers: Float[Any, "*boxes 3"], sizes: Float[Any, "*boxes 3"], yaws: Float[Any, "*boxes"]
) -> Float[Any, "*boxes 8 3"]:
    """Return the corners: four of the bottom anticlockwise seen from above, from the box's own (-x, -y), then the top.

    Args:
        centers: Of the boxes.
        sizes: Full sizes.
        yaws: In radians.
    """
    xp = array_namespace(centers, sizes, yaws)
    x, y = _footprint(xp, sizes, yaws)
    z = xp.stack([sizes[..., 2]] * 4, axis=-1) / 2
    bottom, top = xp.stack([x, y, -z], axis=-1), xp.stack([x, y, z], axis=-1)
    return xp.concat([bottom, top], axis=-2) + centers[..., None, :]


def _footprint(xp: Any, sizes: Any, yaws: Any) -> tuple[Any, Any]:
    """Return x and y of the four corners seen from above, about the centre.

    Args:
        xp: The arrays' namespace.
        sizes: Full sizes ``(..., 2 or more)``.
        yaws: In radians.
    """
    along = xp.stack([sizes[..., 0] * sign for sign in _SIGNS_X], axis=-1)
    across = xp.stack([sizes[..., 1] * sign for sign in _SIGNS_Y], axis=-1)
    cosine, sine = xp.cos(yaws)[..., None], xp.sin(yaws)[..., None]
    return cosine * along - sine * across, sine * along + cosine * across


def canonical_yaws(boxes: Float[Any, "*batch 7"], symmetry: Symmetry) -> Float[Any, "*batch 7"]:
    """Return the same boxes with the yaw nearest 0 of those that describe each; every one fills the space it filled.

    Args:
        boxes: Centre, size, yaw.
        symmetry: ``half_turn``: yaws from -90 to below 90 degrees; ``quarter_turn``: from -45 to below 45 degrees, and
            an odd number of turns exchanges length and width; ``none``: as they are.
    """
    if symmetry == "none":
        return boxes
    xp = array_namespace(boxes)
    step = pi if symmetry == "half_turn" else pi / 2
    yaws = boxes[..., 6]
    turns = xp.floor(yaws / step + 0.5)
    nearest = yaws - turns * step
    beyond = nearest >= step / 2  # by rounding alone
    turns = xp.where(beyond, turns + 1, turns)
    nearest = xp.where(beyond | (nearest < -step / 2), xp.full_like(nearest, -step / 2), nearest)
    length, width = boxes[..., 3], boxes[..., 4]
    if symmetry == "quarter_turn":
        odd = turns % 2 == 1
        length, width = xp.where(odd, width, length), xp.where(odd, length, width)
    changed = xp.stack([length, width, boxes[..., 5], nearest], axis=-1)
    return xp.concat([boxes[..., :3], changed], axis=-1)


def volumes(boxes: Float[Any, "*batch 7"]) -> Float[Any, "*batch"]:
    """Return the volume of each box.

    Args:
        boxes: Centre, size, yaw.
    """
    return boxes[..., 3] * boxes[..., 4] * boxes[..., 5]


def contains(
    points: Float[Any, "*batch points 3"], boxes: Float[Any, "*batch boxes 7"]
) -> Bool[Any, "*batch boxes points"]:
    """Return which points lie in which box; its faces belong to it.

    Args:
        points: In scene metres.
        boxes: Centre, size, yaw.

    Raises:
        GeometryError: If a box has no size or is not finite.
    """
    check_boxes(boxes)
    xp = array_namespace(points, boxes)
    box = boxes[..., :, None, :]
    x, y, z = (points[..., None, :, axis] - box[..., axis] for axis in range(3))
    cosine, sine = xp.cos(box[..., 6]), xp.sin(box[..., 6])
    within = xp.abs(cosine * x + sine * y) <= box[..., 3] / 2
    within = within & (xp.abs(cosine * y - sine * x) <= box[..., 4] / 2)
    return within & (xp.abs(z) <= box[..., 5] / 2)


def envelopes(boxes: Float[Any, "*batch 7"]) -> tuple[Float[Any, "*batch 3"], Float[Any, "*batch 3"]]:
    """Return the lowest and the highest coordinates of the smallest upright box around each box.

    Args:
        boxes: Centre, size, yaw.
    """
    xp = array_namespace(boxes)
    cosine, sine = xp.abs(xp.cos(boxes[..., 6])), xp.abs(xp.sin(boxes[..., 6]))
    length, width, height = boxes[..., 3], boxes[..., 4], boxes[..., 5]
    extent = xp.stack([cosine * length + sine * width, sine * length + cosine * width, height], axis=-1)
    return boxes[..., :3] - extent / 2, boxes[..., :3] + extent / 2


def intersection_volume(
    first: Float[Any, "*first 7"], second: Float[Any, "*second 7"], pairwise: bool = True
) -> Float[Any, "..."]:
    """Return the common volume of boxes.

    Args:
        first: ``(..., A, 7)``: centre, size, yaw.
        second: ``(..., B, 7)``, of the same library and type.
        pairwise: Every first box with every second one, ``(..., A, B)``; otherwise one by one, ``(...)``.

    Raises:
        GeometryError: If a box has no size or is not finite.
    """
    return _intersection(*_paired(first, second, pairwise))


def iou_3d(first: Float[Any, "*first 7"], second: Float[Any, "*second 7"], pairwise: bool = True) -> Float[Any, "..."]:
    """Return the common volume of boxes as a share of what they fill together: 0 to 1.

    Args:
        first: ``(..., A, 7)``: centre, size, yaw.
        second: ``(..., B, 7)``, of the same library and type.
        pairwise: Every first box with every second one, ``(..., A, B)``; otherwise one by one, ``(...)``.

    Raises:
        GeometryError: If a box has no size or is not finite.
    """
    one, other = _paired(first, second, pairwise)
    common = _intersection(one, other)
    return common / (volumes(one) + volumes(other) - common)


def giou_3d(first: Float[Any, "*first 7"], second: Float[Any, "*second 7"], pairwise: bool = True) -> Float[Any, "..."]:
    """Return the generalised IoU: the IoU less the empty share of the upright box around both; -1 to 1.

    The enclosing box is upright in the scene, as in 3DETR, so it is the same for turned boxes only up to quarter turns.

    Args:
        first: ``(..., A, 7)``: centre, size, yaw.
        second: ``(..., B, 7)``, of the same library and type.
        pairwise: Every first box with every second one, ``(..., A, B)``; otherwise one by one, ``(...)``.

    Raises:
        GeometryError: If a box has no size or is not finite.
    """
    one, other = _paired(first, second, pairwise)
    xp = array_namespace(one, other)
    common = _intersection(one, other)
    union = volumes(one) + volumes(other) - common
    (low_one, high_one), (low_other, high_other) = envelopes(one), envelopes(other)
    around = xp.prod(xp.maximum(high_one, high_other) - xp.minimum(low_one, low_other), axis=-1)
    return common / union - (1 - union / around)


def axis_aligned_iou(
    first: Float[Any, "*first 7"], second: Float[Any, "*second 7"], pairwise: bool = True
) -> Float[Any, "..."]:
    """Return the IoU of the upright boxes around boxes, which for boxes without yaw is their own: 0 to 1.

    Args:
        first: ``(..., A, 7)``: centre, size, yaw.
        second: ``(..., B, 7)``, of the same library and type.
        pairwise: Every first box with every second one, ``(..., A, B)``; otherwise one by one, ``(...)``.

    Raises:
        GeometryError: If a box has no size or is not finite.
    """
    one, other = _paired(first, second, pairwise)
    xp = array_namespace(one, other)
    (low_one, high_one), (low_other, high_other) = envelopes(one), envelopes(other)
    sides = xp.minimum(high_one, high_other) - xp.maximum(low_one, low_other)
    common = xp.prod(xp.maximum(sides, xp.zeros_like(sides)), axis=-1)
    return common / (xp.prod(high_one - low_one, axis=-1) + xp.prod(high_other - low_other, axis=-1) - common)


def nms(
    boxes: Float[Any, "boxes 7"],
    scores: Float[Any, "boxes"],
    iou: float,
    oriented: bool,
    classes: Int[Any, "boxes"] | None = None,
) -> Int[Any, "kept"]:
    """Return the indices of boxes that no better box overlaps by more than ``iou``, best first.

    Args:
        boxes: Centre, size, yaw.
        scores: Larger is better; among equals the lower index.
        iou: Largest overlap that two kept boxes may have, 0 to 1.
        oriented: Overlap of the boxes themselves; otherwise of the upright boxes around them (VoteNet's protocol).
        classes: Of each box: only boxes of one class suppress one another.

    Raises:
        GeometryError: If a box has no size or is not finite, or ``iou`` is not between 0 and 1.
    """
    if not 0 <= iou <= 1:
        raise GeometryError("iou", f"{iou} is not between 0 and 1", "Give the largest overlap of two kept boxes")
    xp = array_namespace(boxes, scores)
    order = xp.argsort(scores, descending=True, stable=True)
    best_first = xp.take(boxes, order, axis=0)
    overlap = axis_aligned_iou(best_first, best_first)
    if oriented:
        # An exact overlap of 0 where the upright boxes have none; the others are worked out pair by pair.
        one, other = xp.nonzero(overlap > 0)
        exact = iou_3d(xp.take(best_first, one, axis=0), xp.take(best_first, other, axis=0), pairwise=False)
        overlap[one, other] = exact
    suppresses = xp.triu(overlap > iou, k=1)
    if classes is not None:
        sorted_classes = xp.take(classes, order, axis=0)
        suppresses = suppresses & (sorted_classes[:, None] == sorted_classes[None, :])
    kept = xp.ones_like(scores, dtype=xp.bool)
    while True:  # After n rounds the n best boxes are decided, and most often all others too.
        survivors = ~xp.any(suppresses & kept[:, None], axis=0)
        if bool(xp.all(survivors == kept)):
            return order[kept]
        kept = survivors


def _paired(first: Any, second: Any, pairwise: bool) -> tuple[Any, Any]:
    """Return both sides ready for broadcasting.

    Args:
        first: ``(..., A, 7)``.
        second: ``(..., B, 7)``.
        pairwise: Every one with every other.

    Raises:
        GeometryError: If a box has no size or is not finite.
    """
    check_boxes(first)
    check_boxes(second)
    return (first[..., :, None, :], second[..., None, :, :]) if pairwise else (first, second)


def _intersection(one: Any, other: Any) -> Any:
    """Return the common volume of boxes, one by one; at most that of the smaller box.

    Args:
        one: ``(..., 7)``.
        other: ``(..., 7)``, broadcast against ``one``.
    """
    xp = array_namespace(one, other)
    away_z = other[..., 2] - one[..., 2]  # from the centre of one, as in _common_area
    top = xp.minimum(one[..., 5] / 2, away_z + other[..., 5] / 2)
    bottom = xp.maximum(-one[..., 5] / 2, away_z - other[..., 5] / 2)
    common = _common_area(xp, one, other) * (top - bottom)
    possible = (top > bottom) & (common > 0)
    common = xp.where(possible, common, xp.zeros_like(common))
    return xp.minimum(common, xp.minimum(volumes(one), volumes(other)))


def _common_area(xp: Any, one: Any, other: Any) -> Any:
    """Return the signed area of the outline of ``one`` after clipping to ``other`` (see the module's text).

    Everything is seen along the axes of ``other`` from the centre of ``one``: that keeps the digits of small boxes.

    Args:
        xp: The arrays' namespace.
        one: ``(..., 7)``.
        other: ``(..., 7)``, broadcast against ``one``.
    """
    cosine, sine = xp.cos(other[..., 6]), xp.sin(other[..., 6])
    away_x, away_y = other[..., 0] - one[..., 0], other[..., 1] - one[..., 1]
    x, y = _footprint(xp, one[..., 3:5], one[..., 6] - other[..., 6])  # (..., 4)
    center_x, center_y = cosine * away_x + sine * away_y, cosine * away_y - sine * away_x
    left, right = ((center_x + sign * other[..., 3])[..., None] for sign in (-0.5, 0.5))
    low, high = ((center_y + sign * other[..., 4])[..., None] for sign in (-0.5, 0.5))

    next_x, next_y = (xp.roll(corner, -1, axis=-1) for corner in (x, y))
    start_y, end_y = _clamp(xp, y, low, high), _clamp(xp, next_y, low, high)
    rise = next_y - y
    safe = xp.where(rise != 0, rise, xp.ones_like(rise))
    nothing, whole = xp.zeros_like(rise), xp.ones_like(rise)
    start_x = x + _clamp(xp, (start_y - y) / safe, nothing, whole) * (next_x - x)
    end_x = next_x - _clamp(xp, (next_y - end_y) / safe, nothing, whole) * (next_x - x)
    return xp.sum((end_y - start_y) * _mean_clamped(xp, start_x, end_x, left, right), axis=-1)


def _clamp(xp: Any, values: Any, low: Any, high: Any) -> Any:
    """Return values moved into a range; in torch all three have gradients.

    Args:
        xp: The arrays' namespace.
        values: To be moved.
        low: Smallest.
        high: Largest.
    """
    return xp.minimum(xp.maximum(values, low), high)


def _mean_clamped(xp: Any, start: Any, end: Any, low: Any, high: Any) -> Any:
    """Return the mean of a value that runs evenly from ``start`` to ``end`` and is kept between ``low`` and ``high``.

    Args:
        xp: The arrays' namespace.
        start: Where it begins.
        end: Where it ends.
        low: Smallest.
        high: Largest.
    """
    middle = (_clamp(xp, start, low, high) + _clamp(xp, end, low, high)) / 2
    way = end - start
    above = xp.maximum(end, high) - xp.maximum(start, high)
    below = xp.minimum(end, low) - xp.minimum(start, low)
    # Nearly no way: the middle is right to half of it, and the shares of nothing would be noise.
    moves = xp.abs(way) > xp.finfo(way.dtype).eps ** 0.75 * (high - low)
    safe = xp.where(moves, way, xp.ones_like(way))
    beyond = (above * (high - middle) + below * (low - middle)) / safe
    return middle + xp.where(moves, beyond, xp.zeros_like(beyond))
