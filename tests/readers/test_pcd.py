import numpy as np
import pytest
from pypcd4 import Encoding, PointCloud

from crossdim.errors import ReadError
from crossdim.readers import Limits, read
from tests.readers.point_toys import table_of, toy_colors, toy_points, write_pcd, xyz_table


@pytest.mark.parametrize("data", ["ascii", "binary"])
def test_points_come_back_from_text_and_binary(tmp_path, data):
    points = toy_points()
    cloud = read(write_pcd(tmp_path / "a.pcd", xyz_table(points, intensity=points[:, 0]), data))
    np.testing.assert_array_equal(cloud.points, points)
    np.testing.assert_array_equal(cloud.attributes["intensity"].astype(np.float32), points[:, 0])
    assert cloud.colors is None
    assert cloud.warnings == ()


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("count", [1, 40, 5000])
def test_what_pypcd4_writes_is_read(tmp_path, encoding, count):
    points, colors = toy_points(count), toy_colors(count)
    packed = PointCloud.encode_rgb(colors)
    PointCloud.from_xyzrgb_points(np.column_stack([points, packed])).save(tmp_path / "a.pcd", encoding=encoding)
    cloud = read(tmp_path / "a.pcd")
    np.testing.assert_allclose(cloud.points, points, rtol=1e-5, atol=1e-6)
    if encoding != Encoding.ASCII:
        np.testing.assert_array_equal(cloud.points, points)
        np.testing.assert_array_equal(cloud.colors, colors)


def test_compressed_points_that_repeat_are_unpacked(tmp_path):
    points = np.repeat(toy_points(4), 2000, axis=0)
    PointCloud.from_xyz_points(points).save(tmp_path / "a.pcd", encoding=Encoding.BINARY_COMPRESSED)
    assert (tmp_path / "a.pcd").stat().st_size < points.nbytes / 5
    np.testing.assert_array_equal(read(tmp_path / "a.pcd").points, points)


def test_compressed_points_above_the_limit_are_thinned_evenly(tmp_path):
    points = np.round(toy_points(1000), 1)
    PointCloud.from_xyz_points(points).save(tmp_path / "a.pcd", encoding=Encoding.BINARY_COMPRESSED)
    np.testing.assert_array_equal(read(tmp_path / "a.pcd", limits=Limits(max_points=100)).points, points[::10])


@pytest.mark.parametrize("name", ["rgb", "rgba"])
@pytest.mark.parametrize("kind", ["<f4", "<u4"])
@pytest.mark.parametrize("data", ["ascii", "binary"])
def test_packed_colours_are_unpacked(tmp_path, name, kind, data):
    colors = toy_colors().astype(np.uint32)
    packed = colors[:, 0] << 16 | colors[:, 1] << 8 | colors[:, 2]
    cloud = read(write_pcd(tmp_path / "a.pcd", xyz_table(toy_points(), **{name: packed.view(kind)}), data))
    np.testing.assert_array_equal(cloud.colors, colors)
    assert cloud.attributes == {}


def test_fields_with_several_values_and_padding_are_passed_over(tmp_path):
    points = toy_points()
    table = table_of(x=points[:, 0], y=points[:, 1], z=points[:, 2], label=np.arange(40, dtype=np.uint16))
    wide = np.dtype([("x", "<f4"), ("pad", "u1", 3), ("y", "<f4"), ("fpfh", "<f4", 5), ("z", "<f4"), ("label", "<u2")])
    rows = np.zeros(40, wide)
    for field in ("x", "y", "z", "label"):
        rows[field] = table[field]
    header = {"FIELDS": "x _ y fpfh z label", "SIZE": "4 1 4 4 4 2", "TYPE": "F U F F F U", "COUNT": "1 3 1 5 1 1"}
    path = write_pcd(tmp_path / "a.pcd", table, **header)
    path.write_bytes(path.read_bytes()[: -table.nbytes] + rows.tobytes())
    cloud = read(path)
    np.testing.assert_array_equal(cloud.points, points)
    np.testing.assert_array_equal(cloud.attributes["label"], np.arange(40))
    assert cloud.warnings == ("its fields with several values a point (fpfh) are left out",)


def test_a_grid_of_points_leaves_out_what_is_no_reading(tmp_path):
    points = toy_points()
    points[::4] = np.nan
    cloud = read(write_pcd(tmp_path / "a.pcd", xyz_table(points), WIDTH="8", HEIGHT="5"))
    assert len(cloud.points) == 30
    assert cloud.warnings == ("10 of 40 points are NaN or infinite and left out",)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"FIELDS": "x y"}, "FIELDS, SIZE, TYPE and COUNT do not match"),
        ({"TYPE": "F F G"}, r"fields of an unknown type or count \(G4\)"),
        ({"SIZE": "4 4 2"}, r"unknown type or count \(F2\)"),
        ({"COUNT": "1 1 0"}, r"unknown type or count \(\[1, 1, 0\]\)"),
        ({"FIELDS": "x y y"}, r"names a field twice \(x y y\)"),
        ({"FIELDS": "x y w"}, r"has no column z \(it has x, y, w\)"),
        ({"POINTS": "-4"}, "POINTS '-4', not whole numbers"),
        ({"WIDTH": "many"}, "WIDTH 'many', not whole numbers"),
        ({"DATA": "zip"}, "data of the kind 'zip'. Save it as one of: ascii, binary, binary_compressed"),
        ({"POINTS": "0"}, "holds no points"),
        ({"POINTS": "41"}, "declares 41 points, which take 491 bytes, and 480 are there"),
        ({"POINTS": "999999999999"}, "is cut short: its header declares 999999999999"),
        ({"NOISE": "1"}, "with the line 'NOISE 1', which is not PCD"),
        ({"DATA": "binary_compressed"}, "is cut short|and .* bytes that unpack to"),
    ],
)
def test_what_is_wrong_with_a_pcd_header_is_one_clear_error(tmp_path, header, reason):
    lines = {"NOISE": "1", "POINTS": "40", "DATA": "binary"} if "NOISE" in header else header
    path = write_pcd(tmp_path / "a.pcd", xyz_table(toy_points()), **lines)
    if "NOISE" in header:
        data = path.read_bytes().replace(b"NOISE 1\n", b"").replace(b"DATA", b"NOISE 1\nDATA")
        path.write_bytes(data)
    with pytest.raises(ReadError, match=rf"a\.pcd: .*({reason})"):
        read(path)


def test_a_header_that_does_not_end_is_refused(tmp_path):
    (tmp_path / "a.pcd").write_text("# .PCD v0.7\nVERSION 0.7\n")
    with pytest.raises(ReadError, match="has a PCD header that does not end"):
        read(tmp_path / "a.pcd")


@pytest.fixture
def packed(tmp_path):
    """A compressed file and where its sizes stand."""
    path = tmp_path / "a.pcd"
    PointCloud.from_xyz_points(np.round(toy_points(1000), 1)).save(path, encoding=Encoding.BINARY_COMPRESSED)
    return path, path.read_bytes().index(b"compressed\n") + 11


def test_compressed_points_that_are_cut_off_are_refused(packed):
    path, place = packed
    path.write_bytes(path.read_bytes()[: place + 6])
    with pytest.raises(ReadError, match="is cut short behind its header"):
        read(path)


def test_compressed_points_that_end_early_are_refused(packed):
    path, _ = packed
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReadError, match=r"declares 1000 points, which take .* bytes, and .* are there"):
        read(path)


def test_compressed_points_of_a_false_size_are_refused(packed):
    path, place = packed
    content = bytearray(path.read_bytes())
    content[place + 4 : place + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"declares 1000 points of 12000 bytes, and .* bytes that unpack to 4294967295"):
        read(path)


def test_damaged_compressed_points_are_refused(packed):
    path, place = packed
    content = bytearray(path.read_bytes())
    content[place + 8 : place + 40] = b"\xff" * 32
    path.write_bytes(content)
    with pytest.raises(ReadError, match="has damaged compressed points"):
        read(path)


def test_compressed_points_that_unpack_to_more_than_the_limit_are_refused(packed):
    with pytest.raises(ReadError, match="unpacks to 12000 bytes, and the limit is 5000"):
        read(packed[0], limits=Limits(max_gzip_bytes=5000))
