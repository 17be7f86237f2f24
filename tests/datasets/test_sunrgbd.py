import json
import shutil
from collections import Counter

import numpy as np
import pytest

from crossdim import readers
from crossdim.datasets.scene_record import boxes_of
from crossdim.datasets.scenes import load_scene
from crossdim.datasets.sunrgbd import CLASSES, from_sunrgbd
from crossdim.errors import ReadError
from crossdim.geometry.boxes import as_array, contains, corners
from crossdim.geometry.camera import LEVEL, project, projection_matrix
from tests.datasets.scene_toys import INTRINSICS, SIZE, depth_mm, picture, points_of

VOTENET = "sunrgbd_pc_bbox_votes_50k_v1"
TILT = "1 0 0 0 1 0 0 0 1"
ONE_BASED = INTRINSICS + np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])


def calibration(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    lens = " ".join(f"{value:g}" for value in ONE_BASED.flatten(order="F"))
    path.write_text(f"{TILT}\n{lens}\n")


def votenet_scene(root, part, number, rows=((0.0, 2.0, 0.0, 1.0, 0.5, 2.0, -0.4, 3),), points=None):
    folder = root / f"{VOTENET}_{part}"
    folder.mkdir(parents=True, exist_ok=True)
    cloud = points_of(int(number)) if points is None else points
    np.savez(folder / f"{number}_pc.npz", pc=np.concatenate([cloud, np.full_like(cloud, 0.5)], axis=1))
    np.save(folder / f"{number}_bbox.npy", np.array(rows, dtype=np.float64).reshape(-1, 8))
    picture(root / "sunrgbd_trainval" / "image" / f"{number}.jpg", int(number))
    calibration(root / "sunrgbd_trainval" / "calib" / f"{number}.txt")


def trainval_frame(root, number, label="bed 1 2 3 4 0 2 0 0.5 1.0 2.0 0.0 1.0\n"):
    from scipy.io import savemat

    base = root / "sunrgbd_trainval"
    for name in ("depth", "label"):
        (base / name).mkdir(parents=True, exist_ok=True)
    cloud = points_of(int(number))
    savemat(base / "depth" / f"{number}.mat", {"instance": np.concatenate([cloud, np.full_like(cloud, 0.5)], axis=1)})
    (base / "label" / f"{number}.txt").write_text(label)
    picture(base / "image" / f"{number}.jpg", int(number))
    calibration(base / "calib" / f"{number}.txt")


def raw_frame(folder, seed=0, room="office", bfx=True):
    from PIL import Image

    picture(folder / "image" / "a.jpg", seed)
    millimetres = depth_mm(seed)
    for name in ("depth", "depth_bfx") if bfx else ("depth",):
        (folder / name).mkdir(parents=True)
        turned = (millimetres + (10 if name == "depth" else 0)).astype(np.uint16)
        Image.fromarray(turned << 3 | turned >> 13).save(folder / name / "a.png")
    (folder / "intrinsics.txt").write_text("\n".join(" ".join(map(str, row)) for row in ONE_BASED.tolist()))
    (folder / "extrinsics").mkdir()
    down = np.deg2rad(30)
    upright = [[1, 0, 0, 0], [0, np.cos(down), np.sin(down), 0], [0, -np.sin(down), np.cos(down), 0]]
    for name, matrix in (("20140101.txt", np.eye(3, 4).tolist()), ("20150101.txt", upright)):
        (folder / "extrinsics" / name).write_text("\n".join(" ".join(map(str, row)) for row in matrix))
    if room:
        (folder / "scene.txt").write_text(room)


def held_by_boxes(scene):
    return contains(scene.points.points.astype(np.float64), as_array(scene.boxes)).sum(axis=-1)


def test_votenets_layout_gives_its_parts_full_sizes_and_anticlockwise_yaws(tmp_path):
    votenet_scene(tmp_path, "train", "005051")
    votenet_scene(tmp_path, "val", "000001", rows=())
    manifest = from_sunrgbd(tmp_path)
    assert [(record.id, record.split) for record in manifest.records] == [
        ("train/005051", "train"),
        ("val/000001", "val"),
    ]
    (box,) = manifest.records[0].scene.boxes
    assert (box.label, box.center_m, box.size_m, box.yaw_rad) == ("chair", (0, 2, 0), (2, 1, 4), 0.4)
    assert manifest.records[1].scene.boxes == ()
    scene = load_scene(manifest, manifest.records[0])
    np.testing.assert_allclose(scene.camera.intrinsics, INTRINSICS)
    columns, rows, _ = project(scene.points.points.astype(np.float64), projection_matrix(scene.camera))
    grid = np.indices(SIZE).reshape(2, -1)
    np.testing.assert_allclose([rows, columns], grid, atol=1e-3)


def test_one_folder_of_votenets_layout_can_be_named(tmp_path):
    votenet_scene(tmp_path, "train", "005051")
    votenet_scene(tmp_path, "val", "000001")
    manifest = from_sunrgbd(tmp_path / f"{VOTENET}_val")
    assert [record.split for record in manifest.records] == ["val"]
    assert load_scene(manifest, manifest.records[0]).image is not None


def test_points_that_do_not_lie_in_the_picture_of_their_number_lose_the_picture(tmp_path):
    votenet_scene(tmp_path, "train", "000001", points=points_of() + np.float32([3, 0, 0]))
    manifest = from_sunrgbd(tmp_path)
    assert (manifest.records[0].scene.camera, manifest.records[0].scene.image) == (None, None)
    assert "1 scenes have points that do not lie in the picture of their number" in manifest.notes[-1]


def test_scenes_without_a_picture_keep_points_and_boxes(tmp_path):
    votenet_scene(tmp_path, "train", "000001")
    shutil.rmtree(tmp_path / "sunrgbd_trainval")
    manifest = from_sunrgbd(tmp_path)
    assert manifest.records[0].scene.image is None
    assert manifest.notes[-1] == "1 scenes have no camera and picture beside them"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(0, 2, 0, 1, -0.5, 2, 0, 3)], "has a box 'chair' with the sizes 2, -1, 4 m"),
        ([(0, 2, 0, 1, 0.5, 2, 0, 10)], "has the class 10, and there are 0 to 9"),
        (np.zeros((2, 4)), "boxes have 8 numbers each"),
        ([(np.nan, 2, 0, 1, 0.5, 2, 0, 3)], "has a box 'chair' with the sizes"),
    ],
)
def test_a_scene_with_damaged_boxes_is_left_out_by_name(tmp_path, rows, reason):
    votenet_scene(tmp_path, "train", "005051")
    votenet_scene(tmp_path, "train", "005052")
    damaged = tmp_path / f"{VOTENET}_train" / "005052_bbox.npy"
    np.save(damaged, np.array(rows, dtype=np.float64))
    manifest = from_sunrgbd(tmp_path)
    assert [record.id for record in manifest.records] == ["train/005051"]
    (skipped,) = manifest.skipped
    assert skipped.path == str(damaged)
    assert reason in skipped.reason


def test_files_that_hold_no_boxes_at_all_leave_the_scene_out(tmp_path):
    for number, content in (("005051", b"junk"), ("005052", None)):
        votenet_scene(tmp_path, "train", number)
        path = tmp_path / f"{VOTENET}_train" / f"{number}_bbox.npy"
        path.write_bytes(content) if content else np.save(path, np.array(["a"]))
    with pytest.raises(ReadError, match=r"none of its 2 frames can be used; the first: .*005051_bbox.npy is damaged"):
        from_sunrgbd(tmp_path)
    votenet_scene(tmp_path, "train", "005051")
    (skipped,) = from_sunrgbd(tmp_path).skipped
    assert skipped.reason == "is not one array of numbers"
    (tmp_path / f"{VOTENET}_train" / "005051_bbox.npy").unlink()
    with pytest.raises(ReadError, match=r"005051_bbox.npy is missing: it is the box file"):
        from_sunrgbd(tmp_path)


def test_the_folder_that_votenet_starts_from_is_divided_by_number(tmp_path):
    trainval_frame(tmp_path, "005050")
    trainval_frame(tmp_path, "005051", label="")
    trainval_frame(tmp_path, "005052", label="lamp 1 2 3 4 0 2 0 1 1 1 0 1\nsofa 1 2 3 4 0 2 0 1 1 1 -1 0\n")
    manifest = from_sunrgbd(tmp_path)
    assert [record.split for record in manifest.records] == ["val", "train", "train"]
    (bed,) = manifest.records[0].scene.boxes
    assert (bed.label, bed.size_m, bed.yaw_rad) == ("bed", (2, 1, 4), pytest.approx(np.pi / 2))
    assert manifest.records[1].scene.boxes == ()
    assert [box.label for box in manifest.records[2].scene.boxes] == ["sofa"]
    assert manifest.notes[-1] == "1 boxes of 1 classes beyond the ten are left out (lamp)"


def test_lists_of_numbers_go_before_the_numbers_themselves(tmp_path):
    trainval_frame(tmp_path, "000001")
    trainval_frame(tmp_path, "000002")
    (tmp_path / "sunrgbd_trainval" / "train_data_idx.txt").write_text("1\n")
    (tmp_path / "sunrgbd_trainval" / "val_data_idx.txt").write_text("2\n")
    assert [record.split for record in from_sunrgbd(tmp_path).records] == ["train", "val"]
    (tmp_path / "sunrgbd_trainval" / "val_data_idx.txt").write_text("1\n2\n")
    with pytest.raises(ReadError, match="'1' is in the lists of train and val"):
        from_sunrgbd(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("label/000002.txt", "bed 1 2 3 4 0 2 0 1 1 1 0\n", "has 11 numbers for bed and needs 12"),
        ("label/000002.txt", "bed 1 2 3 4 0 2 x 1 1 1 0 1\n", "holds what is not a number for bed"),
        ("label/000002.txt", "bed 1 2 3 4 0 2 nan 1 1 1 0 1\n", "holds bed that are not finite"),
        ("label/000002.txt", "bed 1 2 3 4 0 2 0 -1 1 1 0 1\n", "has a box 'bed' with the sizes 2, -2, 2 m"),
        ("label/000002.txt", None, "is missing: it is the label file of the frame"),
        ("image/000002.jpg", None, "is missing: it is the picture of the frame"),
        ("calib/000002.txt", None, "is missing: it is the calibration of the frame"),
        ("calib/000002.txt", TILT, "has 1 lines and needs two"),
        ("calib/000002.txt", f"{TILT}\n1 2 3\n", "has 3 numbers for intrinsics and needs 9"),
        ("calib/000002.txt", f"2 0 0 0 1 0 0 0 1\n{TILT}\n", "is no calibration"),
    ],
)
def test_a_frame_with_a_damaged_or_missing_file_is_left_out_by_name(tmp_path, file, content, reason):
    trainval_frame(tmp_path, "000001")
    trainval_frame(tmp_path, "000002")
    path = tmp_path / "sunrgbd_trainval" / file
    path.unlink() if content is None else path.write_text(content)
    manifest = from_sunrgbd(tmp_path)
    assert [record.id for record in manifest.records] == ["000001"]
    (skipped,) = manifest.skipped
    assert skipped.path == str(path)
    assert reason in skipped.reason


def test_a_label_file_that_is_no_text_is_named(tmp_path):
    trainval_frame(tmp_path, "000001")
    (tmp_path / "sunrgbd_trainval" / "label" / "000001.txt").write_bytes(b"\xff\xfe\x00bed")
    with pytest.raises(ReadError, match=r"000001.txt is not text"):
        from_sunrgbd(tmp_path)


def test_raw_frames_have_filled_depth_a_tilt_and_the_kind_of_room(tmp_path):
    raw_frame(tmp_path / "kv2" / "frame1")
    raw_frame(tmp_path / "kv2" / "frame2", seed=1, room="kitchen", bfx=False)
    raw_frame(tmp_path / "xtion" / "sun3ddata" / "mit" / "walk" / "0001", seed=2)
    raw_frame(tmp_path / "xtion" / "sun3ddata" / "mit" / "walk" / "0002", seed=3, room="")
    manifest = from_sunrgbd(tmp_path)
    assert manifest.header.tasks["place"].classes == ("kitchen", "office")
    assert [record.labels.get("place") for record in manifest.records] == [1, 0, 1, None]
    assert [record.patient_id for record in manifest.records] == [
        "kv2/frame1",
        "kv2/frame2",
        "xtion/sun3ddata/mit/walk",
        "xtion/sun3ddata/mit/walk",
    ]
    assert {record.split for record in manifest.records} == {None}
    scene = load_scene(manifest, manifest.records[0])
    assert scene.boxes is None
    turn = np.array([[1, 0, 0], [0, np.cos(np.pi / 6), np.sin(np.pi / 6)], [0, -np.sin(np.pi / 6), np.cos(np.pi / 6)]])
    np.testing.assert_allclose(scene.points.points, points_of() @ turn.T, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda frame: shutil.rmtree(frame / "extrinsics"), "holds no tilt of the camera"),
        (lambda frame: picture(frame / "image" / "b.jpg"), "holds 2 files, and a frame has one"),
        (lambda frame: picture(frame / "image" / "a.jpg", size=(9, 9)), "has another size than its picture (9 x 9)"),
        (lambda frame: shutil.rmtree(frame / "image"), "holds 0 files, and a frame has one"),
    ],
)
def test_a_spoiled_raw_frame_is_left_out_by_name(tmp_path, spoil, reason):
    raw_frame(tmp_path / "good")
    raw_frame(tmp_path / "spoiled", seed=1)
    spoil(tmp_path / "spoiled")
    manifest = from_sunrgbd(tmp_path)
    assert [record.id for record in manifest.records] == ["good"]
    assert reason in manifest.skipped[0].reason


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ReadError, match="holds none of the layouts of SUN RGB-D"):
        from_sunrgbd(tmp_path)
    trainval_frame(tmp_path, "000001")
    with pytest.raises(ReadError, match="holds not the layout 'raw' of SUN RGB-D"):
        from_sunrgbd(tmp_path, layout="raw")


def real(crossdim_data):
    folder = crossdim_data / "sunrgbd"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def same_colours(scene):
    """Return the mean difference between the colour of each point and of the pixel that it projects to, of 255."""
    columns, rows, _ = project(scene.points.points.astype(np.float64), projection_matrix(scene.camera))
    height, width = scene.camera.size
    pixels = scene.image.pixels[
        :, np.clip(np.rint(rows), 0, height - 1).astype(int), np.clip(np.rint(columns), 0, width - 1).astype(int)
    ]
    return np.abs(pixels.T.astype(float) - scene.points.colors).mean()


def test_the_real_frame_projects_each_point_to_the_pixel_of_its_colour(crossdim_data):
    manifest = from_sunrgbd(real(crossdim_data), layout="trainval")
    scene = load_scene(manifest, manifest.records[0])
    assert len(scene.points.points) == 280961
    assert same_colours(scene) < 0.01
    assert dict(zip(scene.boxes.labels, held_by_boxes(scene), strict=True)) == {
        "bed": pytest.approx(16896, abs=20),
        "night_stand": pytest.approx(414, abs=5),
        "dresser": pytest.approx(72250, abs=20),
    }


def test_the_real_boxes_lie_on_the_objects_in_the_picture(crossdim_data):
    folder = real(crossdim_data)
    manifest = from_sunrgbd(folder, layout="trainval")
    scene = load_scene(manifest, manifest.records[0])
    lines = [line.split() for line in (folder / "sunrgbd_trainval/label/000001.txt").read_text().splitlines()]
    drawn = {label: np.array(words[:4], float) for label, *words in lines if label in CLASSES}
    inside = contains(scene.points.points.astype(np.float64), as_array(scene.boxes))
    columns, rows, _ = project(scene.points.points.astype(np.float64), projection_matrix(scene.camera))
    for label, held in zip(scene.boxes.labels, inside, strict=True):
        left, top, width, height = drawn[label]
        in_2d = (columns >= left) & (columns <= left + width) & (rows >= top) & (rows <= top + height)
        assert in_2d[held].mean() > 0.85, label


def test_the_real_votenet_boxes_hold_points_with_half_sizes_doubled_and_headings_turned(crossdim_data):
    manifest = from_sunrgbd(real(crossdim_data), layout="votenet")
    assert "do not lie in the picture of their number" in manifest.notes[-1]  # the toy set renumbered its scenes
    scene = load_scene(manifest, manifest.records[0])
    assert Counter(scene.boxes.labels) == {"chair": 7, "table": 1}
    held = held_by_boxes(scene)
    assert held.min() > 250
    table = scene.boxes.labels.index("table")
    assert held[table] > 29000
    boxes = as_array(scene.boxes)
    points = scene.points.points.astype(np.float64)
    clockwise = contains(points, boxes * [1, 1, 1, 1, 1, 1, -1]).sum(axis=-1)
    halved = contains(points, boxes * [1, 1, 1, 0.5, 0.5, 0.5, 1]).sum(axis=-1)
    assert held[table] > 2 * clockwise[table]
    assert held[table] > 20 * halved[table]


def test_the_second_real_scene_projects_and_its_bed_holds_its_points(crossdim_data, tmp_path):
    source = real(crossdim_data) / "mmdet3d_000017"
    facts = json.loads((source / "000017.json").read_text())["data_list"][0]
    cloud = readers.read(f"{source / '000017.bin'}#6")
    lens = np.array([[529.5, 0, 365], [0, 529.5, 265], [0, 0, 1]])
    camera_from_scene = np.linalg.solve(lens, np.array(facts["images"]["CAM0"]["depth2img"]))
    boxes = np.array([one["bbox_3d"] for one in facts["instances"]])
    labels = np.array([one["bbox_label_3d"] for one in facts["instances"]])
    half = np.concatenate([boxes[:, :3], boxes[:, 3:6] / 2, -boxes[:, 6:], labels[:, None]], axis=1)
    votenet_scene(tmp_path, "train", "000017", rows=half)
    folder = tmp_path / f"{VOTENET}_train"
    colours = cloud.colors.astype(np.float32) / 255
    np.savez(folder / "000017_pc.npz", pc=np.concatenate([cloud.points, colours], axis=1))
    base = tmp_path / "sunrgbd_trainval"
    shutil.copy(source / "000017.jpg", base / "image" / "000017.jpg")
    tilt = (LEVEL[:3, :3].T @ camera_from_scene).flatten()
    rows = (tilt, lens.flatten(order="F"))
    (base / "calib" / "000017.txt").write_text("\n".join(" ".join(map(str, row)) for row in rows))

    manifest = from_sunrgbd(tmp_path)
    scene = load_scene(manifest, manifest.records[0])
    assert scene.boxes.labels == ("night_stand", "bed")
    np.testing.assert_allclose(as_array(scene.boxes), boxes, atol=1e-6)
    assert same_colours(scene) < 0.1
    held = held_by_boxes(scene)
    assert held.tolist() == [pytest.approx(951, abs=5), pytest.approx(18117, abs=20)]
    box = as_array(boxes_of(manifest.records[0].scene.boxes))
    columns, rows, _ = project(
        corners(box[:, :3], box[:, 3:6], box[:, 6]).reshape(-1, 3), projection_matrix(scene.camera)
    )
    columns, rows = columns.reshape(-1, 8), rows.reshape(-1, 8)
    for index, one in enumerate(facts["instances"]):
        left, top, right, bottom = one["bbox"]
        assert columns[index].min() < (left + right) / 2 < columns[index].max()
        assert rows[index].min() < (top + bottom) / 2 < rows[index].max()


def test_the_real_raw_frames_have_level_floors(crossdim_data):
    manifest = from_sunrgbd(real(crossdim_data), layout="raw")
    assert [record.id for record in manifest.records] == ["raw_2014-12-18_11-31-54_260595134347", "raw_img_0063"]
    scene = load_scene(manifest, manifest.records[0])
    heights = scene.points.points[:, 2]
    counts, edges = np.histogram(heights, bins=np.arange(-2, 2, 0.02))
    floor = edges[np.argmax(counts)]
    assert -1.4 < floor < -1.2
    assert (np.abs(heights - floor) < 0.03).mean() > 0.27
