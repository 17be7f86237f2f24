"""Average precision of boxes in scenes, by the protocol of VoteNet, which 3DETR and PiMAE report.

Which boxes count, and for which classes, is a matter of ``detection_protocol``. From the highest score down a box is
right if it overlaps the best of its class's true boxes in the scene enough and is the first to do so. The average
precision is the area under the envelope of precision over recall.

Intervals are percentiles over resamples of scenes. Whether a box is right depends on its own scene only, so a resample
is a weight for every scene.

Differs from the authors' code: scenes without boxes are kept (theirs are replaced by others, at random); a class that
no scene holds is left out of means instead of counting as 0 (``absent="zero"`` is theirs).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from crossdim.errors import ContractError, RecipeError
from crossdim.geometry.boxes import check_boxes, iou_3d
from crossdim.metrics.detection_protocol import Detections
from crossdim.metrics.resampling import Estimate, estimate, patient_groups, patient_weights, plain_numbers, ratio

VALUES_AT_A_TIME = 4_000_000
"""Bounds the memory of a bootstrap."""


@dataclass(frozen=True)
class TrueBoxes:
    """The boxes of one scene; none is right too.

    Attributes:
        boxes: Centre, full size, yaw.
        classes: Number of the class.
    """

    boxes: Float[np.ndarray, "boxes 7"]
    classes: Int[np.ndarray, " boxes"]


@dataclass(frozen=True)
class ClassScores:
    """One row of the table.

    Attributes:
        name: Of the class.
        boxes: True ones in all scenes.
        detections: That count for the class.
        average_precision: Area under the envelope of precision over recall.
        recall: Share of true boxes found in the end.
    """

    name: str
    boxes: int
    detections: int
    average_precision: Estimate
    recall: Estimate


@dataclass(frozen=True)
class ThresholdScores:
    """Scores at one IoU.

    Attributes:
        iou: A box is right if it overlaps a true one more.
        mean_average_precision: Over classes.
        average_recall: Over classes.
        classes: One row for each.
    """

    iou: float
    mean_average_precision: Estimate
    average_recall: Estimate
    classes: tuple[ClassScores, ...]


@dataclass(frozen=True)
class DetectionReport:
    """How good detections are.

    Attributes:
        scenes: How many.
        empty_scenes: How many of them hold no box.
        boxes: True ones in all of them.
        thresholds: Scores at each IoU.
    """

    scenes: int
    empty_scenes: int
    boxes: int
    thresholds: tuple[ThresholdScores, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        document: dict[str, Any] = plain_numbers(asdict(self))
        return document


@dataclass(frozen=True)
class _Ranked:
    """Detections of one class in all scenes, from the highest score down.

    Attributes:
        scene: Number of the scene of each.
        right: Whether each is right.
        true: Number of true boxes in each scene.
    """

    scene: Int[np.ndarray, " detections"]
    right: Bool[np.ndarray, " detections"]
    true: Int[np.ndarray, " scenes"]


def evaluate_detections(
    found: Sequence[Detections],
    truth: Sequence[TrueBoxes],
    names: Sequence[str],
    thresholds: Sequence[float] = (0.25, 0.5),
    absent: Literal["left_out", "zero"] = "left_out",
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> DetectionReport:
    """Measure detections of many scenes.

    Args:
        found: Of each scene.
        truth: Of each scene.
        names: Of the classes.
        thresholds: IoUs.
        absent: Whether a class that no scene holds is left out of means, or counts as 0 where it is predicted.
        groups: What scenes are drawn together by, such as the room; None if every scene stands for itself.
        bootstrap: Resamples behind each interval.
        seed: Of the resamples.

    Raises:
        RecipeError: There are no scenes, unequal numbers of them, or no resamples.
        ContractError: A class has no name.
        GeometryError: A box has no size or is not finite.
    """
    numbers = _check_scenes(found, truth, groups, bootstrap)
    ranked = _ranked(found, truth, len(names), thresholds)
    several = int(numbers.max()) > 0
    return DetectionReport(
        len(truth),
        sum(len(each.classes) == 0 for each in truth),
        sum(len(each.classes) for each in truth),
        tuple(
            _threshold(iou, rows, names, absent, several, lambda: patient_weights(numbers, bootstrap, seed))
            for iou, rows in zip(thresholds, ranked, strict=True)
        ),
    )


def compare_detections(
    first: Sequence[Detections],
    second: Sequence[Detections],
    truth: Sequence[TrueBoxes],
    classes: int,
    threshold: float,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Return how much more mean average precision the second detector has, on the same resamples of scenes.

    Args:
        first: Of each scene.
        second: Of each scene.
        truth: Of each scene.
        classes: Number of classes.
        threshold: IoU.
        groups: What scenes are drawn together by; None if every scene stands for itself.
        bootstrap: Resamples behind the interval.
        seed: Of the resamples.

    Raises:
        RecipeError: There are no scenes, unequal numbers of them, or no resamples.
        ContractError: A class has no number below ``classes``.
        GeometryError: A box has no size or is not finite.
    """
    numbers = _check_scenes(first, truth, groups, bootstrap)
    _check_scenes(second, truth, groups, bootstrap)
    pairs = [_ranked(found, truth, classes, [threshold])[0] for found in (first, second)]

    def difference(weights: Float[np.ndarray, "resamples scenes"]) -> Float[np.ndarray, " resamples"]:
        means = [_mean_over_classes(np.stack([_curve(each, weights)[0] for each in rows])) for rows in pairs]
        return means[1] - means[0]

    resampled = np.concatenate([difference(weights) for weights in patient_weights(numbers, bootstrap, seed)])
    return estimate(float(difference(np.ones((1, len(truth))))[0]), resampled, int(numbers.max()) > 0)


def _check_scenes(
    found: Sequence[Detections], truth: Sequence[TrueBoxes], groups: Sequence[str] | None, bootstrap: int
) -> Int[np.ndarray, " scenes"]:
    """Return the number of the group of each scene."""
    if not truth or len(found) != len(truth):
        reason = f"there are {len(found)} for {len(truth)} scenes with labels"
        raise RecipeError("detections", reason, "Give one set for each scene, and at least one scene")
    return patient_groups(groups, len(truth), bootstrap)


def _ranked(
    found: Sequence[Detections], truth: Sequence[TrueBoxes], classes: int, thresholds: Sequence[float]
) -> list[list[_Ranked]]:
    """Return for every IoU and class the detections of all scenes, from the highest score down."""
    best = [_best(each, true, classes) for each, true in zip(found, truth, strict=True)]
    scene = np.repeat(np.arange(len(found)), [len(each.classes) for each in found])
    numbers = np.concatenate([each.classes for each in found])
    scores = np.concatenate([each.scores for each in found])
    order = np.argsort(-scores, kind="stable")
    members = [order[numbers[order] == number] for number in range(classes)]
    true = [np.array([np.count_nonzero(each.classes == number) for each in truth]) for number in range(classes)]
    rows = []
    for iou in thresholds:
        right = np.concatenate([_right(*pair, each.scores, iou) for each, pair in zip(found, best, strict=True)])
        rows.append([_Ranked(scene[each], right[each], count) for each, count in zip(members, true, strict=True)])
    return rows


def _best(
    found: Detections, true: TrueBoxes, classes: int
) -> tuple[Int[np.ndarray, " found"], Float[np.ndarray, " found"]]:
    """Return the best true box of its class for each detection, and their IoU; -1 and 0 where there is none."""
    for what in (found, true):
        if len(what.classes) and not 0 <= what.classes.min() <= what.classes.max() < classes:
            reason = f"run from {what.classes.min()} to {what.classes.max()}, and there are {classes}"
            raise ContractError("numbers of classes", reason, "Name every class")
        check_boxes(what.boxes)
    if not len(found.classes) or not len(true.classes):
        return np.full(len(found.classes), -1), np.zeros(len(found.classes))
    boxes, which = np.unique(found.boxes, axis=0, return_inverse=True)
    iou = iou_3d(boxes.astype(np.float64), true.boxes.astype(np.float64))[which]
    iou = np.where(found.classes[:, None] == true.classes, iou, -1)
    best = iou.argmax(axis=1)
    highest = np.take_along_axis(iou, best[:, None], axis=1)[:, 0]
    return np.where(highest < 0, -1, best), np.maximum(highest, 0)


def _right(
    best: Int[np.ndarray, " found"],
    overlap: Float[np.ndarray, " found"],
    scores: Float[np.ndarray, " found"],
    iou: float,
) -> Bool[np.ndarray, " found"]:
    """Return which detections are right: of those whose best true box is the same, the highest score is."""
    enough = np.flatnonzero((best >= 0) & (overlap > iou))
    enough = enough[np.argsort(-scores[enough], kind="stable")]
    first = np.unique(best[enough], return_index=True)[1]
    right = np.zeros(len(scores), dtype=bool)
    right[enough[first]] = True
    return right


def _curve(
    ranked: _Ranked, weights: Float[np.ndarray, "resamples scenes"]
) -> tuple[Float[np.ndarray, " resamples"], Float[np.ndarray, " resamples"]]:
    """Return average precision and final recall; NaN where there is no true box."""
    true = weights @ ranked.true
    parts = []
    for each in _blocks(weights, len(ranked.scene)):
        counts = each[:, ranked.scene]
        hits = np.cumsum(counts * ranked.right, axis=1)
        precision = hits / np.maximum(np.cumsum(counts, axis=1), 1e-12)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        gained = np.diff(hits, axis=1, prepend=0)
        parts.append(np.stack([(gained * envelope).sum(axis=1), gained.sum(axis=1)]))
    area, found = np.concatenate(parts, axis=1)
    return ratio(area, true), ratio(found, true)


def _blocks(weights: Float[np.ndarray, "resamples scenes"], values: int) -> Iterator[Float[np.ndarray, "block scenes"]]:
    step = max(1, VALUES_AT_A_TIME // max(1, values))
    for start in range(0, len(weights), step):
        yield weights[start : start + step]


def _mean_over_classes(values: Float[np.ndarray, "classes resamples"]) -> Float[np.ndarray, " resamples"]:
    """Average over the classes that are defined."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def _threshold(
    iou: float,
    rows: Sequence[_Ranked],
    names: Sequence[str],
    absent: str,
    several: bool,
    draws: Callable[[], Iterator[Float[np.ndarray, "block scenes"]]],
) -> ThresholdScores:
    """Return the scores at one IoU with their intervals."""
    predicted = np.array([len(each.scene) > 0 for each in rows])

    def measure(weights: Float[np.ndarray, "resamples scenes"]) -> Float[np.ndarray, "2 classes resamples"]:
        values = np.stack([_curve(each, weights) for each in rows], axis=1)
        zero = np.isnan(values) & predicted[:, None] & (absent == "zero")
        return np.where(zero, 0, values)

    point = measure(np.ones((1, len(rows[0].true))))
    resampled = np.concatenate([measure(weights) for weights in draws()], axis=2)
    means = [
        estimate(float(_mean_over_classes(one)[0]), _mean_over_classes(many), several)
        for one, many in zip(point, resampled, strict=True)
    ]
    table = [
        [estimate(float(one[0]), many, several) for one, many in zip(*each, strict=True)]
        for each in zip(point, resampled, strict=True)
    ]
    classes = tuple(
        ClassScores(name, int(each.true.sum()), len(each.scene), precision, recall)
        for name, each, precision, recall in zip(names, rows, *table, strict=True)
    )
    return ThresholdScores(iou, means[0], means[1], classes)
