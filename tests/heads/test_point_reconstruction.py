"""Chamfer distance, and features of an image at the places of points."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from crossdim.heads.point_reconstruction import (
    RELEASED_MAP,
    ImagePlaces,
    chamfer_distance,
    image_places,
    sample_features,
)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that was made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def by_hand(prediction, target, kind):
    pairs = (prediction[:, :, None] - target[:, None]).square().sum(dim=-1)
    ways = pairs.amin(dim=2), pairs.amin(dim=1)
    if kind == "l2":
        return ways[0].mean() + ways[1].mean()
    return (ways[0].sqrt().mean() + ways[1].sqrt().mean()) / 2


@pytest.mark.parametrize("kind", ["l2", "l1"])
@pytest.mark.parametrize("sizes", [(32, 32), (5, 9), (1, 1)])
def test_the_distance_and_its_gradient_are_those_of_all_pairs(kind, sizes):
    torch.manual_seed(0)
    first, target = torch.randn(6, sizes[0], 3, requires_grad=True), torch.randn(6, sizes[1], 3)
    found, expected = chamfer_distance(first, target, kind), by_hand(first, target, kind)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, first)[0] for value in (found, expected)))


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_equal_clouds_have_no_distance_and_a_gradient_of_zero(kind):
    cloud = torch.randn(3, 8, 3, requires_grad=True)
    distance = chamfer_distance(cloud, cloud.detach()[:, torch.randperm(8)], kind)
    assert distance < 1e-12
    assert not torch.autograd.grad(distance, cloud)[0].any()


def test_the_distance_is_taken_in_float32_whatever_the_prediction_is():
    torch.manual_seed(0)
    prediction, target = torch.randn(4, 8, 3).bfloat16(), torch.randn(4, 8, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = chamfer_distance(prediction, target)
    torch.testing.assert_close(distance, by_hand(prediction.float(), target, "l2"))
    assert chamfer_distance(prediction.double(), target).dtype == torch.float64


def test_no_three_numbers_are_built_for_each_pair():
    prediction, target = torch.randn(10, 32, 3, requires_grad=True), torch.randn(10, 32, 3)
    with Largest() as seen:
        chamfer_distance(prediction, target).backward()
    assert seen.elements == 10 * 32 * 32


PROJECTION = torch.tensor([[[100.0, 0, 31.5, 0], [0, 100, 15.5, 0], [0, 0, 1, 0]]])
SIZE = torch.tensor([[32, 64]])


def test_places_are_shares_of_the_pixels_areas():
    points = torch.tensor([[[0.0, 0, 1], [-0.32, 0, 1], [-0.315, -0.155, 1]]])
    u, v, inside = image_places(points, PROJECTION, SIZE)
    torch.testing.assert_close(u, torch.tensor([[0.5, 0, 0.5 / 64]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(v, torch.tensor([[0.5, 0.5, 0.5 / 32]]), rtol=0, atol=1e-6)
    assert inside[0, 0]
    assert inside[0, 2]


def test_points_outside_or_behind_are_not_in_the_image():
    points = torch.tensor([[[0.33, 0, 1], [0, -0.17, 1], [0, 0, -1], [0.1, 0.1, 0], [0.1, 0, 1]]])
    u, v, inside = image_places(points, PROJECTION, SIZE)
    assert inside.tolist() == [[False, False, False, False, True]]
    assert torch.isfinite(torch.stack([u, v])).all()


def test_released_places_are_rounded_pixels_and_know_no_behind():
    points = torch.tensor([[[0.1234, 0.0321, 1.1], [-0.1234, -0.0321, -1.1], [3.0, 0, 1], [0.1, 0.1, 0]]])
    u, v, inside = image_places(points, PROJECTION, SIZE, "released")
    assert u[0, :2].tolist() == [43 / 64, 43 / 64]  # 100 * 0.1234 / 1.1 + 31.5 = 42.7
    assert v[0, :2].tolist() == [18 / 32, 18 / 32]
    assert inside.tolist() == [[True, True, False, False]]
    assert torch.isfinite(torch.stack([u, v])).all()


def test_places_have_no_gradient_and_the_precision_of_the_points():
    points = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u, _, _ = image_places(points, PROJECTION, SIZE)
    assert u.dtype == torch.float64
    assert not u.requires_grad


def places(u, v):
    u, v = torch.tensor([u]), torch.tensor([v])
    return ImagePlaces(u, v, (u >= 0) & (u < 1) & (v >= 0) & (v < 1))


MAP = torch.arange(6.0).reshape(1, 6, 1)
"""Two rows and three columns."""


def test_the_feature_at_the_centre_of_a_patch_is_the_patchs_own():
    at = places([1 / 6, 0.5, 5 / 6, 1 / 6], [0.25, 0.25, 0.25, 0.75])
    assert sample_features(MAP, (2, 3), at).flatten().tolist() == pytest.approx([0, 1, 2, 3], abs=1e-5)


def test_between_centres_features_are_interpolated_and_kept_up_to_the_border():
    at = places([1 / 3, 0.5, 0.0, 0.999], [0.25, 0.5, 0.0, 0.999])
    assert sample_features(MAP, (2, 3), at).flatten().tolist() == pytest.approx([0.5, 2.5, 0, 5], abs=1e-5)


def test_swapped_axes_look_up_the_transposed_place():
    at, swapped = places([0.2, 0.7], [0.6, 0.4]), places([0.6, 0.4], [0.2, 0.7])
    assert torch.equal(sample_features(MAP, (2, 3), at, axes="vu"), sample_features(MAP, (2, 3), swapped))


def test_the_released_way_enlarges_the_map_and_meets_zeros_outside():
    torch.manual_seed(0)
    features, at = torch.randn(1, 6, 4), places([0.3, 0.001, 1.4], [0.6, 0.5, 0.5])
    large = F.interpolate(features.transpose(1, 2).reshape(1, 4, 2, 3), RELEASED_MAP, mode="bilinear")
    grid = torch.stack([at.u, at.v], dim=-1)[:, None] * 2 - 1
    expected = F.grid_sample(large, grid, align_corners=False)[0, :, 0].T[None]
    found = sample_features(features, (2, 3), at, "upsampled", zeros_outside=True)
    torch.testing.assert_close(found, expected)
    assert not found[0, 2].any()
    direct = sample_features(features, (2, 3), at, zeros_outside=True)
    assert not direct[0, 2].any()
    assert direct[0, 1].all()
    assert sample_features(features, (2, 3), at, "upsampled")[0, 2].all()
    # Enlarging and sampling is almost the same as sampling: at most a pixel of smoothing lies between.
    torch.testing.assert_close(found[0, 0], direct[0, 0], rtol=0, atol=0.05)


def test_the_large_map_is_built_only_where_it_is_asked_for():
    features, at = torch.randn(1, 6, 4), places([0.3], [0.6])
    with Largest() as direct:
        sample_features(features, (2, 3), at)
    with Largest() as enlarged:
        sample_features(features, (2, 3), at, "upsampled")
    assert direct.elements == 24
    assert enlarged.elements == 4 * RELEASED_MAP[0] * RELEASED_MAP[1]


def test_half_precision_features_are_sampled_in_float32():
    assert sample_features(MAP.bfloat16(), (2, 3), places([0.3], [0.6])).dtype == torch.float32
