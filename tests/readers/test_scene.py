import json

import numpy as np
import pytest
from PIL import Image as PillowImage

from crossdim.errors import GeometryError, ReadError
from crossdim.geometry.camera import LEVEL, project, projection_matrix
from crossdim.readers import Limits, find_readable, inspect, read, read_channels
from crossdim.readers.scene import SceneSources, parse_boxes, parse_camera, read_scene
from crossdim.samples import Origin
from tests.readers.point_toys import (
    BOXES,
    CAMERA,
    flat_depth,
    toy_points,
    write_ply,
    write_scene,
    xyz_table,
)


def with_place(rotation, shift=(0, 0, 0)):
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = rotation, shift
    return {**CAMERA, "camera_from_scene": place.tolist()}


def test_a_folder_with_points_is_a_scene(tmp_path):
    scene = read(write_scene(tmp_path / "room", boxes=BOXES))
    assert scene.kind == "scene"
    assert scene.origin.path == str(tmp_path / "room")
    np.testing.assert_array_equal(scene.points.points, toy_points())
    assert scene.image.pixels.shape == (3, 30, 40)
    assert scene.camera.size == (30, 40)
    np.testing.assert_array_equal(scene.camera.camera_from_scene, LEVEL)
    assert scene.boxes.labels == ("chair",)
    np.testing.assert_array_equal(scene.boxes.sizes_m, [[2, 3, 1]])
    assert scene.warnings == ()


def test_a_depth_picture_becomes_points_of_the_images_colours(tmp_path):
    scene = read(write_scene(tmp_path / "room", depth=flat_depth(2000)))
    assert len(scene.points.points) == 30 * 40 - 25
    np.testing.assert_allclose(scene.points.points[:, 1], 2.0)
    matrix = projection_matrix(scene.camera)
    columns, rows, depths = project(scene.points.points.astype(np.float64), matrix)
    np.testing.assert_allclose(depths, 2.0, rtol=1e-6)
    pixels = scene.image.pixels[:, np.rint(rows).astype(int), np.rint(columns).astype(int)]
    np.testing.assert_array_equal(scene.points.colors, pixels.T)


def test_the_depth_unit_stands_in_the_camera_file(tmp_path):
    camera = {**CAMERA, "depth_unit_m": 0.0005}
    scene = read(write_scene(tmp_path / "room", camera=camera, depth=flat_depth(2000)))
    np.testing.assert_allclose(scene.points.points[:, 1], 1.0)


def test_depth_above_the_limit_is_thinned_evenly(tmp_path):
    scene = read(write_scene(tmp_path / "room", depth=flat_depth()), limits=Limits(max_points=100))
    assert len(scene.points.points) == 98
    assert scene.warnings == (
        "depth.png: one in 12 of its 1175 readings is a point (98), as Limits(max_points=...) says",
    )


def test_no_boxes_file_means_that_nothing_is_known_and_an_empty_list_that_there_are_none(tmp_path):
    assert read(write_scene(tmp_path / "unknown")).boxes is None
    assert len(read(write_scene(tmp_path / "none", boxes=[])).boxes) == 0


def test_the_place_of_the_camera_is_used(tmp_path):
    turned = with_place(LEVEL[:3, :3] @ np.diag([-1.0, -1.0, 1.0]), (0, 0, 0))
    with pytest.raises(GeometryError, match="none of its 40 points is in view of its camera: all are behind it"):
        read(write_scene(tmp_path / "behind", camera=turned))
    assert read(write_scene(tmp_path / "before", camera=turned, points=toy_points() * [-1, -1, 1])).points is not None


def test_points_beside_the_picture_say_where_they_are(tmp_path):
    moved = with_place(LEVEL[:3, :3], (100, 0, 0))
    reason = r"none of its 40 points is in view of its camera: 40 in front of it project to columns \d+ to \d+ and rows"
    with pytest.raises(GeometryError, match=rf"{reason}.* of 40 x 30 pixels\. Check camera_from_scene"):
        read(write_scene(tmp_path / "room", camera=moved))


def test_an_image_of_another_size_than_its_camera_is_refused(tmp_path):
    write_scene(tmp_path / "room", size=(60, 80))
    with pytest.raises(
        GeometryError, match=r"image\.png: has 60 x 80 pixels \(height x width\), and its camera is of 30"
    ):
        read(tmp_path / "room")


def test_a_depth_picture_of_another_size_than_its_camera_is_refused(tmp_path):
    write_scene(tmp_path / "room", depth=flat_depth(size=(15, 20)))
    for look in (read, inspect):
        with pytest.raises(GeometryError, match=r"depth\.png: has 15 x 20 pixels"):
            look(tmp_path / "room")


def test_a_scene_that_is_mirrored_is_refused(tmp_path):
    write_scene(tmp_path / "room", camera=with_place(LEVEL[:3, :3] @ np.diag([-1.0, 1.0, 1.0])))
    with pytest.raises(GeometryError, match=r"camera\.json: camera_from_scene is left-handed: it mirrors the scene"):
        read(tmp_path / "room")


def test_inspect_shows_a_scene_whose_parts_contradict_one_another(tmp_path):
    write_scene(tmp_path / "mirrored", camera=with_place(LEVEL[:3, :3] @ np.diag([-1.0, 1.0, 1.0])), boxes=BOXES)
    found = inspect(tmp_path / "mirrored")
    assert found.contradicts
    assert found.problems == ("camera_from_scene is left-handed: it mirrors the scene",)
    assert found.scene.points == 40
    assert found.scene.camera is None
    assert inspect(tmp_path / "mirrored", intensity=False).contradicts
    write_scene(tmp_path / "blind", camera=with_place(LEVEL[:3, :3], (100, 0, 0)), size=(60, 80))
    found = inspect(tmp_path / "blind")
    assert found.contradicts
    assert "has 60 x 80 pixels" in found.problems[0]
    assert "none of its 40 points is in view" in found.problems[1]
    assert found.scene.in_view == 0


def test_a_mirrored_camera_with_depth_is_refused_by_inspect_too(tmp_path):
    mirrored = with_place(LEVEL[:3, :3] @ np.diag([-1.0, 1.0, 1.0]))
    write_scene(tmp_path / "room", camera=mirrored, depth=flat_depth())
    with pytest.raises(GeometryError, match="left-handed"):
        inspect(tmp_path / "room")


def test_inspect_tells_what_a_scene_holds(tmp_path):
    found = inspect(write_scene(tmp_path / "room", boxes=[*BOXES, {**BOXES[0], "center_m": [50, 0, 0]}]))
    assert found.kind == "scene"
    assert found.format == "image + points + boxes"
    assert found.shape == (3, 30, 40)
    assert not found.contradicts
    assert found.scene.image == found.scene.camera == (30, 40)
    assert found.scene.boxes == {"chair": 2}
    assert found.scene.in_view == 1
    np.testing.assert_allclose(found.scene.view_deg, np.degrees(2 * np.arctan([20 / 30, 15 / 30])), rtol=1e-6)
    assert found.problems == ("1 of its 2 boxes hold no point",)


def test_inspect_of_headers_reads_no_points(tmp_path):
    write_scene(tmp_path / "room", boxes=[])
    (tmp_path / "room" / "points.ply").write_bytes(b"ply\n")
    found = inspect(tmp_path / "room", intensity=False)
    assert found.scene.points is None
    assert found.scene.boxes == {}


def test_a_picture_alone_is_a_scene_and_points_alone_too(tmp_path):
    write_scene(tmp_path / "a")
    (tmp_path / "a" / "points.ply").unlink()
    assert read(tmp_path / "a").points is None
    write_scene(tmp_path / "b")
    (tmp_path / "b" / "image.png").unlink()
    assert read(tmp_path / "b").image is None
    assert inspect(tmp_path / "b").shape == (40, 3)


def test_a_camera_alone_is_no_scene(tmp_path):
    (tmp_path / "camera.json").write_text(json.dumps(CAMERA))
    with pytest.raises(
        ReadError, match=r"holds camera.json, and neither image\.\*, depth\.\* nor points\.\* beside it"
    ):
        read(tmp_path)


def test_points_and_depth_together_are_refused(tmp_path):
    write_scene(tmp_path / "room")
    PillowImage.fromarray(flat_depth()).save(tmp_path / "room" / "depth.png")
    with pytest.raises(ReadError, match=r"has points and a depth picture. Give one of them"):
        read(tmp_path / "room")


def test_a_part_that_is_there_twice_is_refused(tmp_path):
    write_scene(tmp_path / "room")
    PillowImage.new("RGB", (40, 30)).save(tmp_path / "room" / "image.jpg")
    with pytest.raises(ReadError, match=r"has several files for its image \(image.jpg, image.png\)"):
        read(tmp_path / "room")


def test_a_volume_is_no_picture_of_a_scene(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((5, 6, 7)))
    with pytest.raises(ReadError, match="is a volume, and a scene's image is a picture"):
        read_scene(SceneSources(Origin("room"), image=str(tmp_path / "a.npy")))


def test_sources_without_anything_to_read_are_refused():
    with pytest.raises(ReadError, match="room#7: has neither points nor depth nor an image"):
        read_scene(SceneSources(Origin("room", "7")))


def test_depth_without_a_camera_is_refused(tmp_path):
    PillowImage.fromarray(flat_depth()).save(tmp_path / "a.png")
    with pytest.raises(GeometryError, match="room: has a depth picture without a camera, which cannot become points"):
        read_scene(SceneSources(Origin("room"), depth=str(tmp_path / "a.png")))


def test_a_scene_without_a_camera_is_read_and_doubted(tmp_path):
    path = write_ply(tmp_path / "a.ply", xyz_table(toy_points()))
    assert read_scene(SceneSources(Origin("room"), points=str(path))).camera is None


def test_warnings_of_the_parts_are_those_of_the_scene(tmp_path):
    points = toy_points()
    points[0] = np.nan
    scene = read(write_scene(tmp_path / "room", points=points))
    assert scene.warnings == ("points.ply: 1 of 40 points are NaN or infinite and left out",)
    assert inspect(tmp_path / "room").problems == scene.warnings


def test_a_scene_is_no_channel_and_takes_no_selector(tmp_path):
    write_scene(tmp_path / "room")
    with pytest.raises(ReadError, match="holds a scene, not pixels or voxels"):
        read_channels([tmp_path / "room"])
    with pytest.raises(ReadError, match=r"room#1: names no frame of the folder. Leave out what follows the '#'"):
        read(f"{tmp_path / 'room'}#1")


@pytest.fixture
def frames(tmp_path):
    """Return a folder of three frames, the last without a picture; what belongs to no frame lies beside them."""
    folder = tmp_path / "frames"
    for name in ("color", "depth", "boxes"):
        (folder / name).mkdir(parents=True)
    (folder / "camera.json").write_text(json.dumps(CAMERA))
    for name in ("0001", "0002", "0003"):
        PillowImage.fromarray(flat_depth(1000 * int(name))).save(folder / "depth" / f"{name}.png")
    for name in ("0001", "0002", "0009"):
        PillowImage.new("RGB", (40, 30), (int(name), 0, 0)).save(folder / "color" / f"{name}.jpg")
    (folder / "boxes" / "0002.json").write_text(json.dumps(BOXES))
    return folder


def test_frames_are_chosen_by_name(frames):
    scene = read(f"{frames}#0002")
    assert scene.origin == Origin(str(frames), "0002")
    np.testing.assert_allclose(scene.points.points[:, 1], 2.0)
    assert scene.boxes.labels == ("chair",)
    assert read(f"{frames}#0003").image is None
    assert read(f"{frames}#0001").boxes is None


def test_frames_are_listed(frames):
    assert find_readable(frames.parent) == [f"{frames}#{name}" for name in ("0001", "0002", "0003")]
    found = inspect(frames)
    assert found.choices == ("0001", "0002", "0003")
    assert found.needs_choice
    assert found.problems == ("holds 3 frames",)
    with pytest.raises(ReadError, match=r"holds 3 frames. Choose one, such as '.*#0001'"):
        read(frames)


def test_a_frame_that_is_not_there_is_refused(frames):
    with pytest.raises(ReadError, match=r"#0009: names no frame of the folder\. Did you mean '000[123]'"):
        read(f"{frames}#0009")


def test_scenes_are_found_as_one_each(tmp_path):
    write_scene(tmp_path / "b" / "room")
    write_scene(tmp_path / "a")
    PillowImage.new("L", (4, 4)).save(tmp_path / "c.png")
    assert find_readable(tmp_path) == [str(tmp_path / "a"), str(tmp_path / "b" / "room"), str(tmp_path / "c.png")]


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"intrinsics": [[1, 2], [3, 4]]}, ReadError, "its intrinsics is not 3 x 3 numbers, all finite"),
        ({"intrinsics": [[30, 0, 0], [0, 30, 0], [0, 0, "1"]]}, ReadError, "its intrinsics is not 3 x 3 numbers"),
        ({"intrinsics": [[30, 0, 0], [0, float("nan"), 0], [0, 0, 1]]}, ReadError, "not 3 x 3 numbers, all finite"),
        ({"intrinsics": [[30, 0, 0], [0, 10**400, 0], [0, 0, 1]]}, ReadError, "not 3 x 3 numbers, all finite"),
        ({"intrinsics": [[0, 0, 0], [0, 30, 0], [0, 0, 1]]}, GeometryError, "singular or mirrored"),
        ({"size": [30.5, 40]}, GeometryError, r"its size \[30.5, 40\] is not two whole numbers of pixels"),
        ({"size": [0, 40]}, GeometryError, "is not two whole numbers of pixels"),
        ({"size": [True, 40]}, ReadError, "its size is not 2 numbers"),
        ({"size": None}, ReadError, "its size is not 2 numbers"),
        ({"depth_unit_m": 0}, ReadError, "its depth_unit_m is 0 and has to be above 0"),
        ({"depth_unit_m": "mm"}, ReadError, "its depth_unit_m is not a number"),
        ({"camera_from_scene": np.diag([2.0, 2, 2, 1]).tolist()}, GeometryError, "is not rigid"),
        ({"camera_from_scene": [[1]]}, ReadError, "its camera_from_scene is not 4 x 4 numbers"),
        ({"Size": [1, 1]}, ReadError, "has the unknown key 'Size'. Did you mean 'size'"),
    ],
)
def test_what_is_wrong_with_a_camera_is_one_clear_error(change, error, reason):
    with pytest.raises(error, match=rf"camera\.json: .*{reason}"):
        parse_camera({**CAMERA, **change}, "camera.json")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "holds a list where an object should be"),
        (None, "holds nothing where an object"),
        ("a", "holds text where an object"),
        (1, "holds a number where an object"),
        ({"size": [1, 1]}, "has no 'intrinsics'"),
    ],
)
def test_a_camera_that_is_no_object_is_refused(value, reason):
    with pytest.raises(ReadError, match=rf"camera\.json: {reason}"):
        parse_camera(value, "camera.json")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "boxes.json: holds an object where a list of boxes should be"),
        ([[]], "boxes.json, box 0: holds a list where an object should be"),
        ([*BOXES, {}], "boxes.json, box 1: has no label"),
        ([{**BOXES[0], "label": 3}], "box 0: has no label"),
        ([{**BOXES[0], "size_m": [1, 0, 1]}], r"its size_m \[1.0, 0.0, 1.0\] is not above 0"),
        ([{**BOXES[0], "center_m": [1, 2]}], "its center_m is not 3 numbers"),
        ([{**BOXES[0], "yaw_rad": [0]}], "its yaw_rad is not a number"),
        ([{**BOXES[0], "yaw": 0}], "has the unknown key 'yaw'. Did you mean 'yaw_rad'"),
    ],
)
def test_what_is_wrong_with_boxes_is_one_clear_error(value, reason):
    with pytest.raises(ReadError, match=reason):
        parse_boxes(value, "boxes.json")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100000, b'{"size": [1'])
def test_a_camera_file_that_is_no_json_is_refused(tmp_path, content):
    write_scene(tmp_path / "room")
    (tmp_path / "room" / "camera.json").write_bytes(content)
    with pytest.raises(ReadError, match=r"camera\.json: is not JSON"):
        read(tmp_path / "room")


def test_a_camera_file_of_many_bytes_is_refused(tmp_path):
    write_scene(tmp_path / "room")
    with open(tmp_path / "room" / "camera.json", "r+b") as stream:
        stream.truncate(2**27)
    with pytest.raises(ReadError, match="has 134217728 bytes, too many for a camera or boxes"):
        read(tmp_path / "room")


def test_a_camera_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    from crossdim.readers import scene_json

    write_scene(tmp_path / "room")

    def refuse(*_, **__):
        raise PermissionError("no")

    monkeypatch.setattr(scene_json, "open", refuse, raising=False)
    with pytest.raises(ReadError, match=r"camera\.json: cannot be opened \(no\)"):
        read(tmp_path / "room")


def test_real_frames_are_a_scene(crossdim_data, tmp_path):
    index = json.loads((crossdim_data / "osd_rgbd" / "index.json").read_text())
    frame = index[0]
    turn, shift = (np.array(frame["world_from_camera"][key]) for key in ("R", "t"))
    place = with_place(turn.T, -turn.T @ shift)["camera_from_scene"]
    k = frame["intrinsics"]
    camera = {
        "intrinsics": [[k["fx"], 0, k["cx"]], [0, k["fy"], k["cy"]], [0, 0, 1]],
        "size": [480, 640],
        "camera_from_scene": place,
    }
    boxes = [
        {"label": "object", "center_m": one["center"], "size_m": one["size"], "yaw_rad": one["yaw"]}
        for one in frame["objects"]
    ]
    folder = tmp_path / frame["name"]
    folder.mkdir()
    (folder / "camera.json").write_text(json.dumps(camera))
    (folder / "boxes.json").write_text(json.dumps(boxes))
    for ours, theirs in (("image.jpg", "_rgb.jpg"), ("depth.png", "_depth.png")):
        source = crossdim_data / "osd_rgbd" / "learn" / f"{frame['name']}{theirs}"
        (folder / ours).write_bytes(source.read_bytes())
    found = inspect(folder)
    assert found.problems == ()
    assert found.scene.points == frame["n_valid"]
    assert found.scene.in_view > 0.999
    assert -0.05 < found.scene.low_m[2] < 0.01
