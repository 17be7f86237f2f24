from collections import Counter

import numpy as np
import pytest
from PIL import Image

from crossdim import readers
from crossdim.datasets.idrid import from_idrid
from crossdim.errors import ReadError, RecipeError

TRAIN_TABLE = "a. IDRiD_Disease Grading_Training Labels.csv"
TEST_TABLE = "b. IDRiD_Disease Grading_Testing Labels.csv"


def picture(path, seed, size=192):
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(path, quality=92)


def table(path, grades):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"IDRiD_{number:03d},{grade},{risk},,,\n" for number, grade, risk in grades)
    path.write_text("Image name,Retinopathy grade,Risk of macular edema ,,,\n" + rows + ",,,,,\n")


@pytest.fixture
def official(tmp_path):
    """The published folders: 20 training pictures (20 is 3 again), 4 test pictures, 3 segmentation pictures."""
    grading, segmentation = tmp_path / "B. Disease Grading", tmp_path / "A. Segmentation"
    for number in range(1, 21):
        picture(grading / "1. Original Images" / "a. Training Set" / f"IDRiD_{number:03d}.jpg", number % 17)
    for number in range(1, 5):
        picture(grading / "1. Original Images" / "b. Testing Set" / f"IDRiD_{number:03d}.jpg", 100 + number)
    table(grading / "2. Groundtruths" / TRAIN_TABLE, [(n, n % 5, n % 3) for n in range(1, 21)])
    table(grading / "2. Groundtruths" / TEST_TABLE, [(n, 4, 0) for n in range(1, 5)])
    picture(tmp_path / "C. Localization" / "1. Original Images" / "a. Training Set" / "IDRiD_001.jpg", 55)
    masks = segmentation / "2. All Segmentation Groundtruths" / "a. Training Set"
    for number, seed in ((1, 5), (2, 102), (3, 900)):
        picture(segmentation / "1. Original Images" / "a. Training Set" / f"IDRiD_{number:02d}.jpg", seed, size=256)
        for folder, code in (("1. Microaneurysms", "MA"), ("5. Optic Disc", "OD")):
            (masks / folder).mkdir(parents=True, exist_ok=True)
            Image.new("L", (256, 256)).save(masks / folder / f"IDRiD_{number:02d}_{code}.tif")
    return tmp_path


def by_id(manifest):
    return {record.id: record for record in manifest.records}


def test_the_published_folders_give_their_official_parts_and_both_grades(official):
    manifest = from_idrid(official, validation=0.0)
    assert Counter(record.split for record in manifest.records) == {"train": 20, "test": 4}
    assert [task.kind for task in manifest.header.tasks.values()] == ["ordinal", "ordinal"]
    assert by_id(manifest)["train/IDRiD_007"].labels == {"dr_grade": 2, "dme_risk": 1}
    assert by_id(manifest)["test/IDRiD_001"].labels == {"dr_grade": 4, "dme_risk": 0}
    assert readers.read_channels(manifest.resolve(manifest.records[0])).kind == "image"


def test_the_same_picture_under_two_names_is_one_patient(official):
    patients = {name: record.patient_id for name, record in by_id(from_idrid(official)).items()}
    twins = {name: patient for name, patient in patients.items() if name != patient}
    assert twins == {
        "train/IDRiD_018": "train/IDRiD_001",
        "train/IDRiD_019": "train/IDRiD_002",
        "train/IDRiD_020": "train/IDRiD_003",
    }
    for seed in range(5):
        splits = {record.id: record.split for record in from_idrid(official, validation=0.4, seed=seed).records}
        assert splits["train/IDRiD_020"] == splits["train/IDRiD_003"]


def test_masks_follow_the_graded_picture_whatever_part_it_is_in(official):
    records = by_id(from_idrid(official))
    with_masks = {name: record.extra for name, record in records.items() if record.extra}
    assert set(with_masks) == {"train/IDRiD_005", "test/IDRiD_002"}
    assert set(with_masks["test/IDRiD_002"]) == {"segmentation/microaneurysms", "segmentation/optic_disc"}
    assert with_masks["train/IDRiD_005"]["segmentation/optic_disc"].endswith("5. Optic Disc/IDRiD_01_OD.tif")
    assert records["test/IDRiD_002"].split == "test"


def test_a_segmentation_picture_that_is_not_graded_here_is_left_out_with_the_reason(official):
    (skipped,) = from_idrid(official).skipped
    assert skipped.path.endswith("IDRiD_03.jpg")
    assert skipped.reason == "is none of the graded pictures here; it may be a test picture"


def test_validation_is_carved_from_training_by_seed_and_the_test_part_stays(official):
    first, same, other = (from_idrid(official, validation=0.3, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first != other
    assert Counter(record.split for record in first.records) == {"train": 14, "val": 6, "test": 4}
    assert first.header.split_seed == 1


def test_the_grading_folder_alone_will_do(official):
    manifest = from_idrid(official / "B. Disease Grading", validation=0.0)
    assert len(manifest) == 24
    assert not any(record.extra for record in manifest.records)


def test_a_damaged_picture_and_one_without_a_grade_are_listed(official):
    folder = official / "B. Disease Grading" / "1. Original Images" / "a. Training Set"
    (folder / "IDRiD_004.jpg").write_bytes(b"\xff\xd8broken")
    picture(folder / "IDRiD_099.jpg", 400)
    reasons = {skipped.path.rpartition("/")[2]: skipped.reason for skipped in from_idrid(official).skipped}
    assert "cannot be read" in reasons["IDRiD_004.jpg"]
    assert reasons["IDRiD_099.jpg"] == "has no row in the table of grades"


def test_progress_is_told_for_each_picture(official):
    calls = []
    from_idrid(official, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (27, 27)


def test_folders_and_tables_that_are_not_idrid_are_refused(official, tmp_path_factory):
    with pytest.raises(ReadError, match=r"holds no IDRiD_\*.jpg in a folder whose name says grading"):
        from_idrid(tmp_path_factory.mktemp("empty"))
    tables = official / "B. Disease Grading" / "2. Groundtruths"
    table(tables / TEST_TABLE, [(1, 5, 0)])
    with pytest.raises(RecipeError, match=r"Testing Labels.csv, row 2: '5' is no grade from 0 to 4"):
        from_idrid(official)
    table(tables / TEST_TABLE, [(n, 0, 0) for n in range(1, 7)])
    with pytest.raises(ReadError, match=r"2 graded pictures are missing, first test/IDRiD_005"):
        from_idrid(official)
    (tables / TEST_TABLE).write_text("Image name,Grade\nIDRiD_001,3\n")
    with pytest.raises(ReadError, match=r"Testing Labels.csv: has no column 'Retinopathy grade'"):
        from_idrid(official)
    (tables / TEST_TABLE).write_text("")
    with pytest.raises(ReadError, match=r"has no column 'Image name'"):
        from_idrid(official)
    (tables / TEST_TABLE).unlink()
    (tables / TRAIN_TABLE).unlink()
    with pytest.raises(ReadError, match=r"holds no table"):
        from_idrid(official)


def test_the_real_set_has_twins_and_masks_for_the_pictures_that_are_graded(crossdim_data):
    manifest = from_idrid(crossdim_data / "idrid", seed=3)
    records = by_id(manifest)
    assert len(records) == 413
    assert Counter(record.split for record in manifest.records)["val"] == pytest.approx(41, abs=3)
    grades = Counter(record.labels["dr_grade"] for record in manifest.split("val").records)
    assert set(grades) == {0, 1, 2, 3, 4}
    assert sum(name != record.patient_id for name, record in records.items()) == 5
    assert records["train/IDRiD_391"].patient_id == "train/IDRiD_021"
    assert sum(bool(record.extra) for record in manifest.records) == 42
    assert len(manifest.skipped) == 12
    for record in manifest.records:
        for path in record.extra.values():
            assert (crossdim_data / "idrid" / path).is_file()


def test_the_name_of_the_folder_around_it_does_not_matter(official):
    moved = official.rename(official.with_name("test segmentation of IDRiD"))
    assert Counter(record.split for record in from_idrid(moved, validation=0.0).records) == {"train": 20, "test": 4}
