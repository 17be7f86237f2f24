"""Boxes: overlaps against an independent clipping, Monte Carlo, the authors' numbers, and as properties."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdim.errors import GeometryError
from crossdim.geometry.boxes import (
    EDGES,
    as_array,
    axis_aligned_iou,
    canonical_yaws,
    check_boxes,
    contains,
    corners,
    envelopes,
    giou_3d,
    intersection_volume,
    iou_3d,
    nms,
    poses_in_camera,
    volumes,
)
from crossdim.geometry.camera import LEVEL
from crossdim.samples import Boxes3D, Camera
from tests.conftest import ROOT

TURNS = [("half_turn", np.pi), ("quarter_turn", np.pi / 2)]
each_turn = pytest.mark.parametrize(("symmetry", "turn"), TURNS)
UNIT = np.array([0.0, 0, 0, 1, 1, 1, 0])
OVERLAPS = [intersection_volume, iou_3d, giou_3d, axis_aligned_iou]
each_overlap = pytest.mark.parametrize("overlap", OVERLAPS, ids=lambda overlap: overlap.__name__)

whole = st.integers(-2, 2).map(float)
sides = st.sampled_from([0.001, 0.5, 1.0, 2.0, 3.0])
quarters = st.sampled_from([0.0, np.pi / 4, np.pi / 2, -np.pi / 2, np.pi, 0.3])
on_a_grid = st.tuples(whole, whole, whole, sides, sides, sides, quarters).map(lambda box: np.array(box))
"""Boxes that often coincide, touch, contain one another or share a face."""

near, lengths, angles = st.floats(-2, 2), st.floats(0.05, 4), st.floats(-7, 7)
anywhere = st.tuples(near, near, near, lengths, lengths, lengths, angles).map(lambda box: np.array(box))
any_box = st.one_of(on_a_grid, anywhere)


def box(center=(0.0, 0, 0), size=(1.0, 1, 1), yaw=0.0) -> np.ndarray:
    return np.array([*center, *size, yaw], dtype=np.float64)


def random_boxes(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    where, size = random.normal(0, 1, (count, 3)), random.uniform(0.2, 3, (count, 3))
    return np.concatenate([where, size, random.uniform(-4, 4, (count, 1))], axis=1)


def outline(one: np.ndarray) -> np.ndarray:
    return corners(one[:3], one[3:6], one[6])[:4, :2]


def clipped_area(subject: np.ndarray, clip: np.ndarray) -> float:
    """Return the common area of two convex polygons the classic way (Sutherland and Hodgman), one vertex at a time."""
    polygon = list(subject)
    for start, end in pairwise([*clip, clip[0]]):
        along = end - start
        signs = [along[0] * (point[1] - start[1]) - along[1] * (point[0] - start[0]) for point in polygon]
        kept = []
        for number, point in enumerate(polygon):
            before, sign, last = polygon[number - 1], signs[number], signs[number - 1]
            if (sign < 0) != (last < 0):
                kept.append(before + (point - before) * last / (last - sign))
            if sign >= 0:
                kept.append(point)
        polygon = kept
    if len(polygon) < 3:
        return 0.0
    x, y = np.array(polygon).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_corners_go_anticlockwise_round_the_bottom_then_round_the_top():
    found = corners(np.array([1.0, 2, 3]), np.array([4.0, 2, 6]), np.array(np.pi / 2))
    np.testing.assert_allclose(found[:4], [[2, 0, 0], [2, 4, 0], [0, 4, 0], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(found[4:], found[:4] + np.array([0, 0, 6]), atol=1e-12)


@given(any_box)
def test_the_edges_join_corners_along_the_box_s_own_axes(one):
    ends = corners(one[:3], one[3:6], one[6])
    found = sorted(float(np.linalg.norm(ends[a] - ends[b])) for a, b in EDGES)
    np.testing.assert_allclose(found, np.sort(np.repeat(one[3:6], 4)), atol=1e-12)


@given(any_box)
def test_an_envelope_is_the_extent_of_the_corners(one):
    ends = corners(one[:3], one[3:6], one[6])
    low, high = envelopes(one)
    np.testing.assert_allclose(low, ends.min(axis=0), atol=1e-12)
    np.testing.assert_allclose(high, ends.max(axis=0), atol=1e-12)


def test_boxes_of_a_scene_become_seven_numbers_each():
    boxes = Boxes3D(np.array([[1.0, 2, 3]]), np.array([[4.0, 5, 6]]), np.array([0.7]), ("chair",))
    np.testing.assert_array_equal(as_array(boxes), [[1, 2, 3, 4, 5, 6, 0.7]])
    none = Boxes3D(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), ())
    assert as_array(none).shape == (0, 7)


def test_a_box_contains_its_faces_and_nothing_beyond_and_turns_with_its_yaw():
    points = np.array([[0.0, 0, 0], [1, 0.5, 0.25], [1.01, 0, 0], [0, 0.51, 0], [0, 0, 0.26], [0, 1, 0]])
    boxes = np.stack([box(size=(2, 1, 0.5)), box(size=(2, 1, 0.5), yaw=np.pi / 2), box((5, 0, 0))])
    assert contains(points, boxes).astype(int).tolist() == [[1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 1], [0] * 6]


@given(anywhere, st.integers(0, 2**32 - 1))
def test_points_mixed_from_the_corners_are_inside_and_their_mirror_images_are_not(one, seed):
    shares = np.random.default_rng(seed).dirichlet(np.ones(8), 20)
    ends = corners(one[:3], one[3:6], one[6])
    assert contains(0.999 * (shares @ ends) + 0.001 * one[:3], one[None]).all()
    assert not contains(one[:3] + 1.001 * (ends - one[:3]), one[None]).any()


def test_overlaps_that_can_be_worked_out_by_hand():
    others = np.stack(
        [
            UNIT,
            box((0.5, 0, 0)),
            box((1, 0, 0)),
            box((1, 1, 1)),
            box((3, 0, 0)),
            box(size=(0.5, 0.5, 0.5), yaw=1.0),
            box(size=(9, 9, 9), yaw=1.0),
            box(yaw=np.pi / 4),
            box((0, 0, 0.75)),
            box(size=(4, 0.5, 1)),
        ]
    )
    octagon = 2 * (np.sqrt(2) - 1)
    expected = [1, 0.5, 0, 0, 0, 0.125, 1, octagon, 0.25, 0.5]
    np.testing.assert_allclose(intersection_volume(UNIT[None], others)[0], expected, atol=1e-12)
    np.testing.assert_allclose(iou_3d(UNIT[None], others)[0, [0, 1, 5, 9]], [1, 1 / 3, 0.125, 0.2], atol=1e-12)
    np.testing.assert_allclose(giou_3d(UNIT[None], others)[0, :5], [1, 1 / 3, 0, 2 / 8 - 1, 2 / 4 - 1], atol=1e-12)
    np.testing.assert_allclose(axis_aligned_iou(UNIT[None], others)[0, [0, 1, 7]], [1, 1 / 3, 0.5], atol=1e-12)


@given(any_box, any_box)
def test_the_common_volume_agrees_with_clipping_one_vertex_at_a_time(one, other):
    low = max(one[2] - one[5] / 2, other[2] - other[5] / 2)
    high = min(one[2] + one[5] / 2, other[2] + other[5] / 2)
    expected = clipped_area(outline(one), outline(other)) * max(high - low, 0)
    np.testing.assert_allclose(intersection_volume(one, other, pairwise=False), expected, atol=1e-9)


def test_the_common_volume_agrees_with_monte_carlo():
    one, other = random_boxes(12, seed=1), random_boxes(12, seed=2)
    points = np.random.default_rng(3).uniform(-3, 3, (200_000, 3))
    both = (contains(points, one)[:, None] & contains(points, other)[None]).mean(axis=-1)
    exact = intersection_volume(one, other) / 6**3
    error = np.sqrt(np.maximum(exact * (1 - exact), 1e-9) / len(points))
    # Parts of boxes beyond the sampled cube count for neither.
    inside = [(np.abs(np.concatenate(envelopes(boxes), axis=-1)) < 3).all(axis=-1) for boxes in (one, other)]
    known = inside[0][:, None] | inside[1][None]
    assert known.sum() > 60
    assert (np.abs(both - exact)[known] < 4.5 * error[known]).all()


@each_overlap
@given(one=any_box, other=any_box)
def test_overlaps_are_symmetric_and_in_range(overlap, one, other):
    there, back = overlap(one, other, pairwise=False), overlap(other, one, pairwise=False)
    np.testing.assert_allclose(there, back, atol=1e-12)
    lowest, highest = {giou_3d: (-1, 1), intersection_volume: (0, np.inf)}.get(overlap, (0, 1))
    assert lowest <= there <= highest + 1e-12


@given(any_box, st.sampled_from([np.float32, np.float64]))
def test_a_box_overlaps_itself_entirely(one, kind):
    one = one.astype(kind)
    assert iou_3d(one, one, pairwise=False) == 1
    assert iou_3d(one[None], one[None], pairwise=True).item() == 1
    assert axis_aligned_iou(one, one, pairwise=False) == pytest.approx(1, abs=1e-5)
    assert intersection_volume(one, one, pairwise=False) == volumes(one)


@given(any_box, any_box, angles, st.tuples(near, near, near))
def test_moving_and_turning_both_boxes_changes_no_iou(one, other, angle, shift):
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    moved = [np.concatenate([turn @ b[:3] + shift, b[3:6], b[6:] + angle]) for b in (one, other)]
    before, after = iou_3d(one, other, pairwise=False), iou_3d(*moved, pairwise=False)
    np.testing.assert_allclose(after, before, atol=1e-9)


@each_overlap
@given(one=any_box, other=any_box, scale=st.floats(1e-3, 1e3))
def test_the_unit_of_length_changes_no_share(overlap, one, other, scale):
    units = np.array([scale] * 6 + [1])
    found = overlap(one * units, other * units, pairwise=False) / (scale**3 if overlap is intersection_volume else 1)
    np.testing.assert_allclose(found, overlap(one, other, pairwise=False), rtol=1e-7, atol=1e-12)


@given(any_box, any_box)
def test_a_quarter_turn_with_length_and_width_exchanged_is_the_same_box(one, other):
    same = one[[0, 1, 2, 4, 3, 5, 6]] + np.array([0, 0, 0, 0, 0, 0, np.pi / 2])
    for overlap in OVERLAPS:
        expected = overlap(one, other, pairwise=False)
        np.testing.assert_allclose(overlap(same, other, pairwise=False), expected, atol=1e-9)


@each_overlap
def test_numpy_and_torch_agree_pairwise_one_by_one_and_in_batches(overlap):
    one, other = random_boxes(6, seed=4), random_boxes(5, seed=5)
    pairs = overlap(one, other)
    assert pairs.shape == (6, 5)
    np.testing.assert_allclose(overlap(torch.tensor(one), torch.tensor(other)).numpy(), pairs, atol=1e-12)
    np.testing.assert_allclose(overlap(one[:5], other, pairwise=False), np.diagonal(pairs), atol=1e-12)
    batch = overlap(torch.tensor(one).reshape(2, 3, 7), torch.tensor(other[:4]).reshape(2, 2, 7))
    np.testing.assert_allclose(batch[1].numpy(), pairs[3:, 2:4], atol=1e-12)
    points = np.random.default_rng(6).normal(size=(50, 3))
    assert (contains(torch.tensor(points), torch.tensor(one)).numpy() == contains(points, one)).all()
    none = overlap(one[:0], other)
    assert none.shape == (0, 5)


@each_overlap
def test_single_precision_keeps_its_digits_far_from_the_origin(overlap):
    one, other = random_boxes(40, seed=7), random_boxes(40, seed=8)
    for boxes in (one, other):
        boxes[:, :2] += 50
    rounded = [boxes.astype(np.float32) for boxes in (one, other)]
    found, expected = overlap(*rounded), overlap(*(boxes.astype(np.float64) for boxes in rounded))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(st.floats(1e-4, 1e-2), angles, st.floats(-1, 1), st.sampled_from([np.float32, np.float64]))
def test_thin_boxes_keep_their_volume(thickness, yaw, place, kind):
    plate = box((place, 0, 0), (1, thickness, 1), yaw).astype(kind)
    room = box(size=(9, 9, 9), yaw=0.4).astype(kind)
    tolerance = 1e-3 if kind is np.float32 else 1e-9
    for common in (intersection_volume(plate, room, pairwise=False), intersection_volume(room, plate, pairwise=False)):
        np.testing.assert_allclose(common, thickness, rtol=tolerance)
    crossing = box((place, 0, 0), (1, thickness, 1), yaw + np.pi / 2).astype(kind)
    common = intersection_volume(plate, crossing, pairwise=False)
    np.testing.assert_allclose(common, thickness**2, rtol=tolerance * 10, atol=1e-12)


@pytest.mark.parametrize("overlap", [intersection_volume, iou_3d, giou_3d], ids=lambda overlap: overlap.__name__)
@pytest.mark.parametrize("seed", range(6))
def test_gradients_agree_with_finite_differences(overlap, seed):
    one = torch.tensor(random_boxes(4, seed), requires_grad=True)
    other = torch.tensor(random_boxes(3, seed + 100), requires_grad=True)
    assert (iou_3d(one, other) > 0).sum() >= 2
    assert torch.autograd.gradcheck(overlap, (one, other))


@given(any_box, any_box, st.sampled_from([torch.float32, torch.float64]))
def test_gradients_are_finite_wherever_boxes_coincide_touch_or_are_apart(one, other, kind):
    for overlap in (intersection_volume, iou_3d, giou_3d):
        pair = [torch.tensor(b, dtype=kind, requires_grad=True) for b in (one, other)]
        overlap(*pair, pairwise=False).backward()
        for given_box in pair:
            assert given_box.grad is not None
            assert torch.isfinite(given_box.grad).all()


def test_following_the_gradient_of_the_generalised_iou_brings_boxes_together():
    meetings = {
        "identical": UNIT,
        "face to face": box((1, 0, 0)),
        "edge to edge": box((1, 1, 0)),
        "stacked": box((0, 0, 1)),
        "apart": box((4, 1, 0)),
        "contained": box(size=(0.5, 0.5, 0.5)),
        "halfway": box((0.5, 0, 0)),
    }
    targets = torch.tensor(np.stack(list(meetings.values())))
    moving = torch.tensor(UNIT + np.array([0, 0, 0, 0, 0, 0, 0.2])).repeat(len(targets), 1).requires_grad_()
    optimiser = torch.optim.Adam([moving], lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        (1 - giou_3d(moving, targets, pairwise=False)).sum().backward()
        assert moving.grad is not None
        assert torch.isfinite(moving.grad).all()
        optimiser.step()
    reached = iou_3d(moving.detach(), targets, pairwise=False)
    assert {name: iou for name, iou in zip(meetings, reached.tolist(), strict=True) if iou < 0.85} == {}


@pytest.mark.parametrize("overlap", [*OVERLAPS, lambda one, other: nms(one, one[:, 0], 0.5, True)])
@pytest.mark.parametrize("size", [0.0, -1.0, 1e-200])
def test_boxes_without_a_size_are_refused(overlap, size):
    bad = np.stack([UNIT, box(size=(1, size, size))])
    with pytest.raises(GeometryError, match=r"^box 1: \[0.0, 0.0, 0.0, 1.0, .* has a size that is not positive\. Give"):
        overlap(bad, bad)
    with pytest.raises(GeometryError, match=r"^box 1: .* has a size that is not positive"):
        contains(np.zeros((1, 3)), bad)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_boxes_that_are_not_finite_are_refused(value):
    for library in (np.asarray, torch.tensor):
        with pytest.raises(GeometryError, match=r"^box 2: .* is not finite"):
            check_boxes(library(np.stack([UNIT, UNIT, box((0, value, 0)), UNIT])))


def test_the_authors_boxes_have_the_authors_corners_and_exact_generalised_iou():
    stored = np.load(ROOT / "tests" / "parity" / "pimae.npz")

    def boxes(*names: str) -> np.ndarray:
        center, size, angle = (stored[f"det.{name}"].astype(np.float64) for name in names)
        return np.concatenate([center, size, -angle[..., None]], axis=-1)  # theirs turn the other way

    predicted = boxes("eval.center_unnormalized", "eval.size_unnormalized", "eval.angle_continuous")
    real = boxes("gt_box_centers", "gt_box_sizes", "gt_box_angles")
    for batch in range(2):
        present = stored["det.gt_box_present"][batch] > 0
        theirs = stored["det.gt_box_corners"][batch, present][..., [0, 2, 1]] * [1, 1, -1]
        ours = corners(*np.split(real[batch, present, :6], 2, axis=-1), real[batch, present, 6])
        distance = np.abs(theirs[:, :, None] - ours[:, None]).max(axis=-1)
        assert (np.sort(distance.argmin(axis=-1)) == np.arange(8)).all()
        assert distance.min(axis=-1).max() < 1e-6
        found = giou_3d(predicted[batch], real[batch, present])
        np.testing.assert_allclose(found, stored["det.eval.gious_exact"][batch][:, present], atol=1e-6)


def detections() -> tuple[np.lib.npyio.NpzFile, np.ndarray, np.ndarray]:
    """Return the stored detections of the authors' evaluation, and boxes predicted and real."""
    stored = np.load(ROOT / "tests" / "parity" / "pimae.npz")

    def boxes(kind: str) -> np.ndarray:
        center, size, angle = (
            stored[f"ap.{kind}_{name}"].astype(np.float64) for name in ("centers", "sizes", "angles")
        )
        return np.concatenate([center, size, -angle[..., None]], axis=-1)

    return stored, boxes("pred"), boxes("gt_box")


def test_the_authors_evaluation_finds_the_same_iou():
    stored, predicted, real = detections()
    scene, one, other = stored["ap.iou_pairs"].T
    found = iou_3d(predicted[scene, one], real[scene, other], pairwise=False)
    np.testing.assert_allclose(found, stored["ap.iou3d"], atol=2e-6)
    assert found.max() > 0.7


@pytest.mark.parametrize(("protocol", "fewest"), [("train_time", 0), ("exact", 5)])
def test_suppression_keeps_the_boxes_that_the_authors_evaluation_keeps(protocol, fewest):
    stored, predicted, _ = detections()
    for scene, boxes in enumerate(predicted):
        candidates = np.flatnonzero(stored["ap.points_inside"][scene] >= fewest)
        classes = stored["ap.pred_class_prob"][scene].argmax(axis=-1)[candidates]
        scores = stored["ap.pred_objectness"][scene][candidates].astype(np.float64)
        kept = nms(boxes[candidates], scores, 0.25, oriented=False, classes=classes)
        confident = candidates[kept[scores[kept] > 0.05]]
        assert sorted(confident) == np.flatnonzero(stored[f"ap.{protocol}.kept"][scene]).tolist()


def kept_one_at_a_time(overlap: np.ndarray, scores: np.ndarray, iou: float, classes: np.ndarray) -> list[int]:
    kept: list[int] = []
    for number in sorted(range(len(scores)), key=lambda number: (-scores[number], number)):
        if all(overlap[number, other] <= iou or classes[number] != classes[other] for other in kept):
            kept.append(number)
    return kept


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.floats(0, 1), st.booleans(), st.booleans())
def test_suppression_agrees_with_one_box_at_a_time(seed, count, iou, oriented, by_class):
    random = np.random.default_rng(seed)
    boxes = random_boxes(count, seed)
    scores = random.integers(0, 8, count) / 8  # many equal ones
    classes = random.integers(0, 3, count)
    overlap = (iou_3d if oriented else axis_aligned_iou)(boxes, boxes)
    expected = kept_one_at_a_time(overlap, scores, iou, classes if by_class else np.zeros(count))
    found = nms(boxes, scores, iou, oriented, classes if by_class else None)
    assert found.tolist() == expected
    in_torch = nms(
        torch.tensor(boxes), torch.tensor(scores), iou, oriented, torch.tensor(classes) if by_class else None
    )
    assert in_torch.tolist() == expected


def test_long_turned_boxes_side_by_side_suppress_one_another_only_by_their_envelopes():
    boxes = np.stack([box(size=(4, 0.2, 1), yaw=np.pi / 4), box((0.5, -0.5, 0), (4, 0.2, 1), np.pi / 4)])
    scores = np.array([0.5, 0.9])
    assert nms(boxes, scores, 0.25, oriented=False).tolist() == [1]
    assert nms(boxes, scores, 0.25, oriented=True).tolist() == [1, 0]


@pytest.mark.parametrize("iou", [-0.1, 25.0, np.nan])
def test_a_threshold_that_is_no_share_is_refused(iou):
    with pytest.raises(GeometryError, match=r"^iou: .* is not between 0 and 1"):
        nms(UNIT[None], np.ones(1), iou, oriented=True)


def test_votenet_s_boxes_contain_exactly_the_points_that_vote_for_them(crossdim_data):
    folder = crossdim_data / "sunrgbd" / "sunrgbd_pc_bbox_votes_50k_v1_train"
    points = np.load(folder / "000001_pc.npz")["pc"][:, :3].astype(np.float64)
    votes = np.load(folder / "000001_votes.npz")["point_votes"][:, 0] > 0
    stored = np.load(folder / "000001_bbox.npy")
    boxes = np.concatenate([stored[:, :3], 2 * stored[:, 3:6], -stored[:, 6:7]], axis=1)
    inside = contains(points, boxes)
    assert (inside.sum(axis=1) > 200).all()
    np.testing.assert_array_equal(inside.any(axis=0), votes)


def test_a_pose_in_the_camera_maps_a_boxs_own_corners_to_where_the_camera_has_the_scenes():
    turn = np.array([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = LEVEL[:3, :3] @ turn, (0.1, -0.2, 0.3)
    camera = Camera(np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]]), (48, 64), place)
    rng = np.random.default_rng(0)
    boxes = Boxes3D(rng.normal(size=(5, 3)), rng.uniform(0.2, 2, (5, 3)), rng.uniform(-3, 3, 5), ("a",) * 5)
    inside_scene = corners(boxes.centers_m, boxes.sizes_m, boxes.yaws_rad)
    expected = inside_scene @ place[:3, :3].T + place[:3, 3]
    own = corners(np.zeros((5, 3)), boxes.sizes_m, np.zeros(5))
    poses = poses_in_camera(boxes, camera)
    found = np.einsum("bij,bkj->bki", poses[:, :3, :3], own) + poses[:, None, :3, 3]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1)
    assert poses_in_camera(Boxes3D(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), ()), camera).shape == (0, 4, 4)


def corner_set(one: np.ndarray) -> np.ndarray:
    """Return the corners of a box in an order that does not depend on how it is described."""
    found = corners(one[:3], one[3:6], one[6]) - one[:3]
    around = np.round(np.arctan2(found[:, 1], found[:, 0]), 6)
    around[around <= -3.141592] = np.round(np.pi, 6)
    return found[np.lexsort((around, found[:, 2]))]


@each_turn
@given(one=any_box)
def test_a_canonical_box_fills_the_space_it_filled(symmetry, turn, one):
    found = canonical_yaws(one, symmetry)
    assert -turn / 2 <= found[6] < turn / 2
    assert np.array_equal(found[[0, 1, 2, 5]], one[[0, 1, 2, 5]])
    assert np.allclose(corner_set(found), corner_set(one), atol=1e-5)
    assert iou_3d(one, found, pairwise=False) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(canonical_yaws(found, symmetry), found)


@each_turn
@given(one=any_box, turns=st.integers(-6, 6))
def test_a_box_described_from_another_side_has_the_same_yaw(symmetry, turn, one, turns):
    other = one.copy()
    other[6] += turns * turn
    if symmetry == "quarter_turn" and turns % 2:
        other[[3, 4]] = one[[4, 3]]
    first, second = canonical_yaws(one, symmetry), canonical_yaws(other, symmetry)
    # At the border of the range rounding decides between the two ends.
    away = abs(first[6] - second[6])
    assert min(away, abs(away - turn)) < 1e-9
    if away < 1e-9:
        assert np.array_equal(first[3:6], second[3:6])


@each_turn
def test_the_yaw_stays_below_the_end_of_its_range_whatever_rounds(symmetry, turn):
    for turns in range(-9, 10):
        border = turn / 2 + turns * turn
        for yaw in (np.nextafter(border, -np.inf), border, np.nextafter(border, np.inf)):
            one = box(size=(1.0, 2.0, 3.0), yaw=yaw)
            found = canonical_yaws(one, symmetry)
            assert -turn / 2 <= found[6] < turn / 2
            assert iou_3d(one, found, pairwise=False) == pytest.approx(1)


def test_yaws_stay_where_nothing_is_symmetric_and_torch_has_the_same_ones():
    boxes = random_boxes(50, 3)
    assert canonical_yaws(boxes, "none") is boxes
    for symmetry, _ in TURNS:
        expected = canonical_yaws(boxes, symmetry)
        assert np.allclose(canonical_yaws(torch.from_numpy(boxes), symmetry).numpy(), expected)
        assert (expected[:, 3] != boxes[:, 3]).any() == (symmetry == "quarter_turn")
        assert canonical_yaws(torch.zeros(0, 7), symmetry).shape == (0, 7)
