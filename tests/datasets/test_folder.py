from collections import Counter

import pytest

from crossdim import readers
from crossdim.datasets.folder import from_folder
from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scan import in_order, patient_rule
from crossdim.datasets.splits import split_by_patient
from crossdim.errors import ReadError, RecipeError
from tests.datasets.toys import nifti, png, series


def ids(manifest):
    return sorted(record.id for record in manifest.records)


def patients(manifest):
    return {record.id: record.patient_id for record in manifest.records}


def test_a_nested_folder_of_images_and_volumes_gives_one_record_each(tmp_path):
    png(tmp_path / "a.png")
    png(tmp_path / "x" / "y" / "b.jpg")
    nifti(tmp_path / "x" / "c.nii.gz")
    series(tmp_path / "x" / "mr")
    manifest = from_folder(tmp_path)
    assert {record.id: record.kind for record in manifest.records} == {
        "a.png": "image",
        "x/y/b.jpg": "image",
        "x/c.nii.gz": "volume",
        "x/mr": "volume",
    }
    assert (manifest.header.name, manifest.header.tasks, manifest.skipped) == (tmp_path.name, {}, ())
    for record in manifest.records:
        assert readers.read_channels(manifest.resolve(record)).kind == record.kind


def test_two_series_in_one_folder_are_two_records_of_one_patient(tmp_path):
    series(tmp_path / "study", number=1)
    series(tmp_path / "study", number=2)
    manifest = from_folder(tmp_path)
    assert len(manifest) == 2
    assert all(record.id.startswith("study#") for record in manifest.records)
    assert set(patients(manifest).values()) == {"study"}


def test_what_cannot_be_read_is_listed_and_not_dropped_in_silence(tmp_path):
    png(tmp_path / "good.png")
    whole = nifti(tmp_path / "cut.nii.gz", shape=(20, 20, 20)).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("seen by Dr. A")
    (tmp_path / ".DS_Store").write_bytes(b"hidden")
    nifti(tmp_path / "four.nii.gz", shape=(4, 4, 4, 3))
    manifest = from_folder(tmp_path)
    assert ids(manifest) == ["good.png"]
    reasons = {skipped.path.rpartition("/")[2]: skipped.reason for skipped in manifest.skipped}
    assert set(reasons) == {"cut.nii.gz", "empty.png", "notes.txt", "four.nii.gz"}
    assert "is of no kind that is read" in reasons["notes.txt"]
    assert "empty" in reasons["empty.png"]
    assert "#0" in reasons["four.nii.gz"]


def test_the_folders_are_the_classes_in_the_order_people_count(tmp_path):
    for grade in ("grade 10", "grade 2", "grade 1"):
        png(tmp_path / grade / "deep" / "er" / "a.png")
    manifest = from_folder(tmp_path, task="grade")
    assert manifest.header.tasks["grade"].classes == ("grade 1", "grade 2", "grade 10")
    assert manifest.header.tasks["grade"].kind == "multiclass"
    assert {r.id.partition("/")[0]: r.labels["grade"] for r in manifest.records} == {
        "grade 1": 0,
        "grade 2": 1,
        "grade 10": 2,
    }


def test_series_lying_in_the_folder_of_a_class_have_that_class(tmp_path):
    series(tmp_path / "sick", number=1)
    series(tmp_path / "sick", number=2)
    series(tmp_path / "well" / "s1")
    manifest = from_folder(tmp_path, task="state")
    assert Counter(record.labels["state"] for record in manifest.records) == {0: 2, 1: 1}


def test_one_series_lying_in_the_folder_of_a_class_has_that_class(tmp_path):
    series(tmp_path / "sick")
    series(tmp_path / "well")
    manifest = from_folder(tmp_path, task="state")
    assert {record.id: record.labels["state"] for record in manifest.records} == {"sick": 0, "well": 1}


def test_the_folder_itself_can_be_a_series_or_hold_several(tmp_path):
    series(tmp_path / "scan", number=1)
    manifest = from_folder(tmp_path / "scan")
    assert ids(manifest) == ["."]
    series(tmp_path / "scan", number=2)
    manifest = from_folder(tmp_path / "scan")
    assert all(name.startswith(".#") for name in ids(manifest))
    assert set(patients(manifest).values()) == {"."}
    manifest.save(tmp_path / "m.jsonl")
    loaded = Manifest.load(tmp_path / "m.jsonl")
    for record in loaded.records:
        assert readers.read_channels(loaded.resolve(record)).voxels.shape == (1, 4, 8, 8)
    with pytest.raises(ReadError, match=r"lies in no folder of a class"):
        from_folder(tmp_path / "scan", task="t")


def test_ordinal_classes_come_in_the_order_given_and_may_lack_examples(tmp_path):
    for grade in ("mild", "none"):
        png(tmp_path / grade / "a.png")
    manifest = from_folder(tmp_path, task="grade", classes=["none", "mild", "severe"], ordinal=True)
    assert manifest.header.tasks["grade"].kind == "ordinal"
    assert {record.id: record.labels["grade"] for record in manifest.records} == {"mild/a.png": 1, "none/a.png": 0}


def test_a_file_beside_the_folders_of_the_classes_is_listed(tmp_path):
    png(tmp_path / "a" / "1.png")
    png(tmp_path / "b" / "1.png")
    png(tmp_path / "stray.png")
    (skipped,) = from_folder(tmp_path, task="t").skipped
    assert skipped.path.endswith("stray.png")
    assert skipped.reason == "lies in no folder of a class"


def test_the_outermost_folders_can_be_the_parts(tmp_path):
    for part in ("Training", "valid", "test", "extra"):
        for label in ("a", "b"):
            png(tmp_path / part / label / "p1" / "1.png")
    manifest = from_folder(tmp_path, task="t", split_folders=True, patient="folder")
    assert Counter(record.split for record in manifest.records) == {"train": 2, "val": 2, "test": 2}
    assert set(patients(manifest).values()) == {"p1"}
    assert {skipped.reason for skipped in manifest.skipped} == {"lies in no folder named train, val or test"}


def test_patients_are_files_unless_told_otherwise(tmp_path):
    png(tmp_path / "well" / "p1.left.png")
    png(tmp_path / "sick" / "p1.left.png")
    nifti(tmp_path / "sick" / "p1.5mm.nii.gz")
    assert set(patients(from_folder(tmp_path)).values()) == {"well/p1.left", "sick/p1.left", "sick/p1.5mm"}


def test_patients_can_be_the_first_folder_below_the_class(tmp_path):
    png(tmp_path / "well" / "p1" / "left.png")
    nifti(tmp_path / "sick" / "p1" / "ses-2" / "t1.nii.gz")
    series(tmp_path / "sick" / "p2" / "t2")
    png(tmp_path / "sick" / "unknown.png")
    manifest = from_folder(tmp_path, task="t", patient="folder")
    assert patients(manifest) == {
        "well/p1/left.png": "p1",
        "sick/p1/ses-2/t1.nii.gz": "p1",
        "sick/p2/t2": "p2",
    }
    (skipped,) = manifest.skipped
    assert skipped.reason == "the rule 'folder' finds no patient in its path"


def test_patients_can_be_found_by_an_expression(tmp_path):
    for name in ("sub-01_left", "sub-01_right", "sub-02_left", "phantom"):
        png(tmp_path / f"{name}.png")
    manifest = from_folder(tmp_path, patient=r"(sub-\d+)")
    assert Counter(patients(manifest).values()) == {"sub-01": 2, "sub-02": 1}
    assert [skipped.path.rpartition("/")[2] for skipped in manifest.skipped] == ["phantom.png"]


def test_patients_can_be_those_of_the_dicom_header_without_their_names_leaving_it(tmp_path):
    series(tmp_path / "a" / "t1", patient="Doe 77")
    series(tmp_path / "b" / "t1", patient="Doe 77")
    series(tmp_path / "mixed", patient="Doe 77", number=1)
    series(tmp_path / "mixed", patient="Roe 12", number=2)
    png(tmp_path / "mixed" / "photo.png")
    found = patients(from_folder(tmp_path, patient="dicom"))
    assert found["a/t1"] == found["b/t1"]
    assert found["a/t1"].startswith("dicom-")
    assert "77" not in found["a/t1"].removeprefix("dicom-") or len(found["a/t1"]) == 18
    mixed = {patient for place, patient in found.items() if place.startswith("mixed#")}
    assert len(mixed) == 2
    assert found["a/t1"] in mixed
    assert found["mixed/photo.png"] == "mixed/photo"


def test_progress_is_told_for_each_file(tmp_path):
    for name in "abc":
        png(tmp_path / f"{name}.png")
    calls = []
    from_folder(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_hash_sign_in_a_file_name_does_no_harm(tmp_path):
    png(tmp_path / "eye#2.png")
    manifest = from_folder(tmp_path)
    assert patients(manifest) == {"eye#2.png": "eye#2"}
    assert readers.read_channels(manifest.resolve(manifest.records[0])).kind == "image"


def test_folders_without_anything_to_read_are_refused(tmp_path):
    with pytest.raises(ReadError, match=r"is not a folder"):
        from_folder(tmp_path / "absent")
    with pytest.raises(ReadError, match=r"holds nothing to make a record of \(0 files left out\)"):
        from_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ReadError, match=r"\(1 files left out; first .*notes.txt: is of no kind that is read"):
        from_folder(tmp_path)


def test_arguments_that_contradict_the_folders_are_refused(tmp_path):
    for label in ("mild", "sever"):
        png(tmp_path / label / "a.png")
    with pytest.raises(RecipeError, match=r"folder 'sever': is not among the classes given. Did you mean 'severe'"):
        from_folder(tmp_path, task="t", classes=["mild", "severe"])
    with pytest.raises(RecipeError, match=r"task 't': is ordinal, and the order is not given"):
        from_folder(tmp_path, task="t", ordinal=True)
    with pytest.raises(RecipeError, match=r"classes: are given without a task"):
        from_folder(tmp_path, classes=["mild", "severe"])
    with pytest.raises(RecipeError, match=r"task 't': has 1 classes \(mild\), too few to tell apart"):
        from_folder(tmp_path, task="t", split_folders=False, patient="(mild)")
    with pytest.raises(RecipeError, match=r"task 't': has the class 'mild' twice"):
        from_folder(tmp_path, task="t", classes=["mild", "sever", "mild"])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("(sub", r"patient '\(sub': is not a regular expression"),
        ("sub", r"patient 'sub': has 0 groups and needs one. Give 'file', 'folder', 'dicom'"),
        ("(a)(b)", r"has 2 groups and needs one"),
    ],
)
def test_a_rule_for_patients_that_is_none_is_refused(rule, message):
    with pytest.raises(RecipeError, match=message):
        patient_rule(rule)


def test_names_are_sorted_as_people_count():
    assert in_order(["b10", "B2", "a", "10", "9", "b"]) == ["9", "10", "a", "b", "B2", "b10"]


def test_real_dicom_series_are_found_and_split_by_patient(crossdim_data):
    manifest = from_folder(crossdim_data / "dicom_pgbm", patient="dicom")
    assert {record.kind for record in manifest.records} == {"volume"}
    assert len(manifest) >= 4
    assert len(set(patients(manifest).values())) == 1


def test_real_photographs_are_found_and_split(crossdim_data):
    manifest = split_by_patient(from_folder(crossdim_data / "idrid" / "segmentation" / "train" / "images"), seed=1)
    assert len(manifest) == 54
    assert Counter(record.split for record in manifest.records) == {"train": 38, "val": 5, "test": 11}
