"""Average precision of boxes in scenes."""

import json
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdim.errors import ContractError, GeometryError, RecipeError
from crossdim.geometry.boxes import canonical_yaws, iou_3d
from crossdim.metrics.detection3d import TrueBoxes, compare_detections, evaluate_detections
from crossdim.metrics.detection_protocol import Detections

NAMES = ("chair", "table", "bed")


def boxes_at(*places, size=1.0, yaw=0.0):
    return np.array([[x, 0, 0, size, size, size, yaw] for x in places], dtype=np.float64).reshape(-1, 7)


def true(*pairs):
    """Return the boxes of a scene from (place, class)."""
    return TrueBoxes(
        boxes_at(*(place for place, _ in pairs)), np.array([number for _, number in pairs], dtype=np.int64)
    )


def found(*triples):
    """Return detections from (place, class, score)."""
    places, numbers, scores = zip(*triples, strict=True) if triples else ((), (), ())
    return Detections(boxes_at(*places), np.array(numbers, dtype=np.int64), np.array(scores, dtype=np.float64))


def random_scenes(seed, scenes=4, classes=3):
    generator = np.random.default_rng(seed)
    every = []
    for _ in range(scenes):
        count, guesses = generator.integers(0, 5), generator.integers(0, 12)
        truth = true(*zip(generator.uniform(0, 8, count), generator.integers(0, classes, count), strict=True))
        near = generator.choice(np.append(truth.boxes[:, 0], 20), guesses) + generator.normal(0, 0.3, guesses)
        scores = generator.permutation(100)[:guesses] / 100
        every.append((found(*zip(near, generator.integers(0, classes, guesses), scores, strict=True)), truth))
    return zip(*every, strict=True)


def test_labels_with_another_yaw_for_the_same_box_measure_the_same():
    random = np.random.default_rng(4)
    for symmetry in ("half_turn", "quarter_turn"):
        guesses, truths, others = [], [], []
        for _ in range(12):
            boxes = boxes_at(0, 4, 8, size=1.5)
            boxes[:, 3:5] *= random.uniform(0.5, 2, (3, 2))
            boxes[:, 6] = random.uniform(-4, 4, 3)
            near = boxes + random.normal(0, 0.15, boxes.shape)
            classes = random.integers(0, 3, 3)
            guesses.append(Detections(near, random.permutation(classes), random.permutation(300)[:3] / 300))
            truths.append(TrueBoxes(boxes, classes))
            others.append(TrueBoxes(canonical_yaws(boxes, symmetry), classes))
        assert not np.allclose(truths[0].boxes, others[0].boxes)
        one, other = (evaluate_detections(guesses, each, NAMES, bootstrap=100) for each in (truths, others))
        assert 0.1 < one.thresholds[0].mean_average_precision.value < 1
        assert one == other


def plain_average_precision(found, truth, number, iou):
    """One class, one detection after the other, as the protocol is usually written."""
    ranked = sorted(
        (
            (score, scene, box)
            for scene, each in enumerate(found)
            for box, of, score in zip(each.boxes, each.classes, each.scores, strict=True)
            if of == number
        ),
        key=lambda each: -each[0],
    )
    wanted = [each.boxes[each.classes == number] for each in truth]
    used = [np.zeros(len(each), dtype=bool) for each in wanted]
    right = []
    for _, scene, box in ranked:
        overlap = iou_3d(box[None], wanted[scene])[0] if len(wanted[scene]) else np.zeros(0)
        best = int(overlap.argmax()) if len(overlap) else -1
        hit = best >= 0 and overlap[best] > iou and not used[scene][best]
        if hit:
            used[scene][best] = True
        right.append(hit)
    count = sum(map(len, wanted))
    recall = np.concatenate([[0], np.cumsum(right) / count])
    precision = np.concatenate([[0], np.cumsum(right) / np.arange(1, len(right) + 1)])
    area = sum((recall[place] - recall[place - 1]) * precision[place:].max() for place in range(1, len(recall)))
    return area, recall[-1]


@given(st.integers(0, 10**6))
def test_scores_are_those_of_the_usual_loop(seed):
    detected, truth = random_scenes(seed)
    report = evaluate_detections(detected, truth, NAMES, (0.25, 0.5), bootstrap=1)
    for scores in report.thresholds:
        means = []
        for number, row in enumerate(scores.classes):
            if not row.boxes:
                assert isnan(row.average_precision.value)
                continue
            area, recall = plain_average_precision(detected, truth, number, scores.iou)
            assert row.average_precision.value == pytest.approx(area)
            assert row.recall.value == pytest.approx(recall)
            means.append(area)
        if means:
            assert scores.mean_average_precision.value == pytest.approx(np.mean(means))


@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_only_the_order_of_scores_matters(seed, power):
    detected, truth = random_scenes(seed)
    changed = [Detections(each.boxes, each.classes, each.scores**power) for each in detected]
    first, second = (evaluate_detections(each, truth, NAMES, bootstrap=1) for each in (detected, changed))
    assert first.to_dict() == second.to_dict()


def test_a_box_is_found_once_by_the_most_certain_detection():
    truth = [true((0, 0))]
    one = evaluate_detections([found((0, 0, 0.9), (0.1, 0, 0.8))], truth, NAMES, (0.5,), bootstrap=1)
    assert one.thresholds[0].classes[0].average_precision.value == 1
    other = evaluate_detections([found((0.1, 0, 0.9), (0, 0, 0.8), (5, 0, 0.95))], truth, NAMES, (0.5,), bootstrap=1)
    assert other.thresholds[0].classes[0].average_precision.value == 0.5


def test_scenes_without_boxes_are_kept():
    truth = [true((0, 0)), true()]
    quiet = evaluate_detections([found((0, 0, 0.5)), found()], truth, NAMES, bootstrap=1)
    loud = evaluate_detections([found((0, 0, 0.5)), found((0, 0, 0.9))], truth, NAMES, bootstrap=1)
    assert (loud.scenes, loud.empty_scenes, loud.boxes) == (2, 1, 1)
    assert quiet.thresholds[0].mean_average_precision.value == 1
    assert loud.thresholds[0].mean_average_precision.value == 0.5


def test_no_detections_and_no_boxes_at_all_are_scores_too():
    nothing = evaluate_detections([found()], [true((0, 0))], NAMES)
    assert nothing.thresholds[0].mean_average_precision.value == 0
    assert nothing.thresholds[0].average_recall.value == 0
    empty = evaluate_detections([found((0, 0, 0.5))], [true()], NAMES)
    assert isnan(empty.thresholds[0].mean_average_precision.value)


def test_a_class_that_no_scene_holds_is_left_out_or_counts_as_zero():
    truth, detected = [true((0, 0))], [found((0, 0, 0.9), (0, 1, 0.5))]
    left_out = evaluate_detections(detected, truth, NAMES, bootstrap=1).thresholds[0]
    assert left_out.mean_average_precision.value == 1
    zero = evaluate_detections(detected, truth, NAMES, absent="zero", bootstrap=1).thresholds[0]
    assert zero.mean_average_precision.value == 0.5  # The third class is neither there nor predicted.
    assert zero.average_recall.value == 0.5


def test_intervals_hold_the_score_and_repeat():
    detected, truth = random_scenes(3, scenes=30)
    first, second = (evaluate_detections(detected, truth, NAMES, seed=4) for _ in range(2))
    assert first == second
    for scores in first.thresholds:
        assert scores.mean_average_precision.low < scores.mean_average_precision.value
        assert scores.mean_average_precision.value < scores.mean_average_precision.high
    other = evaluate_detections(detected, truth, NAMES, seed=5)
    assert other.thresholds[0].mean_average_precision.low != first.thresholds[0].mean_average_precision.low


def test_a_resample_is_the_scenes_drawn_that_often():
    detected, truth = random_scenes(8, scenes=6)
    generator = np.random.default_rng([7, 1])
    drawn = [np.repeat(np.arange(6), counts) for counts in generator.multinomial(6, np.full(6, 1 / 6), size=40)]
    values = []
    for chosen in drawn:
        again = [detected[place] for place in chosen], [truth[place] for place in chosen]
        values.append(evaluate_detections(*again, NAMES, (0.25,), bootstrap=1).thresholds[0].average_recall.value)
    low, high = np.percentile(values, [2.5, 97.5])
    interval = evaluate_detections(detected, truth, NAMES, (0.25,), bootstrap=40, seed=7).thresholds[0].average_recall
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_scenes_of_one_group_are_drawn_together():
    detected, truth = random_scenes(3, scenes=8)
    alone = evaluate_detections(detected, truth, NAMES, groups=["same"] * 8).thresholds[0]
    assert isnan(alone.mean_average_precision.low)
    pairs = evaluate_detections(detected, truth, NAMES, groups=list("aabbccdd")).thresholds[0]
    single = evaluate_detections(detected, truth, NAMES).thresholds[0]
    assert pairs.mean_average_precision.value == single.mean_average_precision.value
    assert pairs.mean_average_precision.low != single.mean_average_precision.low


def test_a_difference_is_paired():
    detected, truth = random_scenes(3, scenes=20)
    worse = [Detections(each.boxes + 0.3 * np.eye(7)[0], each.classes, each.scores) for each in detected]
    difference = compare_detections(worse, detected, truth, 3, 0.5)
    scores = [
        evaluate_detections(each, truth, NAMES, (0.5,), bootstrap=1).thresholds[0].mean_average_precision.value
        for each in (worse, detected)
    ]
    assert difference.value == pytest.approx(scores[1] - scores[0])
    assert difference.low <= difference.value <= difference.high
    same = compare_detections(detected, detected, truth, 3, 0.5)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_report_is_plain_json():
    detected, truth = random_scenes(3)
    document = json.loads(
        json.dumps(evaluate_detections(detected, truth, NAMES, bootstrap=3).to_dict(), allow_nan=False)
    )
    assert [each["iou"] for each in document["thresholds"]] == [0.25, 0.5]
    assert [each["name"] for each in document["thresholds"][0]["classes"]] == list(NAMES)


# What counts.


# What is refused.


@pytest.mark.parametrize(("detected", "truth"), [([], []), ([found()], []), ([found()] * 2, [true()])])
def test_unequal_numbers_of_scenes_are_refused(detected, truth):
    with pytest.raises(RecipeError, match="detections: there are"):
        evaluate_detections(detected, truth, NAMES)
    with pytest.raises(RecipeError, match="detections: there are"):
        compare_detections(detected, detected, truth, 3, 0.5)


def test_at_least_one_resample_is_needed():
    with pytest.raises(RecipeError, match="bootstrap: is 0"):
        evaluate_detections([found()], [true()], NAMES, bootstrap=0)


@pytest.mark.parametrize("wrong", [(found((0, 3, 0.5)), true()), (found(), true((0, -1)))])
def test_classes_without_a_name_are_refused(wrong):
    with pytest.raises(ContractError, match="numbers of classes: run from"):
        evaluate_detections([wrong[0]], [wrong[1]], NAMES)


def test_boxes_without_a_size_are_refused():
    flat = Detections(boxes_at(0, size=0), np.array([0]), np.array([0.5]))
    with pytest.raises(GeometryError, match="a size that is not positive"):
        evaluate_detections([flat], [true()], NAMES)
