"""Files that lie: nothing but a crossdim error comes out, and no memory is taken for what they declare."""

import gzip
import importlib
import struct
import tracemalloc
import zipfile
import zlib

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format
from PIL import Image as PillowImage
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from crossdim.errors import CrossdimError
from crossdim.readers import Limits, inspect, read
from tests.readers.toys import grey, rgb, write_dicom, write_enhanced

MEGABYTE = 2**20
sizes = st.integers(1000, 32000)
many_times = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
def loaded_libraries():
    """Import what readers import when it is needed, so that it does not count as memory taken for a file."""
    for name in ("image", "tiff", "nifti", "dicom_series", "array"):
        importlib.import_module(f"crossdim.readers.{name}")


def assert_refused_without_memory(path, limits=None):
    """Read, expect a refusal, and compare the most memory taken meanwhile with what a reader needs for itself."""
    tracemalloc.start()
    try:
        with pytest.raises(CrossdimError, match=r"cut short|declares|holds no pixels"):
            read(path, limits=limits)
        assert tracemalloc.get_traced_memory()[1] < 12 * MEGABYTE
    finally:
        tracemalloc.stop()


def nifti_header(shape, dtype):
    header = nibabel.nifti1.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header.binaryblock + bytes(2000)


@many_times
@given(st.tuples(sizes, sizes, sizes), st.sampled_from([np.uint8, np.int16, np.float64]), st.booleans())
def test_nifti_headers_that_declare_huge_sizes_take_no_memory(tmp_path, shape, dtype, zipped):
    data = nifti_header(shape, dtype)
    path = tmp_path / ("a.nii.gz" if zipped else "a.nii")
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert_refused_without_memory(path, Limits(max_voxels=2**62, max_gzip_bytes=2**62))


@many_times
@given(st.tuples(sizes, sizes, sizes), st.sampled_from(["<u1", "<i2", "<f8"]), st.booleans())
def test_arrays_that_declare_huge_sizes_take_no_memory(tmp_path, shape, dtype, archived):
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    with (tmp_path / "a.npy").open("wb") as stream:
        npy_format.write_array_header_1_0(stream, header)
        stream.write(bytes(500))
    path = tmp_path / "a.npy"
    if archived:
        path = tmp_path / "a.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "a.npy", "scan.npy")
    assert_refused_without_memory(path, Limits(max_voxels=2**62, max_gzip_bytes=2**62))


@many_times
@given(sizes, sizes, st.integers(1, 500), st.booleans())
def test_dicom_headers_that_declare_huge_sizes_take_no_memory(tmp_path, rows, columns, frames, packed):
    path = write_dicom(tmp_path / "a.dcm", grey(), Rows=rows, Columns=columns, NumberOfFrames=frames, Modality="US")
    if packed:
        old, new = (uid.encode().ljust(20, b"\0") for uid in (ExplicitVRLittleEndian, RLELossless))
        path.write_bytes(path.read_bytes().replace(old, new))
    assert_refused_without_memory(path, Limits(max_voxels=2**62))


def png(height, width):
    """Return a whole PNG file that declares a size and holds next to nothing."""

    def chunk(kind, body):
        return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">2L5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


@many_times
@given(st.integers(3000, 13000), st.integers(3000, 13000))
def test_png_headers_that_declare_huge_sizes_take_no_memory(tmp_path, height, width):
    (tmp_path / "a.png").write_bytes(png(height, width))
    assert_refused_without_memory(tmp_path / "a.png", Limits(max_voxels=2**62))


@many_times
@given(st.integers(5000, 65000), st.integers(5000, 65000), st.sampled_from([1, 5, 8, 32773]))
def test_tiff_headers_that_declare_huge_sizes_take_no_memory(tmp_path, height, width, compression):
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, 100)]
    body = b"".join(struct.pack("<2HLL", tag, kind, 1, value) for tag, kind, value in tags)
    data = b"II*\0" + struct.pack("<L", 108) + bytes(100) + struct.pack("<H", len(tags)) + body + bytes(4)
    (tmp_path / "a.tif").write_bytes(data)
    assert_refused_without_memory(tmp_path / "a.tif", Limits(max_voxels=2**62))


def test_a_length_inside_a_dicom_file_takes_no_memory(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", grey(), PatientComments="x" * 64)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x28\x00\x10\x00US")
    data[place + 4 : place + 8] = b"OB\0\0"
    data[place + 8 : place + 12] = struct.pack("<L", 0xFFFFFFF0)
    path.write_bytes(data)
    assert_refused_without_memory(path)


def test_pillows_own_limit_is_told_as_ours(tmp_path):
    (tmp_path / "a.png").write_bytes(png(60000, 60000))
    with pytest.raises(CrossdimError, match=r"a.png: is larger than Pillow reads \(.*pixels.*Scale it down"):
        read(tmp_path / "a.png")


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(
        gzip.compress(nifti_header((10, 10, 10), np.uint8)[:-1000] + bytes(80 * MEGABYTE))
    )
    tracemalloc.start()
    try:
        read(tmp_path / "a.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < 12 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """One good file of every kind."""
    import tifffile

    folder = tmp_path_factory.mktemp("whole")
    PillowImage.fromarray(rgb()).save(folder / "a.png")
    PillowImage.fromarray(rgb()).save(folder / "a.jpg")
    PillowImage.fromarray(rgb()).save(folder / "a.bmp")
    tifffile.imwrite(folder / "a.tif", np.stack([grey()] * 3), photometric="minisblack", compression="lzw")
    values = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.nifti1.Nifti1Image(values, np.eye(4)), folder / name)
    nibabel.save(nibabel.nifti2.Nifti2Image(values, np.eye(4)), folder / "b.nii")
    np.save(folder / "a.npy", values)
    np.savez_compressed(folder / "a.npz", scan=values)
    write_dicom(folder / "a.dcm", grey(), Modality="US")
    write_enhanced(folder / "b.dcm", [0.0, 3.0, 6.0])
    return sorted(folder.iterdir())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_gives_a_noun_or_a_crossdim_error_and_nothing_else(tmp_path, whole_files, data):
    file = data.draw(st.sampled_from(whole_files))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    keep = data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))
    path = tmp_path / file.name
    path.write_bytes(content[:keep])
    try:
        outcome = inspect(path, limits=Limits(max_voxels=2**22, max_gzip_bytes=2**24)).kind
    except CrossdimError as error:
        outcome = str(error)
    assert outcome in ("image", "volume") or (str(path) in outcome and "\n" not in outcome)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=800),
    start=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b"]
    ),
    ending=st.sampled_from(["", ".png", ".jpg", ".tif", ".nii", ".nii.gz", ".hdr", ".img", ".dcm", ".npy", ".npz"]),
)
def test_nonsense_of_any_name_gives_a_crossdim_error(tmp_path, content, start, ending):
    path = tmp_path / f"x{ending}"
    path.write_bytes(start + content)
    with pytest.raises(CrossdimError):
        inspect(path)
