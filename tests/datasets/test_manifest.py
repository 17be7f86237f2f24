import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.manifest import Header, Manifest, Record, Task, source_of
from crossdim.errors import ReadError, RecipeError

HEADER = {
    "crossdim_manifest": 1,
    "name": "eyes",
    "root": ".",
    "tasks": {
        "grade": {"kind": "ordinal", "classes": ["none", "mild", "severe"]},
        "signs": {"kind": "multilabel", "classes": ["drusen", "oedema"]},
    },
}
RECORD = {"id": "a", "patient_id": "p", "kind": "image", "paths": ["a.png"], "labels": {"grade": 2, "signs": [0, 1]}}
CAMERA = {
    "intrinsics": [[20.0, 0.0, 8.0], [0.0, 20.0, 6.0], [0.0, 0.0, 1.0]],
    "size": [12, 16],
    "camera_from_scene": [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
}
BOX = {"label": "chair", "center_m": [0.0, 2.0, 0.0], "size_m": [1.0, 0.5, 1.0], "yaw_rad": 0.5}
SCENE = {
    "id": "s",
    "patient_id": "kitchen",
    "kind": "scene",
    "scene": {"depth": "a.png", "image": "b.png", "depth_unit_m": 0.0002, "camera": CAMERA, "boxes": [BOX]},
}


def header(**changes):
    return Header.model_validate_json(json.dumps(HEADER | changes))


def record(**changes):
    return Record.model_validate_json(json.dumps(RECORD | changes))


def write(folder, *lines):
    path = folder / "m.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


@pytest.fixture
def data(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    records = (record(), record(id="b", patient_id="q", paths=["b.png"], split="val", labels={}))
    return Manifest(header(root=str(tmp_path)), records)


def test_a_saved_manifest_loads_as_it_was(data, tmp_path):
    data.save(tmp_path / "sub" / "m.jsonl")
    again = Manifest.load(tmp_path / "sub" / "m.jsonl")
    assert again == data
    assert again.sha256 == data.sha256
    assert again.records[0].labels == {"grade": 2, "signs": (0, 1)}


def test_a_manifest_beside_its_data_moves_with_them(data, tmp_path):
    data.save(tmp_path / "m.jsonl")
    assert json.loads((tmp_path / "m.jsonl").read_text().splitlines()[0])["root"] == "."
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    again = Manifest.load(moved / "m.jsonl")
    assert again.resolve(again.records[0]) == (str(moved / "a.png"),)
    assert (again.sha256, again.data_hash()) == (data.sha256, again.data_hash())


def test_a_manifest_away_from_its_data_keeps_their_absolute_folder(data, tmp_path):
    data.save(tmp_path / "elsewhere" / "m.jsonl")
    assert Manifest.load(tmp_path / "elsewhere" / "m.jsonl").header.root == str(tmp_path)


def test_saving_leaves_no_temporary_file_even_when_it_fails(data, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"taken"):
        data.save(tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png", "taken"]


def test_a_manifest_from_windows_notepad_with_a_byte_order_mark_loads(tmp_path):
    path = write(tmp_path, HEADER, RECORD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert len(Manifest.load(path)) == 1


def test_parts_and_tasks_are_selected_by_name(data):
    assert [r.id for r in data.split("val").records] == ["b"]
    assert len(data.split("test")) == 0
    assert [r.id for r in data.for_task("grade").records] == ["a"]


def test_unknown_parts_and_tasks_are_refused_with_the_nearest_name(data):
    with pytest.raises(RecipeError, match=r"split 'valid': is not a split. Did you mean 'val'"):
        data.split("valid")
    with pytest.raises(RecipeError, match=r"task 'grades': is not a task of manifest 'eyes'. Did you mean 'grade'"):
        data.for_task("grades")
    with pytest.raises(RecipeError, match=r"Make the manifest with labels"):
        Manifest(header(tasks={}), ()).task("grade")


def test_paths_keep_their_selectors_and_masks_resolve_too(data, tmp_path):
    channels = record(paths=["b/t.nii.gz#0", "b/t.nii.gz#1"])
    assert data.resolve(channels) == (f"{tmp_path}/b/t.nii.gz#0", f"{tmp_path}/b/t.nii.gz#1")
    assert data.absolute("masks/a.png") == f"{tmp_path}/masks/a.png"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (RECORD | {"patient": "p"}, r"line 2, field 'patient': is not known here. Did you mean 'patient_id'"),
        ({"id": "a"}, r"line 2, field 'patient_id': is missing. Add it"),
        (RECORD | {"id": 7}, r"line 2, field 'id': input should be a valid string, not 7"),
        (RECORD | {"paths": []}, r"line 2: paths: a record of kind '.*' needs at least one file, and this one has 0"),
        (RECORD | {"split": "valid"}, r"field 'split': .*not \"valid\". Did you mean 'val'"),
        (RECORD | {"kind": "volumes"}, r"field 'kind': .*not \"volumes\". Did you mean 'volume'"),
        (RECORD | {"labels": {"grade": "2"}}, r"field 'labels.grade': input should be a valid integer, not \"2\""),
        (RECORD | {"labels": {"grade": True}}, r"field 'labels.grade': input should be a valid integer, not true"),
        (RECORD | {"labels": {"grade": 3}}, r"line 2, field 'labels.grade': class index 3 is outside the 3 classes"),
        (RECORD | {"labels": {"grade": -1}}, r"class index -1 is outside the 3 classes. The classes are 0 to 2"),
        (RECORD | {"labels": {"grade": [1]}}, r"ordinal labels are one class index each, not "),
        (RECORD | {"labels": {"signs": 1}}, r"multilabel labels are lists of class indices, not 1"),
        (RECORD | {"labels": {"signs": [1, 0]}}, r"class indices must rise and not repeat, and are \[1, 0\]"),
        (RECORD | {"labels": {"grades": 1}}, r"'grades' is not a task of the header. Did you mean 'grade'"),
        ("{'id': 1}", r"m.jsonl, line 2: is not JSON \(.*\). Mend the line"),
        ("[1]", r"m.jsonl, line 2: input should be an object, not \[1\]"),
        (RECORD | {"id": [1] * 99}, r"not \[1, 1, .*\.\.\."),
    ],
)
def test_a_bad_record_is_named_by_file_line_and_field(tmp_path, line, message):
    with pytest.raises(RecipeError, match=message):
        Manifest.load(write(tmp_path, HEADER, line))


def scene_with(**changes):
    return SCENE | {"scene": SCENE["scene"] | changes}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (SCENE | {"paths": ["a.png"]}, r"paths: a record of kind 'scene' needs no file, and this one has 1"),
        (SCENE | {"scene": None}, r"scene: a record of kind 'scene' needs one"),
        (SCENE | {"kind": "image", "paths": ["a.png"]}, r"scene: a record of kind 'image' needs none"),
        (SCENE | {"more": [["a.png"]]}, r"every entry of 'more' needs at least one file, and a scene record has none"),
        (SCENE | {"dialogues": [{"id": "1", "turns": [{"question": "q"}]}]}, r"dialogues are about images and volumes"),
        (scene_with(imge="b.png"), r"line 2, field 'scene.imge': is not known here. Did you mean 'image'"),
        (scene_with(camera=CAMERA | {"sise": 1}), r"field 'scene.camera.sise': is not known here. Did you mean 'size'"),
        (scene_with(boxes=[BOX | {"yaw": 1}]), r"field 'scene.boxes.0.yaw': is not known here. Did you mean 'yaw_rad'"),
        (scene_with(boxes=[BOX | {"size_m": [1.0, 0.0, 1.0]}]), r"field 'scene.boxes.0.size_m.1': .*greater than 0"),
        (scene_with(boxes=[BOX | {"label": ""}]), r"field 'scene.boxes.0.label': "),
        (scene_with(depth_encoding="raw"), r"field 'scene.depth_encoding': .*not \"raw\""),
        (scene_with(camera=None), r"field 'scene': a depth picture needs a camera"),
        (scene_with(points="p.ply"), r"field 'scene': a scene has points or a depth picture, not both"),
        (scene_with(camera=CAMERA | {"size": [0, 16]}), r"field 'scene.camera.size.0': .*greater than 0"),
        (
            scene_with(camera=CAMERA | {"camera_from_scene": [[0.0] * 4] * 4}),
            r"field 'scene.camera': camera_from_scene",
        ),
    ],
)
def test_a_bad_scene_is_named_by_file_line_and_field(tmp_path, line, message):
    with pytest.raises(RecipeError, match=message):
        Manifest.load(write(tmp_path, HEADER, line))


def test_a_scene_survives_the_file_and_resolves_each_of_its_files(tmp_path):
    path = write(tmp_path, HEADER, SCENE, SCENE | {"id": "t", "scene": {"points": "p.ply", "boxes": []}})
    manifest = Manifest.load(path)
    manifest.save(tmp_path / "again.jsonl")
    assert Manifest.load(tmp_path / "again.jsonl").records == manifest.records
    both, points = manifest.records
    assert manifest.resolve_all(both) == ((str(tmp_path / "a.png"),), (str(tmp_path / "b.png"),))
    assert manifest.resolve_all(points) == ((str(tmp_path / "p.ply"),),)
    assert (points.scene.boxes, points.scene.camera) == ((), None)
    assert Manifest.load(write(tmp_path, HEADER, SCENE)).records[0].scene.boxes[0].size_m == (1.0, 0.5, 1.0)


def test_the_data_hash_reads_the_files_of_scenes(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"1")
    manifest = Manifest.load(write(tmp_path, HEADER, SCENE))
    before = manifest.data_hash()
    (tmp_path / "b.png").write_bytes(b"2")
    assert manifest.data_hash() != before
    (tmp_path / "a.png").unlink()
    with pytest.raises(ReadError, match=r"a.png: is in the manifest but not on the disk"):
        manifest.data_hash()


def test_the_hash_of_a_manifest_is_what_it_was_before_there_were_scenes():
    dialogues = (Dialogue(id="1", turns=(Turn(question="q", answer="a"),)),)
    records = (
        Record(id="a", patient_id="p", split="train", kind="image", paths=("a.png",), labels={"g": 1}, extra={"k": 2}),
        Record(id="b", patient_id="q", kind="text", dialogues=dialogues),
    )
    manifest = Manifest(Header(name="m", root="/x", tasks={"g": Task(kind="ordinal", classes=("0", "1"))}), records)
    assert manifest.sha256 == "a7a7191c7fdc82354923766bb9690d3a1c27f85eea4811ebde8f485a265d6dc1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crossdim_manifest": 2}, r"line 1, field 'crossdim_manifest': input should be 1, not 2"),
        ({"seed": 1}, r"line 1, field 'seed': is not known here. Did you mean 'split_seed'|Use one of"),
        ({"tasks": {"g": {"kind": "ordinal"}}}, r"field 'tasks.g.classes': is missing"),
        ({"tasks": {"g": {"kind": "ordinal", "classes": ["a"], "clases": 1}}}, r"Did you mean 'classes'"),
        ({"tasks": {"g": {"kind": "nominal", "classes": ["a"]}}}, r"field 'tasks.g.kind': .*Did you mean|Use one of"),
        ({"tasks": {"g": {"kind": "ordinal", "classes": ["a", "a"]}}}, r"must be different names, at least one"),
        ({"tasks": {"g": {"kind": "ordinal", "classes": []}}}, r"must be different names, at least one"),
    ],
)
def test_a_bad_header_is_named_by_field(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        Manifest.load(write(tmp_path, HEADER | changes, RECORD))


def test_a_number_that_json_lacks_is_refused_before_it_is_saved():
    with pytest.raises(ValueError, match=r"finite number"):
        Record(id="a", patient_id="p", kind="image", paths=("a.png",), extra={"age": float("nan")})


def test_a_record_where_the_header_should_be_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"line 1, field"):
        Manifest.load(write(tmp_path, RECORD))


def test_two_records_with_one_id_are_refused_with_both_lines(tmp_path):
    with pytest.raises(RecipeError, match=r"line 4, field 'id': 'a' is already the id of .*m.jsonl, line 2"):
        Manifest.load(write(tmp_path, HEADER, RECORD, "", RECORD))
    with pytest.raises(RecipeError, match=r"manifest 'eyes', record 2, field 'id'"):
        Manifest(header(), (record(), record()))


def test_labels_without_any_task_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"'grade' is not a task of the header. Add the task to the header"):
        Manifest.load(write(tmp_path, HEADER | {"tasks": {}}, RECORD))


def test_files_that_are_no_manifest_are_refused(tmp_path):
    with pytest.raises(ReadError, match=r"is not a file. Make a manifest with `crossdim prepare`"):
        Manifest.load(tmp_path / "absent.jsonl")
    with pytest.raises(ReadError, match=r"is not a file"):
        Manifest.load(tmp_path)
    (tmp_path / "m.jsonl").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ReadError, match=r"is not UTF-8 text, so not a manifest"):
        Manifest.load(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_bytes(b"\n")
    with pytest.raises(RecipeError, match=r"is empty"):
        Manifest.load(tmp_path / "m.jsonl")


def test_the_content_hash_ignores_the_place_and_the_order_of_keys_and_sees_all_else(data):
    swapped = record(labels={"signs": [0, 1], "grade": 2})
    same = Manifest(header(root="/somewhere/else"), (swapped, data.records[1]))
    assert same.sha256 == data.sha256
    assert Manifest(data.header, data.records[::-1]).sha256 != data.sha256
    assert Manifest(header(name="ears"), data.records).sha256 != data.sha256


def test_the_data_hash_changes_with_the_content_of_a_file(data, tmp_path):
    before = data.data_hash()
    assert before == data.data_hash()
    (tmp_path / "c.png").write_bytes(b"not referenced")
    assert data.data_hash() == before
    (tmp_path / "a.png").write_bytes(b"A")
    assert data.data_hash() != before


def test_the_data_hash_reads_a_shared_file_once_and_every_slice_of_a_series(tmp_path):
    (tmp_path / "series").mkdir()
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / "series" / name).write_bytes(name.encode())
    (tmp_path / "x.npz").write_bytes(b"x")
    paths = ["series#1.2", "x.npz#train/0", "x.npz#train/1"]
    manifest = Manifest(header(root=str(tmp_path)), tuple(record(id=p, paths=[p]) for p in paths))
    calls = []
    before = manifest.data_hash(progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    (tmp_path / "series" / "2.dcm").write_bytes(b"changed")
    assert manifest.data_hash() != before


def test_the_data_hash_names_a_missing_file(data, tmp_path):
    (tmp_path / "b.png").unlink()
    with pytest.raises(ReadError, match=r"b.png: is in the manifest but not on the disk"):
        data.data_hash()


def test_a_file_with_a_hash_sign_in_its_name_is_that_file(tmp_path):
    (tmp_path / "eye#2.png").write_bytes(b"")
    assert source_of(str(tmp_path / "eye#2.png")) == str(tmp_path / "eye#2.png")
    assert source_of(str(tmp_path / "eye.npz#train/2")) == str(tmp_path / "eye.npz")


def test_a_hundred_thousand_records_load(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = (json.dumps(RECORD | {"id": str(number)}) for number in range(100_000))
    path.write_text("\n".join([json.dumps(HEADER), *lines]))
    assert len(Manifest.load(path)) == 100_000


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    st.lists(st.tuples(text, text, st.sampled_from(["train", "val", "test", None])), unique_by=lambda t: t[0]),
    st.dictionaries(
        text, st.one_of(text, st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
    ),
)
def test_anything_that_fits_the_format_survives_the_file(tmp_path_factory, rows, extra):
    records = tuple(
        Record(id=name, patient_id=patient, split=split, kind="volume", paths=(name,), extra=extra)
        for name, patient, split in rows
    )
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    manifest = Manifest(Header(name="n", root=str(path.parent), tasks={"t": TASK}), records)
    manifest.save(path)
    assert Manifest.load(path) == manifest


TASK = Task(kind="multiclass", classes=("a", "b"))
