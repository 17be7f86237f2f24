import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.transforms.augment import PRESETS, Augmentation, generator_for
from crossdim.transforms.image import ImageContract, prepare_image
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.volume import VolumeContract, prepare_volume
from tests.transforms.toys import SPL_TO_RAS, image, noise, volume

EVERYTHING = Augmentation(
    crop_scale=(0.3, 0.9),
    crop_ratio=(0.8, 1.25),
    flip_depth=0.5,
    flip_height=0.5,
    flip_width=0.5,
    rotation_deg=30.0,
    tilt_deg=(20.0, 20.0),
    brightness=0.2,
    contrast=0.3,
    gamma=1.5,
    noise_std=0.1,
)
SHAPES = [(3, 20, 24), (1, 12, 14, 16)]


def first(seed=0, epoch=0, index=0):
    return torch.rand(8, generator=generator_for(seed, epoch, index))


def test_a_generator_depends_on_seed_epoch_and_index_only():
    torch.manual_seed(5)
    one = first(1, 2, 3)
    torch.manual_seed(6)
    assert torch.equal(one, first(1, 2, 3))


def test_neighbouring_samples_have_unrelated_streams():
    keys = list(itertools.product(range(4), range(8), range(16)))
    streams = torch.stack([torch.rand(64, generator=generator_for(*key)) for key in keys])
    assert len({tuple(stream.tolist()) for stream in streams}) == len(keys)
    correlations = torch.corrcoef(streams) - torch.eye(len(keys))
    assert correlations.abs().max() < 0.7  # of 131,000 pairs of 64 unrelated numbers
    assert correlations.mean().abs() < 0.005
    assert streams[:, 0].mean() == pytest.approx(0.5, abs=0.05)


def test_swapping_epoch_and_index_is_another_stream():
    assert not torch.equal(first(0, 1, 2), first(0, 2, 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_generator_gives_the_same_variation_and_leaves_the_global_one(shape):
    values = torch.from_numpy(noise(*shape))
    before, state = values.clone(), torch.get_rng_state()
    one = EVERYTHING.apply(values, generator_for(0, 0, 7))
    assert torch.equal(one, EVERYTHING.apply(values, generator_for(0, 0, 7)))
    assert not torch.equal(one, EVERYTHING.apply(values, generator_for(0, 1, 7)))
    assert one.shape == values.shape
    assert one.dtype == torch.float32
    assert torch.equal(values, before)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_default_varies_nothing(shape):
    values = torch.from_numpy(noise(*shape))
    assert torch.equal(Augmentation().apply(values, generator_for(0, 0, 0)), values)


@pytest.mark.parametrize(("name", "dim"), [("flip_depth", 1), ("flip_height", 2), ("flip_width", 3)])
def test_flips_turn_their_axis_round(name, dim):
    values = torch.from_numpy(noise(1, 4, 5, 6))
    assert torch.equal(Augmentation(**{name: 1.0}).apply(values, generator_for(0, 0, 0)), values.flip(dim))


def test_flips_come_as_often_as_they_should():
    values = torch.arange(4.0).reshape(1, 2, 2)
    flipped = [
        not torch.equal(Augmentation(flip_width=0.3).apply(values, generator_for(0, 0, i)), values) for i in range(500)
    ]
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.07)


def test_switching_one_part_on_leaves_the_other_draws_as_they_were():
    values = torch.from_numpy(noise(1, 16, 16))
    crop = Augmentation(crop_scale=(0.3, 0.9))
    both = crop.model_copy(update={"flip_width": 1.0})
    for index in range(5):
        cropped, flipped = (a.apply(values, generator_for(0, 0, index)) for a in (crop, both))
        torch.testing.assert_close(flipped, cropped.flip(-1), atol=1e-5, rtol=1e-4)


def test_crops_keep_the_share_they_are_asked_for():
    whole = prepare_image(image(np.zeros((1, 64, 64), np.uint8)), ImageContract(size=(64, 64), channels=1))
    crop = Augmentation(crop_scale=(0.2, 0.5), crop_ratio=(0.75, 4 / 3))
    shares = []
    for index in range(200):
        varied = crop.vary(whole, generator_for(0, 0, index))
        shares.append(np.prod(varied.step))
        corners = varied.to_file_index(np.array([[-0.5, -0.5], [63.5, 63.5]]))
        assert (corners >= -0.5 - 1e-9).all()
        assert (corners <= 63.5 + 1e-9).all()
    assert min(shares) >= 0.2 - 1e-9
    assert max(shares) <= 0.5 + 1e-9
    assert np.mean(shares) == pytest.approx(0.35, abs=0.03)


def test_a_quarter_turn_is_exact():
    values = torch.from_numpy(noise(2, 9, 9))
    whole = Prepared(values, np.eye(3), None, ((0, 9), (0, 9)), (0.0, 0.0))
    for index in range(20):
        varied = Augmentation(rotation_deg=90.0).vary(whole, generator_for(0, 0, index))
        angle = np.arctan2(varied.index_map[1, 0], varied.index_map[0, 0])
        middle = varied.to_file_index(np.array([4.0, 4.0]))
        np.testing.assert_allclose(middle, [4, 4], atol=1e-9)
        torch.testing.assert_close(varied.tensor[:, 4, 4], values[:, 4, 4], atol=1e-5, rtol=0)
        assert abs(angle) <= np.pi / 2


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (15.0, 25.0)])
def test_rotations_are_rigid_in_millimetres_whatever_the_spacing(tilt):
    thick = SPL_TO_RAS @ np.diag([4, 1, 0.5, 1])
    contract = VolumeContract(size=(8, 16, 32), fit="crop_pad")
    prepared = prepare_volume(volume(noise(1, 8, 16, 32), thick), contract)
    varied = Augmentation(rotation_deg=20.0, tilt_deg=tilt).vary(prepared, generator_for(0, 0, 1))
    turn = varied.affine_mm[:3, :3] @ np.linalg.inv(prepared.affine_mm[:3, :3])
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert not np.allclose(turn, np.eye(3))
    if tilt == (0.0, 0.0):
        np.testing.assert_allclose(turn[2], [0, 0, 1], atol=1e-9)


@limits(max_examples=25, deadline=None)
@given(index=st.integers(0, 10_000), place=st.tuples(*[st.integers(4, 11)] * 3))
def test_a_bright_voxel_stays_where_the_map_says(index, place):
    voxels = np.zeros((1, 16, 16, 16))
    voxels[(0, *place)] = 1
    prepared = prepare_volume(volume(voxels), VolumeContract(size=(16, 16, 16)))
    moves = EVERYTHING.model_copy(update={"brightness": 0.0, "contrast": 0.0, "gamma": 1.0, "noise_std": 0.0})
    varied = moves.vary(prepared, generator_for(0, 0, index))
    values = varied.tensor[0].numpy()
    if values.max() < 0.2:  # cropped away
        return
    brightest = np.array(np.unravel_index(values.argmax(), values.shape)).astype(float)
    assert np.abs(varied.to_file_index(brightest) - place).max() <= 1.0
    np.testing.assert_allclose(
        varied.to_patient_mm(brightest),
        prepared.to_patient_mm(prepared.from_file_index(varied.to_file_index(brightest))),
        atol=1e-9,
    )


@limits(max_examples=25, deadline=None)
@given(index=st.integers(0, 10_000), height=st.integers(3, 12), width=st.integers(3, 20))
def test_padding_stays_padding(index, height, width):
    contract = ImageContract(size=(16, 16), channels=1, fit="pad", mean=(0.5,), std=(0.5,))
    prepared = prepare_image(image(np.full((1, height, width), 255, np.uint8)), contract)
    for augmentation in (EVERYTHING, EVERYTHING.model_copy(update={"rotation_deg": 0.0})):
        varied = augmentation.vary(prepared, generator_for(0, 0, index))
        outside = torch.ones(16, 16, dtype=torch.bool)
        outside[tuple(slice(*extent) for extent in varied.valid)] = False
        assert (varied.tensor[0][outside] <= -1 + 1e-5).all()
        assert not outside.all()


@pytest.mark.parametrize("shape", SHAPES)
def test_intensities_stay_in_the_samples_range(shape):
    values = torch.from_numpy(noise(*shape)) * 4 - 2
    bright = Augmentation(brightness=1.0, contrast=1.0, gamma=3.0, noise_std=0.5)
    for index in range(10):
        varied = bright.apply(values, generator_for(0, 0, index))
        assert not torch.equal(varied, values)
        assert varied.min() >= values.min() - 1e-5
        assert varied.max() <= values.max() + 1e-5


def test_a_constant_sample_stays_constant():
    values = torch.full((1, 8, 8), 0.25)
    assert torch.equal(EVERYTHING.safe_for({"place"}).apply(values, generator_for(0, 0, 0)), values)


MOVES = {"flip_depth", "flip_height", "flip_width", "rotation_deg", "tilt_deg"}
CROPS = {"crop_scale", "crop_ratio"}
COLOURS = {"brightness", "contrast", "gamma"}


@pytest.mark.parametrize(
    ("depends_on", "off"),
    [
        (set(), set()),
        ({"side"}, MOVES),
        ({"plane"}, MOVES),
        ({"place"}, MOVES | CROPS),
        ({"size"}, CROPS),
        ({"intensity"}, COLOURS),
        ({"side", "size", "intensity"}, MOVES | CROPS | COLOURS),
    ],
)
def test_what_would_falsify_a_label_is_switched_off(depends_on, off):
    safe = EVERYTHING.safe_for(depends_on)
    changed = {name for name in Augmentation.model_fields if getattr(safe, name) != getattr(EVERYTHING, name)}
    assert changed == off
    assert all(getattr(safe, name) == getattr(Augmentation(), name) for name in off)


def test_a_recipe_with_other_defaults_is_switched_off_too():
    class Strong(Augmentation):
        flip_width: float = 1.0

    assert Strong().safe_for({"side"}).flip_width == 0.0


def test_a_label_that_depends_on_the_side_never_meets_a_mirrored_image():
    values = torch.from_numpy(noise(1, 8, 8))
    safe = Augmentation(flip_width=1.0).safe_for({"side"})
    assert torch.equal(safe.apply(values, generator_for(0, 0, 0)), values)


def test_presets_are_found_by_name():
    assert Augmentation.preset("none") == Augmentation()
    assert Augmentation.preset("pretraining").crop_scale == (0.2, 1.0)
    assert set(PRESETS) == {"none", "pretraining", "finetuning"}
    with pytest.raises(ContractError, match=r"augmentation 'pretrainin': is unknown. Did you mean 'pretraining'"):
        Augmentation.preset("pretrainin")


@pytest.mark.parametrize("name", ["crop_scale", "crop_ratio"])
def test_ranges_turned_round_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must be \(smallest, largest\)"):
        Augmentation(**{name: (0.9, 0.5)})
