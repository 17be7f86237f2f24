"""Points that lie: one crossdim error, and no memory for what a header declares; and clouds past all size."""

import importlib
import json
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pypcd4 import Encoding, PointCloud

from crossdim.errors import CrossdimError, ReadError
from crossdim.readers import Limits, inspect, read
from tests.readers.point_toys import (
    BOXES,
    flat_depth,
    toy_colors,
    toy_points,
    write_pcd,
    write_ply,
    write_scene,
    xyz_table,
)

MEGABYTE = 2**20
counts = st.integers(10**6, 10**18)
once_each = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
def loaded_libraries():
    """Import what readers import when it is needed, so that it does not count as memory taken for a file."""
    for name in ("pointcloud", "mat_hdf5", "scene_inspection", "scene_folder", "image", "array"):
        importlib.import_module(f"crossdim.readers.{name}")
    importlib.import_module("scipy.spatial")


def assert_refused_without_memory(path, reason=r"cut short|declares"):
    """Read, expect a refusal, and compare the most memory taken meanwhile with what a reader needs for itself."""
    tracemalloc.start()
    try:
        with pytest.raises(CrossdimError, match=reason):
            read(path, limits=Limits(max_voxels=2**62, max_gzip_bytes=2**62, max_points=2**62))
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()


@once_each
@given(counts, st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]))
def test_a_ply_file_that_declares_many_vertices_takes_no_memory(tmp_path, count, order):
    assert_refused_without_memory(write_ply(tmp_path / "a.ply", xyz_table(toy_points()), order, count=count))


@once_each
@given(counts, st.sampled_from(["property float a\n", "property list uchar int a\n"]), st.booleans())
def test_a_ply_file_that_declares_many_faces_before_takes_no_memory(tmp_path, count, line, text):
    before = (f"element face {count}\n{line}", b"")
    order = "ascii" if text else "binary_little_endian"
    assert_refused_without_memory(write_ply(tmp_path / "a.ply", xyz_table(toy_points()), order, before=before))


@once_each
@given(counts, st.sampled_from(["ascii", "binary", "binary_compressed"]))
def test_a_pcd_file_that_declares_many_points_takes_no_memory(tmp_path, count, data):
    path = write_pcd(tmp_path / "a.pcd", xyz_table(toy_points()), POINTS=str(count), DATA=data)
    assert_refused_without_memory(path)


@once_each
@given(st.integers(10**6, 2**31 - 1), st.booleans())
def test_a_matlab_file_that_declares_many_points_takes_no_memory(tmp_path, count, also_bytes):
    scipy.io.savemat(tmp_path / "a.mat", {"pc": toy_points()})
    content = bytearray((tmp_path / "a.mat").read_bytes())
    content[160:164] = count.to_bytes(4, "little")
    if also_bytes:
        content[180:184] = (count * 12 % 2**32).to_bytes(4, "little")
    (tmp_path / "a.mat").write_bytes(content)
    assert_refused_without_memory(tmp_path / "a.mat")


def test_a_compressed_matlab_file_that_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"pc": np.zeros((100000, 3))}, do_compression=True)
    with pytest.raises(ReadError, match="unpacks to 2400000 bytes, and the limit is 1000000"):
        read(tmp_path / "a.mat", limits=Limits(max_gzip_bytes=10**6))


def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", pc=np.zeros((100000, 3)))
    with pytest.raises(ReadError, match="unpacks to 2400000 bytes, and the limit is 1000000"):
        read(tmp_path / "a.npz", limits=Limits(max_gzip_bytes=10**6))


def sparse(path, header, count, row_bytes):
    """Write a file of zeros that takes no place on the disk, and a few points at its end."""
    path.write_bytes(header)
    with open(path, "r+b") as stream:
        stream.truncate(len(header) + count * row_bytes)
    return path


HUNDRED_MILLION = 10**8

WITHIN_A_CAP = """
import resource, sys, time
from crossdim.readers import inspect
import crossdim.readers.scene_inspection, scipy.spatial
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 1_000_000_000, -1))
started = time.monotonic()
found = inspect(sys.argv[1])
print(found.scene.points, *found.problems, sep="\\n")
print(time.monotonic() - started, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit of the address space")
@pytest.mark.parametrize(
    "kind", ["bin", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ply", "pcd", "npy"))]
)
def test_a_hundred_million_points_are_thinned_within_a_gigabyte(tmp_path, kind):
    xyz = "property float x\nproperty float y\nproperty float z\n"
    headers = {
        "bin": b"",
        "ply": f"ply\nformat binary_little_endian 1.0\nelement vertex {HUNDRED_MILLION}\n{xyz}end_header\n".encode(),
        "pcd": f"# .PCD\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS {HUNDRED_MILLION}\nDATA binary\n".encode(),
        "npy": b"",
    }
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.lib.format.open_memmap(path, "w+", np.float32, (HUNDRED_MILLION, 3))
    else:
        sparse(path, headers[kind], HUNDRED_MILLION, 16 if kind == "bin" else 12)
    result = subprocess.run([sys.executable, "-c", WITHIN_A_CAP, str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == str(HUNDRED_MILLION)
    assert lines[1] == "one in 10 of its 100000000 points is read (10000000), as Limits(max_points=...) says"
    assert float(result.stderr) < 60


def test_a_hundred_million_lines_of_text_are_refused_at_once(tmp_path):
    xyz = "property float x\nproperty float y\nproperty float z\n"
    header = f"ply\nformat ascii 1.0\nelement vertex {HUNDRED_MILLION}\n{xyz}end_header\n".encode()
    with pytest.raises(ReadError, match="is text with 100000000 points, and the limit is 10000000"):
        read(sparse(tmp_path / "a.ply", header, HUNDRED_MILLION, 6))


@pytest.mark.parametrize("count", [1, 9, 10, 11, 99, 100, 101, 4096, 5000])
@pytest.mark.parametrize("limit", [1, 3, 10, 100])
@pytest.mark.parametrize("chunk", [12, 100, 2**22])
def test_thinning_takes_every_so_manieth_point_whatever_the_chunks(tmp_path, monkeypatch, count, limit, chunk):
    from crossdim.readers import point_table

    monkeypatch.setattr(point_table, "_CHUNK_BYTES", chunk)
    points = toy_points(count)
    step = -(-count // limit)
    for path in (tmp_path / "a.ply", tmp_path / "a.npy"):
        write_ply(path, xyz_table(points)) if path.suffix == ".ply" else np.save(path, np.asfortranarray(points))
        source = path if path.suffix == ".ply" else f"{path}#points"
        np.testing.assert_array_equal(read(source, limits=Limits(max_points=limit)).points, points[::step])


def hdf5(path, values):
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("pc", data=values.T, compression="gzip", chunks=(3, 10))
    content = bytearray(path.read_bytes())
    content[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """One good file of every kind of points, and the files of a scene."""
    folder = tmp_path_factory.mktemp("whole")
    points, colors = toy_points(), toy_colors()
    table = xyz_table(points, red=colors[:, 0], green=colors[:, 1], blue=colors[:, 2])
    faces = ("element face 2\nproperty list uchar int v\n", b"\1" + bytes(4) + b"\2" + bytes(8))
    write_ply(folder / "text.ply", table, "ascii")
    write_ply(folder / "little.ply", table, before=faces)
    write_ply(folder / "big.ply", table, "binary_big_endian")
    write_pcd(folder / "text.pcd", table, "ascii")
    write_pcd(folder / "binary.pcd", table)
    PointCloud.from_xyz_points(np.round(points)).save(folder / "packed.pcd", encoding=Encoding.BINARY_COMPRESSED)
    np.column_stack([points, colors[:, 0]]).astype("<f4").tofile(folder / "a.bin")
    np.savez(folder / "stored.npz", pc=points)
    np.savez_compressed(folder / "packed.npz", pc=np.column_stack([points, colors / 255]))
    np.save(folder / "a.npy", toy_points(256))
    scipy.io.savemat(folder / "a.mat", {"pc": points, "name": "toy"})
    scipy.io.savemat(folder / "packed.mat", {"pc": points}, do_compression=True)
    hdf5(folder / "b.mat", points)
    return sorted(folder.iterdir())


def damaged(content, data):
    content = bytearray(content)
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    return content[: data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_gives_points_or_a_crossdim_error_and_nothing_else(tmp_path, whole_files, data):
    file = data.draw(st.sampled_from(whole_files))
    path = tmp_path / file.name
    path.write_bytes(damaged(file.read_bytes(), data))
    try:
        outcome = inspect(path, limits=Limits(max_voxels=2**22, max_gzip_bytes=2**24, max_points=10**5)).kind
    except CrossdimError as error:
        outcome = str(error)
    assert outcome in ("points", "image", "volume") or (str(path) in outcome and "\n" not in outcome)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_to_a_header_gives_points_or_a_crossdim_error_and_nothing_else(tmp_path, whole_files, data):
    texts = [file for file in whole_files if file.suffix in (".ply", ".pcd")]
    file = data.draw(st.sampled_from(texts))
    words = file.read_bytes().split(b" ")
    place = data.draw(st.integers(0, min(len(words), 30) - 1))
    words[place] = data.draw(
        st.sampled_from(
            [b"", b"-1", b"0", b"99999999999999999999", b"1e9", b"\n", b"list", b"nan", b"\xff", b"float", b"x"]
        )
    )
    path = tmp_path / file.name
    path.write_bytes(b" ".join(words))
    try:
        outcome = read(path).kind
    except CrossdimError as error:
        outcome = str(error)
    assert outcome == "points" or (str(path) in outcome and "\n" not in outcome)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_to_a_scene_gives_a_scene_or_a_crossdim_error_and_nothing_else(tmp_path, data):
    folder = write_scene(tmp_path / "room", boxes=BOXES, depth=flat_depth())
    file = data.draw(st.sampled_from(["camera.json", "boxes.json", "depth.png", "image.png"]))
    (folder / file).write_bytes(damaged((folder / file).read_bytes(), data))
    for look in (read, inspect):
        try:
            outcome = look(folder).kind
        except CrossdimError as error:
            outcome = str(error)
        assert outcome == "scene" or (str(folder) in outcome and "\n" not in outcome)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["intrinsics", "size", "camera_from_scene", "depth_unit_m"]), json_values))
def test_any_json_for_a_camera_gives_a_crossdim_error(tmp_path, value):
    folder = write_scene(tmp_path / "room", camera=json.loads(json.dumps(value)))
    with pytest.raises(CrossdimError, match=r"camera\.json"):
        read(folder)


STARTS = [b"", b"ply\n", b"ply\nformat ascii 1.0\n", b"# .PCD", b"VERSION 0.7\n", b"MATLAB 5.0 MAT-file", b"PK\x03\x04"]
STARTS += [b"MATLAB 7.3 MAT-file"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=800),
    start=st.sampled_from(STARTS),
    ending=st.sampled_from(["", ".ply", ".pcd", ".mat", ".npz"]),
)
def test_nonsense_of_any_name_gives_a_crossdim_error(tmp_path, content, start, ending):
    path = tmp_path / f"x{ending}"
    path.write_bytes(start + content)
    with pytest.raises(CrossdimError):
        inspect(path)
