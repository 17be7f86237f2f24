"""NIfTI 1 and 2: values, orientation, choice of a volume, and damaged files."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Image, Nifti2Pair

from crossdim.errors import GeometryError, ReadError
from crossdim.geometry.affine import orientation_code, to_patient_mm
from crossdim.readers import Limits, inspect, read

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 40
AFFINE = np.array([[-1.5, 0, 0.4, 30], [0, 2, 0, -40], [0.2, 0, 3, 12], [0, 0, 0, 1]])


def save(path, values=VALUES, affine=AFFINE, kind=Nifti1Image, **fields):
    image = kind(values, affine)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patch(path, place, form, *values):
    """Overwrite part of a header."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, place, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image])
@pytest.mark.parametrize("name", ["brain.nii", "brain.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_values_and_places_are_those_of_nibabel(tmp_path, kind, name, dtype):
    path = save(tmp_path / name, VALUES.astype(dtype), kind=kind)
    volume, reference = read(path), nibabel.load(path)
    np.testing.assert_array_equal(volume.voxels[0].transpose(2, 1, 0), np.asanyarray(reference.dataobj))
    assert volume.voxels.dtype == dtype
    for index in [(0, 0, 0), (5, 4, 3), (1, 2, 3)]:
        there = reference.affine @ [*index[::-1], 1]
        np.testing.assert_allclose(to_patient_mm(np.array(index), volume.affine), there[:3], atol=1e-4)
    assert inspect(path).format == ("NIfTI-1" if kind is Nifti1Image else "NIfTI-2")


@pytest.mark.parametrize("code", ["RAS", "LPS", "PSR", "ILA", "SAL"])
def test_any_orientation_is_told(tmp_path, code):
    turned = nibabel.orientations.axcodes2ornt(tuple(code))
    start = nibabel.orientations.axcodes2ornt(("R", "A", "S"))
    image = Nifti1Image(VALUES, np.diag([1.0, 2, 3, 1])).as_reoriented(
        nibabel.orientations.ornt_transform(start, turned)
    )
    nibabel.save(image, tmp_path / "a.nii")
    assert orientation_code(read(tmp_path / "a.nii").affine) == code[::-1]


def test_big_endian_values_become_native(tmp_path):
    header = Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(Nifti1Image(VALUES.astype(">i2"), AFFINE, header), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == struct.pack(">i", 348)
    volume = read(tmp_path / "a.nii")
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.dtype.isnative
    np.testing.assert_array_equal(volume.voxels[0].transpose(2, 1, 0), VALUES)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_slope_and_intercept_are_applied(tmp_path, dtype):
    path = save(tmp_path / "a.nii", VALUES.astype(dtype))
    patch(path, 112, "<2f", 0.5, 7.0)
    volume = read(path)
    np.testing.assert_allclose(volume.voxels[0].transpose(2, 1, 0), VALUES * 0.5 + 7)
    assert volume.voxels.dtype == (np.float64 if dtype is np.int32 else np.float32)
    assert inspect(path, intensity=False).dtype == volume.voxels.dtype.name


def test_a_slope_of_zero_means_none(tmp_path):
    path = patch(save(tmp_path / "a.nii"), 112, "<2f", 0.0, 7.0)
    np.testing.assert_array_equal(read(path).voxels[0].transpose(2, 1, 0), VALUES)


@pytest.mark.parametrize("name", ["bold.nii", "bold.nii.gz"])
def test_one_volume_of_several_is_chosen(tmp_path, name):
    series = np.stack([VALUES, VALUES + 1000, VALUES + 2000], axis=-1)
    path = save(tmp_path / name, series)
    with pytest.raises(ReadError, match=rf"{name}: holds 3 volumes. Choose one, such as '.*#0' or '.*#2'"):
        read(path)
    for number in range(3):
        volume = read(f"{path}#{number}")
        np.testing.assert_array_equal(volume.voxels[0].transpose(2, 1, 0), VALUES + 1000 * number)
        assert volume.origin.select == str(number)
    found = inspect(path)
    assert (found.shape, found.choices, found.needs_choice) == ((1, 6, 5, 4), ("0", "1", "2"), True)
    assert found.problems == ("holds 3 volumes",)


@pytest.mark.parametrize(("select", "count"), [("3", 3), ("-1", 3), ("x", 3), ("9" * 30, 3)])
def test_a_volume_that_is_not_there_is_refused(tmp_path, select, count):
    path = save(tmp_path / "bold.nii", np.stack([VALUES] * count, axis=-1))
    with pytest.raises(ReadError, match=rf"bold.nii#{select}: is no volume of the file. Use '#0' to '#2'"):
        read(f"{path}#{select}")


def test_one_volume_in_four_dimensions_needs_no_choice(tmp_path):
    path = save(tmp_path / "a.nii", VALUES[..., None])
    assert read(path).voxels.shape == read(f"{path}#0").voxels.shape == (1, 6, 5, 4)
    with pytest.raises(ReadError, match=r"a.nii#1: the file holds one volume only"):
        read(f"{path}#1")


def test_two_dimensions_are_a_volume_of_one_slice(tmp_path):
    assert read(save(tmp_path / "a.nii", VALUES[..., 0])).voxels.shape == (1, 1, 5, 4)


@pytest.mark.parametrize(("kind", "names"), [(Nifti1Pair, ("a.hdr", "a.img")), (Nifti2Pair, ("a.hdr", "a.img"))])
def test_pairs_are_read_by_either_file(tmp_path, kind, names):
    nibabel.save(kind(VALUES, AFFINE), tmp_path / "a.img")
    for name in names:
        np.testing.assert_array_equal(read(tmp_path / name).voxels[0].transpose(2, 1, 0), VALUES)


@pytest.mark.parametrize(("present", "absent"), [("a.hdr", "a.img"), ("a.img", "a.hdr")])
def test_half_a_pair_is_refused_by_name(tmp_path, present, absent):
    nibabel.save(Nifti1Pair(VALUES, AFFINE), tmp_path / "a.img")
    (tmp_path / absent).unlink()
    with pytest.raises(ReadError, match=rf"{present}: lacks the {absent[1:]} file that belongs to it"):
        read(tmp_path / present)


def test_colours_are_channels_and_alpha_is_left_out(tmp_path):
    for letters in ("RGB", "RGBA"):
        colours = np.zeros((4, 5, 6), np.dtype([(letter, "u1") for letter in letters]))
        for number, letter in enumerate(letters):
            colours[letter] = VALUES % 50 + number
        volume = read(save(tmp_path / f"{letters}.nii", colours))
        np.testing.assert_array_equal(volume.voxels[1].transpose(2, 1, 0), VALUES % 50 + 1)
        assert (volume.voxels.shape, volume.unit) == ((3, 6, 5, 4), "uint8")
        assert bool(volume.warnings) == (letters == "RGBA")


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (np.where(VALUES > 0, 1200, -1000).astype(np.int16), "HU"),
        (np.where(VALUES > 0, 1200, -1000).astype(np.float32), "HU"),
        (np.where(VALUES > 0, 1200.5, -1000).astype(np.float32), "arbitrary"),
        (np.where(VALUES > 0, 200, -1000).astype(np.int16), "arbitrary"),
        (np.where(VALUES > 0, 1200, -20000).astype(np.int16), "arbitrary"),
        (np.linspace(0, 1, 120, dtype=np.float32).reshape(4, 5, 6), "arbitrary"),
        (VALUES.astype(np.uint8), "uint8"),
    ],
)
def test_hounsfield_units_are_inferred_only_from_whole_numbers_from_air_to_bone(tmp_path, values, unit):
    volume = read(save(tmp_path / "a.nii", values))
    assert volume.unit == unit
    expected = ("taken for Hounsfield units, because whole numbers reach from -1000 to 1200",) if unit == "HU" else ()
    assert volume.warnings == expected


def test_values_that_are_not_finite_are_counted_and_nothing_else_is_refused(tmp_path):
    values = VALUES.astype(np.float32)
    values[0, 0, :2] = np.nan, np.inf
    path = save(tmp_path / "a.nii", values)
    assert read(path).warnings == ("2 of 120 values are NaN or infinite",)
    found = inspect(path)
    assert (found.intensity_min, found.intensity_max) == (-38, 79)
    with pytest.raises(ReadError, match=r"b.nii: holds no finite value, only NaN or infinity"):
        read(save(tmp_path / "b.nii", np.full((3, 3, 3), np.nan, np.float32)))


def test_a_file_without_orientation_says_so(tmp_path):
    path = save(tmp_path / "a.nii", affine=None, sform_code=0, qform_code=0)
    assert read(path).warnings == ("tells no orientation: the NIfTI default is assumed",)


def test_two_orientations_that_contradict_each_other_are_told(tmp_path):
    image = Nifti1Image(VALUES, AFFINE)
    other = AFFINE.copy()
    other[0, 3] += 25
    image.set_qform(np.diag([1.0, 1, 1, 1]), 1)
    image.set_sform(other, 1)
    nibabel.save(image, tmp_path / "a.nii")
    assert "its two orientations (sform, qform) are up to" in read(tmp_path / "a.nii").warnings[0]


def test_other_units_of_length_become_millimetres(tmp_path):
    image = Nifti1Image(VALUES, np.diag([500.0, 500, 1000, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    found = inspect(tmp_path / "a.nii")
    assert found.spacing_mm == pytest.approx((1.0, 0.5, 0.5))
    assert found.problems == ("its spacing is in microns, and is converted to millimetres",)


def test_sheared_axes_are_told(tmp_path):
    sheared = np.eye(4)
    sheared[1, 2] = np.tan(np.radians(10))
    assert "miss right angles by 10.0 degrees" in inspect(save(tmp_path / "a.nii", affine=sheared)).problems[0]


def test_an_affine_that_flattens_the_volume_is_refused(tmp_path):
    path = patch(save(tmp_path / "a.nii"), 280, "<4f", 0, 0, 0, 0)
    with pytest.raises(GeometryError, match=r"a.nii: its affine flattens the volume"):
        read(path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((2, 3, 4, 1, 3), np.float32), r"has 5 dimensions \(2 x 3 x 4 x 1 x 3\)"),
        (np.zeros((2, 3, 4), np.complex64), "holds values of type complex64"),
    ],
)
def test_vectors_and_complex_numbers_are_refused(tmp_path, values, reason):
    with pytest.raises(ReadError, match=rf"a.nii: {reason}"):
        read(save(tmp_path / "a.nii", values))


@pytest.mark.parametrize(
    ("place", "form", "values", "reason"),
    [
        (70, "<h", (999,), r"has a damaged NIfTI header \("),
        (40, "<4h", (3, 4, 0, 6), "declares the size 4 x 0 x 6, which holds no values"),
        (40, "<4h", (3, -4, 5, 6), "declares the size -4 x 5 x 6, which holds no values"),
        (40, "<h", (0,), "declares the size 0, which holds no values"),
        (108, "<f", (1e12,), "declares that its voxels begin at byte 999999995904"),
        (108, "<f", (np.nan,), r"has a damaged NIfTI header \("),
        (252, "<2h3f", (1, 0, 5, 5, 5), r"has a damaged orientation \("),
        (40, "<4h", (3, 4, 5, 7), "is cut short: its header declares 632 bytes of intensities, and 592 are there"),
        (40, "<4h", (3, 32000, 32000, 32000), "declares 1 x 32000 x 32000 x 32000 = 32768000000000 values"),
    ],
)
def test_damaged_headers_are_refused_with_the_reason(tmp_path, place, form, values, reason):
    path = patch(save(tmp_path / "a.nii"), place, form, *values)
    with pytest.raises(ReadError, match=rf"a.nii: {reason}"):
        read(path)


def test_a_scale_beyond_all_numbers_is_refused(tmp_path):
    path = patch(save(tmp_path / "a.nii", kind=Nifti2Image), 176, "<2d", 1e300, 0)
    with pytest.raises(ReadError, match=r"a.nii: scales its values by 1e\+300 and 0.0"):
        read(path)


def test_a_truncated_gzip_names_the_file_and_the_reason(tmp_path):
    noise = np.random.default_rng(0).integers(-900, 900, (20, 20, 20), np.int16)
    path = save(tmp_path / "a.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(ReadError, match=r"a.nii.gz: is cut short or damaged \(.*\)\. Copy or export it again"):
        read(path)


def test_a_damaged_gzip_names_the_file_and_the_reason(tmp_path):
    noise = np.random.default_rng(0).integers(-900, 900, (20, 20, 20), np.int16)
    path = save(tmp_path / "a.nii.gz", noise)
    patch(path, 5000, "<8B", *[255] * 8)
    with pytest.raises(ReadError, match=r"a.nii.gz: is cut short or damaged \("):
        read(path)


def test_a_gzip_that_cannot_hold_what_it_declares_is_refused_unread(tmp_path):
    header = Nifti1Header()
    header.set_data_shape((900, 900, 900))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(10000)))
    with pytest.raises(
        ReadError, match=r"bomb.nii.gz: declares 729000352 bytes .* more than \d+ compressed bytes can hold"
    ):
        read(path)


def test_a_gzip_is_unpacked_up_to_the_limit_only(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.zeros((64, 64, 64), np.int16))
    with pytest.raises(ReadError, match=r"a.nii.gz: unpacks to 524640 bytes, and the limit is 500000"):
        read(path, limits=Limits(max_gzip_bytes=500_000))


def test_analyze_without_orientation_is_refused_with_a_remedy(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(VALUES, np.eye(4)), tmp_path / "a.img")
    for name in ("a.hdr", "a.img"):
        with pytest.raises(ReadError, match=r"a.hdr: is no NIfTI file \(an Analyze 7.5 header tells no orientation\)"):
            read(tmp_path / name)


def test_a_header_that_cannot_be_unpacked_is_refused(tmp_path):
    (tmp_path / "a.hdr.gz").write_bytes(b"\x1f\x8b" + b"nonsense" * 60)
    with pytest.raises(ReadError, match=r"a.hdr.gz: is damaged: its header cannot be unpacked"):
        read(tmp_path / "a.hdr.gz")


@pytest.mark.parametrize(("name", "zipped"), [("a.nii", True), ("a.nii.gz", False)])
def test_compression_is_told_by_content_not_by_name(tmp_path, name, zipped):
    data = save(tmp_path / "good.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if zipped else data)
    np.testing.assert_array_equal(read(tmp_path / name).voxels[0].transpose(2, 1, 0), VALUES)


def test_the_real_hippocampus_volumes_are_nibabels(crossdim_data):
    for path in sorted((crossdim_data / "hippocampus" / "images").glob("*.nii.gz"))[:10]:
        volume, reference = read(path), nibabel.load(path)
        np.testing.assert_array_equal(volume.voxels[0].transpose(2, 1, 0), np.asanyarray(reference.dataobj))
        np.testing.assert_array_equal(volume.affine[:, [2, 1, 0, 3]], reference.affine)
