"""The front door: finding the format, selectors, channels, inspection, folders."""

import gzip
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image as PillowImage

from crossdim.errors import GeometryError, ReadError
from crossdim.readers import Limits, find_readable, inspect, is_readable, read, read_channels
from crossdim.readers.inspection import finite_range
from crossdim.readers.limits import check_stored
from crossdim.readers.selector import split_selector
from tests.readers.toys import grey, rgb, write_dicom, write_series

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def brain(path, values=VALUES, shift=0.0):
    affine = np.diag([2.0, 2, 3, 1])
    affine[0, 3] = shift
    nibabel.save(nibabel.nifti1.Nifti1Image(values, affine), path)
    return path


def picture(path, values=None):
    PillowImage.fromarray(rgb() if values is None else values).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", b"hello world", "is named like a PNG, JPEG or BMP picture, and is none"),
        ("a.tif", b"hello world", "is named like a TIFF file, and is none"),
        ("a.nii", b"hello world" * 99, "is named like a NIfTI file, and is none"),
        ("a.nii.gz", gzip.compress(b"hello" * 999, mtime=0), "is named like a NIfTI file, and is none"),
        ("a.nii.gz", b"\x1f\x8b" + b"damaged" * 99, "is named like a NIfTI file, and is none"),
        ("a.img", b"\0" * 999, "lacks the .hdr file that belongs to it"),
        ("a.dcm", b"hello world", "is named like a DICOM file, and is none"),
        ("a.npy", b"hello world", "is named like a NumPy array, and is none"),
        ("a.npz", b"hello world", "is named like a NumPy archive, and is none"),
        ("a.docx", b"PK\x03\x04 and so on", "is of no kind that is read; PNG, JPEG, BMP, TIFF, NIfTI, DICOM, .npy"),
        ("a.txt", b"hello world", "is of no kind that is read"),
        ("dicom.gz", gzip.compress(b"\0" * 128 + b"DICM", mtime=0), "is of no kind that is read"),
        ("a.nii.gz", b"", r"is empty \(0 bytes\). Copy or export it again"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    for look in (read, inspect):
        with pytest.raises(ReadError, match=rf"{name}: {reason}"):
            look(tmp_path / name)


def test_a_picture_named_like_a_volume_is_refused_with_both_names(tmp_path):
    picture(tmp_path / "a.jpg").rename(tmp_path / "a.nii.gz")
    with pytest.raises(ReadError, match=r"a.nii.gz: is named like a NIfTI file, and is a PNG, JPEG or BMP picture"):
        read(tmp_path / "a.nii.gz")


def test_a_picture_named_like_another_kind_of_picture_is_read(tmp_path):
    picture(tmp_path / "a.png").rename(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif").pixels.shape == (3, 6, 8)


@pytest.mark.parametrize("name", ["absent.png", "absent.png/deeper", "absent.npz#train/3"])
def test_an_absent_file_is_refused(tmp_path, name):
    with pytest.raises(ReadError, match=r"absent.*: does not exist. Check the path"):
        read(tmp_path / name)


def test_a_path_that_cannot_be_one_is_refused():
    with pytest.raises(ReadError, match=r"cannot be opened \(.*null"):
        read("a\0b.png")


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ReadError, match=r"pipe.png: is not a regular file"):
        read(tmp_path / "pipe.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open anything")
def test_a_file_without_permission_is_refused(tmp_path):
    picture(tmp_path / "a.png").chmod(0)
    with pytest.raises(ReadError, match=r"a.png: cannot be opened"):
        read(tmp_path / "a.png")
    picture(tmp_path / "b.png").rename(tmp_path / "b").chmod(0)
    assert not is_readable(str(tmp_path / "b"))
    assert find_readable(tmp_path) == [str(tmp_path / "a.png")]


def test_a_file_beyond_the_limit_is_refused_unopened(tmp_path):
    path = picture(tmp_path / "a.png")
    with pytest.raises(ReadError, match=r"a.png: has \d+ bytes, and the limit is 10. Raise Limits\(max_file_bytes"):
        read(path, limits=Limits(max_file_bytes=10))


def test_tiny_files_are_not_judged_by_their_compression():
    check_stored("a", 60_000, 10, expansion=2)
    with pytest.raises(ReadError, match=r"a: declares 70000 bytes of .* more than 10 compressed bytes"):
        check_stored("a", 70_000, 10, expansion=2)


def test_a_selector_stands_behind_the_last_sign_that_leaves_a_file(tmp_path):
    folder = tmp_path / "a#b"
    folder.mkdir()
    path = picture(folder / "c#d.png")
    assert split_selector(str(path)) == (str(path), None)
    assert split_selector(f"{path}#train/1") == (str(path), "train/1")
    assert split_selector(f"{path}#x#y") == (str(path), "x#y")
    assert split_selector("absent.npz#a#b") == ("absent.npz", "a#b")
    assert read(path).pixels.shape == (3, 6, 8)


def test_an_empty_folder_is_refused_and_one_of_files_names_them(tmp_path):
    with pytest.raises(ReadError, match="is a folder without DICOM files or anything else that is read"):
        read(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(ReadError, match=r"of its own; it holds 1 files to read. Name one of them, such as '.*a.png'"):
        read(tmp_path)


def test_co_registered_files_are_channels_named_by_the_files(tmp_path):
    paths = [brain(tmp_path / "flair.nii.gz"), brain(tmp_path / "t1.nii", VALUES + 7, shift=0.1)]
    volume = read_channels(paths)
    np.testing.assert_array_equal(volume.voxels[:, 0, 0, 0], [0, 7])
    assert volume.channel_names == ("flair", "t1")
    assert volume.origin.path == f"{paths[0]}, {paths[1]}"
    np.testing.assert_array_equal(volume.affine, read(paths[0]).affine)


def test_volumes_of_one_file_and_series_of_one_name_are_told_apart(tmp_path):
    path = brain(tmp_path / "all.nii", np.stack([VALUES, VALUES + 1], axis=-1))
    assert read_channels([f"{path}#0", f"{path}#1"]).channel_names == ("all#0", "all#1")
    folders = [write_series(tmp_path / name, SeriesDescription="T1") for name in ("x", "y")]
    volume = read_channels(folders)
    assert volume.channel_names == ("T1", "T1 (2)")
    assert volume.origin.slice_names == ("9.dcm", "8.dcm", "7.dcm", "6.dcm")
    assert volume.origin.modality == "CT"


def test_grey_pictures_can_be_channels_too(tmp_path):
    paths = [picture(tmp_path / f"{number}.png", grey() + number) for number in range(2)]
    image = read_channels(paths)
    np.testing.assert_array_equal(image.pixels, np.stack([grey(), grey() + 1]))
    assert image.unit == "uint8"


def test_one_path_is_read_as_it_is(tmp_path):
    assert read_channels([picture(tmp_path / "a.png")]).pixels.shape == (3, 6, 8)
    with pytest.raises(ReadError, match="read_channels: got no files"):
        read_channels([])


def test_channels_of_different_units_are_arbitrary_and_say_so(tmp_path):
    paths = [brain(tmp_path / "ct.nii", np.where(VALUES > 5, 1200, -1000).astype(np.int16)), brain(tmp_path / "mr.nii")]
    volume = read_channels(paths)
    assert volume.unit == "arbitrary"
    assert volume.warnings == (
        "ct: taken for Hounsfield units, because whole numbers reach from -1000 to 1200",
        "its channels have different units (HU, arbitrary)",
    )


def test_channels_that_do_not_fit_together_are_refused_by_name(tmp_path):
    first = brain(tmp_path / "first.nii")
    with pytest.raises(GeometryError, match=r"moved.nii: does not lie where '.*first.nii' lies: .* 1.00 mm apart"):
        read_channels([first, brain(tmp_path / "moved.nii", shift=1.0)])
    with pytest.raises(ReadError, match=r"small.nii: is a volume of 6 x 5 x 3, and '.*' is a volume of 6 x 5 x 4"):
        read_channels([first, brain(tmp_path / "small.nii", VALUES[:3])])
    with pytest.raises(ReadError, match=r"grey.png: is an image of 6 x 8, and '.*' is a volume of 6 x 5 x 4"):
        read_channels([first, picture(tmp_path / "grey.png", grey())])
    with pytest.raises(ReadError, match=r"rgb.png: has 3 channels of its own, and is to be one channel"):
        read_channels([picture(tmp_path / "grey.png", grey()), picture(tmp_path / "rgb.png")])
    with pytest.raises(ReadError, match="declares 2 x 6 x 5 x 4 = 240 values, and the limit is 200"):
        read_channels([first, first], limits=Limits(max_voxels=200))


def test_inspection_tells_all_about_a_volume(tmp_path):
    found = inspect(brain(tmp_path / "a.nii"))
    assert found.path == str(tmp_path / "a.nii")
    assert (found.kind, found.format, found.shape, found.dtype) == ("volume", "NIfTI-1", (1, 6, 5, 4), "int16")
    assert (found.spacing_mm, found.orientation) == ((3, 2, 2), "SAR")
    assert (found.intensity_min, found.intensity_max, found.unit) == (0, 119, "arbitrary")
    assert (found.problems, found.choices, found.needs_choice) == ((), (), False)


def test_inspection_keeps_the_selector(tmp_path):
    path = brain(tmp_path / "a.nii", np.stack([VALUES, VALUES + 9], axis=-1))
    found = inspect(f"{path}#1")
    assert (found.path, found.intensity_min, found.needs_choice) == (f"{path}#1", 9, False)


def test_the_finite_range_of_values_that_are_not_all_finite():
    assert finite_range(np.array([np.nan, 3, np.inf, -2])) == (-2, 3)
    assert finite_range(np.array([np.nan])) == (0, 0)


def test_a_folder_is_searched_to_its_depth_and_hidden_files_are_left_out(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    kept = [picture(tmp_path / "b" / "c" / "x.png"), brain(tmp_path / "a.nii.gz"), brain(tmp_path / "b" / "y.nii")]
    nibabel.save(nibabel.nifti1.Nifti1Pair(VALUES, np.eye(4)), tmp_path / "p.img")
    picture(tmp_path / ".git" / "z.png")
    picture(tmp_path / ".hidden.png")
    (tmp_path / "labels.csv").write_text("a,b")
    write_series(tmp_path / "ct")
    write_dicom(tmp_path / "b" / "IM1", np.zeros((5, 4), np.int16))
    expected = [*kept, tmp_path / "p.hdr", tmp_path / "ct", tmp_path / "b" / "IM1"]
    assert find_readable(tmp_path) == sorted(map(str, expected))
    assert [read(path).kind for path in find_readable(str(tmp_path))]


def test_searching_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ReadError, match="is not a folder"):
        find_readable(picture(tmp_path / "a.png"))


def test_readable_files_are_told_by_name_or_else_by_content(tmp_path):
    write_dicom(tmp_path / "IM1", grey())
    (tmp_path / "notes").write_text("hello")
    answers = {"IM1": True, "notes": False, "absent": False, "absent.nii.gz": True, "A.JPG": True, "a.csv": False}
    assert {name: is_readable(str(tmp_path / name)) for name in answers} == answers


def test_a_thousand_files_are_found_and_inspected_by_their_headers(tmp_path):
    for number in range(500):
        picture(tmp_path / f"{number}.png")
        brain(tmp_path / f"{number}.nii.gz")
    found = [inspect(path, intensity=False) for path in find_readable(tmp_path)]
    assert len(found) == 1000
    assert {inspection.kind for inspection in found} == {"image", "volume"}


def test_readers_load_neither_torch_nor_other_formats(tmp_path):
    path = picture(tmp_path / "a.png")
    program = (
        "import sys; from crossdim import readers; readers.inspect(sys.argv[1]);"
        "print([name for name in ('torch', 'pydicom', 'nibabel', 'tifffile') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
