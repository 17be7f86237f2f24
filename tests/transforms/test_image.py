import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.transforms.image import ImageContract, prepare_image
from crossdim.transforms.intensity import PercentileIntensity
from tests.transforms.toys import image, noise


def eight_bit(*shape):
    return (noise(*shape) * 255).astype(np.uint8)


def test_identity_when_nothing_changes():
    pixels = eight_bit(3, 20, 30)
    prepared = prepare_image(image(pixels), ImageContract(size=(20, 30)))
    np.testing.assert_allclose(prepared.tensor, pixels / np.float32(255), atol=1e-7)
    assert np.array_equal(prepared.index_map, np.eye(3))
    assert prepared.valid == ((0, 20), (0, 30))
    assert prepared.notes == ()
    assert prepared.affine_mm is None


def test_grey_is_repeated_where_the_contract_has_three_channels_and_noted():
    prepared = prepare_image(image(eight_bit(1, 8, 8)), ImageContract(size=(8, 8)))
    assert prepared.tensor.shape == (3, 8, 8)
    assert (prepared.tensor[0] == prepared.tensor[2]).all()
    assert prepared.notes == ("grey was repeated as red, green and blue",)


def test_colours_become_luminance_where_the_contract_has_one_channel_and_noted():
    pixels = np.zeros((3, 4, 4), dtype=np.uint8)
    pixels[1] = 255
    prepared = prepare_image(image(pixels), ImageContract(size=(4, 4), channels=1))
    np.testing.assert_allclose(prepared.tensor, np.full((1, 4, 4), 0.587), atol=1e-6)
    assert prepared.notes == ("colours became grey by luminance",)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_are_refused(channels):
    with pytest.raises(ContractError, match=f"photo.png: has {channels} channels where 1 .* or 3 .* are needed"):
        prepare_image(image(eight_bit(channels, 8, 8)), ImageContract(size=(8, 8)))


def test_percentiles_of_an_image_are_shared_by_its_channels():
    pixels = np.stack([np.full((4, 4), 10.0), np.full((4, 4), 20.0), np.full((4, 4), 30.0)])
    contract = ImageContract(size=(4, 4), intensity=PercentileIntensity(low=0, high=100))
    prepared = prepare_image(image(pixels, unit="arbitrary"), contract)
    assert prepared.tensor[:, 0, 0].tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("fit", "valid"), [("resize", ((0, 10), (0, 10))), ("crop", ((0, 10), (0, 10))), ("pad", ((3, 8), (0, 10)))]
)
def test_each_fit_places_the_picture_as_it_says(fit, valid):
    prepared = prepare_image(image(np.full((3, 20, 40), 255, dtype=np.uint8)), ImageContract(size=(10, 10), fit=fit))
    assert prepared.tensor.shape == (3, 10, 10)
    assert prepared.valid == valid
    (top, bottom), _ = valid
    np.testing.assert_allclose(prepared.tensor[:, top:bottom], 1, atol=1e-6)
    assert not prepared.tensor[:, :top].any()
    assert not prepared.tensor[:, bottom:].any()
    height, width = prepared.step
    assert (height == width) == (fit != "resize")


def test_padding_is_black_after_normalisation_too():
    contract = ImageContract(size=(8, 8), fit="pad", mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.5))
    prepared = prepare_image(image(eight_bit(3, 4, 8)), contract)
    np.testing.assert_allclose(prepared.tensor[:, 0, 0], [-1, -0.8, -0.6], atol=1e-6)
    np.testing.assert_allclose(prepared.fill, [-1, -0.8, -0.6], atol=1e-6)


@limits(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    target=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    fit=st.sampled_from(["resize", "crop", "pad"]),
    share=st.tuples(st.floats(0.25, 0.75), st.floats(0.25, 0.75)),
)
def test_a_bright_spot_lands_where_the_map_says(size, target, fit, share):
    prepared = prepare_image(image(np.zeros((1, *size), np.uint8)), ImageContract(size=target, channels=1, fit=fit))
    wanted = [start + part * (stop - 1 - start) for part, (start, stop) in zip(share, prepared.valid, strict=True)]
    spot = np.rint(prepared.to_file_index(np.array(wanted))).astype(int).clip(0, np.array(size) - 1)
    pixels = np.zeros((1, *size), dtype=np.uint8)
    pixels[0, spot[0], spot[1]] = 255
    values = prepare_image(image(pixels), ImageContract(size=target, channels=1, fit=fit)).tensor[0].numpy()
    brightest = np.array(np.unravel_index(values.argmax(), values.shape))
    expected = prepared.from_file_index(spot.astype(float))
    # Several outputs can be equally bright where an image grows; the map's place is within one output or input step.
    assert (np.abs(brightest - expected) <= np.maximum(1.0, 1 / np.array(prepared.step))).all()


@pytest.mark.parametrize(
    ("statistics", "reason"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std go together"),
        ({"mean": (0.5,), "std": (0.5,)}, r"need 3 values each \(channels\), not 1 and 1"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "std must be above 0, not 0"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(statistics, reason):
    with pytest.raises(ValueError, match=reason):
        ImageContract(size=(8, 8), **statistics)
