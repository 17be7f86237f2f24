import numpy as np
import pytest

from crossdim.datasets.audit import audit
from crossdim.datasets.scannet import CLASSES, from_scannet
from crossdim.datasets.scenes import load_scene
from crossdim.errors import ReadError
from crossdim.geometry.boxes import as_array, contains
from tests.datasets.scene_toys import write_json

TURN = np.deg2rad(20)
ALIGNMENT = np.array(
    [[np.cos(TURN), -np.sin(TURN), 0, 1], [np.sin(TURN), np.cos(TURN), 0, 2], [0, 0, 1, 0.5], [0, 0, 0, 1]]
)
"""A room that stands askew: its walls are along the axes after this."""

LENGTHS = np.array([1.0, 2.0, 0.5])


def vertices(seed=0):
    """Return 300 vertices of a chair, a sofa and the floor, 100 each, and the segment of each."""
    generator = np.random.default_rng(seed)
    chair = generator.uniform(-0.5, 0.5, (100, 3)) * LENGTHS
    sofa = chair + np.array([4, 0, 0])
    floor = np.column_stack([generator.uniform(-3, 6, (100, 2)), np.zeros(100)])
    aligned = np.concatenate([chair, sofa, floor])
    straight = np.linalg.inv(ALIGNMENT)
    return aligned @ straight[:3, :3].T + straight[:3, 3], np.repeat([7, 8, 9], 100)


def ply(path, points):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = (
        "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    path.write_text(header.format(len(points)) + "\n".join(" ".join(f"{v:.6f}" for v in row) for row in points) + "\n")


def scan(root, name, seed=0):
    folder = root / "scans" / name
    points, segments = vertices(seed)
    ply(folder / f"{name}_vh_clean_2.ply", points)
    groups = [("armchair", [7]), ("sofa", [8]), ("floor", [9]), ("armchair", [77])]
    write_json(
        folder / f"{name}.aggregation.json",
        {"segGroups": [{"label": label, "segments": its} for label, its in groups]},
    )
    write_json(folder / f"{name}_vh_clean_2.0.010000.segs.json", {"segIndices": segments.tolist()})
    (folder / f"{name}.txt").write_text(
        f"axisAlignment = {' '.join(map(str, ALIGNMENT.flatten()))}\nnumDepthFrames = 3\n"
    )
    table = "id\traw_category\tnyu40id\n1\tarmchair\t5\n2\tsofa\t6\n3\tfloor\t2\n4\tblob\t\n"
    (root / "scannetv2-labels.combined.tsv").write_text(table)
    return folder


def exported(root, name, rows=((0, 0, 0, 1, 2, 0.5, 5),), seed=0):
    folder = root / "scannet_train_detection_data"
    folder.mkdir(parents=True, exist_ok=True)
    points, _ = vertices(seed)
    colours = np.random.default_rng(seed).integers(0, 256, points.shape)
    np.save(folder / f"{name}_vert.npy", np.concatenate([points, colours], axis=1).astype(np.float32))
    np.save(folder / f"{name}_bbox.npy", np.array(rows, dtype=np.float64).reshape(-1, 7))
    return folder


def test_there_are_eighteen_classes():
    assert len(CLASSES) == len(set(CLASSES.values())) == 18


def test_boxes_are_found_along_the_walls_and_turned_into_the_frame_of_the_mesh(tmp_path):
    scan(tmp_path, "scene0000_00")
    manifest = from_scannet(tmp_path)
    scene = load_scene(manifest, manifest.records[0])
    assert scene.boxes.labels == ("chair", "sofa")
    np.testing.assert_allclose(scene.boxes.yaws_rad, -TURN)
    np.testing.assert_allclose(scene.boxes.sizes_m, [LENGTHS, LENGTHS], atol=0.1)
    # All but those at the very edge, which lie half a rounding outside.
    held = contains(scene.points.points.astype(np.float64), as_array(scene.boxes))
    assert held[0, :100].sum() > 90
    assert held[1, 100:200].sum() > 90
    assert not held[0, 100:200].any()
    assert audit(manifest) == []


def test_scans_of_one_room_are_one_patient_and_lists_give_the_parts(tmp_path):
    for name in ("scene0000_00", "scene0000_01", "scene0001_00"):
        scan(tmp_path, name)
    (tmp_path / "meta_data").mkdir()
    (tmp_path / "meta_data" / "scannetv2_train.txt").write_text("scene0000_00\nscene0000_01\n")
    (tmp_path / "meta_data" / "scannetv2_val.txt").write_text("scene0009_00\n")
    manifest = from_scannet(tmp_path)
    assert [(record.patient_id, record.split) for record in manifest.records] == [
        ("scene0000", "train"),
        ("scene0000", "train"),
        ("scene0001", None),
    ]
    assert manifest.notes[-1] == "1 scenes are in none of the lists and in no part"


def test_a_scene_without_published_objects_is_unlabelled(tmp_path):
    (scan(tmp_path, "scene0707_00") / "scene0707_00.aggregation.json").unlink()
    assert from_scannet(tmp_path).records[0].scene.boxes is None


def test_a_scene_without_an_alignment_has_boxes_along_its_own_axes(tmp_path):
    (scan(tmp_path, "scene0000_00") / "scene0000_00.txt").write_text("numDepthFrames = 3\n")
    assert [box.yaw_rad for box in from_scannet(tmp_path).records[0].scene.boxes] == [0, 0]


def test_votenets_export_has_full_sizes(tmp_path):
    exported(tmp_path, "scene0000_00")
    exported(tmp_path, "scene0001_00", rows=())
    exported(tmp_path, "scene0002_00")
    (tmp_path / "scannet_train_detection_data" / "scene0002_00_bbox.npy").unlink()
    manifest = from_scannet(tmp_path)
    (box,) = manifest.records[0].scene.boxes
    assert (box.label, box.size_m, box.yaw_rad) == ("chair", (1, 2, 0.5), 0)
    assert [record.scene.boxes for record in manifest.records[1:]] == [(), None]
    assert load_scene(manifest, manifest.records[0]).points.points.shape == (300, 3)


def text(name, content):
    return lambda folder: (folder / f"scene0001_00{name}").write_text(content)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (text(".aggregation.json", "{"), "is damaged"),
        (text(".aggregation.json", '{"segGroups": [{"label": "sofa"}]}'), "does not list objects and their segments"),
        (text("_vh_clean_2.0.010000.segs.json", "{}"), "does not list the segment of every vertex"),
        (
            text("_vh_clean_2.0.010000.segs.json", '{"segIndices": [1, 2]}'),
            "has 300 vertices, and its segments are of 2",
        ),
        (text(".txt", "axisAlignment = 1 0 0 0"), "has 4 numbers for axisAlignment and needs 16"),
        (
            text(".txt", f"axisAlignment = 2 {'0 ' * 9}1 {'0 ' * 4}1"),
            "has an axisAlignment that is no rotation about z",
        ),
        (lambda folder: (folder / "scene0001_00_vh_clean_2.ply").unlink(), "is missing: it is the mesh"),
        (lambda folder: (folder / "scene0001_00.txt").unlink(), "is missing: it is the description of the scene"),
    ],
)
def test_a_scene_with_a_damaged_or_missing_file_is_left_out_by_name(tmp_path, spoil, reason):
    scan(tmp_path, "scene0000_00")
    spoil(scan(tmp_path, "scene0001_00"))
    manifest = from_scannet(tmp_path)
    assert [record.id for record in manifest.records] == ["scene0000_00"]
    assert reason in manifest.skipped[0].reason


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(0, 0, 0, 1, 2, 0.5, 13)], "has the class 13, which is none of the eighteen"),
        ([(0, 0, 0, 1, -2, 0.5, 5)], "has a box 'chair' with the sizes 1, -2, 0.5 m"),
        (np.zeros((2, 8)), "boxes have 7 numbers each"),
    ],
)
def test_an_exported_scene_with_damaged_boxes_is_left_out_by_name(tmp_path, rows, reason):
    exported(tmp_path, "scene0000_00")
    folder = exported(tmp_path, "scene0001_00")
    np.save(folder / "scene0001_00_bbox.npy", np.array(rows, dtype=np.float64))
    (skipped,) = from_scannet(tmp_path).skipped
    assert reason in skipped.reason


def test_the_table_of_classes_has_to_be_there_and_whole(tmp_path):
    scan(tmp_path, "scene0000_00")
    table = tmp_path / "scannetv2-labels.combined.tsv"
    table.write_text("a\tb\n1\t2\n")
    with pytest.raises(ReadError, match="has no columns raw_category and nyu40id"):
        from_scannet(tmp_path)
    table.unlink()
    with pytest.raises(ReadError, match=r"there is no scannetv2-labels.combined.tsv that says their classes"):
        from_scannet(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ReadError, match=r"holds neither scans/<scene>/ nor <scene>_vert.npy"):
        from_scannet(tmp_path)
