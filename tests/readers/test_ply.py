import numpy as np
import pytest
import trimesh

from crossdim.errors import ReadError
from crossdim.readers import Limits, read
from tests.readers.point_toys import table_of, toy_colors, toy_points, write_ply, xyz_table

ORDERS = ("ascii", "binary_little_endian", "binary_big_endian")


@pytest.mark.parametrize("order", ORDERS)
def test_points_come_back_from_text_and_both_byte_orders(tmp_path, order):
    points, colors = toy_points(), toy_colors()
    table = xyz_table(points, red=colors[:, 0], green=colors[:, 1], blue=colors[:, 2])
    cloud = read(write_ply(tmp_path / "a.ply", table, order))
    assert cloud.points.dtype == np.float32
    np.testing.assert_array_equal(cloud.points, points)
    np.testing.assert_array_equal(cloud.colors, colors)
    assert cloud.warnings == ()
    assert cloud.origin.path == str(tmp_path / "a.ply")


@pytest.mark.parametrize("encoding", ["binary", "ascii"])
def test_what_trimesh_writes_is_read(tmp_path, encoding):
    points, colors = toy_points(), toy_colors()
    alpha = np.full((len(colors), 1), 255, np.uint8)
    whole = trimesh.PointCloud(points, colors=np.hstack([colors, alpha]))
    (tmp_path / "a.ply").write_bytes(trimesh.exchange.ply.export_ply(whole, encoding=encoding))
    cloud = read(tmp_path / "a.ply")
    np.testing.assert_allclose(cloud.points, points, atol=1e-6)
    np.testing.assert_array_equal(cloud.colors, colors)
    assert set(cloud.attributes) == {"alpha"}


def test_a_mesh_of_trimesh_gives_its_vertices(tmp_path):
    mesh = trimesh.creation.box()
    (tmp_path / "a.ply").write_bytes(trimesh.exchange.ply.export_ply(mesh))
    np.testing.assert_allclose(read(tmp_path / "a.ply").points, mesh.vertices)


@pytest.mark.parametrize("order", ORDERS)
def test_normals_and_other_properties_are_attributes(tmp_path, order):
    points = toy_points()
    table = xyz_table(points, nx=points[:, 2], label=np.arange(40, dtype=np.int32))
    cloud = read(write_ply(tmp_path / "a.ply", table, order))
    np.testing.assert_array_equal(cloud.attributes["nx"], points[:, 2])
    np.testing.assert_array_equal(cloud.attributes["label"], np.arange(40))
    assert all(values.dtype.isnative for values in cloud.attributes.values())


def test_properties_in_any_order_find_their_axes(tmp_path):
    points = toy_points()
    table = table_of(z=points[:, 2], intensity=points[:, 0], x=points[:, 0], y=points[:, 1])
    np.testing.assert_array_equal(read(write_ply(tmp_path / "a.ply", table)).points, points)


def test_double_coordinates_become_float32(tmp_path):
    points = toy_points().astype(np.float64)
    cloud = read(write_ply(tmp_path / "a.ply", xyz_table(points)))
    assert cloud.points.dtype == np.float32
    np.testing.assert_array_equal(cloud.points, points.astype(np.float32))


def test_double_coordinates_far_from_the_origin_say_what_is_lost(tmp_path):
    points = toy_points().astype(np.float64) + np.array([400000, 0, 0])
    cloud = read(write_ply(tmp_path / "a.ply", xyz_table(points)))
    assert cloud.warnings == ("coordinates of up to 400001 are kept to 0.031 only: move the scene to its origin",)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([0, 0.5, 1]), [0, 128, 255]),
        (np.float32([0, 128, 255]), [0, 128, 255]),
        (np.uint16([0, 256, 65535]), [0, 1, 255]),
        (np.uint8([0, 1, 255]), [0, 1, 255]),
    ],
)
def test_colours_of_every_type_become_bytes(tmp_path, values, expected):
    table = xyz_table(toy_points(3), red=values, green=values, blue=values)
    cloud = read(write_ply(tmp_path / "a.ply", table))
    np.testing.assert_array_equal(cloud.colors, np.array([expected] * 3).T)


def test_colours_that_are_none_stay_attributes(tmp_path):
    values = np.float32([-1, 0, 1])
    cloud = read(write_ply(tmp_path / "a.ply", xyz_table(toy_points(3), red=values, green=values, blue=values)))
    assert cloud.colors is None
    assert set(cloud.attributes) == {"red", "green", "blue"}
    assert "its colours reach from -1 to 1, neither to 1 nor to 255" in cloud.warnings[0]


def test_colours_that_are_not_finite_are_black(tmp_path):
    values = np.float32([np.nan, 0, 1])
    cloud = read(write_ply(tmp_path / "a.ply", xyz_table(toy_points(3), red=values, green=values, blue=values)))
    np.testing.assert_array_equal(cloud.colors[:, 0], [0, 0, 255])
    assert cloud.warnings == ("1 colours are NaN or infinite and taken for black",)


FACES = "element face 2\nproperty list uchar int vertex_indices\n"
FACE_DATA = b"".join(bytes([3]) + np.array([0, 1, 2], order).tobytes() for order in ["<i4"] * 2)
FACE_DATA_BIG = b"".join(bytes([3]) + np.array([0, 1, 2], order).tobytes() for order in [">i4"] * 2)
CAMERAS = "element camera 1\nproperty float a\nproperty double b\n"


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("order", ORDERS)
def test_faces_before_or_after_the_vertices_are_passed_over(tmp_path, order, place):
    data = {"ascii": b"3 0 1 2\n3 1 2 3\n", "binary_little_endian": FACE_DATA, "binary_big_endian": FACE_DATA_BIG}
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()), order, **{place: (FACES, data[order])})
    np.testing.assert_array_equal(read(path).points, toy_points())


def test_an_element_without_lists_before_the_vertices_is_passed_over(tmp_path):
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()), before=(CAMERAS, bytes(12)))
    np.testing.assert_array_equal(read(path).points, toy_points())


def test_lines_may_end_as_on_windows(tmp_path):
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()), "ascii")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(read(path).points, toy_points())


def test_points_that_are_not_finite_are_left_out_and_counted(tmp_path):
    points = toy_points()
    points[3, 1], points[7, 0] = np.nan, np.inf
    cloud = read(write_ply(tmp_path / "a.ply", xyz_table(points, label=np.arange(40, dtype=np.int32))))
    assert cloud.warnings == ("2 of 40 points are NaN or infinite and left out",)
    assert len(cloud.points) == 38
    assert 3 not in cloud.attributes["label"]


def test_many_further_properties_are_left_out_and_said(tmp_path):
    more = {f"f_rest_{number}": np.zeros(40, np.float32) for number in range(45)}
    cloud = read(write_ply(tmp_path / "a.ply", xyz_table(toy_points(), **more)))
    assert len(cloud.attributes) == 16
    assert cloud.warnings == ("29 of its columns are left out, from 'f_rest_16' on",)


def test_a_name_that_comes_twice_after_translation_is_kept(tmp_path):
    red = np.zeros(40, np.uint8)
    table = xyz_table(toy_points(), red=red, green=red, blue=red, r=red)
    cloud = read(write_ply(tmp_path / "a.ply", table))
    assert cloud.colors is not None
    assert set(cloud.attributes) == {"r"}


HEADER = "ply\nformat ascii 1.0\n"
XYZ = "property float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("ply\nformat ascii 1.0\n", "has a PLY header that does not end"),
        ("ply\nend_header\n", "has a PLY header without its format"),
        ("ply\nformat ternary 1.0\nend_header\n", "with the line 'format ternary 1.0', which is not PLY"),
        (f"{HEADER}element vertex -1\nend_header\n", "with the line 'element vertex -1'"),
        (f"{HEADER}element vertex 1\nproperty half x\nend_header\n", "with the line 'property half x'"),
        (f"{HEADER}property float x\nend_header\n", "with the line 'property float x'"),
        (f"{HEADER}element face 0\nend_header\n", "declares no vertices"),
        (f"{HEADER}element vertex 1\nend_header\n1\n", "declares vertices without properties"),
        (f"{HEADER}element vertex 0\n{XYZ}end_header\n", "holds no points. Export it again, or leave it out"),
        (
            f"{HEADER}element vertex 1\nproperty float x\nproperty float x\nend_header\n1 1\n",
            "property 'x' of 'vertex'",
        ),
        (
            f"{HEADER}element vertex 1\nproperty float x\nproperty float y\nend_header\n1 1\n",
            r"has no column z \(it has",
        ),
        (
            f"{HEADER}element vertex 1\n{XYZ}property list uchar int at\nend_header\n1 1 1 0\n",
            r"lists for each vertex \(at",
        ),
        (f"{HEADER}element vertex 2\n{XYZ}end_header\n1 2 3\nnan nan three\n", "not 3 numbers .*Export it again"),
        (f"{HEADER}element vertex 2\n{XYZ}end_header\n1 2 3\n1.0 2.0\n", "a line that is not 3 numbers"),
        (f"{HEADER}element vertex 1\n{XYZ}end_header\n1 2 3 4\n", "lines of 4 numbers, and its header declares 3"),
        (f"{HEADER}element vertex 2\n{XYZ}end_header\n1.00000 2.00000 3.00000\n", "declares 2 points, and 1 are there"),
        (f"{HEADER}element vertex 2\n{XYZ}end_header\nnan nan nan\ninf 0 0\n", "no finite point: all 2 are NaN"),
        (f"{HEADER}element vertex 999999999\n{XYZ}end_header\n1 2 3\n", "is cut short: its header declares 999999999"),
        (f"{HEADER}element face 99999\n{FACES[15:]}element vertex 1\n{XYZ}end_header\n1 2 3\n", "99999 of 'face'"),
        (f"{HEADER}element vertex 1\n{XYZ}end_header\n{'1' * 70000} 2 3\n", "a line of more than 65536 bytes"),
    ],
)
def test_what_is_wrong_with_a_ply_file_is_one_clear_error(tmp_path, content, reason):
    (tmp_path / "a.ply").write_text(content)
    with pytest.raises(ReadError, match=rf"a\.ply: .*{reason}"):
        read(tmp_path / "a.ply")


def test_a_binary_file_that_is_cut_off_is_refused(tmp_path):
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ReadError, match=r"declares 40 points, which take 480 bytes, and 479 are there\. Copy or export it"
    ):
        read(path)


def test_lists_before_the_vertices_that_end_early_are_refused(tmp_path):
    faces = "element face 9\nproperty list int int vertex_indices\n"
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()), before=(faces, b"\xff\xff\xff\x7f" + bytes(8)))
    with pytest.raises(ReadError, match="is cut short in 'face'"):
        read(path)


def test_lists_of_a_negative_length_are_refused(tmp_path):
    faces = "element face 1\nproperty list char int vertex_indices\n"
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()), before=(faces, b"\xff"))
    with pytest.raises(ReadError, match="holds a list of -1 items in 'face'"):
        read(path)


def test_lengths_of_lists_that_are_fractions_are_refused(tmp_path):
    faces = "element face 1\nproperty list float int vertex_indices\n"
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()), before=(faces, bytes(4)))
    with pytest.raises(ReadError, match="with the line 'property list float int vertex_indices'"):
        read(path)


def test_text_above_the_limit_is_refused(tmp_path):
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()), "ascii")
    with pytest.raises(ReadError, match=r"is text with 40 points, and the limit is 10. Save it as binary"):
        read(path, limits=Limits(max_points=10))


def test_binary_above_the_limit_is_thinned_evenly(tmp_path):
    points = toy_points()
    cloud = read(write_ply(tmp_path / "a.ply", xyz_table(points)), limits=Limits(max_points=14))
    np.testing.assert_array_equal(cloud.points, points[::3])
    assert cloud.warnings == ("one in 3 of its 40 points is read (14), as Limits(max_points=...) says",)


def test_a_selector_is_refused(tmp_path):
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()))
    with pytest.raises(ReadError, match="#1: the file holds one"):
        read(f"{path}#1")
