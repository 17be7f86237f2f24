"""Whatever happens to the points of a scene happens to its boxes and its projection: every pair stays together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crossdim.geometry.boxes import contains, corners
from crossdim.geometry.camera import project
from crossdim.transforms.scene_augment import SceneAugmentation, SceneCrop, moved_boxes
from crossdim.transforms.scenes import PreparedScene

BOXES = torch.tensor(
    [[0.4, 1.2, 0.3, 1.0, 0.6, 0.8, 0.3], [-0.8, 2.0, 0.1, 0.7, 1.4, 0.5, -2.5], [1.1, 0.2, 0.6, 0.5, 0.5, 0.5, 3.1]],
    dtype=torch.float64,
)  # fmt: skip
CAMERA = torch.tensor([[28.0, 15.5, 0, 3.0], [0.0, 11.5, -28.0, 2.0], [0.0, 1.0, 0.0, 3.0]], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(boxes: torch.Tensor | None = BOXES, count: int = 400) -> PreparedScene:
    points = np.random.default_rng(1).uniform((-2, -0.5, -0.3), (2, 3, 1.2), (count, 3)).astype(np.float32)
    classes = None if boxes is None else torch.arange(len(boxes))
    return PreparedScene(torch.from_numpy(points), None, CAMERA, (24, 32), (), boxes, classes)


def held(prepared: PreparedScene, slack: float = 0.0) -> torch.Tensor:
    """Return which point is in which box; a little slack takes the roundings of points at a face away."""
    grown = prepared.boxes.clone()
    grown[:, 3:6] *= 1 + slack
    return contains(prepared.points.double(), grown)


augmentations = st.builds(
    SceneAugmentation,
    flip_x=st.sampled_from((0.0, 0.5, 1.0)),
    flip_y=st.sampled_from((0.0, 0.5, 1.0)),
    rotation_deg=st.floats(0, 180),
    scale=st.tuples(st.floats(0.2, 1.0), st.floats(1.0, 3.0)),
)


@settings(max_examples=60, deadline=None)
@given(augmentation=augmentations, seed=st.integers(0, 2**31))
def test_a_varied_box_holds_the_points_that_it_held(augmentation, seed):
    prepared = scene()
    varied = augmentation.vary(prepared, generator(seed))
    before, after = held(prepared), held(varied)
    sure = ~(held(prepared, 1e-4) ^ held(prepared, -1e-4))
    assert torch.equal(before[sure], after[sure])
    assert before.any(dim=1).all()
    assert torch.equal(varied.classes, prepared.classes)


@settings(max_examples=60, deadline=None)
@given(augmentation=augmentations, seed=st.integers(0, 2**31))
def test_projecting_after_the_variation_is_varying_after_the_projection(augmentation, seed):
    """Corners of boxes and points fall on the same pixels as before."""
    prepared = scene()
    varied = augmentation.vary(prepared, generator(seed))
    shown = []
    for each in (prepared, varied):
        places = corners(each.boxes[:, :3], each.boxes[:, 3:6], each.boxes[:, 6]).reshape(-1, 3)
        columns, rows, depths = project(torch.cat([each.points.double(), places]), each.projection)
        shown.append(torch.stack([columns[:400], rows[:400], depths[:400]]))
        corner = torch.stack([columns[400:], rows[400:]], dim=1).reshape(-1, 8, 2)
        shown.append(torch.stack([corner.amin(1), corner.amax(1)]))
    assert torch.allclose(shown[0], shown[2], atol=1e-3)
    assert torch.allclose(shown[1], shown[3], atol=1e-6)


def test_a_mirrored_box_looks_the_other_way_and_a_turned_one_turns():
    box = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5]], dtype=torch.float64)
    across_x = moved_boxes(box, torch.diag(torch.tensor([-1.0, 1.0, 1.0])))
    across_y = moved_boxes(box, torch.diag(torch.tensor([1.0, -1.0, 1.0])))
    assert torch.allclose(across_x, torch.tensor([[-1.0, 2, 3, 4, 5, 6, math.pi - 0.5]], dtype=torch.float64))
    assert torch.allclose(across_y, torch.tensor([[1.0, -2, 3, 4, 5, 6, -0.5]], dtype=torch.float64))
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = moved_boxes(box, 2 * quarter)
    wanted = torch.tensor([[-4.0, 2, 6, 8, 10, 12, 0.5 + math.pi / 2]], dtype=torch.float64)
    assert torch.allclose(turned, wanted)


def test_mirroring_at_y_leaves_the_other_draws_as_they_are():
    prepared = scene()
    one = SceneAugmentation(rotation_deg=30, scale=(0.5, 2.0)).vary(prepared, generator(3))
    other = SceneAugmentation(rotation_deg=30, scale=(0.5, 2.0), flip_y=1.0).vary(prepared, generator(3))
    assert torch.allclose(one.points.norm(dim=1), other.points.norm(dim=1), atol=1e-5)
    assert not torch.allclose(one.points, other.points)


@settings(max_examples=40, deadline=None)
@given(
    low=st.floats(0.3, 0.99),
    aspect=st.floats(0.1, 1.0),
    fewest=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**31),
)
def test_a_cuboid_keeps_enough_points_and_the_boxes_whose_centre_is_in_it(low, aspect, fewest, seed):
    prepared = scene()
    cut = SceneCrop(size=(low, 0.999), aspect=aspect, fewest_points=fewest).cut(prepared, generator(seed))
    kept = {tuple(row) for row in cut.points.tolist()}
    assert kept <= {tuple(row) for row in prepared.points.tolist()}
    assert len(cut.points) >= fewest * len(prepared.points)
    assert 1 <= len(cut.boxes) == len(cut.classes)
    assert torch.equal(cut.boxes, prepared.boxes[cut.classes])
    extent = cut.points.amax(0) - cut.points.amin(0)
    assert (extent <= prepared.points.amax(0) - prepared.points.amin(0)).all()
    if len(cut.points) < len(prepared.points):
        slack = 0.3
        low_corner, high_corner = cut.points.amin(0) - slack, cut.points.amax(0) + slack
        assert ((cut.boxes[:, :3] >= low_corner) & (cut.boxes[:, :3] <= high_corner)).all()
    assert cut.projection is prepared.projection


def test_a_cuboid_cuts_scenes_without_boxes_and_without_labels():
    crop = SceneCrop(size=(0.5, 0.6), fewest_points=0.05)
    unlabelled = crop.cut(scene(None), generator(1))
    empty = crop.cut(scene(torch.zeros(0, 7, dtype=torch.float64)), generator(1))
    assert torch.equal(unlabelled.points, empty.points)
    assert 0 < len(empty.points) < 400
    assert unlabelled.boxes is None
    assert len(empty.boxes) == 0


def test_a_scene_in_which_no_cuboid_does_stays_whole():
    prepared = scene()
    assert SceneCrop(size=(0.1, 0.2), fewest_points=0.9).cut(prepared, generator()) is prepared
    assert SceneCrop().cut(prepared, generator()) is prepared
    nothing = replace(prepared, points=None)
    assert SceneCrop(size=(0.5, 1.0)).cut(nothing, generator()) is nothing


def test_two_sides_of_a_cuboid_at_least_have_like_shares():
    prepared = scene()
    assert len(SceneCrop(size=(0.5, 0.5), aspect=1.0, fewest_points=0.01).cut(prepared, generator()).points) < 400
    assert SceneCrop(size=(0.3, 1.0), aspect=1.0, fewest_points=0.01).cut(prepared, generator()) is prepared


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SceneCrop(size=(0.9, 0.5)), r"size must be \(smallest, largest\), and is \(0.9, 0.5\)"),
        (lambda: SceneCrop(fewest_points=0.5), r"fewest_points has no effect while size is \(1, 1\)"),
    ],
)
def test_a_crop_that_contradicts_itself_is_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()
