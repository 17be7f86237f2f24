"""Folders of DICOM slices: order, place, separation of series, and what contradicts itself."""

import highdicom
import numpy as np
import pydicom
import pytest

from crossdim.errors import GeometryError, ReadError
from crossdim.geometry.affine import orientation_code, spacing_mm, to_patient_mm
from crossdim.readers import Limits, find_readable, inspect, read, read_channels
from tests.readers.test_dicom import assert_same_place
from tests.readers.toys import AXIAL, SAGITTAL, SERIES, rgb, write_dicom, write_enhanced, write_series, write_slice


def test_a_series_is_ordered_by_geometry_and_names_its_slices_in_depth_order(tmp_path):
    volume = read(write_series(tmp_path / "ct"))
    assert volume.voxels.shape == (1, 4, 5, 4)
    assert volume.voxels[0, :, 2, 2].tolist() == [-1024, -1023, -1022, -1021]
    assert volume.origin.slice_names == ("9.dcm", "8.dcm", "7.dcm", "6.dcm")
    assert (volume.unit, volume.origin.modality, volume.warnings) == ("HU", "CT", ())


def test_every_voxel_lies_where_dicom_puts_it(tmp_path):
    volume = read(write_series(tmp_path / "ct"))
    assert orientation_code(volume.affine) == "SPL"
    assert spacing_mm(volume.affine) == (2.5, 0.5, 0.75)
    # DICOM: x to the left = -10 + 0.75 * column, y to the back = -20 + 0.5 * row, z to the head = 5 + 2.5 * slice
    np.testing.assert_allclose(to_patient_mm(np.array([3, 1, 2]), volume.affine), [8.5, 19.5, 12.5])
    assert volume.voxels[0, 3, 0, 1] + 1024 == 100
    assert volume.voxels[0, 3, 1, 0] + 1024 == 200


def test_inspecting_reads_headers_only_unless_asked(tmp_path):
    write_series(tmp_path / "ct")
    found = inspect(tmp_path / "ct", intensity=False)
    assert (found.format, found.shape, found.unit, found.intensity_min) == ("DICOM series", (1, 4, 5, 4), "HU", None)
    looked = inspect(tmp_path / "ct")
    assert (looked.intensity_min, looked.intensity_max, looked.dtype) == (-1024, -824, found.dtype)


def test_slices_with_rescalings_of_their_own_become_one_scale(tmp_path):
    for number in range(3):
        options = {"RescaleSlope": 0.5 * (number + 1), "RescaleIntercept": 0, "Modality": "PT"}
        write_slice(tmp_path, number, position=(0, 0, 2.0 * number), **options)
    volume = read(tmp_path)
    assert volume.voxels[0, :, 0, 1].tolist() == [50, 100, 150]
    assert volume.voxels.dtype == np.float32


def test_coloured_slices_are_a_volume_of_three_channels(tmp_path):
    for number in range(3):
        place = {
            "ImagePositionPatient": [0, 0, 2.0 * number],
            "ImageOrientationPatient": list(AXIAL),
            "PixelSpacing": [1, 1],
        }
        write_dicom(tmp_path / f"{number}.dcm", rgb() + number, **place)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.voxels[:, 2], np.moveaxis(rgb() + 2, -1, 0))
    assert volume.unit == "uint8"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"position": (-10, -20, 30)},
            r"lacks 6 slices: they are 2.50 mm apart, but it is 17.50 mm from '6.dcm' to 'odd'",
        ),
        ({"position": (-10, -20, 5)}, r"has 1 pair of slices at the same place: '9.dcm' and 'odd'"),
        (
            {"position": (-10, -20, 16)},
            r"unevenly spaced: mostly 2.50 mm apart, but it is 3.50 mm from '6.dcm' to 'odd'",
        ),
        ({"position": (-10, -20, 15), "PixelSpacing": [0.5, 0.5]}, r"different pixel spacings: .* but 'odd'"),
        (
            {"position": (-10, -20, 15), "ImageOrientationPatient": list(SAGITTAL)},
            r"different orientations: .* but 'odd'",
        ),
        (
            {"position": (-10, -20, 15), "Modality": "MR"},
            r"different units: HU in '6.dcm', arbitrary in 'odd'|units: .*odd",
        ),
        ({"position": (-10, -20, 15), "FrameOfReferenceUID": "1.2.3"}, r"different frames of reference: .*odd"),
        ({"position": (-10, -20, 15), "PhotometricInterpretation": "MONOCHROME1"}, r"different kinds of pixels: .*odd"),
    ],
)
def test_a_slice_that_does_not_belong_is_refused_by_its_name_and_never_stacked(tmp_path, changes, reason):
    folder = write_series(tmp_path / "ct")
    write_slice(folder, 4, name="odd", **changes)
    with pytest.raises(GeometryError, match=rf"ct: .*{reason}"):
        read(folder)


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path):
    for number in range(5):
        write_slice(tmp_path, number, position=(0, 1.0 * number, 5.0 * number))
    with pytest.raises(
        GeometryError, match=r"by 11.3 degrees \(a tilted gantry\).*Correct the tilt, for instance with dcm2niix"
    ):
        read(tmp_path)


def test_slices_without_a_place_are_refused_by_name(tmp_path):
    folder = write_series(tmp_path / "ct")
    write_dicom(folder / "odd.dcm", np.zeros((5, 4), np.int16))
    with pytest.raises(
        ReadError, match=r"its 5 files cannot be ordered: 'odd.dcm' does not tell its place in the patient"
    ):
        read(folder)
    assert find_readable(tmp_path) == sorted(str(folder / f"{name}.dcm") for name in ("6", "7", "8", "9", "odd"))


def test_multi_frame_files_are_not_slices(tmp_path):
    for number in range(2):
        write_enhanced(tmp_path / f"{number}.dcm", [0.0, 3.0])
    with pytest.raises(ReadError, match=r"its 2 files cannot be ordered: '0.dcm' holds several frames"):
        read(tmp_path)
    assert find_readable(tmp_path) == [str(tmp_path / "0.dcm"), str(tmp_path / "1.dcm")]


def test_a_folder_with_one_multi_frame_file_is_that_file(tmp_path):
    write_enhanced(tmp_path / "a.dcm", [0.0, 3.0])
    assert read(tmp_path).voxels.shape == (1, 2, 5, 4)


def two_series(folder):
    write_series(folder, SeriesDescription="T1")
    for number in range(3):
        write_slice(folder, number, name=f"b{number}.dcm", position=(0, 0, float(number)), SeriesInstanceUID="1.2.3",
                    SeriesNumber=8, SeriesDescription="T2", Modality="MR")  # fmt: skip
    return folder


def test_mixed_series_are_separated_and_one_has_to_be_chosen(tmp_path):
    folder = two_series(tmp_path / "mixed")
    listing = rf"'#1.2.3' \(number 8, MR, T2, 3 files\); '#{SERIES}' \(number 7, CT, T1, 4 files\)"
    with pytest.raises(ReadError, match=rf"mixed: holds 2 series: {listing}. Choose one, such as '.*mixed#1.2.3'"):
        read(folder)
    assert read(f"{folder}#7").voxels.shape[1] == 4
    assert read(f"{folder}#1.2.3").voxels.shape[1] == 3
    assert read(f"{folder}#8").origin.select == "8"
    assert find_readable(tmp_path) == [f"{folder}#1.2.3", f"{folder}#{SERIES}"]
    with pytest.raises(ReadError, match=r"mixed#9: is no series of the folder, which holds"):
        read(f"{folder}#9")


def test_a_number_of_two_series_is_refused(tmp_path):
    folder = two_series(tmp_path / "mixed")
    write_dicom(folder / "c.dcm", np.zeros((5, 4), np.int16), SeriesInstanceUID="4.5.6")
    with pytest.raises(ReadError, match=r"mixed#7: is the number of several series"):
        read(f"{folder}#7")


def echoes(folder, name="EchoTime", values=(10.0, 80.0)):
    folder.mkdir(exist_ok=True)
    for at, value in enumerate(values):
        for number in range(3):
            write_slice(folder, number + 10 * at, name=f"{at}{number}", position=(0, 0, 3.0 * number), Modality="MR",
                        **{name: value})  # fmt: skip
    return folder


@pytest.mark.parametrize(("name", "values"), [("EchoTime", (10.0, 80.0)), ("TemporalPositionIdentifier", (1, 2, 3))])
def test_volumes_that_share_a_series_are_separated(tmp_path, name, values):
    folder = echoes(tmp_path, name, values)
    parts = ", ".join(f"{name}={value}" for value in values)
    with pytest.raises(
        ReadError, match=rf"the series holds {len(values)} volumes: {parts}. Choose one, such as '.*/{name}="
    ):
        read(folder)
    second = read(f"{folder}#7/{name}={values[1]}")
    assert second.origin.slice_names == ("10", "11", "12")
    assert find_readable(folder) == [f"{folder}#{SERIES}/{name}={value}" for value in values]
    assert [read(path).voxels.shape for path in find_readable(folder)] == [(1, 3, 5, 4)] * len(values)


def test_a_part_that_is_not_there_is_refused(tmp_path):
    folder = echoes(tmp_path / "mr")
    with pytest.raises(ReadError, match=r"mr#.*/EchoTime=81.0: is no part of the series. Did you mean 'EchoTime=80.0'"):
        read(f"{folder}#7/EchoTime=81.0")
    whole = write_series(tmp_path / "ct")
    with pytest.raises(ReadError, match=r"ct#.*/EchoTime=1: the series holds one volume only"):
        read(f"{whole}#7/EchoTime=1")


def test_the_planes_of_a_localizer_are_separated(tmp_path):
    for number in range(3):
        write_slice(tmp_path, number, name=f"a{number}", position=(0, 0, 9.0 * number))
        side = {"position": (9.0 * number, 0, 0), "ImageOrientationPatient": list(SAGITTAL)}
        write_slice(tmp_path, number, name=f"s{number}", **side)
    with pytest.raises(ReadError, match=r"holds 2 volumes: plane=axial, plane=sagittal"):
        read(tmp_path)
    assert orientation_code(read(f"{tmp_path}#7/plane=sagittal").affine)[0] in "RL"


def test_reports_and_indices_in_a_series_folder_are_left_out(tmp_path):
    folder = write_series(tmp_path / "ct")
    write_dicom(folder / "report.dcm", None, SeriesInstanceUID="1.2.3", Modality="SR")
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.dcm").write_bytes(b"junk")
    assert read(folder).voxels.shape == (1, 4, 5, 4)
    assert find_readable(tmp_path) == [str(folder)]


def test_a_folder_of_reports_only_is_refused(tmp_path):
    write_dicom(tmp_path / "report.dcm", None)
    with pytest.raises(ReadError, match="holds no DICOM file with a picture"):
        read(tmp_path)


def test_a_damaged_slice_is_refused_by_name_and_found_by_a_scan(tmp_path):
    folder = write_series(tmp_path / "ct")
    (folder / "7.dcm").write_bytes((folder / "7.dcm").read_bytes()[:-9])
    with pytest.raises(ReadError, match=r"7.dcm: is cut short"):
        read(folder)
    assert find_readable(tmp_path) == [str(folder), str(folder / "7.dcm")]


def test_a_series_beyond_the_limit_is_refused_before_its_pixels_are_read(tmp_path):
    folder = write_series(tmp_path / "ct")
    with pytest.raises(ReadError, match=r"ct: declares 1 x 4 x 5 x 4 = 80 values, and the limit is 79"):
        read(folder, limits=Limits(max_voxels=79))


def test_the_real_series_are_where_highdicom_puts_them(crossdim_data):
    series = sorted((crossdim_data / "dicom_pgbm" / "Study3").iterdir())
    for folder in (series[0], series[1]):
        datasets = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
        for dataset in datasets:
            dataset.FrameOfReferenceUID = dataset.get("FrameOfReferenceUID", "1.2.3")
        assert_same_place(read(folder), highdicom.get_volume_from_series(datasets, apply_voi_transform=False))


def test_four_real_sequences_are_channels_of_one_volume(crossdim_data):
    study = crossdim_data / "dicom_pgbm" / "Study3"
    folders = [path for path in sorted(study.iterdir()) if "HCrop" not in path.name]
    volume = read_channels(folders)
    assert volume.voxels.shape == (4, 22, 320, 280)
    assert volume.channel_names == ("T1post", "T1pre_reg", "FLAIR_reg", "T2_reg")
    for channel, folder in zip(volume.voxels, folders, strict=True):
        np.testing.assert_array_equal(channel, read(folder).voxels[0])
    with pytest.raises(
        ReadError, match=r"11_HCropVolume: is a volume of 40 x 50 x 34, and .* is a volume of 22 x 320 x 280"
    ):
        read_channels([folders[0], study / "11_HCropVolume"])


def test_the_names_of_real_slices_run_along_depth(crossdim_data):
    volume = read(crossdim_data / "dicom_pgbm" / "Study3" / "11_HCropVolume")
    assert volume.origin.slice_names == tuple(f"{number}.dcm" for number in range(1, 41))
