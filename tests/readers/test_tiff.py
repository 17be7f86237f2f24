"""TIFF: pictures, stacks, and what is neither."""

import logging

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from crossdim.errors import ReadError
from crossdim.geometry.affine import ASSUMED_AFFINE
from crossdim.readers import Limits, inspect, read
from crossdim.readers.intensity import NO_PLACE
from tests.readers.toys import grey, rgb

STACK = np.stack([grey(), 255 - grey(), grey() // 2])


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (grey(), "uint8"),
        (grey().astype(np.uint16) * 257, "uint16"),
        (grey().astype(np.float32), "arbitrary"),
        (grey().astype(">u2"), "uint16"),
        (grey().astype(np.int16) - 100, "arbitrary"),
    ],
)
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_grey_pictures_of_every_depth_keep_their_values(tmp_path, values, unit, compression):
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression)
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, values[None])
    assert image.pixels.dtype.isnative
    assert (image.kind, image.unit, image.warnings) == ("image", unit, ())


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("factor", [1, 257])
def test_colours_are_channels_first_in_eight_and_sixteen_bit(tmp_path, planar, factor):
    values = rgb() if factor == 1 else rgb().astype(np.uint16) * 257
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").pixels, np.moveaxis(values, -1, 0))


def test_alpha_is_left_out_with_a_warning(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([rgb(), grey()]), photometric="rgb", extrasamples=["unassalpha"])
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, np.moveaxis(rgb(), -1, 0))
    assert "alpha channel is left out, although" in image.warnings[0]
    values = np.dstack([grey(), np.full_like(grey(), 255)])
    tifffile.imwrite(
        tmp_path / "b.tif", values, photometric="minisblack", planarconfig="contig", extrasamples=["assocalpha"]
    )
    assert read(tmp_path / "b.tif").pixels.shape == (1, 6, 8)


def test_palettes_bits_and_inverted_grey_become_what_is_seen(tmp_path):
    palette = PillowImage.fromarray(rgb()).quantize(64)
    palette.save(tmp_path / "palette.tif")
    expected = np.moveaxis(np.asarray(palette.convert("RGB")), -1, 0)
    np.testing.assert_array_equal(read(tmp_path / "palette.tif").pixels, expected)
    PillowImage.fromarray(grey() > 90).save(tmp_path / "bits.tif")
    np.testing.assert_array_equal(read(tmp_path / "bits.tif").pixels, np.where(grey() > 90, 255, 0)[None])
    tifffile.imwrite(tmp_path / "white.tif", grey(), photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "white.tif").pixels, 255 - grey()[None])


def test_pictures_are_turned_upright(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey(), extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(read(tmp_path / "a.tif").pixels, np.rot90(grey(), -1)[None])
    assert inspect(tmp_path / "a.tif").shape == (1, 8, 6)


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"imagej": True, "metadata": {"axes": "ZYX"}}])
def test_pages_are_the_slices_of_a_volume_with_an_assumed_place(tmp_path, options):
    tifffile.imwrite(tmp_path / "stack.tif", STACK, photometric="minisblack", **options)
    volume = read(tmp_path / "stack.tif")
    np.testing.assert_array_equal(volume.voxels, STACK[None])
    np.testing.assert_array_equal(volume.affine, ASSUMED_AFFINE)
    assert volume.warnings == (NO_PLACE,)


def test_coloured_pages_are_a_volume_of_three_channels(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([rgb()] * 4), photometric="rgb")
    volume = read(tmp_path / "stack.tif")
    np.testing.assert_array_equal(volume.voxels[:, 2], np.moveaxis(rgb(), -1, 0))
    assert volume.voxels.shape == (3, 4, 6, 8)


def test_imagej_channels_and_slices_are_told_apart(tmp_path):
    values = np.arange(2 * 3 * 6 * 8, dtype=np.uint8).reshape(3, 2, 6, 8)
    tifffile.imwrite(tmp_path / "stack.tif", values, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(read(tmp_path / "stack.tif").voxels, values.swapaxes(0, 1))


def test_pictures_of_different_sizes_need_a_choice(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(grey())
        writer.write(rgb(4, 4), photometric="rgb")
    with pytest.raises(
        ReadError, match=r"holds 2 pictures of different sizes. Choose one, such as '.*two.tif#0' or '.*#1'"
    ):
        read(tmp_path / "two.tif")
    np.testing.assert_array_equal(read(f"{tmp_path}/two.tif#1").pixels, np.moveaxis(rgb(4, 4), -1, 0))
    found = inspect(tmp_path / "two.tif")
    assert (found.choices, found.needs_choice) == (("0", "1"), True)
    with pytest.raises(ReadError, match=r"two.tif#2: is no picture of the file. Use '#0' to '#1'"):
        read(f"{tmp_path}/two.tif#2")


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (STACK, {"imagej": True, "metadata": {"axes": "TYX"}}, "is a film of 3 points in time"),
        (
            np.stack([STACK, STACK]),
            {"photometric": "minisblack", "metadata": {"axes": "ZQYX"}},
            "more than a volume has",
        ),
        (np.dstack([rgb(), grey()]), {"photometric": "separated"}, "colours of the kind SEPARATED, which are not read"),
        (STACK, {"photometric": "minisblack", "metadata": {"axes": "ZYY"}}, "has the axes ZYY, which are no picture"),
        (grey() * 1j, {}, "holds values of type complex128, not plain numbers"),
    ],
)
def test_what_is_neither_picture_nor_volume_is_refused(tmp_path, values, options, reason):
    tifffile.imwrite(tmp_path / "odd.tif", values, **options)
    with pytest.raises(ReadError, match=rf"odd.tif: .*{reason}"):
        read(tmp_path / "odd.tif")


def test_pages_that_are_cut_off_are_refused_not_left_out(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([rgb(64, 64)] * 4), photometric="rgb", metadata=None)
    whole = (tmp_path / "stack.tif").read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut.tif").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ReadError, match=r"cut.tif: is (a damaged TIFF file|cut short)"):
            read(tmp_path / "cut.tif")
    assert not [record for record in logging.getLogger("tifffile").handlers if type(record).__name__ == "_Complaints"]


def test_damaged_compressed_pixels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", rgb(64, 64), photometric="rgb", compression="zlib", metadata=None)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start = file.pages[0].dataoffsets[0]
    data[start : start + 20] = b"\xff" * 20
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ReadError, match=r"a.tif: is a damaged TIFF file \("):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"II+\0\x07\0\0\0" + bytes(16), r"is a damaged TIFF file \("),
        (b"II*\0" + bytes(16), "holds no picture"),
    ],
)
def test_a_beginning_of_a_tiff_file_is_refused(tmp_path, content, reason):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ReadError, match=rf"a.tif: {reason}"):
        read(tmp_path / "a.tif")


def test_a_stack_beyond_the_limit_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", STACK, photometric="minisblack")
    with pytest.raises(ReadError, match="declares 3 x 6 x 8 = 144 values, and the limit is 100"):
        read(tmp_path / "stack.tif", limits=Limits(max_voxels=100))


def test_a_page_that_declares_more_than_its_bytes_hold_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", grey(8, 8), compression="zlib", metadata=None)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        places = [file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    for place in places:
        data[place : place + 2] = (20000).to_bytes(2, "little")
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(
        ReadError, match=r"declares 400000000 bytes of intensities, more than \d+ compressed bytes can hold"
    ):
        read(tmp_path / "a.tif")
