import numpy as np
import pytest

from crossdim.datasets.scene_folder import from_scene_folder
from crossdim.datasets.scenes import load_scene
from crossdim.datasets.splits import split_by_patient
from crossdim.errors import ReadError, RecipeError
from tests.datasets.scene_toys import (
    BOXES_JSON,
    CAMERA_JSON,
    frames_folder,
    picture,
    points,
    points_of,
    scene_folder,
    write_json,
)


def test_scene_folders_become_records_with_camera_and_boxes(tmp_path):
    scene_folder(tmp_path / "day 1" / "s2", seed=2)
    scene_folder(tmp_path / "day 1" / "s10", seed=10, boxes=False)
    manifest = from_scene_folder(tmp_path)
    assert [(record.id, record.patient_id) for record in manifest.records] == [
        ("day 1/s2", "day 1/s2"),
        ("day 1/s10", "day 1/s10"),
    ]
    first, second = manifest.records
    assert first.scene.depth == "day 1/s2/depth.png"
    assert [box.label for box in first.scene.boxes] == ["wall"]
    assert second.scene.boxes is None
    np.testing.assert_allclose(load_scene(manifest, second).points.points, points_of(10), atol=1e-6)
    assert (manifest.header.name, {record.split for record in manifest.records}) == (tmp_path.name, {None})


def test_points_and_pictures_alone_are_scenes_too(tmp_path):
    points(tmp_path / "a" / "points.npz")
    picture(tmp_path / "b" / "image.jpg")
    for name in ("a", "b"):
        write_json(tmp_path / name / "camera.json", CAMERA_JSON)
    first, second = from_scene_folder(tmp_path, name="mixed").records
    assert (first.scene.points, first.scene.image) == ("a/points.npz", None)
    assert (second.scene.paths, second.scene.image) == (("b/image.jpg",), "b/image.jpg")


def test_the_frames_of_a_folder_are_one_place_and_may_have_boxes(tmp_path):
    frames_folder(tmp_path / "kitchen", count=3)
    frames_folder(tmp_path / "office", count=2, seed=7)
    write_json(tmp_path / "kitchen" / "boxes" / "0001.json", BOXES_JSON)
    manifest = from_scene_folder(tmp_path)
    assert [record.patient_id for record in manifest.records] == ["kitchen"] * 3 + ["office"] * 2
    assert [record.scene.boxes is not None for record in manifest.records] == [False, True, False, False, False]
    parts = {record.patient_id: record.split for record in split_by_patient(manifest, (0.5, 0.5, 0.0)).records}
    assert set(parts.values()) == {"train", "val"}
    assert from_scene_folder(tmp_path / "office").records[0].id == "0000"


def test_what_stays_together_can_be_said(tmp_path):
    frames_folder(tmp_path / "kitchen", count=2)
    assert [record.patient_id for record in from_scene_folder(tmp_path, patient="file").records] == [
        "kitchen/0000",
        "kitchen/0001",
    ]
    assert [record.patient_id for record in from_scene_folder(tmp_path, patient="(k[a-z]+)").records] == ["kitchen"] * 2
    with pytest.raises(ReadError, match=r"none of its 2 frames can be used.*does not match '\(office\)'"):
        from_scene_folder(tmp_path, patient="(office)")
    with pytest.raises(RecipeError, match="'dicom': is for DICOM files"):
        from_scene_folder(tmp_path, patient="dicom")
    with pytest.raises(RecipeError, match="has 0 groups and needs one"):
        from_scene_folder(tmp_path, patient="kitchen")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "camera.json").unlink(), "has no camera.json"),
        (lambda folder: write_json(folder / "camera.json", {"intrinsics": [[1]]}), "intrinsics is not 3 x 3 numbers"),
        (
            lambda folder: write_json(folder / "camera.json", {**CAMERA_JSON, "size": [0, 4]}),
            "is not two whole numbers",
        ),
        (lambda folder: (folder / "boxes.json").write_text("["), "is not JSON"),
        (lambda folder: write_json(folder / "boxes.json", [{**BOXES_JSON[0], "size_m": [1, -1, 1]}]), "is not above 0"),
        (
            lambda folder: picture(folder / "image.png", size=(9, 9)),
            "has 9 x 9 pixels (height x width), and its camera 12",
        ),
        (lambda folder: (folder / "image.png").write_bytes(b"\x89PNG"), ""),
    ],
)
def test_a_spoiled_scene_is_left_out_by_name(tmp_path, spoil, reason):
    scene_folder(tmp_path / "good")
    spoil(scene_folder(tmp_path / "spoiled"))
    manifest = from_scene_folder(tmp_path)
    assert [record.id for record in manifest.records] == ["good"]
    (skipped,) = manifest.skipped
    assert "spoiled" in skipped.path
    assert reason in skipped.reason


def test_frames_without_a_camera_are_named(tmp_path):
    frames_folder(tmp_path / "walk")
    (tmp_path / "walk" / "camera.json").unlink()
    with pytest.raises(ReadError, match=r"holds no scene: .*walk has no camera.json"):
        from_scene_folder(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ReadError, match=r"holds no scene: no folder has a camera.json"):
        from_scene_folder(tmp_path)
    with pytest.raises(ReadError, match="is not a folder"):
        from_scene_folder(tmp_path / "nowhere")
