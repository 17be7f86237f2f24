"""Boxes that are fitted to points: what they hold, what they leave to others, and when they stay as they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdim.errors import GeometryError
from crossdim.geometry.boxes import contains, iou_3d
from crossdim.geometry.tightening import FEWEST_POINTS, smallest_rectangle, tightened

THING = np.array([0.3, -0.2, 0.1, 0.3, 0.1, 0.2, 0.4])
"""Centre, size, yaw; it stands on z = 0."""


def shell(box: np.ndarray, count: int = 400, seed: int = 0) -> np.ndarray:
    """Return points on the sides of a box and its top, corners included, as a camera all around would see it."""
    random = np.random.default_rng(seed)
    unit = random.uniform(-0.5, 0.5, (count, 3))
    side = random.integers(0, 3, count)
    unit[np.arange(count), side] = np.where(side == 2, 0.5, np.sign(unit[np.arange(count), side]) * 0.5)
    ends = np.array([[x, y, 0.5] for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    along = np.concatenate([unit, ends]) * box[3:6]
    cosine, sine = np.cos(box[6]), np.sin(box[6])
    turned = [cosine * along[:, 0] - sine * along[:, 1], sine * along[:, 0] + cosine * along[:, 1], along[:, 2]]
    return np.stack(turned, axis=1) + box[:3]


def changed(box: np.ndarray, **by: float) -> np.ndarray:
    names = ("x", "y", "z", "length", "width", "height", "yaw")
    return box + np.array([by.get(name, 0.0) for name in names])


turns, shifts, stretches = st.floats(-0.3, 0.3), st.floats(-0.01, 0.01), st.floats(-0.005, 0.01)


@given(shifts, shifts, stretches, stretches, turns)
def test_a_box_that_is_nearly_right_becomes_right(x, y, length, width, yaw):
    guess = changed(THING, x=x, y=y, length=length, width=width, yaw=yaw)
    (found,) = tightened(guess[None], shell(THING), 0.07)
    assert iou_3d(found, THING, pairwise=False) > 0.95
    assert iou_3d(found, THING, pairwise=False) >= iou_3d(guess, THING, pairwise=False) - 0.03


def test_the_length_stays_along_the_side_that_the_guess_calls_length():
    for quarter in range(4):
        guess = THING.copy()
        guess[6] += quarter * np.pi / 2
        if quarter % 2:
            guess[3:5] = guess[4], guess[3]
        (found,) = tightened(guess[None], shell(THING), 0.01)
        assert found == pytest.approx(guess, abs=0.02)


def test_a_wide_box_is_drawn_in_and_a_narrow_one_let_out():
    wide, narrow = changed(THING, length=0.1, width=0.1), changed(THING, length=-0.03, width=-0.03)
    for guess in (wide, narrow):
        (found,) = tightened(guess[None], shell(THING), 0.02)
        assert found[3:5] == pytest.approx(THING[3:5], abs=0.01)


def test_the_foot_stays_and_the_top_goes_where_the_highest_point_is():
    guess = changed(THING, z=0.02, height=0.04)  # from z = 0 to 0.24
    (found,) = tightened(guess[None], shell(THING), 0.01)
    foot, top = found[2] - found[5] / 2, found[2] + found[5] / 2
    assert (foot, top) == pytest.approx((0.0, 0.2), abs=1e-9)


def test_a_box_above_all_its_points_keeps_its_heights():
    low = shell(THING)
    low[:, 2] = 0.0
    (found,) = tightened(THING[None], low, 0.01)
    assert found[[2, 5]] == pytest.approx(THING[[2, 5]])


def test_points_of_a_neighbour_are_left_to_the_neighbour():
    beside = changed(THING, x=-0.11 * np.sin(THING[6]), y=0.11 * np.cos(THING[6]))  # a centimetre of air between
    points = np.concatenate([shell(THING), shell(beside, seed=1)])
    alone = tightened(THING[None], points, 0.05)[0]
    both = tightened(np.stack([THING, changed(beside, length=0.004, width=0.004)]), points, 0.05)[0]
    assert alone[4] > THING[4] + 0.03
    assert both[4] == pytest.approx(THING[4], abs=0.01)


def test_a_box_with_hardly_a_point_stays():
    few = shell(THING)[: FEWEST_POINTS - 1]
    assert np.array_equal(tightened(THING[None], few, 0.01), THING[None])
    assert np.array_equal(tightened(THING[None], np.zeros((0, 3)), 0.01), THING[None])


def test_no_boxes_become_no_boxes():
    assert tightened(np.zeros((0, 7)), shell(THING), 0.01).shape == (0, 7)


def test_float32_stays_float32():
    assert tightened(THING[None].astype(np.float32), shell(THING), 0.01).dtype == np.float32


@given(st.integers(0, 1000), st.integers(1, 30), st.floats(-7, 7))
def test_a_rectangle_holds_all_its_points_and_is_no_larger_than_an_upright_one(seed, count, yaw):
    points = np.random.default_rng(seed).normal(0, 1, (count, 2))
    center, size, turned = smallest_rectangle(points, yaw)
    box = np.array([*center, 0, *(size + 1e-9), 1, turned])
    assert contains(np.column_stack([points, np.zeros(count)]), box[None]).all()
    assert abs(turned - yaw) <= np.pi / 4 + 1e-9
    upright = smallest_rectangle(points, yaw)[1].prod()
    for other in np.arange(-45, 45, 1.5):
        cosine, sine = np.cos(yaw + np.deg2rad(other)), np.sin(yaw + np.deg2rad(other))
        sides = np.ptp(points @ np.array([[cosine, -sine], [sine, cosine]]), axis=0)
        assert upright <= max(1.02 * sides.prod(), np.maximum(sides, 0.01).prod()) + 1e-9


def test_stray_points_may_lie_beyond_the_sides():
    points = np.concatenate([np.random.default_rng(0).uniform(-0.5, 0.5, (500, 2)), [[9.0, 0.0]]])
    assert smallest_rectangle(points)[1].max() > 9
    assert smallest_rectangle(points, stray=0.01)[1].max() < 1.2


@pytest.mark.parametrize("margin", [-0.01, np.nan])
def test_a_margin_is_no_negative_length(margin):
    with pytest.raises(GeometryError, match="margin"):
        tightened(THING[None], shell(THING), margin)


def test_nothing_cannot_be_enclosed():
    with pytest.raises(GeometryError, match="points"):
        smallest_rectangle(np.zeros((0, 2)))
