import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.geometry.affine import orientation_code
from crossdim.transforms.intensity import RangeIntensity, WindowIntensity
from crossdim.transforms.volume import VolumeContract, prepare_volume
from tests.transforms.toys import SPL_TO_RAS, affines, noise, volume

AS_IT_IS = RangeIntensity()


def test_identity_when_nothing_changes():
    voxels = noise(1, 4, 6, 8)
    prepared = prepare_volume(volume(voxels, unit="unit"), VolumeContract(size=(4, 6, 8), intensity=AS_IT_IS))
    np.testing.assert_allclose(prepared.tensor, voxels, atol=1e-7)
    assert np.array_equal(prepared.index_map, np.eye(4))
    assert np.array_equal(prepared.affine_mm, SPL_TO_RAS)
    assert prepared.valid == ((0, 4), (0, 6), (0, 8))


@limits(max_examples=40, deadline=None)
@given(
    affine=affines(),
    size=st.tuples(*[st.integers(5, 14)] * 3),
    target=st.tuples(*[st.integers(5, 14)] * 3),
    fit=st.sampled_from(["resize", "crop_pad"]),
    spacing=st.none() | st.tuples(*[st.floats(0.5, 4.0)] * 3),
    share=st.tuples(*[st.floats(0.25, 0.75)] * 3),
)
def test_a_bright_voxel_lands_where_the_map_says(affine, size, target, fit, spacing, share):
    contract = VolumeContract(
        size=target, fit=fit, spacing_mm=spacing if fit == "crop_pad" else None, intensity=AS_IT_IS
    )
    prepared = prepare_volume(volume(np.zeros((1, *size)), affine, unit="unit"), contract)
    wanted = [start + part * (stop - 1 - start) for part, (start, stop) in zip(share, prepared.valid, strict=True)]
    spot = np.rint(prepared.to_file_index(np.array(wanted))).astype(int).clip(0, np.array(size) - 1)
    voxels = np.zeros((1, *size))
    voxels[(0, *spot)] = 1
    values = prepare_volume(volume(voxels, affine, unit="unit"), contract).tensor[0].numpy()
    brightest = np.array(np.unravel_index(values.argmax(), values.shape))
    expected = prepared.from_file_index(spot.astype(float))
    outputs_per_input = np.abs(np.linalg.inv(prepared.index_map)[:3, :3]).sum(axis=1)
    assert (np.abs(brightest - expected) <= np.maximum(1.0, outputs_per_input)).all()


@limits(max_examples=40, deadline=None)
@given(
    affine=affines(),
    size=st.tuples(*[st.integers(2, 12)] * 3),
    target=st.tuples(*[st.integers(2, 12)] * 3),
    fit=st.sampled_from(["resize", "crop_pad"]),
    code=st.sampled_from(["SPL", "LIP", "RAS", None]),
)
def test_indices_and_millimetres_agree_with_the_file(affine, size, target, fit, code):
    contract = VolumeContract(size=target, fit=fit, orientation=code, intensity=AS_IT_IS)
    prepared = prepare_volume(volume(np.zeros((1, *size)), affine, unit="unit"), contract)
    points = noise(5, 3).astype(np.float64) * 10
    in_file = prepared.to_file_index(points)
    np.testing.assert_allclose(in_file @ affine[:3, :3].T + affine[:3, 3], prepared.to_patient_mm(points), atol=1e-6)
    np.testing.assert_allclose(prepared.from_file_index(in_file), points, atol=1e-6)
    assert code is None or orientation_code(prepared.affine_mm) == code


def test_resampling_to_a_spacing_keeps_sizes_in_millimetres():
    voxels = np.zeros((1, 10, 20, 20))
    voxels[0, 4:6, 5:15, 5:15] = 1
    thick = SPL_TO_RAS @ np.diag([3, 1, 1, 1])
    contract = VolumeContract(size=(32, 24, 24), spacing_mm=(1, 1, 1), fit="crop_pad", intensity=AS_IT_IS)
    prepared = prepare_volume(volume(voxels, thick, unit="unit"), contract)
    assert prepared.valid == ((1, 31), (2, 22), (2, 22))
    assert prepared.step == pytest.approx((1, 1, 1))
    assert float(prepared.tensor.sum()) == pytest.approx(voxels.sum() * 3, rel=1e-3)


def test_padding_is_the_low_end_of_the_window():
    contract = VolumeContract(
        size=(4, 4, 4), fit="crop_pad", intensity=WindowIntensity(low=-100, high=100), mean=(0.5,), std=(0.25,)
    )
    prepared = prepare_volume(volume(np.full((1, 2, 2, 2), -50.0), unit="HU"), contract)
    assert prepared.fill == (-2.0,)
    assert prepared.valid == ((1, 3), (1, 3), (1, 3))
    assert float(prepared.tensor[0, 0, 0, 0]) == -2.0
    assert float(prepared.tensor[0, 1, 1, 1]) == -1.0


def test_zscore_uses_each_volumes_own_foreground():
    voxels = noise(2, 6, 6, 6)
    voxels[:, :3] = 0
    contract = VolumeContract(size=(6, 6, 6), channels=2, intensity=AS_IT_IS, zscore=True)
    prepared = prepare_volume(volume(voxels, unit="unit"), contract)
    inside = prepared.tensor[:, 3:].flatten(1)
    assert inside.mean(dim=1).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert inside.std(dim=1, correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert prepared.tensor[:, 0, 0, 0].tolist() == pytest.approx(prepared.fill)


@pytest.mark.parametrize("zscore", [True, False])
def test_a_constant_volume_becomes_zeros(zscore):
    prepared = prepare_volume(volume(np.full((1, 4, 4, 4), 7)), VolumeContract(size=(4, 4, 4), zscore=zscore))
    assert not prepared.tensor.any()


def test_percentiles_belong_to_each_channel():
    voxels = np.stack([noise(5, 5, 5), noise(5, 5, 5) * 1000])
    prepared = prepare_volume(volume(voxels), VolumeContract(size=(5, 5, 5), channels=2))
    np.testing.assert_allclose(prepared.tensor[0], prepared.tensor[1], atol=1e-5)


def test_a_volume_with_another_number_of_channels_is_refused():
    with pytest.raises(ContractError, match=r"scan.nii.gz: has 2 channels where the contract has 1\. Give the series"):
        prepare_volume(volume(noise(2, 4, 4, 4)), VolumeContract(size=(4, 4, 4)))


def test_series_in_another_order_are_refused_naming_both_lists():
    contract = VolumeContract(size=(4, 4, 4), channels=2, channel_names=("T1", "FLAIR"))
    with pytest.raises(ContractError, match=r"channels \['FLAIR', 'T1'\] where the contract has \['T1', 'FLAIR'\]"):
        prepare_volume(volume(noise(2, 4, 4, 4), names=("FLAIR", "T1")), contract)
    assert prepare_volume(volume(noise(2, 4, 4, 4), names=("T1", "FLAIR")), contract).tensor.shape == (2, 4, 4, 4)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"orientation": "SPS"}, "orientation must be one letter each of R/L, A/P and S/I, and is 'SPS'"),
        ({"spacing_mm": (1.0, 1.0, 1.0)}, "spacing_mm has no effect with fit 'resize'"),
        ({"channel_names": ("T1", "T2")}, "channel_names has 2 names for 1 channels"),
        ({"zscore": True, "mean": (0.0,), "std": (1.0,)}, "zscore excludes mean and std"),
        ({"mean": (0.0,)}, "mean and std go together"),
    ],
)
def test_contradictions_are_refused(keys, reason):
    with pytest.raises(ValueError, match=reason):
        VolumeContract(size=(4, 4, 4), **keys)


def test_the_slice_of_the_file_is_found_again():
    # Sagittal slices from right to left, 2 mm apart; the contract turns them into axial ones of 1 mm.
    sagittal = np.array([[-2.0, 0, 0, 30], [0, 0, -1, 12], [0, -1, 0, 40], [0, 0, 0, 1]])
    contract = VolumeContract(size=(24, 16, 16), spacing_mm=(1, 1, 1), fit="crop_pad", intensity=AS_IT_IS)
    prepared = prepare_volume(volume(noise(1, 10, 20, 20), sagittal, unit="unit"), contract)
    found = prepared.slice_in_file(5)
    assert (found.axis, found.index) == (1, 16)  # two slices of padding; the file's height points to the feet
    assert found.centre_mm[2] == pytest.approx(40 - found.position)
    assert prepared.slice_in_file(0).index is None
    with pytest.raises(ContractError, match=r"slice 24: is not one of the 24 slices. Give 0 to 23"):
        prepared.slice_in_file(24)


@limits(max_examples=30, deadline=None)
@given(affine=affines(), code=st.sampled_from(["SPL", "LIP", None]), corner=st.tuples(*[st.integers(0, 4)] * 3))
def test_a_crop_to_the_foreground_is_found_again_in_the_file(affine, code, corner):
    box = tuple(slice(start, start + length) for start, length in zip(corner, (3, 5, 4), strict=True))
    voxels = np.zeros((1, 8, 10, 9), dtype=np.float32)
    voxels[(0, *box)] = 0.5 + 0.5 * noise(3, 5, 4)
    contract = VolumeContract(size=(6, 10, 8), orientation=code, intensity=AS_IT_IS, foreground_crop=True)
    prepared = prepare_volume(volume(voxels, affine, unit="unit"), contract)
    assert float(prepared.tensor.min()) >= 0.5
    ends = prepared.to_file_index(np.array([[-0.5, -0.5, -0.5], [5.5, 9.5, 7.5]]))
    np.testing.assert_allclose(ends.min(axis=0), np.array(corner) - 0.5, atol=1e-6)
    np.testing.assert_allclose(ends.max(axis=0), np.array(corner) + np.array([2.5, 4.5, 3.5]), atol=1e-6)
    in_patient = ends @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(
        in_patient, prepared.to_patient_mm(np.array([[-0.5, -0.5, -0.5], [5.5, 9.5, 7.5]])), atol=1e-6
    )
    middle = prepared.slice_in_file(2)
    assert middle.index is not None
    assert corner[middle.axis] <= middle.index < corner[middle.axis] + (3, 5, 4)[middle.axis]


def test_the_foreground_is_what_lies_above_the_lower_end_of_the_window_in_any_channel():
    voxels = np.full((2, 4, 5, 6), -1000.0)
    voxels[0, 1, 2, 3] = 40
    voxels[1, 2, 3, 3] = -100
    window = WindowIntensity(low=-160, high=240)
    contract = VolumeContract(
        size=(2, 2, 1), channels=2, orientation=None, intensity=window, foreground_crop=True, antialias=False
    )
    tensor = prepare_volume(volume(voxels, unit="HU"), contract).tensor
    assert tensor[0].nonzero().tolist() == [[0, 0, 0]]
    assert tensor[1].nonzero().tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_volume_without_foreground_is_refused_in_one_sentence(value):
    voxels = np.full((1, 4, 4, 4), value)
    voxels[0, 0, 0, 0] = 0
    contract = VolumeContract(
        size=(4, 4, 4), intensity=WindowIntensity(low=0, high=1, unit="unit"), foreground_crop=True
    )
    with pytest.raises(ContractError, match="there is no foreground to crop to"):
        prepare_volume(volume(voxels, unit="unit"), contract)
