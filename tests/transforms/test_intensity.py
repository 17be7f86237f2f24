import numpy as np
import pytest
import torch

from crossdim.errors import ContractError
from crossdim.transforms.intensity import (
    PercentileIntensity,
    RangeIntensity,
    WindowIntensity,
    intensity_limits,
    normalise,
    scale,
)
from tests.transforms.toys import noise

CT = WindowIntensity(low=-160, high=240)


def scaled(intensity, values, unit):
    values = np.asarray(values)
    found = intensity_limits(intensity, values, unit, "file.x")
    return scale(torch.from_numpy(values.astype(np.float32)), found).numpy()


@pytest.mark.parametrize(("unit", "highest"), [("uint8", 255), ("uint16", 65535), ("unit", 1)])
def test_the_full_range_of_a_display_unit_becomes_0_to_1(unit, highest):
    result = scaled(RangeIntensity(), [[0, highest / 2, highest]], unit)
    np.testing.assert_allclose(result, [[0, 0.5, 1]], atol=1e-6)


@pytest.mark.parametrize(("unit", "words"), [("HU", "Hounsfield units"), ("arbitrary", "intensities without a unit")])
def test_units_without_a_display_range_are_refused_for_range_intensity(unit, words):
    with pytest.raises(ContractError, match=f"file.x: holds {words}, which have no display range"):
        scaled(RangeIntensity(), [[0, 1]], unit)


def test_real_numbers_in_0_to_1_are_taken_as_such_only_where_the_contract_declares_it():
    values = np.array([[0.0, 0.25, 1.00001, np.nan]], dtype=np.float32)
    with pytest.raises(ContractError, match=r"intensities without a unit.*declared 'unit'"):
        scaled(RangeIntensity(), values, "arbitrary")
    np.testing.assert_allclose(scaled(RangeIntensity(declared="unit"), values, "arbitrary"), [[0, 0.25, 1, 0]])


@pytest.mark.parametrize("values", [[[0.0, 1.01]], [[-0.01, 1.0]]])
def test_a_file_that_is_not_what_the_contract_declares_is_refused_with_its_range(values):
    with pytest.raises(ContractError, match=r"file.x: holds values from .* in \[0, 1\]\. Scale the file to \[0, 1\]"):
        scaled(RangeIntensity(declared="unit"), values, "arbitrary")


def test_what_states_its_unit_is_not_taken_for_what_was_declared():
    declared = RangeIntensity(declared="unit")
    np.testing.assert_allclose(scaled(declared, [[0, 255]], "uint8"), [[0, 1]])
    with pytest.raises(ContractError, match="holds Hounsfield units"):
        scaled(declared, [[0, 1]], "HU")


def test_a_window_cuts_off_at_both_ends():
    np.testing.assert_allclose(scaled(CT, [[-1000, -160, 40, 240, 3000]], "HU"), [[0, 0, 0.5, 1, 1]])


def test_display_values_are_refused_where_hu_is_expected():
    with pytest.raises(
        ContractError, match=r"display values 0-255 where the .* in Hounsfield units\. Give the original CT"
    ):
        scaled(CT, [[0, 255]], "uint8")


def test_another_unit_than_the_windows_is_refused():
    with pytest.raises(
        ContractError, match=r"holds intensities without a unit where .* 0-255\. Give files with display"
    ):
        scaled(WindowIntensity(low=0, high=100, unit="uint8"), [[0, 255]], "arbitrary")


def test_display_values_that_are_called_hu_are_refused():
    with pytest.raises(ContractError, match="said to be in HU, but its values lie in 0 to 255 like display values"):
        scaled(CT, [[0, 100, 255]], "HU")


def test_percentiles_are_taken_for_each_channel():
    result = scaled(PercentileIntensity(low=0, high=100), [[0, 5, 10], [100, 150, 200]], "arbitrary")
    np.testing.assert_allclose(result, [[0, 0.5, 1], [0, 0.5, 1]])


def test_percentiles_cut_off_outliers():
    values = np.r_[np.arange(1000.0), 1e6][None]
    assert scaled(PercentileIntensity(), values, "arbitrary")[0, 500] == pytest.approx(0.5, abs=0.01)


def test_percentiles_of_large_channels_are_close_and_repeatable(monkeypatch):
    values = noise(1, 50000)
    exact = intensity_limits(PercentileIntensity(), values, "arbitrary", "x")
    monkeypatch.setattr("crossdim.transforms.intensity._MOST_VALUES", 10000)
    once = intensity_limits(PercentileIntensity(), values, "arbitrary", "x")
    assert np.array_equal(once, intensity_limits(PercentileIntensity(), values, "arbitrary", "x"))
    np.testing.assert_allclose(once, exact, atol=0.01)


@pytest.mark.parametrize("value", [0.0, 7.5, -3.0])
def test_a_constant_volume_becomes_zeros_without_nan(value):
    assert not scaled(PercentileIntensity(), np.full((1, 4, 4), value), "arbitrary").any()


def test_a_few_bright_voxels_on_a_constant_ground_are_kept():
    values = np.zeros((1, 1000))
    values[0, :3] = 8
    assert scaled(PercentileIntensity(), values, "arbitrary").sum() == 3


def test_values_that_are_not_numbers_become_zero_and_do_not_move_percentiles():
    result = scaled(PercentileIntensity(low=0, high=100), [[0, 1, 2, np.nan, np.inf, -np.inf]], "arbitrary")
    np.testing.assert_allclose(result, [[0, 0.5, 1, 0, 1, 0]])


def test_a_constant_volume_with_infinities_has_no_nan():
    assert np.isfinite(scaled(PercentileIntensity(), [[3, 3, np.inf, np.nan]], "arbitrary")).all()


def test_a_volume_without_a_finite_value_is_refused():
    with pytest.raises(ContractError, match="holds no finite value"):
        scaled(PercentileIntensity(), np.full((1, 4), np.nan), "arbitrary")


@pytest.mark.parametrize("build", [lambda: WindowIntensity(low=5, high=5), lambda: PercentileIntensity(low=9, high=1)])
def test_a_window_turned_round_is_refused(build):
    with pytest.raises(ValueError, match=r"low .* must be below high"):
        build()


def test_mean_and_deviation_apply_to_each_channel():
    result = normalise(torch.ones(2, 3), (0.5, 1.0), (0.25, 2.0))
    assert result.tolist() == [[2.0] * 3, [0.0] * 3]
