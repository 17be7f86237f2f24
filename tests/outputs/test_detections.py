"""Found boxes as data, as PLY files, as pictures and as a page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from crossdim import readers
from crossdim.geometry.boxes import as_array, contains, corners
from crossdim.geometry.camera import LEVEL
from crossdim.outputs.blocks import Picture
from crossdim.outputs.detections import (
    FoundBoxes,
    ShownScene,
    box_rows,
    coloured_cloud,
    detection_data,
    detections_document,
    found_text,
    label_data,
    overlaps,
    write_detections,
)
from crossdim.outputs.html import to_html
from crossdim.outputs.pictures import scene_picture
from crossdim.outputs.pictures.house import INK, PALETTE
from crossdim.outputs.pictures.space import rgb_of
from crossdim.outputs.pointfile import boxes_ply, frames, points_ply
from crossdim.readers.scene_json import parse_boxes
from crossdim.samples import Boxes3D, Camera, Image, Origin, PointCloud, Scene

ORIGIN = Origin("rooms/r0001")
TILT = np.array([[1, 0, 0, 0.1], [0, 0.6, -0.8, 0.2], [0, 0.8, 0.6, 0.3], [0, 0, 0, 1.0]])
CAMERA = Camera(np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]]), (48, 64), TILT @ LEVEL)
NO_BOXES = Boxes3D(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), ())
FOUND = Boxes3D(
    np.array([[0.0, 2.0, 0.0], [0.8, 3.0, 0.2], [0.1, 2.0, 0.0]]),
    np.array([[0.6, 0.4, 0.8], [0.5, 0.5, 0.5], [0.6, 0.4, 0.8]]),
    np.array([0.3, -0.5, 0.0]),
    ("chair", "table", "chair"),
    np.array([0.91, 0.725, 0.5]),
)


def scene(**parts) -> Scene:
    random = np.random.default_rng(0)
    points = random.uniform((-1, 1.5, -1), (1, 4, 1), (4000, 3)).astype(np.float32)
    image = Image(random.integers(0, 255, (3, 48, 64), dtype=np.uint8), "uint8", ORIGIN)
    grey = np.full((4000, 3), 100, np.uint8)
    return replace(Scene(ORIGIN, PointCloud(points, ORIGIN, grey), image, CAMERA, FOUND), **parts)


def found(labelled=None, **parts) -> FoundBoxes:
    return FoundBoxes("rooms/r0001", scene(**parts), labelled, 0.5)


def read_ply(content, tmp_path) -> PointCloud:
    (tmp_path / "file.ply").write_bytes(content)
    return readers.read(tmp_path / "file.ply")


def test_data_have_class_score_centre_size_and_yaw_in_metres_and_radians():
    data = json.loads(json.dumps(detection_data(found())))
    assert data["path"] == "rooms/r0001"
    first = data["boxes"][0]
    assert first["label"] == "chair"
    assert first["score"] == 0.91
    assert (first["center_m"], first["size_m"], first["yaw_rad"]) == ([0.0, 2.0, 0.0], [0.6, 0.4, 0.8], 0.3)


def test_the_cameras_frame_has_the_same_corners_as_the_scene_seen_from_the_camera():
    for box, row in enumerate(detection_data(found())["boxes"]):
        seen, own = row["in_camera"], corners(np.zeros(3), FOUND.sizes_m[box], np.zeros(()))
        there = own @ np.array(seen["rotation"]).T + seen["center_m"]
        here = corners(FOUND.centers_m[box], FOUND.sizes_m[box], FOUND.yaws_rad[box])
        matrix = CAMERA.camera_from_scene
        np.testing.assert_allclose(there, here @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-5)


def test_without_a_camera_there_is_no_cameras_frame():
    assert "in_camera" not in detection_data(found(camera=None))["boxes"][0]
    assert "right, down, away (m)" not in box_rows(found(camera=None))[0]
    assert detection_data(found(boxes=NO_BOXES)) == {"path": "rooms/r0001", "boxes": []}


def test_labels_are_read_back_as_the_boxes_of_a_scene_folder():
    again = parse_boxes(json.loads(json.dumps(label_data(FOUND))), "boxes.json")
    np.testing.assert_allclose(as_array(again), as_array(FOUND), atol=1e-6)
    assert again.labels == FOUND.labels


def test_points_of_a_ply_file_are_read_back_with_colours_and_attributes(tmp_path):
    random = np.random.default_rng(0)
    points, colours = random.normal(size=(7, 3)), random.integers(0, 255, (7, 3), dtype=np.uint8)
    cloud = read_ply(points_ply(points, colours, {"box": np.arange(-1, 6)}), tmp_path)
    np.testing.assert_allclose(cloud.points, points, rtol=1e-6)
    np.testing.assert_array_equal(cloud.colors, colours)
    np.testing.assert_array_equal(cloud.attributes["box"], np.arange(-1, 6))


def test_points_in_a_box_take_its_colour_and_number_and_others_keep_theirs(tmp_path):
    whole = scene()
    cloud = read_ply(coloured_cloud(whole), tmp_path)
    np.testing.assert_array_equal(cloud.points, whole.points.points)
    inside = contains(whole.points.points, as_array(FOUND))
    number = cloud.attributes["box"]
    np.testing.assert_array_equal(number >= 0, inside.any(axis=0))
    assert (number[inside[0]] == 0).all(), "a point in two boxes is the more certain one's"
    assert {0, 1, 2} <= set(number)
    assert (cloud.colors[number < 0] == 100).all()
    for box, colour in ((0, PALETTE[0]), (1, PALETTE[1]), (2, PALETTE[0])):
        expected = 0.35 * 100 + 0.65 * np.array(rgb_of(colour))
        np.testing.assert_allclose(cloud.colors[number == box], np.tile(expected, ((number == box).sum(), 1)), atol=1)


def test_points_that_are_no_numbers_are_left_out_and_a_scene_without_boxes_keeps_its_colours(tmp_path):
    points = scene().points.points.copy()
    points[:10] = np.nan
    for boxes in (None, NO_BOXES):
        cloud = read_ply(coloured_cloud(scene(points=PointCloud(points, ORIGIN), boxes=boxes)), tmp_path)
        assert len(cloud.points) == 3990
        assert (cloud.attributes["box"] == -1).all()


def test_frames_lie_around_the_edges_and_their_faces_look_outwards():
    one = Boxes3D(np.zeros((1, 3)), np.array([[2.0, 1.0, 0.5]]), np.zeros(1), ("box",))
    vertices, triangles = frames(one)
    assert vertices.shape == (96, 3)
    assert triangles.shape == (144, 3)
    np.testing.assert_allclose(np.abs(vertices).max(axis=0), [1.01, 0.51, 0.26])
    on_border = np.abs(np.abs(vertices) - np.array([1.0, 0.5, 0.25])) < 0.0101
    assert (on_border.sum(axis=1) >= 2).all(), "every vertex is at an edge"
    a, b, c = vertices[triangles].swapaxes(0, 1)
    middles = np.repeat(vertices.reshape(12, 8, 3).mean(axis=1), 12, axis=0)
    outwards = np.einsum("tc,tc->t", np.cross(b - a, c - a), a - middles)
    assert (outwards > 0).all()


def test_frames_turn_and_move_with_their_boxes():
    upright = Boxes3D(np.zeros((3, 3)), FOUND.sizes_m, np.zeros(3), FOUND.labels)
    still, moved = (frames(boxes)[0].reshape(3, 96, 3) for boxes in (upright, FOUND))
    for box, yaw in enumerate(FOUND.yaws_rad):
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        np.testing.assert_allclose(moved[box], still[box] @ turn.T + FOUND.centers_m[box])


def test_the_file_of_boxes_has_a_mesh_of_the_boxes_colours(tmp_path):
    tints = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    content = boxes_ply(FOUND, tints)
    head = content[: content.index(b"end_header")].decode().splitlines()
    assert "element vertex 288" in head
    assert "element face 432" in head
    cloud = read_ply(content, tmp_path)
    np.testing.assert_allclose(cloud.points, frames(FOUND)[0], atol=1e-6)
    np.testing.assert_array_equal(cloud.colors, np.repeat(tints, 96, axis=0))
    faces = np.frombuffer(content[-432 * 13 :], np.dtype([("count", "u1"), ("places", "<i4", 3)]))
    assert (faces["count"] == 3).all()
    np.testing.assert_array_equal(faces["places"], frames(FOUND)[1])
    assert b"element vertex 0" in boxes_ply(NO_BOXES, np.zeros((0, 3), np.uint8))


def test_labelled_boxes_are_drawn_dashed_below_those_that_were_found():
    labelled = Boxes3D(np.array([[0.0, 2.5, 0.0]]), np.full((1, 3), 0.7), np.zeros(1), ("chair",))
    figure = scene_picture(scene(), labelled)
    for axes in figure.axes:
        lines = [each for each in axes.collections if isinstance(each, LineCollection)]
        assert len(lines) == 4
        dashed = [each.get_linestyle()[0][1] is not None for each in lines]
        assert dashed == [True, False, False, False]
    assert [text.get_text() for text in figure.axes[1].texts].count("chair 91%") == 1
    assert INK not in PALETTE


def test_overlaps_are_those_with_labels_of_the_same_class():
    same = Boxes3D(FOUND.centers_m[:1], FOUND.sizes_m[:1], FOUND.yaws_rad[:1], ("chair",))
    np.testing.assert_allclose(overlaps(FOUND, same)[:2], [1, 0], atol=1e-9)
    assert 0 < overlaps(FOUND, same)[2] < 1
    other = replace(same, labels=("bed",))
    np.testing.assert_array_equal(overlaps(FOUND, other), 0)
    np.testing.assert_array_equal(overlaps(FOUND, NO_BOXES), 0)
    assert overlaps(NO_BOXES, same).shape == (0,)


def test_a_table_has_a_row_for_each_box_and_says_only_what_is_known():
    columns, rows = box_rows(found(labelled=NO_BOXES))
    assert columns == ("class", "score", "centre (m)", "size (m)", "yaw (°)", "right, down, away (m)", "IoU")
    assert rows[0][:5] == ("chair", "0.91", "0.00, 2.00, 0.00", "0.60 × 0.40 × 0.80", "17")
    assert rows[1][4] == "−29"
    assert rows[0][6] == "0.00"
    assert box_rows(found(), in_camera=False)[0] == columns[:5]


@pytest.mark.parametrize(
    ("boxes", "text"),
    [
        (FOUND, "3 boxes with a score of 0.5 at least: 2 × chair, table"),
        (NO_BOXES, "no box with a score of 0.5 at least"),
    ],
)
def test_what_was_found_is_said_in_words(boxes, text):
    assert found_text(found(boxes=boxes)) == text


def test_everything_is_written_for_a_scene_with_boxes_and_for_one_without(tmp_path):
    for name, boxes in (("some", FOUND), ("none", NO_BOXES)):
        picture = write_detections(found(boxes=boxes), tmp_path / name)
        assert isinstance(picture, Picture)
        names = sorted(path.name for path in (tmp_path / name).iterdir())
        assert names == ["boxes.json", "boxes.ply", "detections.json", "points.ply", "scene.png"]
        assert len(json.loads((tmp_path / name / "detections.json").read_text())["boxes"]) == len(boxes)
        assert len(json.loads((tmp_path / name / "boxes.json").read_text())) == len(boxes)


def test_a_page_shows_scenes_with_pictures_tables_warnings_and_what_it_takes_to_repeat_it(tmp_path):
    labelled = Boxes3D(np.zeros((1, 3)), np.ones((1, 3)), np.zeros(1), ("chair",))
    one = found(labelled, warnings=("the depth is coarse",))
    shown = ShownScene.of(one, write_detections(one, tmp_path))
    assert shown.found.scene.points is None
    page = to_html(detections_document([shown], {"model": "runs/boxes"}))
    for text in ("Boxes in rooms/r0001", "2 × chair, table", "Dashed: what is labelled (1)", "the depth is coarse"):
        assert text in page
    assert page.count("<img") == 1
    assert "runs/boxes" in page


def test_a_page_of_several_scenes_counts_their_boxes_and_may_leave_pictures_out():
    scenes = [ShownScene.of(found(), None), ShownScene.of(found(boxes=NO_BOXES), None)]
    document = detections_document(scenes, {})
    assert document.title == "Boxes in 2 scenes"
    assert document.summary == "3 boxes with a score of 0.5 at least."
    assert len(document.data["scenes"]) == 2
    page = to_html(document)
    assert "<img" not in page
    assert "No box." in page
