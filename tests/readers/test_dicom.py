"""Single DICOM files: values, colours, frames, compression, and damaged ones."""

import struct
import zlib
from pathlib import Path

import highdicom
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    MPEG2MPML,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from crossdim.errors import GeometryError, ReadError
from crossdim.geometry.affine import LPS_TO_RAS, orientation_code, reorient, spacing_mm
from crossdim.readers import Limits, inspect, read
from crossdim.readers.dicom_codecs import encoded_size, is_available
from crossdim.readers.dicom_header import BoundedReader
from tests.readers.toys import grey, rgb, write_dicom, write_enhanced

STORED = np.arange(5 * 4, dtype=np.int16).reshape(5, 4) * 50
HU = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def assert_same_place(volume, reference):
    """Compare with a highdicom volume, whose slices run the other way."""
    values, affine = reorient(volume.voxels, volume.affine, "SPL")
    their_affine = LPS_TO_RAS @ reference.affine
    their_values, their_affine = reorient(reference.array[None], their_affine, "SPL")
    np.testing.assert_array_equal(values, their_values)
    np.testing.assert_allclose(affine, their_affine, atol=1e-3)


def compressed(path, syntax, frames, values, **attributes):
    write_dicom(path, values, **attributes)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def test_ct_becomes_hounsfield_units(tmp_path):
    image = read(write_dicom(tmp_path / "a.dcm", STORED, PixelSpacing=[0.5, 0.75], **HU))
    np.testing.assert_array_equal(image.pixels[0], STORED - 1024)
    assert (image.unit, image.spacing_mm, image.origin.modality, image.warnings) == ("HU", (0.5, 0.75), "CT", ())


def test_ct_that_states_no_rescaling_is_not_taken_for_hounsfield_units(tmp_path):
    image = read(write_dicom(tmp_path / "a.dcm", STORED))
    assert image.unit == "arbitrary"
    assert image.warnings == ("is CT and states no rescaling: its values are not taken for Hounsfield units",)
    other = read(write_dicom(tmp_path / "b.dcm", STORED, RescaleType="US", **HU))
    assert other.warnings == ("is CT and rescales to 'US': its values are not taken for Hounsfield units",)


@pytest.mark.parametrize(
    ("stored", "attributes", "dtype"),
    [
        (np.uint16, {"BitsStored": 12, "HighBit": 11, **HU}, np.int16),
        (np.int16, HU, np.int32),
        (np.int16, {"RescaleSlope": 0.25, "RescaleIntercept": 3}, np.float32),
        (np.int32, {"RescaleSlope": 0.25, "RescaleIntercept": 3}, np.float64),
        (np.int32, {"RescaleSlope": 1000, "RescaleIntercept": 0}, np.float64),
        (np.uint8, {"Modality": "US"}, np.uint8),
        (np.uint16, {"Modality": "MR"}, np.uint16),
    ],
)
def test_values_are_exact_in_the_smallest_type_the_header_allows(tmp_path, stored, attributes, dtype):
    values = (STORED // 8).astype(stored)
    path = write_dicom(tmp_path / "a.dcm", values, **attributes)
    image = read(path)
    expected = values.astype(float) * attributes.get("RescaleSlope", 1) + attributes.get("RescaleIntercept", 0)
    np.testing.assert_array_equal(image.pixels[0], expected)
    assert image.pixels.dtype == dtype
    assert inspect(path, intensity=False).dtype == np.dtype(dtype).name


@pytest.mark.parametrize(
    ("modality", "dtype", "unit"),
    [
        ("US", np.uint8, "uint8"),
        ("MR", np.uint8, "arbitrary"),
        ("MR", np.uint16, "arbitrary"),
        ("DX", np.uint16, "arbitrary"),
    ],
)
def test_only_eight_bit_pictures_have_a_display_range(tmp_path, modality, dtype, unit):
    assert read(write_dicom(tmp_path / "a.dcm", grey().astype(dtype), Modality=modality)).unit == unit


def test_what_was_stored_with_small_values_bright_is_inverted(tmp_path):
    options = {"Modality": "CR", "BitsStored": 12, "HighBit": 11, "PhotometricInterpretation": "MONOCHROME1"}
    image = read(write_dicom(tmp_path / "a.dcm", grey().astype(np.uint16), **options))
    np.testing.assert_array_equal(image.pixels[0], 4095 - grey().astype(int))
    assert image.warnings == ("was stored with small values bright, and is inverted",)


def test_hounsfield_units_are_never_inverted(tmp_path):
    image = read(write_dicom(tmp_path / "a.dcm", STORED, PhotometricInterpretation="MONOCHROME1", **HU))
    np.testing.assert_array_equal(image.pixels[0], STORED - 1024)


def test_a_table_of_intensities_is_applied_and_inverted_if_asked(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table["LUTDescriptor"].VR = "US"
    table.ModalityLUTType = "OD"
    table.add_new("LUTData", "OW", (np.arange(256, dtype=np.uint16) * 256).tobytes())
    image = read(write_dicom(tmp_path / "a.dcm", grey(), Modality="CR", ModalityLUTSequence=[table]))
    np.testing.assert_array_equal(image.pixels[0], grey().astype(int) * 256)
    options = {"Modality": "CR", "ModalityLUTSequence": [table], "PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_array_equal(
        read(write_dicom(tmp_path / "b.dcm", grey(), **options)).pixels[0], 65535 - grey().astype(int) * 256
    )


def test_a_damaged_table_is_refused(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [256, 0, 12]
    table["LUTDescriptor"].VR = "US"
    table.add_new("LUTData", "OW", bytes(512))
    with pytest.raises(ReadError, match=r"a.dcm: has a damaged table \("):
        read(write_dicom(tmp_path / "a.dcm", grey(), Modality="CR", ModalityLUTSequence=[table]))


def test_colours_are_channels_in_either_planar_order(tmp_path):
    np.testing.assert_array_equal(read(write_dicom(tmp_path / "a.dcm", rgb())).pixels, np.moveaxis(rgb(), -1, 0))
    planes = np.ascontiguousarray(np.moveaxis(rgb(), -1, 0)).tobytes()
    path = write_dicom(tmp_path / "b.dcm", rgb(), PlanarConfiguration=1, PixelData=planes)
    image = read(path)
    np.testing.assert_array_equal(image.pixels, np.moveaxis(rgb(), -1, 0))
    assert image.unit == "uint8"


def test_brightness_and_colour_difference_become_red_green_blue():
    image, expected = (read(get_testdata_file(name)) for name in ("SC_ybr_full_uncompressed.dcm", "SC_rgb.dcm"))
    assert np.abs(image.pixels.astype(int) - expected.pixels).max() <= 8


def test_palettes_become_eight_bit_colours():
    little, big = (read(get_testdata_file(name)) for name in ("OBXXXX1A.dcm", "OBXXXX1A_expb.dcm"))
    assert (little.pixels.shape, little.unit, little.pixels.dtype) == ((3, 600, 800), "uint8", np.uint8)
    np.testing.assert_array_equal(little.pixels, big.pixels)
    assert little.pixels.max() == 255


@pytest.mark.parametrize(
    ("values", "attributes"),
    [(rgb(), {"PhotometricInterpretation": "HSV"}), (grey(), {"PhotometricInterpretation": "ARGB"})],
)
def test_other_colours_are_refused(tmp_path, values, attributes):
    with pytest.raises(ReadError, match=r"a.dcm: has \d samples a pixel of the kind (HSV|ARGB), which are not read"):
        read(write_dicom(tmp_path / "a.dcm", values, **attributes))


def test_bits_above_the_stored_ones_are_left_out(tmp_path):
    values = grey().astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", values | 0x8000, Modality="MR", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read(path).pixels[0], values)


def test_floating_point_pixels_are_read(tmp_path):
    values = (grey() / 7).astype(np.float32)
    path = write_dicom(tmp_path / "a.dcm", grey().astype(np.uint32), PixelData=None, Modality="OT")
    dataset = pydicom.dcmread(path)
    dataset.add_new("FloatPixelData", "OF", values.tobytes())
    for name in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.save_as(path)
    image = read(path)
    np.testing.assert_array_equal(image.pixels[0], values)
    assert image.pixels.dtype == np.float32


def test_spacing_at_the_detector_is_told(tmp_path):
    image = read(write_dicom(tmp_path / "a.dcm", grey(), Modality="DX", ImagerPixelSpacing=[0.1, 0.2]))
    assert image.spacing_mm == (0.1, 0.2)
    assert image.warnings == ("its spacing is the detector's, not the patient's",)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (
            JPEG2000Lossless,
            lambda values: imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="j2k"),
        ),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEGLosslessSV1, imagecodecs.ljpeg_encode),
        (HTJ2KLossless, lambda values: imagecodecs.htj2k_encode(values, reversible=True)),
    ],
)
def test_lossless_compression_loses_nothing(tmp_path, syntax, encode):
    values = np.random.default_rng(0).integers(0, 4096, (32, 24)).astype(np.uint16)
    options = {"BitsStored": 12, "HighBit": 11, "Modality": "MR"}
    path = compressed(tmp_path / "a.dcm", syntax, [encode(values)], values, **options)
    np.testing.assert_array_equal(read(path).pixels[0], values)
    assert is_available(syntax)


def test_run_length_compression_loses_nothing(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", STORED, **HU)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(read(path).pixels[0], STORED - 1024)


def test_twelve_bit_jpeg_is_read_without_an_extra():
    """The two files hold one picture: lossless, and lossy with 12 bits."""
    lossy, lossless = (read(get_testdata_file(name)).pixels.astype(int) for name in ("JPGExtended.dcm", "JPEG-LL.dcm"))
    assert np.abs(lossy - lossless).mean() < 3
    assert np.corrcoef(lossy.ravel(), lossless.ravel())[0, 1] > 0.98


def test_compression_of_films_is_refused(tmp_path):
    path = compressed(tmp_path / "a.dcm", MPEG2MPML, [b"\0" * 64], grey(), Modality="US")
    with pytest.raises(ReadError, match=r"a.dcm: is compressed in a way that is not read \(MPEG2 Main Profile"):
        read(path)


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_dcmtk.dcm", "693_J2KR.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_rle.dcm"]
)
def test_damaged_compressed_pixels_are_refused_by_name(tmp_path, name):
    dataset = pydicom.dcmread(get_testdata_file(name))
    data = dataset.PixelData
    dataset.PixelData = encapsulate([data[40 : 40 + len(data) // 10]])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "bad.dcm")
    with pytest.raises(ReadError, match=r"bad.dcm: (has damaged pixels \(|declares)"):
        read(tmp_path / "bad.dcm")


def test_a_compressed_picture_of_another_size_than_the_header_is_refused_before_it_is_unpacked(tmp_path):
    large = imagecodecs.jpegls_encode(np.zeros((3000, 2000), np.uint8))
    path = compressed(tmp_path / "a.dcm", JPEGLSLossless, [large], grey(), Modality="US")
    with pytest.raises(ReadError, match=r"the compressed picture is 3000 x 2000, the header says 6 x 8"):
        read(path)


@pytest.mark.parametrize(
    "data",
    [
        imagecodecs.jpeg8_encode(grey(30, 20)),
        imagecodecs.jpegls_encode(grey(30, 20)),
        imagecodecs.ljpeg_encode(grey(30, 20)),
        imagecodecs.jpeg2k_encode(grey(30, 20)),
    ],
)
def test_the_size_inside_compressed_data(data):
    assert encoded_size(data) == (30, 20)


def test_compressed_data_without_a_size_is_refused():
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\xff\xd8" + b"\0" * 50):
        with pytest.raises(ValueError, match="the compressed picture has no header"):
            encoded_size(data)


def test_more_compressed_frames_than_bytes_are_refused(tmp_path):
    path = compressed(tmp_path / "a.dcm", JPEGExtended12Bit, [b"\0" * 20], grey(), NumberOfFrames=4000)
    with pytest.raises(ReadError, match=r"declares 4000 frames, more than \d+ compressed bytes can hold"):
        read(path)


def test_frames_that_tell_their_place_are_a_volume_in_that_order(tmp_path):
    volume = read(write_enhanced(tmp_path / "a.dcm", [6.0, 0.0, 3.0]))
    assert volume.voxels[0, :, 0, 0].tolist() == [-998, -996, -1000]
    assert (volume.unit, spacing_mm(volume.affine), orientation_code(volume.affine)) == ("HU", (3, 0.5, 0.75), "SPL")
    assert inspect(tmp_path / "a.dcm").format == "DICOM (multi-frame)"
    image = read(f"{tmp_path}/a.dcm#1")
    assert (image.kind, image.pixels[0, 0, 0], image.unit) == ("image", -998, "HU")


def test_frames_at_the_same_place_are_refused_by_number(tmp_path):
    with pytest.raises(GeometryError, match="1 pair of slices at the same place: 'frame 1' and 'frame 2'"):
        read(write_enhanced(tmp_path / "a.dcm", [0.0, 3.0, 3.0, 6.0]))


def test_frames_without_a_place_need_a_choice():
    path = get_testdata_file("examples_ybr_color.dcm")
    with pytest.raises(
        ReadError, match=r"holds 30 frames that tell no place in the patient. Choose one, such as '.*#0'"
    ):
        read(path)
    first, last = read(f"{path}#0"), read(f"{path}#29")
    assert first.pixels.shape == last.pixels.shape == (3, 240, 320)
    assert not np.array_equal(first.pixels, last.pixels)
    assert len(inspect(path).choices) == 30


def test_a_damaged_place_of_a_frame_is_refused(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", [0.0, 3.0])
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = [1, 2]
    dataset.save_as(path)
    with pytest.raises(ReadError, match=r"has a damaged header \(ImagePositionPatient has 2 numbers instead of 3\)"):
        read(path)


@pytest.mark.parametrize("gap", ["PlanePositionSequence", "ImagePositionPatient"])
def test_one_frame_without_a_place_makes_them_pictures(tmp_path, gap):
    path = write_enhanced(tmp_path / "a.dcm", [0.0, 3.0, 6.0])
    dataset = pydicom.dcmread(path)
    frame = dataset.PerFrameFunctionalGroupsSequence[1]
    delattr(frame if gap == "PlanePositionSequence" else frame.PlanePositionSequence[0], gap)
    dataset.save_as(path)
    with pytest.raises(ReadError, match="holds 3 frames that tell no place"):
        read(path)


def test_a_dose_grid_is_a_volume_of_scaled_doses():
    path = get_testdata_file("rtdose.dcm")
    volume, dataset = read(path), pydicom.dcmread(path)
    np.testing.assert_allclose(volume.voxels[0], dataset.pixel_array * float(dataset.DoseGridScaling))
    assert spacing_mm(volume.affine) == (5, 10, 10)


def test_a_real_enhanced_file_is_where_highdicom_puts_it():
    path = get_testdata_file("eCT_Supplemental.dcm")
    assert_same_place(read(path), highdicom.imread(path).get_volume())


def test_big_and_implicit_encodings_hold_the_same_picture():
    names = ("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm")
    first, *others = (read(get_testdata_file(name)).pixels for name in names)
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("name", ["IM0001", "slice.001", "a.ima"])
def test_any_name_will_do(tmp_path, name):
    assert read(write_dicom(tmp_path / name, STORED, **HU)).unit == "HU"


@pytest.mark.parametrize("keep_syntax", [True, False])
def test_a_file_without_the_marker_is_read(tmp_path, keep_syntax):
    path = write_dicom(tmp_path / "a.dcm", STORED, **HU)
    data = path.read_bytes()
    (length,) = struct.unpack("<L", data[140:144])
    path.write_bytes(data[132:] if keep_syntax else data[144 + length :])
    np.testing.assert_array_equal(read(path).pixels[0], STORED - 1024)


def test_implicit_encoding_without_the_marker_is_read(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", STORED, **HU)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    data = path.read_bytes()
    path.write_bytes(data[144 + struct.unpack("<L", data[140:144])[0] :])
    np.testing.assert_array_equal(read(path).pixels[0], STORED - 1024)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"NumberOfFrames": 3}, "is cut short: its header declares 120 bytes of intensities, and 40 are there"),
        ({"Rows": 60000, "Columns": 60000}, "declares 60000 x 60000 x 1 = 3600000000 values, and the limit is"),
        ({"BitsAllocated": 24}, r"declares 24 bits a value"),
        ({"PixelSpacing": [1, 2, 3]}, r"has a damaged header \(PixelSpacing has 3 numbers instead of 2\)"),
        (
            {"ImagePositionPatient": ["nan", 0, 0]},
            r"has a damaged header \(ImagePositionPatient holds a number that is not",
        ),
        ({"TotalPixelMatrixColumns": 90000}, "is a whole-slide picture made of tiles"),
        ({"PixelData": None}, "has a header and no pixels"),
        ({"Rows": 0}, "which holds no values"),
        ({"BitsAllocated": None}, r"has (a damaged header|damaged pixels) \("),
    ],
)
def test_headers_that_contradict_the_pixels_are_refused(tmp_path, attributes, reason):
    with pytest.raises(ReadError, match=rf"a.dcm: .*{reason}"):
        read(write_dicom(tmp_path / "a.dcm", STORED, **attributes))


def test_a_cut_off_file_names_the_bytes_that_are_there(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", STORED, **HU)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        ReadError, match=r"a.dcm: is cut short: its header declares 40 bytes of intensities, and 33 are"
    ):
        read(path)


def test_an_unknown_transfer_syntax_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", STORED)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    with pytest.raises(ReadError, match=r"a.dcm: has a damaged header \(UID is not a transfer syntax"):
        read(path)


@pytest.mark.parametrize(
    ("name", "kind"), [("rtplan.dcm", "RT Plan Storage"), ("test-SR.dcm", "Comprehensive SR Storage")]
)
def test_dicom_files_that_are_no_pictures_say_what_they_are(name, kind):
    with pytest.raises(ReadError, match=rf"{name}: holds no pixels \({kind}\)"):
        read(get_testdata_file(name))


def test_a_frame_that_is_not_there_is_refused():
    path = get_testdata_file("examples_ybr_color.dcm")
    with pytest.raises(ReadError, match=r"#30: is no frame of the file. Use '#0' to '#29'"):
        read(f"{path}#30")


def deflated(path, data):
    """Write a DICOM file that is compressed as a whole, with other data instead of its own."""
    whole = Path(get_testdata_file("image_dfl.dcm")).read_bytes()
    begin = 144 + struct.unpack("<L", whole[140:144])[0]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(whole[:begin] + deflate.compress(data) + deflate.flush())
    return path


def test_a_deflated_file_is_unpacked_up_to_the_limit_only(tmp_path):
    assert read(get_testdata_file("image_dfl.dcm")).pixels.shape == (1, 512, 512)
    bomb = deflated(tmp_path / "bomb.dcm", bytes(50_000_000))
    with pytest.raises(ReadError, match=r"bomb.dcm: unpacks to \d+ bytes, and the limit is 10000000"):
        read(bomb, limits=Limits(max_gzip_bytes=10_000_000))


def test_a_damaged_deflated_file_is_refused(tmp_path):
    path = deflated(tmp_path / "a.dcm", b"x" * 1000)
    path.write_bytes(path.read_bytes()[:-6] + b"\xff" * 6)
    with pytest.raises(ReadError, match=r"a.dcm: is a damaged DICOM file \("):
        read(path)


def test_reading_more_than_is_there_gives_what_is_there(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    with BoundedReader((tmp_path / "a").open("rb", buffering=0)) as stream:
        assert stream.read(2) == b"12"
        assert stream.read(2**40) == b"345"
        assert stream.read() == stream.read(None) == b""


def test_extended_offsets_are_understood(tmp_path):
    frames = [imagecodecs.jpegls_encode(grey() + number) for number in range(3)]
    values = np.stack([grey()] * 3)
    path = compressed(tmp_path / "a.dcm", JPEGLSLossless, frames, values, Modality="US")
    dataset = pydicom.dcmread(path)
    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    np.testing.assert_array_equal(read(f"{path}#2").pixels[0], grey() + 2)
