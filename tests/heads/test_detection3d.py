"""What the heads of a detector mean in metres."""

from math import pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdim.geometry.boxes import iou_3d
from crossdim.heads.detection3d import BoxHeads, BoxPredictions, SceneExtent, scene_extent


def predictions(angle_logits, residuals=None, **changes):
    queries, bins = angle_logits.shape
    empty = torch.zeros(queries, 3)
    values = {
        "class_logits": torch.zeros(queries, 4),
        "centers": empty,
        "centers_normalized": empty,
        "sizes": empty + 1,
        "sizes_normalized": empty,
        "angle_logits": angle_logits,
        "angle_residuals_normalized": torch.zeros(queries, bins) if residuals is None else residuals,
    }
    return BoxPredictions(**values | changes)


def heads(bins=12, unit_m=1.0):
    torch.manual_seed(0)
    return BoxHeads(16, 3, bins, 0.0, unit_m).eval()


@pytest.mark.parametrize("unit_m", [1.0, 0.25])
def test_centres_lie_within_half_a_unit_of_the_query_and_sizes_within_the_scene(unit_m):
    places = torch.rand(2, 5, 3) * 4
    extent = SceneExtent(torch.zeros(2, 3), torch.tensor([[4.0, 4, 2], [8, 4, 2]]))
    found = heads(unit_m=unit_m)(torch.randn(3, 2, 5, 16) * 100, places, extent)
    away = (found.centers - places).abs()
    assert away.max() <= 0.5 * unit_m + 1e-6
    assert away.max() > 0.45 * unit_m
    assert (found.sizes <= extent.size[:, None]).all()
    assert (found.sizes >= 0.001 * unit_m).all()
    torch.testing.assert_close(found.centers_normalized * extent.size[:, None], found.centers)
    shares = found.sizes_normalized * extent.size[:, None]
    torch.testing.assert_close(shares.clamp_min(0.001 * unit_m), found.sizes)
    assert found.layer(1).class_logits.shape == (2, 5, 4)


def test_a_query_that_says_nothing_has_its_box_around_it():
    network = heads()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    places = torch.rand(1, 2, 3)
    found = network(torch.randn(1, 1, 2, 16), places, SceneExtent(torch.zeros(1, 3), torch.full((1, 3), 2.0)))
    torch.testing.assert_close(found.boxes[0, ..., :3], places)
    torch.testing.assert_close(found.boxes[0, ..., 3:6], torch.ones(1, 2, 3))
    assert (found.yaws == 0).all()
    torch.testing.assert_close(found.class_probabilities, torch.full((1, 1, 2, 3), 0.25))
    torch.testing.assert_close(found.objectness, torch.full((1, 1, 2), 0.75))


def test_the_angle_is_that_of_the_most_probable_bin_clockwise():
    logits = torch.eye(12) * 5
    residuals = torch.full((12, 12), 9.0)
    residuals.fill_diagonal_(0.5)
    yaws = predictions(logits, residuals).yaws
    expected = -(torch.arange(12) * pi / 6 + 0.5 * pi / 12)
    torch.testing.assert_close(yaws.sin(), expected.sin())
    torch.testing.assert_close(yaws.cos(), expected.cos())
    assert (yaws >= -pi).all()
    assert (yaws < pi).all()


def test_boxes_of_a_single_bin_are_upright():
    found = predictions(torch.randn(3, 1), torch.randn(3, 1))
    assert found.boxes[:, 6].tolist() == [0, 0, 0]


@given(st.floats(-3, 3))
def test_a_box_without_a_size_still_overlaps_nothing_instead_of_failing(residual):
    network = heads(4)
    with torch.no_grad():
        for name, value in {"size": -1000, "angle_residual": residual}.items():
            network.heads[name].linear.weight.zero_()
            network.heads[name].linear.bias.fill_(value)
    extent = SceneExtent(torch.zeros(1, 3), torch.ones(1, 3))
    found = network(torch.randn(1, 1, 2, 16), torch.rand(1, 2, 3), extent)
    assert (found.sizes_normalized == 0).all()
    boxes = found.boxes[0, 0]
    assert iou_3d(boxes, boxes + torch.tensor([1.0, 0, 0, 0, 0, 0, 0])).max() == 0


@pytest.mark.parametrize("unit_m", [1.0, 0.2])
@pytest.mark.parametrize("flat", [0, 1, 2])
def test_a_flat_scene_counts_as_a_tenth_of_a_unit(flat, unit_m):
    points = torch.rand(2, 50, 3)
    points[..., flat] = 1.5
    extent = scene_extent(points, unit_m=unit_m)
    torch.testing.assert_close(extent.size[:, flat], torch.full((2,), 0.1 * unit_m))
    assert torch.isfinite(extent.shares(points)).all()


def test_a_stated_range_replaces_that_of_the_points():
    extent = scene_extent(torch.rand(1, 9, 3), torch.tensor([[[-1.0, -1, -1], [3, 2, 1]]]))
    assert extent.low.tolist() == [[-1, -1, -1]]
    assert extent.size.tolist() == [[4, 3, 2]]


def test_predictions_have_full_precision_whatever_the_features_have():
    network = heads().bfloat16()
    extent = SceneExtent(torch.zeros(1, 3), torch.ones(1, 3))
    found = network(torch.randn(1, 1, 2, 16).bfloat16(), torch.rand(1, 2, 3), extent)
    assert {each.dtype for each in found} == {torch.float32}
