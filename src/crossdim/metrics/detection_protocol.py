"""Which of the boxes that a detector gives count, by the protocol of VoteNet, which 3DETR and PiMAE report.

Boxes with hardly a point inside are dropped, then those that a more certain box of the same class overlaps, then those
without much of an object in them. Every box that is left counts once for every class, with that class's probability
times the probability of any object. What they are worth: ``detection3d``.

Differs from the authors' code: boxes that are left may be fitted to their points (``Protocol.tighten_m``); not unless
asked for.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from crossdim.errors import ContractError
from crossdim.geometry.boxes import contains, nms
from crossdim.geometry.tightening import tightened

VALUES_AT_A_TIME = 4_000_000
"""Bounds the memory of counting points in boxes."""


@dataclass(frozen=True)
class Protocol:
    """What is asked of a box before it counts.

    Attributes:
        fewest_points: Points that have to lie in it; where no box has as many, the most certain one is kept. 0 asks for
            none, as during the authors' training.
        overlap: Largest IoU with a more certain box that is kept.
        suppression: Whether only boxes of the same most probable class suppress one another.
        oriented: Whether this IoU is that of the turned boxes; otherwise of the upright boxes around them.
        objectness: The probability of an object has to be larger.
        emission: Whether a box counts for every class or for its most probable one.
        absent: Whether a class that no scene holds is left out of means, or counts as 0 where it is predicted.
        tighten_m: Boxes that are kept become the smallest ones around the points in them and this near them (metres;
            ``geometry.tightening``); None leaves them, as the protocol does.
    """

    fewest_points: int = 5
    overlap: float = 0.25
    suppression: Literal["same_class", "any_class"] = "same_class"
    oriented: bool = False
    objectness: float = 0.05
    emission: Literal["every_class", "best_class"] = "every_class"
    absent: Literal["left_out", "zero"] = "left_out"
    tighten_m: float | None = None


@dataclass(frozen=True)
class RawBoxes:
    """Everything a detector says of one scene.

    Attributes:
        boxes: Centre, full size, yaw, in scene metres.
        class_probabilities: One column per class.
        objectness: Probability that there is an object of any class.
    """

    boxes: Float[np.ndarray, "queries 7"]
    class_probabilities: Float[np.ndarray, "queries classes"]
    objectness: Float[np.ndarray, " queries"]


@dataclass(frozen=True)
class Detections:
    """Boxes that count, each for one class.

    Attributes:
        boxes: Centre, full size, yaw.
        classes: Number of the class.
        scores: 0 to 1.
    """

    boxes: Float[np.ndarray, "boxes 7"]
    classes: Int[np.ndarray, " boxes"]
    scores: Float[np.ndarray, " boxes"]


def kept_boxes(
    raw: RawBoxes, points: Float[np.ndarray, "points 3"] | None, protocol: Protocol
) -> Bool[np.ndarray, " queries"]:
    """Return which boxes count.

    Args:
        raw: Of a scene.
        points: Of the scene, as the detector saw them; needed if the protocol asks for points in boxes.
        protocol: What is asked of a box.

    Raises:
        ContractError: Points are needed and not given.
        GeometryError: A box has no size or is not finite.
    """
    candidates = np.ones(len(raw.boxes), dtype=bool)
    if points is None and (protocol.fewest_points or protocol.tighten_m is not None):
        what = "are needed to drop empty boxes and to tighten others"
        raise ContractError("points", what, "Give them, or set fewest_points to 0 and tighten_m to None")
    if protocol.fewest_points and points is not None:
        candidates = points_inside(raw.boxes, points) >= protocol.fewest_points
        if len(candidates) and not candidates.any():
            candidates[raw.objectness.argmax()] = True
    chosen = np.flatnonzero(candidates)
    classes = raw.class_probabilities[chosen].argmax(axis=1) if protocol.suppression == "same_class" else None
    best = nms(raw.boxes[chosen], raw.objectness[chosen], protocol.overlap, protocol.oriented, classes)
    kept = np.zeros_like(candidates)
    kept[chosen[best]] = True
    return kept & (raw.objectness > protocol.objectness)


def kept(raw: RawBoxes, points: Float[np.ndarray, "points 3"] | None, protocol: Protocol) -> RawBoxes:
    """Return the boxes that count, tightened if the protocol asks for it.

    Args:
        raw: Of a scene.
        points: Of the scene, as the detector saw them; needed if the protocol asks for points.
        protocol: What is asked of a box.

    Raises:
        ContractError: Points are needed and not given.
        GeometryError: A box has no size or is not finite.
    """
    chosen = kept_boxes(raw, points, protocol)
    boxes = raw.boxes[chosen]
    if protocol.tighten_m is not None and points is not None:
        boxes = tightened(boxes, points, protocol.tighten_m)
    return RawBoxes(boxes, raw.class_probabilities[chosen], raw.objectness[chosen])


def points_inside(
    boxes: Float[np.ndarray, "boxes 7"], points: Float[np.ndarray, "points 3"]
) -> Int[np.ndarray, " boxes"]:
    """Return how many points lie in each box.

    Args:
        boxes: Centre, full size, yaw.
        points: In scene metres.

    Raises:
        GeometryError: A box has no size or is not finite.
    """
    count = max(1, VALUES_AT_A_TIME // max(1, len(points)))
    parts = [contains(points, boxes[start : start + count]).sum(axis=1) for start in range(0, len(boxes), count)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def detections(raw: RawBoxes, points: Float[np.ndarray, "points 3"] | None, protocol: Protocol) -> Detections:
    """Return the boxes of a scene that count, with class and score.

    Args:
        raw: Everything the detector says.
        points: Of the scene; needed if the protocol asks for points in boxes.
        protocol: What is asked of a box.

    Raises:
        ContractError: Points are needed and not given.
        GeometryError: A box has no size or is not finite.
    """
    rest = kept(raw, points, protocol)
    probabilities = rest.class_probabilities
    if protocol.emission == "best_class":
        classes = probabilities.argmax(axis=1)
        best = np.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0]
        return Detections(rest.boxes, classes, best * rest.objectness)
    count = probabilities.shape[1]
    scores = probabilities * rest.objectness[:, None]
    return Detections(np.repeat(rest.boxes, count, axis=0), np.tile(np.arange(count), len(scores)), scores.ravel())
