import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crossdim.errors import ContractError
from crossdim.transforms.intensity import PercentileIntensity, RangeIntensity, WindowIntensity
from crossdim.transforms.presets import (
    CT_WINDOWS,
    contract_for,
    for_ct,
    for_images,
    for_med2e3,
    for_mr,
    image_contract,
)
from tests.transforms.toys import SPL_TO_RAS, image, noise, volume


def photo(height, width, channels=3):
    return image(np.zeros((channels, height, width), np.uint8))


def test_images_keep_0_to_1_unless_statistics_are_chosen():
    contract = for_images((64, 64))
    assert contract.image.size == (64, 64)
    assert contract.image.mean is None
    assert for_images((64, 64), "imagenet").image.mean == (0.485, 0.456, 0.406)
    assert image_contract((8, 8), "half", channels=1).std == (0.5,)


def test_unknown_statistics_are_refused():
    with pytest.raises(ContractError, match=r"statistics 'imagnet': are unknown. Did you mean 'imagenet'"):
        for_images((8, 8), "imagnet")


@pytest.mark.parametrize("window", CT_WINDOWS)
def test_each_ct_window_prepares_a_ct(window):
    voxels = np.linspace(-2000, 2000, 4 * 4 * 4).reshape(1, 4, 4, 4)
    prepared = for_ct((4, 4, 4), window).prepare(volume(voxels, unit="HU"))
    assert (float(prepared.tensor.min()), float(prepared.tensor.max())) == (0, 1)


def test_an_unknown_ct_window_is_refused():
    with pytest.raises(ContractError, match=r"CT window 'lungs': is unknown. Did you mean 'lung'"):
        for_ct((8, 8, 8), "lungs")


def test_a_spacing_means_crop_or_pad_and_none_means_stretch():
    assert for_mr((8, 8, 8)).volume.fit == "resize"
    assert for_mr((8, 8, 8), (1.0, 1.0, 1.0)).volume.fit == "crop_pad"
    assert for_ct((8, 8, 8), spacing_mm=(3.0, 1.0, 1.0)).volume.spacing_mm == (3.0, 1.0, 1.0)
    assert for_mr((8, 8, 8), channels=4).volume.channels == 4


def test_photos_keep_their_proportions_within_the_budget():
    contract = contract_for([photo(510, 768)] * 3)
    height, width = contract.image.size
    assert (height % 16, width % 16) == (0, 0)
    assert 150 < height * width / 256 <= 196
    assert width / height == pytest.approx(768 / 510, rel=0.06)
    assert contract.image.fit == "resize"
    assert contract.image.channels == 3
    assert isinstance(contract.image.intensity, RangeIntensity)
    assert contract.volume is None
    assert contract.source == "proposed from 3 images"


def test_values_are_centred_by_the_files_unless_they_shall_stay_in_0_to_1():
    pixels = np.stack([np.full((32, 32), 51), np.full((32, 32), 102), np.tile([0, 255], (32, 16))]).astype(np.uint8)
    nouns = [image(pixels), volume(noise(1, 16, 16, 16))]
    contract = contract_for(nouns)
    assert contract.image.mean == pytest.approx((0.2, 0.4, 0.5), abs=1e-3)
    assert contract.image.std == pytest.approx((1.0, 1.0, 0.5), abs=1e-3)
    assert contract.volume.zscore
    plain = contract_for(nouns, normalised=False)
    assert plain.image.mean is None
    assert not plain.volume.zscore


@pytest.mark.parametrize(("axis", "orientation"), [(0, "SPL"), (1, "PIL"), (2, "LIP"), (None, "SPL")])
def test_thick_slices_stay_whole_and_are_displayed_as_usual(axis, orientation):
    spacing = [1.0, 1.0, 1.0, 1.0]
    if axis is not None:
        spacing[axis] = 4.0
    contract = contract_for([volume(noise(1, 16, 16, 16), SPL_TO_RAS @ np.diag(spacing))])
    assert contract.volume.orientation == orientation


def test_photos_of_different_proportions_are_padded():
    assert contract_for([photo(100, 100), photo(100, 100), photo(100, 160)]).image.fit == "pad"


def test_small_images_are_not_blown_up():
    assert contract_for([photo(28, 28, channels=1)], patch=(4, 4)).image.size == (28, 28)
    assert contract_for([photo(28, 28, channels=1)]).image.channels == 1


def test_twelve_bit_data_in_sixteen_are_not_left_nearly_black():
    dim = image(np.full((1, 32, 32), 4095, np.uint16), unit="uint16")
    full = image(np.full((1, 32, 32), 60000, np.uint16), unit="uint16")
    assert isinstance(contract_for([dim]).image.intensity, PercentileIntensity)
    assert isinstance(contract_for([full]).image.intensity, RangeIntensity)


def test_volumes_are_made_coarser_along_their_finest_axes_first():
    thick = SPL_TO_RAS @ np.diag([5, 0.5, 0.5, 1])
    contract = contract_for(
        [volume(np.zeros((1, 24, 200, 200), np.float32), thick)], volume_patch=(4, 16, 16), volume_tokens=216
    )
    assert contract.volume.spacing_mm[0] == 5.0
    assert 0.5 < contract.volume.spacing_mm[1] < 5.0
    assert contract.volume.size[0] == 24
    tokens = np.prod([length // part for length, part in zip(contract.volume.size, (4, 16, 16), strict=True)])
    assert tokens <= 216
    assert contract.volume.fit == "crop_pad"


def test_small_volumes_keep_their_spacing():
    contract = contract_for([volume(noise(1, 35, 50, 35))])
    assert contract.volume.spacing_mm == (1.0, 1.0, 1.0)
    assert contract.volume.size == (48, 48, 48)
    assert isinstance(contract.volume.intensity, PercentileIntensity)


def test_volumes_stored_in_eight_bits_do_not_shut_out_the_others_of_their_series():
    eight = volume((noise(1, 16, 16, 16) * 255).astype(np.uint8), unit="uint8")
    contract = contract_for([eight])
    assert isinstance(contract.volume.intensity, PercentileIntensity)
    assert contract.prepare(volume(noise(1, 16, 16, 16))).tensor.isfinite().all()


def test_ct_gets_a_window_that_loses_little():
    contract = contract_for([volume(np.full((1, 8, 8, 8), -1000.0), unit="HU")])
    assert contract.volume.intensity == WindowIntensity(low=-1000, high=1000)


def test_the_same_series_in_every_volume_are_part_of_the_contract():
    named = volume(noise(2, 8, 8, 8), names=("T1", "FLAIR"))
    assert contract_for([named, named]).volume.channel_names == ("T1", "FLAIR")
    other = volume(noise(2, 8, 8, 8), names=("a", "b"))
    assert contract_for([named, other]).volume.channel_names == ()


def test_images_and_volumes_make_one_contract_that_prepares_both():
    nouns = [photo(40, 60), volume(noise(1, 12, 30, 30))]
    contract = contract_for(iter(nouns), tokens=16, volume_tokens=27)
    sizes = [contract.prepare(noun).size for noun in nouns]
    assert sizes == [contract.image.size, contract.volume.size]
    assert contract.source == "proposed from 1 image and 1 volume"


def test_given_sizes_are_kept_and_the_spacing_follows():
    contract = contract_for(
        [photo(50, 50), volume(noise(1, 60, 64, 64))], image_size=(32, 48), volume_size=(32, 32, 32)
    )
    assert contract.image.size == (32, 48)
    assert contract.volume.size == (32, 32, 32)
    assert contract.volume.spacing_mm[0] == pytest.approx(64 * 0.95 / 32, rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"image_size": (30, 32)}, r"image_size \(30, 32\): is not a multiple of the patch \(16, 16\). Use \(32, 32\)"),
        ({"volume_size": (8, 32, 32)}, r"volume_size \(8, 32, 32\): is not a multiple .* Use \(16, 32, 32\)"),
    ],
)
def test_sizes_that_are_no_multiple_of_the_patch_are_refused(sizes, reason):
    with pytest.raises(ContractError, match=reason):
        contract_for([photo(50, 50)], **sizes)


def test_volumes_with_different_channels_are_refused():
    with pytest.raises(ContractError, match=r"b.nii: has 2 channels where a.nii has 1"):
        contract_for([volume(noise(1, 8, 8, 8), path="a.nii"), volume(noise(2, 8, 8, 8), path="b.nii")])


def test_no_file_at_all_is_refused():
    with pytest.raises(ContractError, match="contract: cannot be proposed without a single file"):
        contract_for([])


def test_med2e3_crops_and_stretches_as_its_authors_do():
    voxels = np.zeros((1, 5, 12, 9), dtype=np.float32)
    voxels[0, 1:4, 2:10, 1:8] = 0.1 + 0.9 * noise(3, 8, 7)
    contract = for_med2e3((8, 4, 16))
    prepared = contract.prepare(volume(voxels, unit="arbitrary"))
    cropped = torch.from_numpy(voxels[None, :, 1:4, 2:10, 1:8])
    theirs = F.interpolate(cropped, (8, 4, 16), mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(prepared.tensor, theirs, atol=1e-6, rtol=0)


def test_med2e3_refuses_hounsfield_units_unless_a_window_is_chosen():
    scan = volume(np.linspace(-1000, 400, 64).reshape(1, 4, 4, 4), unit="HU")
    with pytest.raises(ContractError, match="holds Hounsfield units, which have no display range"):
        for_med2e3((4, 4, 4)).prepare(scan)
    assert float(for_med2e3((4, 4, 4), window="soft tissue").prepare(scan).tensor.max()) == 1.0
    with pytest.raises(ContractError, match="CT window 'soft'"):
        for_med2e3(window="soft")


def test_med2e3_refuses_real_numbers_that_are_not_in_0_to_1():
    with pytest.raises(ContractError, match=r"the contract declares files without a unit to be in \[0, 1\]"):
        for_med2e3((4, 4, 4)).prepare(volume(noise(1, 4, 4, 4) * 1.5))
