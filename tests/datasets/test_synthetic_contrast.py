from dataclasses import replace

import numpy as np
import pytest

from crossdim.datasets.synthetic_contrast import ContrastOptions, synthesise
from crossdim.errors import RecipeError

SHARP = ContrastOptions(deviation=0.01, blur_mm=0.0, bias=0.0, gamma=0.0, thickness_mm=0.0, noise=0.0)


@pytest.fixture
def labels():
    blocks = np.arange(8).reshape(2, 2, 2)
    return blocks.repeat(12, 0).repeat(10, 1).repeat(8, 2).astype(np.uint8)


def make(labels, seed=0, options=None):
    return synthesise(labels, np.diag([2.0, 2.0, 2.0, 1.0]), np.random.default_rng(seed), options)


def test_the_same_seed_gives_the_same_volume_and_another_seed_another(labels):
    first, again, other = make(labels, 3), make(labels, 3), make(labels, 4)
    np.testing.assert_array_equal(first.voxels, again.voxels)
    assert not np.array_equal(first.voxels, other.voxels)


def test_values_are_whole_numbers_in_range_and_the_map_stays_as_it_is(labels):
    before = labels.copy()
    for seed in range(10):
        volume = make(labels, seed)
        assert volume.voxels.shape == (1, *labels.shape)
        assert volume.voxels.dtype == np.int16
        assert 0 <= volume.voxels.min() < volume.voxels.max() <= 1000
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("seed", range(5))
def test_no_two_labels_look_alike(labels, seed):
    voxels = make(labels, seed, SHARP).voxels[0]
    means = np.sort([voxels[labels == value].mean() for value in range(8)])
    assert np.diff(means).min() > 3 * max(voxels[labels == value].std() / 20 for value in range(8))
    assert np.diff(means).min() > 10


def test_contrast_differs_from_volume_to_volume(labels):
    orders = {tuple(np.argsort([make(labels, seed, SHARP).voxels[0][labels == v].mean() for v in range(8)]))
              for seed in range(6)}  # fmt: skip
    assert len(orders) > 3


def test_with_the_same_means_every_volume_looks_as_if_from_one_kind_of_scan(labels):
    alike = replace(SHARP, same_means=True)
    means = [
        [make(labels, seed, alike).voxels[0][labels == value].mean() for value in range(1, 8)] for seed in range(4)
    ]
    assert np.ptp(means, axis=0).max() < 20
    assert np.diff(np.sort(means[0])).min() > 30


def test_the_background_is_dark_unless_asked_otherwise(labels):
    for seed in range(5):
        voxels = make(labels, seed, SHARP).voxels[0]
        assert voxels[labels == 0].mean() < min(voxels[labels == value].mean() for value in range(1, 8))
    bright = ContrastOptions(dark_background=0.0)
    assert max(make(labels, seed, bright).voxels[0][labels == 0].mean() for seed in range(8)) > 300


def test_blur_bias_and_thick_slices_do_what_they_say(labels):
    uniform = np.ones_like(labels)
    bias = ContrastOptions(deviation=0.0, blur_mm=0.0, bias=0.5, gamma=0.0, thickness_mm=0.0, noise=0.0)
    assert max(np.ptp(make(uniform, seed, bias).voxels) for seed in range(4)) > 100
    thick = ContrastOptions(deviation=0.2, blur_mm=0.0, bias=0.0, gamma=0.0, thickness_mm=20.0, noise=0.0)
    thin = ContrastOptions(deviation=0.2, blur_mm=0.0, bias=0.0, gamma=0.0, thickness_mm=0.0, noise=0.0)

    def roughness(options, seed):
        voxels = make(uniform, seed, options).voxels[0].astype(float)
        return min(np.abs(np.diff(voxels, axis=axis)).mean() for axis in range(3))

    assert np.mean([roughness(thick, seed) for seed in range(6)]) < 0.5 * np.mean(
        [roughness(thin, s) for s in range(6)]
    )


def test_a_single_voxel_and_a_single_slice_are_volumes_too():
    for shape in ((1, 1, 1), (1, 9, 9)):
        assert np.isfinite(make(np.ones(shape, np.int32)).voxels).all()


@pytest.mark.parametrize("labels", [np.zeros((0, 2, 2), np.int32), np.full((2, 2, 2), -1)])
def test_what_is_no_label_map_is_refused(labels):
    with pytest.raises(RecipeError, match="is empty or holds labels below 0"):
        make(labels)


@pytest.mark.parametrize(("name", "value"), [("blur_mm", -1.0), ("noise", float("inf"))])
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(RecipeError, match=rf"{name} .*: is below 0 or not finite"):
        ContrastOptions(**{name: value})
