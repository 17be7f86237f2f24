"""Points of every other format, and what holds for all: KITTI's .bin, .npy, .npz, .mat."""

import builtins
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.io

from crossdim.errors import ReadError
from crossdim.readers import Limits, find_readable, inspect, is_readable, read, read_channels
from crossdim.readers.pointcloud import read_points
from crossdim.samples import Image, PointCloud
from tests.readers.point_toys import toy_colors, toy_points, write_pcd, write_ply, xyz_table


def laser_scan(count=40):
    return np.column_stack([toy_points(count), np.linspace(0, 1, count)]).astype("<f4")


def colored(count=300):
    return np.column_stack([toy_points(count), toy_colors(count) / 255]).astype(np.float32)


def test_a_laser_scan_of_kitti_has_intensities(tmp_path):
    laser_scan().tofile(tmp_path / "a.bin")
    cloud = read(tmp_path / "a.bin")
    np.testing.assert_array_equal(cloud.points, toy_points())
    np.testing.assert_allclose(cloud.attributes["intensity"], np.linspace(0, 1, 40), atol=1e-6)


@pytest.mark.parametrize("said", ["selector", "argument"])
def test_a_bin_file_of_six_columns_is_read_when_told(tmp_path, said):
    colored().tofile(tmp_path / "a.bin")
    path = tmp_path / "a.bin"
    cloud = read(f"{path}#6") if said == "selector" else read_points(path, columns=6)
    np.testing.assert_array_equal(cloud.points, toy_points(300))
    np.testing.assert_array_equal(cloud.colors, toy_colors(300))


def test_a_bin_file_of_three_columns_and_of_five(tmp_path):
    toy_points().tofile(tmp_path / "a.bin")
    assert read(f"{tmp_path / 'a.bin'}#3").attributes == {}
    np.column_stack([laser_scan(), np.arange(40)]).astype("<f4").tofile(tmp_path / "b.bin")
    assert set(read(f"{tmp_path / 'b.bin'}#5").attributes) == {"column 3", "column 4"}


@pytest.mark.parametrize("select", ["2", "65", "rows", ""])
def test_a_number_of_columns_that_cannot_be_is_refused(tmp_path, select):
    laser_scan().tofile(tmp_path / "a.bin")
    with pytest.raises(ReadError, match=r"does not say how many numbers a point has\. Use '#3' to '#64'"):
        read(f"{tmp_path / 'a.bin'}#{select}")


def test_a_bin_file_of_another_length_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(laser_scan().tobytes()[:-4])
    with pytest.raises(ReadError, match=r"has 636 bytes, which is not a whole number of points of 4 float32\. Say how"):
        read(tmp_path / "a.bin")


def test_a_bin_file_of_anything_else_is_refused_and_not_listed(tmp_path):
    (tmp_path / "weights.bin").write_bytes(np.random.default_rng(0).bytes(4096))
    assert not is_readable(str(tmp_path / "weights.bin"))
    with pytest.raises(ReadError, match="is named like a laser scan of float32, and is none"):
        read(tmp_path / "weights.bin")


def test_columns_are_for_bin_files_alone(tmp_path):
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()))
    with pytest.raises(ReadError, match=r"a\.ply: says itself how many columns it has"):
        read_points(path, columns=6)


def test_a_picture_is_not_read_as_points(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 7)))
    with pytest.raises(ReadError, match=r"the shape \(5, 6, 7\), which is no table of points"):
        read_points(tmp_path / "a.npy")
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ReadError, match="is no file of points"):
        read_points(tmp_path / "a.dcm")


@pytest.mark.parametrize("key", ["pc", "points"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_points_of_votenet_are_read_with_colours(tmp_path, key, save):
    save(tmp_path / "a.npz", **{key: colored(50), "more": np.zeros((9, 9))})
    cloud = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(cloud.points, toy_points(50))
    np.testing.assert_array_equal(cloud.colors, toy_colors(50))


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.dtype(">f4"), np.int32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_type_and_order_are_read(tmp_path, kind, order):
    values = np.asarray(np.round(toy_points() * 100), dtype=kind, order=order)
    np.save(tmp_path / "a.npy", values)
    cloud = read(f"{tmp_path / 'a.npy'}#points")
    np.testing.assert_array_equal(cloud.points, values.astype(np.float32))
    np.savez_compressed(tmp_path / "a.npz", pc=values)
    np.testing.assert_array_equal(read(tmp_path / "a.npz").points, values.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "kind", "read_as"),
    [
        ((256, 3), np.float32, PointCloud),
        ((5000, 9), np.float64, PointCloud),
        ((255, 3), np.float32, Image),
        ((256, 10), np.float32, Image),
        ((256, 2), np.float32, Image),
        ((256, 3), np.uint8, Image),
    ],
)
def test_an_array_is_points_where_it_can_be_no_picture(tmp_path, shape, kind, read_as):
    np.save(tmp_path / "a.npy", np.ones(shape, kind))
    assert isinstance(read(tmp_path / "a.npy"), read_as)
    np.savez(tmp_path / "a.npz", scan=np.ones(shape, kind), more=np.ones(4))
    assert isinstance(read(f"{tmp_path / 'a.npz'}#scan"), read_as)


def test_an_array_that_looks_like_a_picture_is_points_when_told(tmp_path):
    np.save(tmp_path / "a.npy", toy_points())
    assert isinstance(read(tmp_path / "a.npy"), Image)
    np.testing.assert_array_equal(read_points(tmp_path / "a.npy").points, toy_points())
    np.savez(tmp_path / "a.npz", scan=toy_points())
    assert isinstance(read(f"{tmp_path / 'a.npz'}"), Image)
    np.testing.assert_array_equal(read_points(f"{tmp_path / 'a.npz'}#scan").points, toy_points())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.ones((300, 2)), r"the shape \(300, 2\), which is no table of points"),
        (np.ones((0, 3)), "holds no points"),
        (np.full((300, 3), np.nan), "no finite point: all 300"),
        (np.ones((300, 3), np.complex64), "values of type complex64, not plain numbers"),
        (np.full((300, 3), "a"), "values of type <U1, not plain numbers"),
    ],
)
def test_arrays_that_are_no_points_are_refused(tmp_path, values, reason):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ReadError, match=reason):
        read_points(tmp_path / "a.npy")


def test_an_npz_without_points_lists_what_it_has(tmp_path):
    np.savez(tmp_path / "a.npz", first=toy_points(), second=toy_points())
    with pytest.raises(ReadError, match=r"has no array 'pc' or 'points' \(it has first, second\). Choose one"):
        read_points(tmp_path / "a.npz")


def test_an_npz_that_is_damaged_behind_its_headers_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", pc=toy_points(5000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[30000:30100] = b"\xff" * 100
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ReadError, match="is cut short or damaged"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_what_scipy_writes_as_matlab_5_is_read(tmp_path, compressed, kind):
    values = np.round(colored(50) * 50).astype(kind)
    more = {"name": "toy", "scalar": 3.0, "cells": np.array([1, "a"], object), "complex": np.ones((9, 3)) * 1j}
    scipy.io.savemat(tmp_path / "a.mat", {**more, "instance": values, "z": np.eye(3)}, do_compression=compressed)
    cloud = read(tmp_path / "a.mat")
    np.testing.assert_array_equal(cloud.points, values[:, :3].astype(np.float32))
    assert cloud.origin.select is None


def test_a_matlab_file_of_one_table_needs_no_name(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"cloud": toy_points(), "other": np.ones((4, 20))})
    np.testing.assert_array_equal(read(tmp_path / "a.mat").points, toy_points())


def test_a_single_point_fits_into_the_tag_of_its_element(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"pc": np.array([[1, 2, 3]], np.uint8)})
    np.testing.assert_array_equal(read(tmp_path / "a.mat").points, [[1, 2, 3]])


def test_several_tables_of_a_matlab_file_need_a_name(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"first": toy_points(), "second": toy_points(seed=3)})
    with pytest.raises(ReadError, match=r"several tables: first \(40, 3\), second \(40, 3\). Choose one, such as"):
        read(tmp_path / "a.mat")
    np.testing.assert_array_equal(read(f"{tmp_path / 'a.mat'}#second").points, toy_points(seed=3))
    with pytest.raises(ReadError, match=r"#secnd: names no table .*Did you mean 'second'"):
        read(f"{tmp_path / 'a.mat'}#secnd")


def test_a_matlab_file_without_tables_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"name": "toy"})
    with pytest.raises(ReadError, match="holds no table of numbers with 3 to 16 columns"):
        read(tmp_path / "a.mat")
    with pytest.raises(ReadError, match=r"names no table .*Name a file with points"):
        read(f"{tmp_path / 'a.mat'}#name")


def edited_mat(path, place, new, *, compressed=False):
    scipy.io.savemat(path, {"pc": toy_points()}, do_compression=compressed)
    content = bytearray(path.read_bytes())
    content[place : place + len(new)] = new
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("place", "new", "reason"),
    [
        (126, b"XX", "has a damaged MATLAB header"),
        (128, b"\x07\0\0\0", "an element of the unknown type 7"),
        (132, b"\xff\xff\xff\x7f", "an element declares 2147483647 bytes"),
        (132, b"\x10\0\0\0", "an element of the unknown type|is cut short"),
        (140, b"\xff\xff\xff\x7f", "declares 2147483647 bytes for the name or the sizes"),
        (160, b"\x50\0\0\0", "declares 80 x 3 values of 960 bytes, and 480 bytes of them"),
        (176, b"\x2a\0\0\0", "holds values of the unknown type 42"),
    ],
)
def test_what_is_wrong_with_a_matlab_file_is_one_clear_error(tmp_path, place, new, reason):
    with pytest.raises(ReadError, match=rf"a\.mat(#pc)?: .*({reason})"):
        read(edited_mat(tmp_path / "a.mat", place, new))


def test_a_matlab_file_of_damaged_compressed_values_is_refused(tmp_path):
    with pytest.raises(ReadError, match="has damaged compressed values"):
        read(edited_mat(tmp_path / "a.mat", 300, b"\xff" * 80, compressed=True))


def compressed_mat(path, element, keep=None):
    """Write a MATLAB 5 file with one packed element, of which the first bytes are kept before they are packed."""
    packed = zlib.compress(element[:keep])
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    path.write_bytes(header + struct.pack("<2L", 15, len(packed)) + packed)
    return path


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (4, "is cut short inside an element"),
        (20, "is cut short inside an element"),
        (70, "is cut short: 0 bytes are where 160 should be|is cut short"),
        (300, r"is cut short: \d+ bytes are where 160 should be"),
    ],
)
def test_a_packed_element_that_ends_early_is_refused(tmp_path, keep, reason):
    scipy.io.savemat(tmp_path / "whole.mat", {"pc": toy_points()})
    element = (tmp_path / "whole.mat").read_bytes()[128:]
    np.testing.assert_array_equal(read(compressed_mat(tmp_path / "a.mat", element)).points, toy_points())
    with pytest.raises(ReadError, match=reason):
        read(compressed_mat(tmp_path / "a.mat", element, keep))


def test_a_packed_element_that_is_no_array_is_refused(tmp_path):
    with pytest.raises(ReadError, match="holds an element of the unknown type 9"):
        read(compressed_mat(tmp_path / "a.mat", struct.pack("<2L", 9, 8) + bytes(8)))


def test_a_packed_element_of_nothing_is_passed_over(tmp_path):
    with pytest.raises(ReadError, match="holds no table of numbers"):
        read(compressed_mat(tmp_path / "a.mat", struct.pack("<2L", 14, 0)))


def write_mat_hdf5(path, **arrays):
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values.T, compression="gzip" if len(values) > 100 else None)
    content = bytearray(path.read_bytes())
    content[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("count", [50, 500])
def test_matlab_73_is_read_with_h5py(tmp_path, count):
    cloud = read(write_mat_hdf5(tmp_path / "a.mat", instance=colored(count), other=np.ones((30, 4))))
    np.testing.assert_array_equal(cloud.points, toy_points(count))
    np.testing.assert_array_equal(cloud.colors, toy_colors(count))
    thinned = read(tmp_path / "a.mat", limits=Limits(max_points=10))
    np.testing.assert_array_equal(thinned.points, toy_points(count)[:: count // 10])


def test_matlab_73_without_h5py_says_how_to_install_it(tmp_path, monkeypatch):
    write_mat_hdf5(tmp_path / "a.mat", instance=colored(50))
    whole_import = builtins.__import__

    def without_h5py(name, *rest):
        if name == "h5py":
            raise ImportError(name)
        return whole_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(ReadError, match=r"needs h5py. Install it with: pip install 'crossdim\[points\]'"):
        read(tmp_path / "a.mat")


def test_damaged_matlab_73_is_refused(tmp_path):
    path = write_mat_hdf5(tmp_path / "a.mat", instance=colored(500))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ReadError, match=r"is a damaged MATLAB 7\.3 file"):
        read(path)


def test_matlab_73_whose_values_are_damaged_is_refused(tmp_path):
    import h5py

    path = write_mat_hdf5(tmp_path / "a.mat", instance=colored(500))
    with h5py.File(path) as file:
        place = file["instance"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 512] = b"\xff" * 512
    path.write_bytes(content)
    with pytest.raises(ReadError, match="is cut short or damaged"):
        read(path)


def test_matlab_73_whose_values_are_elsewhere_is_refused(tmp_path):
    import h5py

    path = write_mat_hdf5(tmp_path / "a.mat")
    with h5py.File(path, "r+") as file:
        file.create_dataset("pc", (3, 9), "f4", external=[(str(tmp_path / "secret"), 0, 108)])
    with pytest.raises(ReadError, match="#pc: keeps its values in other files"):
        read(path)


def test_matlab_73_that_declares_more_than_it_holds_is_refused(tmp_path):
    import h5py

    path = write_mat_hdf5(tmp_path / "a.mat")
    with h5py.File(path, "r+") as file:
        file.create_dataset("pc", (3, 10**12), "f4", chunks=(3, 1000), compression="gzip")
    with pytest.raises(ReadError, match="declares 1000000000000 points, which take 12000000000000 bytes, and 0 are"):
        read(path)


@pytest.mark.parametrize("name", ["a.ply", "a.bin", "a.npz", "a.mat", "a.pcd"])
def test_inspect_tells_what_points_are(tmp_path, name):
    points = np.vstack([toy_points(), [[-1, 2, -0.5], [1, 5, 0.5]]]).astype(np.float32)
    path = tmp_path / name
    match path.suffix:
        case ".ply":
            write_ply(path, xyz_table(points))
        case ".pcd":
            write_pcd(path, xyz_table(points))
        case ".bin":
            np.column_stack([points, np.zeros(42)]).astype("<f4").tofile(path)
        case ".npz":
            np.savez(path, pc=points)
        case ".mat":
            scipy.io.savemat(path, {"pc": points})
    found = inspect(path)
    assert found.kind == "points"
    assert found.shape[0] == found.scene.points == 42
    assert found.scene.low_m == (-1, 2, -0.5)
    assert found.scene.high_m == (1, 5, 0.5)
    assert 0.05 < found.scene.spacing_m < 0.6
    assert found.problems == ()
    header = inspect(path, intensity=False)
    assert header.scene.points == 42
    assert header.scene.low_m is None


def test_inspect_takes_far_and_sparse_points_for_millimetres(tmp_path):
    found = inspect(write_ply(tmp_path / "a.ply", xyz_table(toy_points() * 1000)))
    assert "if these are millimetres, divide them by 1000" in found.problems[0]
    assert inspect(write_ply(tmp_path / "b.ply", xyz_table(toy_points(3000) * 60))).scene.spacing_m > 0.5


def test_inspect_takes_a_wide_laser_scan_for_metres(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 5000)
    ring = np.column_stack([70 * np.cos(angles), 70 * np.sin(angles), np.zeros(5000), np.ones(5000)])
    ring.astype("<f4").tofile(tmp_path / "a.bin")
    assert inspect(tmp_path / "a.bin").problems == ()


def test_inspect_doubts_a_tiny_cloud(tmp_path):
    found = inspect(write_ply(tmp_path / "a.ply", xyz_table(toy_points() / 1000)))
    assert "mm only: check the unit, which is taken for metres" in found.problems[0]


def test_inspect_counts_points_that_stand_on_one_another(tmp_path):
    points = np.vstack([toy_points(), toy_points()[:10]])
    points[0], points[1] = 0.0, -0.0
    found = inspect(write_ply(tmp_path / "a.ply", xyz_table(points)))
    assert found.problems == ("18.0% of its points stand where another one stands",)


def test_inspect_doubts_intensities_that_are_none(tmp_path):
    colored().tofile(tmp_path / "a.bin")
    assert (
        "every fourth number is taken for an intensity, and they reach from" in inspect(tmp_path / "a.bin").problems[0]
    )
    assert inspect(f"{tmp_path / 'a.bin'}#6").problems == ()


def test_inspect_of_a_single_point(tmp_path):
    found = inspect(write_ply(tmp_path / "a.ply", xyz_table(toy_points(1))))
    assert found.scene.points == 1
    assert found.scene.spacing_m is None


def test_points_are_found_in_folders(tmp_path):
    write_ply(tmp_path / "a.ply", xyz_table(toy_points()))
    laser_scan().tofile(tmp_path / "b.bin")
    (tmp_path / "c.bin").write_bytes(np.random.default_rng(0).bytes(4096))
    assert find_readable(tmp_path) == [str(tmp_path / "a.ply"), str(tmp_path / "b.bin")]


def test_points_are_no_channels(tmp_path):
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()))
    with pytest.raises(ReadError, match=r"a\.ply: holds points, not pixels or voxels. Give an image or a volume"):
        read_channels([path])


def test_points_are_read_without_optional_libraries(tmp_path):
    write_ply(tmp_path / "a.ply", xyz_table(toy_points()))
    write_pcd(tmp_path / "a.pcd", xyz_table(toy_points()))
    laser_scan().tofile(tmp_path / "a.bin")
    np.savez(tmp_path / "a.npz", pc=toy_points())
    scipy.io.savemat(tmp_path / "a.mat", {"pc": toy_points()})
    program = (
        "import sys; from crossdim.readers import find_readable, read\n"
        "print(len([read(path) for path in find_readable(sys.argv[1])]))\n"
        "print([name for name in ('torch', 'h5py', 'trimesh', 'pypcd4', 'numba', 'scipy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["5", "[]"]


@pytest.mark.parametrize(
    ("file", "count", "extent"),
    [
        ("sunrgbd/sunrgbd_pc_bbox_votes_50k_v1_train/000001_pc.npz", 50000, 7),
        ("sunrgbd/sunrgbd_trainval/depth/000001.mat", 280961, 8),
        ("sunrgbd/mmdet3d_000017/000017.bin#6", 50000, 8),
        ("kitti_mini/training/velodyne/000000.bin", 115384, 150),
        ("kitti_mini/training/velodyne/000134.bin", 19097, 150),
    ],
)
def test_real_points_are_read_without_doubts(crossdim_data, file, count, extent):
    found = inspect(crossdim_data / file)
    assert found.scene.points == count
    assert max(np.subtract(found.scene.high_m, found.scene.low_m)) < extent
    assert found.scene.colors == file.startswith("sunrgbd")
    assert found.problems == ()
