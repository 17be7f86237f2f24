import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from crossdim.errors import ReadError, RecipeError
from crossdim.readers.depth import read_depth
from tests.readers.point_toys import flat_depth


def save(path, values):
    PillowImage.fromarray(values).save(path)
    return path


def test_millimetres_become_metres_and_zero_is_no_reading(tmp_path):
    depth_m = read_depth(save(tmp_path / "a.png", flat_depth(2500)))
    assert depth_m.dtype == np.float32
    assert depth_m.shape == (30, 40)
    assert np.isnan(depth_m[:5, :5]).all()
    np.testing.assert_allclose(depth_m[5:], 2.5)


def test_the_unit_is_an_argument(tmp_path):
    path = save(tmp_path / "a.png", flat_depth(5000))
    np.testing.assert_allclose(read_depth(path, unit_m=0.0002)[10:], 1.0, rtol=1e-6)


def test_sunrgbds_turned_bits_are_turned_back(tmp_path):
    values = np.arange(1, 65536, dtype=np.uint16).reshape(255, 257)
    turned = values << 3 | values >> 13
    depth_m = read_depth(save(tmp_path / "a.png", turned), encoding="sunrgbd")
    np.testing.assert_allclose(depth_m, values * 0.001, rtol=1e-6)


@pytest.mark.parametrize("ending", [".tif", ".npy"])
def test_floats_are_units_too(tmp_path, ending):
    values = np.float32([[1.5, 0.0, np.nan], [-1.0, np.inf, 2.5]])
    path = tmp_path / f"a{ending}"
    tifffile.imwrite(path, values) if ending == ".tif" else np.save(path, values)
    expected = [[1.5, np.nan, np.nan], [np.nan, np.nan, 2.5]]
    np.testing.assert_array_equal(read_depth(path, unit_m=1.0), np.float32(expected))


@pytest.mark.parametrize("unit_m", [0.0, -0.001, float("nan")])
def test_a_unit_that_is_none_is_refused(tmp_path, unit_m):
    with pytest.raises(RecipeError, match=r"unit_m: is .* and has to be above 0"):
        read_depth(save(tmp_path / "a.png", flat_depth()), unit_m=unit_m)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((30, 40, 3), np.uint8), "it holds 3 channels of uint8"),
        (np.ones((30, 40), np.uint8), "it holds 1 channels of uint8"),
        (np.zeros((30, 40), np.uint16), "holds no reading: no pixel is above 0"),
    ],
)
def test_pictures_that_are_no_depth_are_refused(tmp_path, values, reason):
    with pytest.raises(ReadError, match=reason):
        read_depth(save(tmp_path / "a.png", values))


def test_a_volume_is_no_depth(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 7)))
    with pytest.raises(ReadError, match=r"is no depth picture: it holds a volume\. Give a picture"):
        read_depth(tmp_path / "a.npy")


def test_points_are_no_depth(tmp_path):
    np.zeros(40, "<f4").tofile(tmp_path / "a.bin")
    with pytest.raises(ReadError, match="holds points, and is to be an image or a volume"):
        read_depth(tmp_path / "a.bin")


def test_sunrgbds_encoding_needs_16_bits(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4), np.float32))
    with pytest.raises(ReadError, match="holds float32, and SUN RGB-D's depth is uint16"):
        read_depth(tmp_path / "a.npy", encoding="sunrgbd")


@pytest.mark.parametrize(
    ("file", "encoding", "nearest_m", "farthest_m"),
    [
        ("osd_rgbd/learn/learn0_depth.png", "plain", 0.4, 3),
        ("sunrgbd/raw_img_0063/depth/img_0063_abs.png", "sunrgbd", 1, 4),
        ("sunrgbd/raw_2014-12-18_11-31-54_260595134347/depth_bfx/0000144.png", "sunrgbd", 0.3, 10),
    ],
)
def test_real_depth_is_within_the_reach_of_its_sensor(crossdim_data, file, encoding, nearest_m, farthest_m):
    depth_m = read_depth(crossdim_data / file, encoding=encoding)
    assert np.isfinite(depth_m).mean() > 0.3
    assert np.nanpercentile(depth_m, 1) > nearest_m
    assert np.nanpercentile(depth_m, 99) < farthest_m
