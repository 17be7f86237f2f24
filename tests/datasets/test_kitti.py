import shutil

import numpy as np
import pytest

from crossdim.datasets.kitti import from_kitti
from crossdim.datasets.scenes import load_scene
from crossdim.errors import ReadError
from crossdim.geometry.boxes import as_array, contains, corners
from crossdim.geometry.camera import project, projection_matrix
from tests.datasets.scene_toys import picture

# A camera that looks along the scanner's x, 0.1 m above it, with the second camera 0.2 m to the right.
CALIBRATION = """P0: 0 0 0 0 0 0 0 0 0 0 0 0
P2: 20 0 8 4 0 20 6 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0.1 1 0 0 0
"""
CAR = "Car 0.00 0 -1.33 1 2 3 4 1.5 1.8 3.6 2 1.7 10 0.5"


def frame(root, name, labels=CAR, calibration=CALIBRATION):
    base = root / "training"
    for folder in ("velodyne", "calib", "label_2"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    points = np.random.default_rng(int(name)).uniform([4, -2, -1, 0], [12, 2, 1, 1], (50, 4))
    points.astype("<f4").tofile(base / "velodyne" / f"{name}.bin")
    picture(base / "image_2" / f"{name}.png", int(name))
    (base / "calib" / f"{name}.txt").write_text(calibration)
    (base / "label_2" / f"{name}.txt").write_text(labels)


def test_boxes_come_into_the_scanners_frame(tmp_path):
    frame(tmp_path, "000000", f"{CAR}\nDontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n")
    manifest = from_kitti(tmp_path)
    (box,) = manifest.records[0].scene.boxes
    assert box.label == "Car"
    np.testing.assert_allclose(box.center_m, (10, -2, 0.1 - (1.7 - 0.75)), atol=1e-9)
    assert box.size_m == (3.6, 1.8, 1.5)
    assert box.yaw_rad == pytest.approx(-0.5 - np.pi / 2)
    assert manifest.notes == (
        "no mapping of the devkit: every frame is a patient",
        "1 regions marked DontCare are not objects and left out",
    )
    scene = load_scene(manifest, manifest.records[0])
    assert scene.points.points.shape == (50, 3)
    assert scene.image.pixels.shape == (3, 12, 16)


def test_the_projection_is_that_of_the_calibration_file(tmp_path):
    frame(tmp_path, "000000")
    scene = load_scene(from_kitti(tmp_path), from_kitti(tmp_path).records[0])
    columns, rows, depths = project(np.array([[10.0, -2.0, 0.1]]), projection_matrix(scene.camera))
    assert (columns[0], rows[0], depths[0]) == (pytest.approx(8 + (20 * 2 + 4) / 10), pytest.approx(6), 10)


def test_published_lists_give_the_parts(tmp_path):
    for number in range(3):
        frame(tmp_path, f"{number:06d}")
    assert {record.split for record in from_kitti(tmp_path).records} == {None}
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text("000001\n")
    (tmp_path / "ImageSets" / "val.txt").write_text("000000\n000009\n")
    manifest = from_kitti(tmp_path)
    assert [record.split for record in manifest.records] == ["val", "train", None]
    assert manifest.notes[-1] == "1 frames are in none of the lists and in no part"
    with pytest.raises(ReadError, match=r"has none of train.txt, val.txt and test.txt"):
        from_kitti(tmp_path, lists=tmp_path / "elsewhere")
    (tmp_path / "ImageSets" / "test.txt").write_text("000001\n")
    with pytest.raises(ReadError, match="'000001' is in the lists of train and test"):
        from_kitti(tmp_path, lists=tmp_path / "ImageSets")


def test_the_devkits_mapping_makes_a_drive_a_patient(tmp_path):
    for number in range(3):
        frame(tmp_path, f"{number:06d}")
    mapping = tmp_path / "devkit" / "mapping"
    mapping.mkdir(parents=True)
    drives = [f"2011_09_26 2011_09_26_drive_{drive} 0000000{row}" for row, drive in enumerate(("0001", "0005", "0001"))]
    (mapping / "train_mapping.txt").write_text("\n".join(drives))
    (mapping / "train_rand.txt").write_text("3,1,2")
    manifest = from_kitti(tmp_path)
    assert [record.patient_id[-4:] for record in manifest.records] == ["0001", "0001", "0005"]
    assert manifest.notes[0] == "frames of one drive have one patient id"
    for content in ("3,1,4", "3,1,x"):
        (mapping / "train_rand.txt").write_text(content)
        with pytest.raises(ReadError, match=r"train_rand.txt: is no order of the 3 rows of train_mapping.txt"):
            from_kitti(tmp_path)


def test_unlabelled_frames_know_nothing_of_their_objects(tmp_path):
    frame(tmp_path, "000000")
    shutil.rmtree(tmp_path / "training" / "label_2")
    manifest = from_kitti(tmp_path / "training")
    assert manifest.records[0].scene.boxes is None
    assert manifest.notes == ("no mapping of the devkit: every frame is a patient",)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("label_2/000001.txt", CAR.replace("Car", "Cart"), "has the class 'Cart', which KITTI has not"),
        ("label_2/000001.txt", CAR[:-4], "has 13 numbers for Car and needs 14"),
        ("label_2/000001.txt", CAR.replace("1.8", "-1.8"), "has a box 'Car' with the sizes 3.6, -1.8, 1.5 m"),
        ("label_2/000001.txt", None, "is missing: it is the label file of the frame"),
        ("calib/000001.txt", None, "is missing: it is the calibration of the frame"),
        ("calib/000001.txt", CALIBRATION.replace("P2", "P9"), "has no line P2"),
        ("calib/000001.txt", CALIBRATION.replace("-1 0.1", "0.1"), "has 11 numbers for Tr_velo_to_cam and needs 12"),
        ("calib/000001.txt", CALIBRATION.replace("R0_rect: 1", "R0_rect: 2"), "is no calibration"),
        ("image_2/000001.png", None, "is missing: it is the picture of the frame"),
    ],
)
def test_a_frame_with_a_damaged_or_missing_file_is_left_out_by_name(tmp_path, file, content, reason):
    frame(tmp_path, "000000")
    frame(tmp_path, "000001")
    path = tmp_path / "training" / file
    path.unlink() if content is None else path.write_text(content)
    manifest = from_kitti(tmp_path)
    assert [record.id for record in manifest.records] == ["000000"]
    (skipped,) = manifest.skipped
    assert skipped.path == str(path)
    assert reason in skipped.reason


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ReadError, match="has no folder velodyne"):
        from_kitti(tmp_path)
    (tmp_path / "velodyne").mkdir()
    with pytest.raises(ReadError, match="holds no frame"):
        from_kitti(tmp_path)


def iou(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = np.prod(np.maximum(high - low, 0))
    return common / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - common)


def test_the_real_boxes_hold_points_and_lie_on_the_objects_in_the_picture(crossdim_data):
    folder = crossdim_data / "kitti_mini"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    manifest = from_kitti(folder)
    overlaps, counts, turned = {}, {}, {}
    for record in manifest.records:
        scene = load_scene(manifest, record)
        boxes, points = as_array(scene.boxes), scene.points.points.astype(np.float64)
        outlines = corners(boxes[:, :3], boxes[:, 3:6], boxes[:, 6]).reshape(-1, 3)
        columns, rows, _ = project(outlines, projection_matrix(scene.camera))
        columns = np.clip(columns.reshape(-1, 8), 0, scene.camera.size[1] - 1)
        rows = np.clip(rows.reshape(-1, 8), 0, scene.camera.size[0] - 1)
        held = contains(points, boxes).sum(axis=-1)
        lines = (folder / "training" / "label_2" / f"{record.id}.txt").read_text().splitlines()
        drawn = [np.array(line.split()[4:8], float) for line in lines if not line.startswith("DontCare")]
        for index, rectangle in enumerate(drawn):
            seen = np.array([columns[index].min(), rows[index].min(), columns[index].max(), rows[index].max()])
            name = (record.id, index, scene.boxes.labels[index])
            overlaps[name], counts[name] = iou(seen, rectangle), held[index]
        if record.id == "000134":
            turned = contains(points, boxes * [1, 1, 1, 1, 1, 1, -1]).sum(axis=-1)
            assert held.sum() > turned.sum()
    assert len(overlaps) == 16
    assert sum(counts.values()) > 1800
    assert min(counts.values()) >= 3
    rigid = [value for (_, _, label), value in overlaps.items() if label in ("Car", "Cyclist")]
    people = [value for (_, _, label), value in overlaps.items() if label == "Pedestrian"]
    assert min(rigid) > 0.97
    assert np.mean(people) > 0.65  # their rectangles are drawn by hand around arms and legs
    assert min(people) > 0.45
