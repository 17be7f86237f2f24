"""Which boxes of a detector count, for which classes, and where they end."""

import numpy as np
import pytest

from crossdim.errors import ContractError, GeometryError
from crossdim.geometry.tightening import tightened
from crossdim.metrics.detection_protocol import Protocol, RawBoxes, detections, kept, kept_boxes, points_inside
from tests.metrics.test_detection3d import boxes_at


def raw(places, probabilities, objectness, size=1.0, yaw=0.0):
    boxes = boxes_at(*places, size=size, yaw=yaw)
    return RawBoxes(boxes, np.array(probabilities, dtype=np.float64), np.array(objectness, dtype=np.float64))


ANY = Protocol(fewest_points=0)


def test_a_more_certain_box_of_the_same_class_suppresses_another():
    of = raw([0, 0.2, 0.2, 3], [[0.8, 0], [0.9, 0], [0, 0.5], [0.3, 0]], [0.8, 0.9, 0.5, 0.3])
    assert kept_boxes(of, None, ANY).tolist() == [False, True, True, True]
    any_class = Protocol(fewest_points=0, suppression="any_class")
    assert kept_boxes(of, None, any_class).tolist() == [False, True, False, True]
    assert kept_boxes(of, None, Protocol(fewest_points=0, overlap=0.9)).all()


def test_turned_boxes_overlap_less_than_what_is_around_them():
    of = raw([0, 0.8], [[1.0, 0], [1, 0]], [0.9, 0.8], yaw=np.pi / 4)
    assert kept_boxes(of, None, ANY).tolist() == [True, False]
    assert kept_boxes(of, None, Protocol(fewest_points=0, oriented=True)).all()


def test_boxes_without_much_of_an_object_do_not_count():
    of = raw([0, 3, 6], [[1.0, 0]] * 3, [0.06, 0.05, 0.04])
    assert kept_boxes(of, None, ANY).tolist() == [True, False, False]
    assert kept_boxes(of, None, Protocol(fewest_points=0, objectness=0.0)).all()


def test_boxes_with_hardly_a_point_inside_do_not_count():
    points = np.concatenate([np.zeros((5, 3)), np.full((4, 3), [3.0, 0, 0])])
    of = raw([0, 3, 6], [[1.0, 0]] * 3, [0.5, 0.6, 0.7])
    assert points_inside(of.boxes, points).tolist() == [5, 4, 0]
    assert kept_boxes(of, points, Protocol()).tolist() == [True, False, False]
    assert kept_boxes(of, points, Protocol(fewest_points=4)).tolist() == [True, True, False]


def test_where_all_boxes_are_empty_the_most_certain_one_is_kept():
    of = raw([0, 3, 6], [[1.0, 0]] * 3, [0.5, 0.7, 0.6])
    assert kept_boxes(of, np.full((9, 3), 50.0), Protocol()).tolist() == [False, True, False]


def test_every_box_counts_for_every_class_or_for_its_best():
    of = raw([0, 3], [[0.7, 0.2], [0.1, 0.5]], [0.9, 0.6])
    every = detections(of, None, ANY)
    assert every.classes.tolist() == [0, 1, 0, 1]
    assert every.scores.tolist() == pytest.approx([0.63, 0.18, 0.06, 0.3])
    assert every.boxes[:, 0].tolist() == [0, 0, 3, 3]
    best = detections(of, None, Protocol(fewest_points=0, emission="best_class"))
    assert best.classes.tolist() == [0, 1]
    assert best.scores.tolist() == pytest.approx([0.63, 0.3])


def test_no_boxes_are_no_detections():
    nothing = RawBoxes(np.zeros((0, 7)), np.zeros((0, 2)), np.zeros(0))
    for protocol in (ANY, Protocol()):
        assert len(detections(nothing, np.zeros((3, 3)), protocol).scores) == 0


def test_boxes_that_are_kept_are_fitted_to_their_points_if_that_is_asked_for():
    points = np.random.default_rng(0).uniform((-0.4, -0.3, -0.5), (0.5, 0.3, 0.2), (200, 3))
    of = raw([0, 0.1, 3], [[1.0, 0]] * 3, [0.9, 0.8, 0.7])
    plain, fitted = kept(of, points, Protocol()), kept(of, points, Protocol(tighten_m=0.05))
    assert np.array_equal(plain.boxes, of.boxes[:1])
    assert np.array_equal(fitted.boxes, tightened(of.boxes[:1], points, 0.05))
    assert fitted.boxes[0, 3:6] == pytest.approx([0.9, 0.6, 0.7], abs=0.05)
    assert fitted.objectness.tolist() == [0.9]
    assert np.array_equal(detections(of, points, Protocol(tighten_m=0.05)).boxes[0], fitted.boxes[0])


def test_points_are_asked_for_where_empty_boxes_are_dropped():
    with pytest.raises(ContractError, match="points: are needed to drop empty boxes"):
        kept_boxes(raw([0], [[1.0]], [0.5]), None, Protocol())


def test_points_are_asked_for_where_boxes_are_tightened():
    with pytest.raises(ContractError, match="to tighten others"):
        kept(raw([0], [[1.0]], [0.5]), None, Protocol(fewest_points=0, tighten_m=0.01))


def test_a_negative_margin_is_refused():
    with pytest.raises(GeometryError, match="margin: is -1 m"):
        kept(raw([0], [[1.0]], [0.5]), np.zeros((9, 3)), Protocol(tighten_m=-1.0))
