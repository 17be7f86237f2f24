"""PNG, JPEG and BMP."""

import imagecodecs
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps

from crossdim.errors import ReadError
from crossdim.readers import Limits, inspect, read
from crossdim.readers.image import orient
from tests.readers.toys import grey, rgb

ALPHA = np.where(grey() > 100, 255, 40).astype(np.uint8)


def save(path, values, **options):
    PillowImage.fromarray(values).save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp"])
def test_lossless_pictures_keep_their_values_channels_first(tmp_path, ending):
    image = read(save(tmp_path / f"eye.{ending}", rgb()))
    np.testing.assert_array_equal(image.pixels, np.moveaxis(rgb(), -1, 0))
    assert (image.unit, image.spacing_mm, image.warnings) == ("uint8", None, ())
    np.testing.assert_array_equal(read(save(tmp_path / f"grey.{ending}", grey())).pixels, grey()[None])


def test_a_jpeg_is_red_green_blue_and_nearly_what_was_saved(tmp_path):
    flat = np.broadcast_to(np.array([200, 90, 30], np.uint8), (16, 16, 3))
    image = read(save(tmp_path / "eye.jpg", np.ascontiguousarray(flat), quality=100))
    assert image.pixels.shape == (3, 16, 16)
    assert np.abs(image.pixels.astype(int).mean(axis=(1, 2)) - [200, 90, 30]).max() <= 2


def test_sixteen_bit_grey_and_colour_keep_all_sixteen_bits(tmp_path):
    deep = rgb().astype(np.uint16) * 257 + 1
    for name, values in (("grey", deep[..., 0]), ("rgb", deep)):
        path = tmp_path / f"{name}.png"
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))
        image = read(path)
        assert (image.unit, image.pixels.dtype) == ("uint16", np.uint16)
        np.testing.assert_array_equal(image.pixels, values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0))


def test_sixteen_bit_alpha_is_left_out(tmp_path):
    values = np.dstack([rgb().astype(np.uint16) * 257, np.full(grey().shape, 65535, np.uint16)])
    path = tmp_path / "deep.png"
    path.write_bytes(imagecodecs.png_encode(values))
    image = read(path)
    assert image.pixels.shape == (3, 6, 8)
    assert image.warnings == ("its alpha channel (opaque everywhere) is left out",)


@pytest.mark.parametrize(("values", "channels"), [(rgb(), 3), (grey(), 1)])
def test_alpha_is_left_out_with_a_warning_that_says_whether_it_mattered(tmp_path, values, channels):
    opaque = read(save(tmp_path / "opaque.png", np.dstack([values, np.full(grey().shape, 255, np.uint8)])))
    assert opaque.pixels.shape == (channels, 6, 8)
    assert opaque.warnings == ("its alpha channel (opaque everywhere) is left out",)
    clear = read(save(tmp_path / "clear.png", np.dstack([values, ALPHA])))
    np.testing.assert_array_equal(clear.pixels[0], values if values.ndim == 2 else values[..., 0])
    assert clear.warnings == (
        f"its alpha channel is left out, although {(ALPHA < 255).mean():.2%} of the pixels are not opaque",
    )


def test_palettes_become_colours_and_bits_become_0_and_255(tmp_path):
    palette = PillowImage.fromarray(rgb()).quantize(64)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        read(tmp_path / "palette.png").pixels, np.moveaxis(np.asarray(palette.convert("RGB")), -1, 0)
    )
    palette.save(tmp_path / "clear.png", transparency=0)
    assert "alpha channel is left out" in read(tmp_path / "clear.png").warnings[0]
    bits = read(save(tmp_path / "bits.png", grey() > 90))
    np.testing.assert_array_equal(bits.pixels, np.where(grey() > 90, 255, 0)[None])


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif"])
def test_blank_pictures_are_whole_however_small_their_files_are(tmp_path, mode, ending):
    if (ending == "jpg" and mode in ("P", "LA", "RGBA")) or (ending == "bmp" and mode == "LA"):
        pytest.skip("the format has no such pictures")
    PillowImage.new(mode, (3000, 2000)).save(tmp_path / f"blank.{ending}", compression="tiff_adobe_deflate")
    assert read(tmp_path / f"blank.{ending}").pixels.shape[1:] == (2000, 3000)


def test_cmyk_is_converted_with_a_warning(tmp_path):
    PillowImage.fromarray(rgb()).convert("CMYK").save(tmp_path / "print.jpg")
    image = read(tmp_path / "print.jpg")
    assert image.pixels.shape == (3, 6, 8)
    assert image.warnings == ("its colours are converted from CMYK to RGB",)


@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_are_turned_upright_as_the_camera_noted(tmp_path, tag):
    picture = PillowImage.fromarray(rgb())
    noted = picture.getexif()
    noted[274] = tag
    picture.save(tmp_path / "photo.png", exif=noted)
    expected = np.moveaxis(np.asarray(ImageOps.exif_transpose(PillowImage.open(tmp_path / "photo.png"))), -1, 0)
    np.testing.assert_array_equal(read(tmp_path / "photo.png").pixels, expected)
    assert inspect(tmp_path / "photo.png").shape == expected.shape


def test_an_unknown_orientation_counts_as_upright():
    np.testing.assert_array_equal(orient(grey()[None], 99), grey()[None])


def test_the_first_of_several_pictures_is_read_with_a_warning(tmp_path):
    PillowImage.fromarray(grey()).save(
        tmp_path / "moving.png", save_all=True, append_images=[PillowImage.fromarray(255 - grey())]
    )
    image = read(tmp_path / "moving.png")
    np.testing.assert_array_equal(image.pixels, grey()[None])
    assert image.warnings == ("holds 2 pictures, of which the first is read",)


@pytest.mark.parametrize("name", ["eye.png", "eye.jpg", "eye.bmp"])
def test_a_cut_off_picture_is_refused_by_name(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ReadError, match=rf"{name}: is damaged \(.*\)\. Copy or export it again\."):
        read(path)


def test_a_cut_off_sixteen_bit_picture_is_refused_by_name(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(imagecodecs.png_encode(rgb(64, 64).astype(np.uint16) * 200)[:-400])
    with pytest.raises(ReadError, match=r"deep.png: is damaged \("):
        read(path)


def test_a_picture_that_is_only_a_beginning_is_refused(tmp_path):
    (tmp_path / "eye.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ReadError, match=r"eye.png: is damaged, or a kind of picture that is not read"):
        read(tmp_path / "eye.png")


def test_a_picture_beyond_the_limit_is_refused_before_it_is_unpacked(tmp_path):
    path = save(tmp_path / "eye.png", rgb(40, 50))
    with pytest.raises(ReadError, match=r"eye.png: declares 3 x 40 x 50 = 6000 values, and the limit is 5999"):
        read(path, limits=Limits(max_voxels=5999))
    assert read(path, limits=Limits(max_voxels=6000)).pixels.size == 6000


def test_a_picture_has_nothing_to_choose(tmp_path):
    path = save(tmp_path / "eye.png", grey())
    with pytest.raises(ReadError, match=r"eye.png#3: the file holds one image or volume only"):
        read(f"{path}#3")
