import json

import numpy as np
import pytest
from PIL import Image

from crossdim import readers
from crossdim.datasets.osd import from_osd
from crossdim.datasets.scenes import load_scene
from crossdim.errors import ReadError
from crossdim.geometry.boxes import as_array, contains
from crossdim.geometry.camera import project, projection_matrix, unproject
from crossdim.readers.depth import read_depth
from tests.datasets.scene_toys import INTRINSICS, depth, picture, points_of, write_json


def entry(name, split="learn", category="boxes", **fields):
    return {
        "name": name,
        "split": split,
        "category": category,
        "intrinsics": {"fx": 20.0, "fy": 20.0, "cx": 7.5, "cy": 5.5},
        "depth_scale": 0.001,
        "world_from_camera": {"R": [[1, 0, 0], [0, 0, 1], [0, -1, 0.00001]], "t": [0.1, -0.2, 0.3]},
        "objects": [{"id": 1, "center": [0, 0, 0.1], "size": [0.2, 0.3, 0.4], "yaw": -4.0}],
    } | fields


def osd(root, *entries):
    for seed, one in enumerate(entries):
        folder = root / one["split"]
        picture(folder / f"{one['name']}_rgb.jpg", seed)
        depth(folder / f"{one['name']}_depth.png", seed)
        depth(folder / f"{one['name']}_label.png", seed)
    write_json(root / "index.json", entries)
    return root


def test_the_index_gives_parts_categories_cameras_and_boxes(tmp_path):
    osd(tmp_path, entry("learn0"), entry("learn1", category="stacks"), entry("test0", "test"))
    manifest = from_osd(tmp_path, validation=0.0)
    assert [(record.split, record.patient_id) for record in manifest.records] == [
        ("train", "learn0"),
        ("train", "learn1"),
        ("test", "test0"),
    ]
    assert manifest.header.tasks["category"].classes == ("boxes", "stacks")
    assert [record.labels["category"] for record in manifest.records] == [0, 1, 0]
    assert manifest.records[0].extra == {"segmentation": "learn/learn0_label.png"}
    (box,) = manifest.records[0].scene.boxes
    assert (box.label, box.size_m, box.yaw_rad) == ("object", (0.2, 0.3, 0.4), pytest.approx(2 * np.pi - 4))
    scene = load_scene(manifest, manifest.records[0])
    np.testing.assert_allclose(scene.camera.intrinsics, INTRINSICS)
    np.testing.assert_allclose(scene.points.points, points_of() + np.float32([0.1, -0.2, 0.3]), atol=1e-4)
    turn = scene.camera.camera_from_scene[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)  # the rounded rotation was made one again


def test_validation_comes_from_the_training_part(tmp_path):
    entries = [entry(f"learn{number}") for number in range(4)]
    osd(tmp_path, *entries, entry("test0", "test"))
    parts = [record.split for record in from_osd(tmp_path, validation=0.25, seed=1).records]
    assert (parts.count("val"), parts.count("train"), parts[-1]) == (1, 3, "test")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"world_from_camera": {"R": [[1, 0, 0], [0, 0, 1], [0, 1, 0]], "t": [0, 0, 0]}}, "stretches or mirrors it"),
        ({"world_from_camera": {"R": [[2, 0, 0], [0, 1, 0], [0, 0, 1]], "t": [0, 0, 0]}}, "stretches or mirrors it"),
        ({"world_from_camera": {"R": [1, 2, 3], "t": [0, 0, 0]}}, "is not a 3x3 rotation and a place"),
        ({"world_from_camera": None}, "lacks a field or has one of another kind"),
        ({"split": "lern"}, "is in the part 'lern'"),
        ({"depth_scale": -1.0}, "lacks a field or has one of another kind"),
        ({"intrinsics": {"fx": 0, "fy": 20, "cx": 0, "cy": 0}}, "intrinsics are singular"),
        (
            {"objects": [{"center": [0, 0, 0], "size": [1, 0, 1], "yaw": 0}]},
            "has a box 'object' with the sizes 1, 0, 1 m",
        ),
        ({"objects": [{"center": [0, 0], "size": [1, 1, 1], "yaw": 0}]}, "lacks a field or has one of another kind"),
        ({"objects": [{"center": [0, 0, 0], "size": [1, 1, 1]}]}, "lacks a field or has one of another kind ('yaw')"),
    ],
)
def test_a_scene_with_a_damaged_entry_is_left_out_by_name(tmp_path, fields, reason):
    osd(tmp_path, entry("learn0"), entry("learn1", **fields))
    manifest = from_osd(tmp_path, validation=0.0)
    assert [record.id for record in manifest.records] == ["learn0"]
    assert "learn1" in manifest.skipped[0].reason + manifest.skipped[0].path or "box" in reason
    assert reason in manifest.skipped[0].reason


def test_scenes_without_a_picture_or_with_one_of_another_size_are_left_out_by_name(tmp_path):
    osd(tmp_path, entry("learn0"), entry("learn1"), entry("learn2"), entry("learn3"))
    (tmp_path / "learn" / "learn1_rgb.jpg").unlink()
    (tmp_path / "learn" / "learn2_depth.png").unlink()
    picture(tmp_path / "learn" / "learn3_rgb.jpg", size=(9, 9))
    manifest = from_osd(tmp_path, validation=0.0)
    assert [skipped.reason for skipped in manifest.skipped] == [
        "is missing: it is the picture of the frame",
        "is missing: it is the depth picture of the frame",
        "has another size than the picture, which it lies on",
    ]


@pytest.mark.parametrize("content", ["{", "3", '[{"split": "learn"}]'])
def test_a_damaged_index_is_an_error(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ReadError, match=r"index.json: is not a list of scenes with names"):
        from_osd(tmp_path)


def test_an_absent_index_is_an_error(tmp_path):
    with pytest.raises(ReadError, match=r"index.json: is missing: it is the index"):
        from_osd(tmp_path)


def test_the_real_boxes_hold_the_points_of_their_objects_and_the_points_lie_on_the_labels(crossdim_data):
    folder = crossdim_data / "osd_rgbd"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    manifest = from_osd(folder, validation=0.0)
    assert len(manifest) == 45
    objects = {one["name"]: one["objects"] for one in json.loads((folder / "index.json").read_text())}
    shares, turned = [], []
    for record in manifest.records[::3]:
        scene = load_scene(manifest, record)
        labels = readers.read(manifest.absolute(record.extra["segmentation"])).pixels[0]
        metres = read_depth(manifest.absolute(record.scene.depth))
        places = unproject(metres, scene.camera)
        reading = np.isfinite(places).all(axis=-1)
        np.testing.assert_allclose(places[reading], scene.points.points, atol=1e-6)
        columns, rows, _ = project(scene.points.points.astype(np.float64), projection_matrix(scene.camera))
        assert (labels[np.rint(rows).astype(int), np.rint(columns).astype(int)] == labels[reading]).all()
        boxes, points = as_array(scene.boxes), scene.points.points.astype(np.float64)
        held, mirrored = contains(points, boxes), contains(points, boxes * [1, 1, 1, 1, 1, 1, -1])
        for index, one in enumerate(objects[record.id]):
            its = labels[reading] == one["id"]
            shares.append(held[index][its].mean())
            turned.append(mirrored[index][its].mean())
    assert len(shares) == 39
    assert min(shares) > 0.8
    assert np.mean(shares) > 0.95 > np.mean(turned)


def test_the_real_poses_are_made_rotations_again(crossdim_data):
    folder = crossdim_data / "osd_rgbd"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    for record in from_osd(folder, validation=0.0).records:
        turn = np.array(record.scene.camera.camera_from_scene)[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)


def test_depth_of_another_kind_is_refused_where_it_is_read(tmp_path):
    osd(tmp_path, entry("learn0"))
    Image.new("RGB", (16, 12)).save(tmp_path / "learn" / "learn0_depth.png")
    manifest = from_osd(tmp_path, validation=0.0)
    with pytest.raises(ReadError, match="is no depth picture"):
        load_scene(manifest, manifest.records[0])
