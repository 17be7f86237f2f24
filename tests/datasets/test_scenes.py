import numpy as np
import pytest

from crossdim.datasets.audit import audit
from crossdim.datasets.manifest import Header, Manifest, Record
from crossdim.datasets.scene_folder import from_scene_folder
from crossdim.datasets.scene_record import (
    SceneBox,
    SceneCamera,
    SceneFiles,
    box_records,
    boxes_of,
    camera_of,
    camera_record,
)
from crossdim.datasets.scenes import find_scenes, load_scene, scene_of_file
from crossdim.errors import GeometryError, ReadError, RecipeError
from tests.datasets.scene_toys import (
    BOXES_JSON,
    CAMERA,
    CAMERA_JSON,
    depth,
    frames_folder,
    picture,
    points,
    points_of,
    scene_folder,
    write_json,
)
from tests.datasets.toys import nifti

BOX = SceneBox(label="wall", center_m=(0.0, 2.0, 0.0), size_m=(4.0, 2.0, 4.0), yaw_rad=0.3)


def manifest_of(folder, *scenes, **fields):
    records = tuple(
        Record(id=f"s{index}", patient_id=f"s{index}", kind="scene", scene=scene, **fields)
        for index, scene in enumerate(scenes)
    )
    return Manifest(Header(name="m", root=str(folder)), records)


def test_depth_becomes_coloured_points_of_the_camera(tmp_path):
    depth(tmp_path / "d.png")
    picture(tmp_path / "i.png")
    files = SceneFiles(depth="d.png", image="i.png", camera=camera_record(CAMERA), boxes=(BOX,))
    manifest = manifest_of(tmp_path, files)
    scene = load_scene(manifest, manifest.records[0])
    np.testing.assert_allclose(scene.points.points, points_of(), atol=1e-6)
    assert scene.points.colors.shape == (192, 3)
    assert scene.image.pixels.shape == (3, 12, 16)
    np.testing.assert_array_equal(scene.camera.intrinsics, CAMERA.intrinsics)
    assert (scene.boxes.labels, scene.boxes.yaws_rad.tolist()) == (("wall",), [0.3])
    assert scene.origin.path == "s0"


def test_unlabelled_is_not_the_same_as_known_to_be_empty(tmp_path):
    points(tmp_path / "p.npz")
    manifest = manifest_of(tmp_path, SceneFiles(points="p.npz"), SceneFiles(points="p.npz", boxes=()))
    unlabelled, empty = (load_scene(manifest, record).boxes for record in manifest.records)
    assert unlabelled is None
    assert len(empty) == 0
    assert empty.centers_m.shape == empty.sizes_m.shape == (0, 3)


def test_the_unit_of_a_depth_picture_counts(tmp_path):
    depth(tmp_path / "d.png")
    files = SceneFiles(depth="d.png", depth_unit_m=0.01, camera=camera_record(CAMERA))
    manifest = manifest_of(tmp_path, files)
    np.testing.assert_allclose(load_scene(manifest, manifest.records[0]).points.points, points_of() * 10, rtol=1e-5)


def test_a_picture_of_another_size_than_its_camera_is_refused(tmp_path):
    points(tmp_path / "p.npz")
    picture(tmp_path / "i.png", size=(10, 16))
    manifest = manifest_of(tmp_path, SceneFiles(points="p.npz", image="i.png", camera=camera_record(CAMERA)))
    with pytest.raises(GeometryError, match="10 x 16"):
        load_scene(manifest, manifest.records[0])


def test_an_image_record_and_a_file_of_points_are_scenes_with_what_they_have(tmp_path):
    picture(tmp_path / "i.png")
    points(tmp_path / "p.npz")
    records = tuple(Record(id=name, patient_id=name, kind="image", paths=(name,)) for name in ("i.png", "p.npz"))
    manifest = Manifest(Header(name="m", root=str(tmp_path)), records)
    image, cloud = (load_scene(manifest, record) for record in records)
    assert (image.points, image.image.pixels.shape) == (None, (3, 12, 16))
    assert (cloud.image, cloud.points.points.shape) == (None, (192, 3))


def test_a_record_without_files_or_with_channels_is_no_scene(tmp_path):
    record = Record(id="a", patient_id="a", kind="image", paths=("a.png", "b.png"))
    with pytest.raises(RecipeError, match="'image' with 2 files, and a scene is needed"):
        load_scene(Manifest(Header(name="m", root=str(tmp_path)), (record,)), record)


def test_a_volume_is_no_scene(tmp_path):
    with pytest.raises(ReadError, match="is a volume, and a scene is needed"):
        scene_of_file(str(nifti(tmp_path / "v.nii.gz")))


def test_cameras_and_boxes_come_back_from_a_record_as_they_were():
    again = camera_of(camera_record(CAMERA))
    np.testing.assert_array_equal(again.intrinsics, CAMERA.intrinsics)
    np.testing.assert_array_equal(again.camera_from_scene, CAMERA.camera_from_scene)
    assert again.size == CAMERA.size
    assert box_records(boxes_of((BOX,))) == (BOX,)


def test_a_camera_that_mirrors_the_scene_is_refused():
    mirrored = CAMERA.camera_from_scene.copy()
    mirrored[0] *= -1
    with pytest.raises(ValueError, match="left-handed"):
        SceneCamera(
            intrinsics=camera_record(CAMERA).intrinsics,
            size=(12, 16),
            camera_from_scene=tuple(map(tuple, mirrored.tolist())),
        )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "needs points, a depth picture or an image"),
        ({"points": "p.ply", "depth": "d.png", "camera": camera_record(CAMERA)}, "not both"),
        ({"depth": "d.png"}, "needs a camera"),
    ],
)
def test_files_that_make_no_scene_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        SceneFiles(**fields)


def names_and_kinds(found):
    return [(name, load().kind) for name, load in found]


def test_scenes_are_found_in_whatever_a_user_has(tmp_path):
    scene_folder(tmp_path / "many" / "a")
    scene_folder(tmp_path / "many" / "b", seed=1)
    frames_folder(tmp_path / "many" / "walk", count=2, seed=5)
    assert names_and_kinds(find_scenes(tmp_path / "many" / "a")) == [("a", "scene")]
    assert [name for name, _ in find_scenes(tmp_path / "many" / "walk")] == ["0000", "0001"]
    everything = ["a", "b", "walk/0000", "walk/0001"]
    assert names_and_kinds(find_scenes(tmp_path / "many")) == [(name, "scene") for name in everything]
    from_scene_folder(tmp_path / "many").save(tmp_path / "m.jsonl")
    assert [name for name, _ in find_scenes(tmp_path / "m.jsonl")] == everything
    assert names_and_kinds(find_scenes(f"{tmp_path / 'm.jsonl'}#walk/0001")) == [("walk/0001", "scene")]
    assert names_and_kinds(find_scenes(points(tmp_path / "p.npz"))) == [("p.npz", "scene")]
    assert names_and_kinds(find_scenes(f"{tmp_path / 'many' / 'walk'}#0001")) == [("walk#0001", "scene")]


def test_an_unknown_record_is_named_with_the_nearest_one(tmp_path):
    scene_folder(tmp_path / "kitchen")
    scene_folder(tmp_path / "office", seed=1)
    from_scene_folder(tmp_path).save(tmp_path / "m.jsonl")
    with pytest.raises(RecipeError, match=r"has no record 'kitchn'.*Did you mean 'kitchen'"):
        find_scenes(f"{tmp_path / 'm.jsonl'}#kitchn")


def test_a_damaged_scene_among_others_is_an_error_where_no_manifest_lists_it(tmp_path):
    scene_folder(tmp_path / "a")
    scene_folder(tmp_path / "b")
    write_json(tmp_path / "b" / "camera.json", {**CAMERA_JSON, "size": [13, 16]})
    with pytest.raises(ReadError, match="Mend or remove it, or prepare a manifest"):
        find_scenes(tmp_path)


def test_one_scene_that_is_damaged_keeps_its_own_reason_and_remedy(tmp_path):
    write_json(scene_folder(tmp_path / "a") / "camera.json", {**CAMERA_JSON, "size": [13, 16]})
    ((name, load),) = find_scenes(tmp_path / "a")
    assert name == "a"
    with pytest.raises(GeometryError, match=r"12 x 16 .* camera .*13 x 16.* Give the camera"):
        load()


def test_nothing_in_a_folder_is_an_error(tmp_path):
    with pytest.raises(ReadError, match="holds no scene"):
        find_scenes(tmp_path)


def test_a_sound_manifest_of_scenes_has_no_findings(tmp_path):
    for seed in range(3):
        scene_folder(tmp_path / f"s{seed}", seed)
    assert audit(from_scene_folder(tmp_path)) == []


def test_the_audit_finds_scenes_that_cannot_be_read_repeat_one_another_or_have_empty_boxes(tmp_path):
    for seed, name in ((0, "a"), (0, "b"), (1, "c"), (2, "d")):
        scene_folder(tmp_path / name, seed)
    write_json(
        tmp_path / "c" / "boxes.json", [*BOXES_JSON, {"label": "lamp", "center_m": [0, 9, 0], "size_m": [1] * 3}]
    )
    manifest = from_scene_folder(tmp_path)
    (tmp_path / "d" / "depth.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = {(finding.problem, finding.severity, finding.records): finding.message for finding in audit(manifest)}
    assert set(found) == {
        ("unreadable", "error", ("d",)),
        ("duplicate", "warning", ("a", "b")),
        ("box_without_points", "warning", ("c",)),
    }
    assert found["box_without_points", "warning", ("c",)] == "1 of 2 boxes of 'c' hold no point (lamp)"


def test_the_audit_finds_pictures_of_one_value_and_the_same_picture_twice(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    from PIL import Image

    Image.new("RGB", (16, 12)).save(tmp_path / "black.png")
    manifest = manifest_of(tmp_path, *(SceneFiles(image=name) for name in ("a.png", "b.png", "black.png")))
    assert [(finding.problem, finding.records) for finding in audit(manifest)] == [
        ("constant", ("s2",)),
        ("duplicate", ("s0", "s1")),
    ]
