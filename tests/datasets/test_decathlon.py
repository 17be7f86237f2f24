import json
from collections import Counter

import pytest

from crossdim import readers
from crossdim.datasets.decathlon import from_decathlon
from crossdim.errors import ReadError, RecipeError
from tests.datasets.toys import mask, nifti


def describe(folder, *, channels=("CT",), names=("background", "liver", "tumour"), cases=10, tests=2):
    about = {
        "name": "Liver",
        "modality": {str(index): name for index, name in enumerate(channels)},
        "labels": {str(value): name for value, name in enumerate(names)},
        "training": [{"image": f"./imagesTr/l_{n}.nii.gz", "label": f"./labelsTr/l_{n}.nii.gz"} for n in range(cases)],
        "test": [f"./imagesTs/l_{100 + n}.nii.gz" for n in range(tests)],
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def task(tmp_path):
    for number in range(10):
        nifti(tmp_path / "imagesTr" / f"l_{number}.nii.gz", seed=number)
        mask(tmp_path / "labelsTr" / f"l_{number}.nii.gz", (1, 2) if number % 2 else (1,))
    for number in (100, 101):
        nifti(tmp_path / "imagesTs" / f"l_{number}.nii.gz", seed=number)
    (tmp_path / "imagesTr" / "._l_0.nii.gz").write_bytes(b"left behind by a Mac")
    return describe(tmp_path)


def test_the_official_layout_gives_unlabelled_volumes_with_masks(task):
    manifest = from_decathlon(task, validation=0.2, seed=1)
    assert Counter(record.split for record in manifest.records) == {"train": 8, "val": 2, "test": 2}
    assert (manifest.header.name, manifest.header.tasks, manifest.skipped) == ("Liver", {}, ())
    first = manifest.records[0]
    assert (first.id, first.paths, first.labels) == ("l_0", ("imagesTr/l_0.nii.gz",), {})
    assert first.extra == {"segmentation": "labelsTr/l_0.nii.gz"}
    assert readers.read(manifest.absolute(first.extra["segmentation"])).voxels.max() == 1
    assert all(not record.extra for record in manifest.split("test").records)


def test_a_four_dimensional_file_becomes_one_volume_with_named_channels(task):
    for number in range(10):
        nifti(task / "imagesTr" / f"l_{number}.nii.gz", shape=(6, 7, 5, 2))
    describe(task, channels=("FLAIR", "T1w"), tests=0)
    record = from_decathlon(task).records[3]
    assert record.paths == ("imagesTr/l_3.nii.gz#0", "imagesTr/l_3.nii.gz#1")
    assert record.extra["channels"] == "FLAIR,T1w"
    manifest = from_decathlon(task)
    assert readers.read_channels(manifest.resolve(record)).voxels.shape[0] == 2


def test_modalities_keep_their_numbers_beyond_nine(task):
    for number in range(10):
        nifti(task / "imagesTr" / f"l_{number}.nii.gz", shape=(4, 4, 4, 11))
    describe(task, channels=[f"m{index}" for index in range(11)], tests=0)
    assert from_decathlon(task).records[0].extra["channels"].endswith("m9,m10")


def test_which_structures_a_volume_holds_can_be_a_task(task):
    manifest = from_decathlon(task, structures=True, validation=0.2)
    about = manifest.header.tasks["structures"]
    assert (about.kind, about.classes) == ("multilabel", ("liver", "tumour"))
    labels = {record.id: record.labels.get("structures") for record in manifest.records}
    assert labels["l_0"] == (0,)
    assert labels["l_1"] == (0, 1)
    assert labels["l_100"] is None
    assert Counter(record.labels["structures"] for record in manifest.split("val").records) == {(0,): 1, (0, 1): 1}


def test_structures_of_the_plain_layout_have_numbers_for_names(task):
    (task / "dataset.json").unlink()
    (task / "imagesTr").rename(task / "images")
    (task / "labelsTr").rename(task / "labels")
    manifest = from_decathlon(task, structures=True)
    assert manifest.header.tasks["structures"].classes == ("structure 1", "structure 2")
    assert len(manifest) == 10


def test_cases_that_are_missing_or_do_not_fit_are_listed(task):
    (task / "labelsTr" / "l_1.nii.gz").unlink()
    (task / "imagesTr" / "l_2.nii.gz").unlink()
    (task / "imagesTr" / "l_3.nii.gz").write_bytes(b"broken")
    nifti(task / "imagesTr" / "l_4.nii.gz", shape=(4, 4, 4, 3))
    manifest = from_decathlon(task)
    assert len(manifest) == 8
    reasons = {skipped.path.rpartition("/")[2]: skipped.reason for skipped in manifest.skipped}
    assert "labelsTr/l_1.nii.gz: is missing" in reasons["l_1.nii.gz"]
    assert reasons["l_2.nii.gz"] == "is missing"
    assert reasons["l_3.nii.gz"].startswith("cannot be read")
    assert reasons["l_4.nii.gz"] == "has shape (4, 4, 4, 3), and dataset.json names 1 modalities"


def test_progress_is_told_for_each_case(task):
    calls = []
    from_decathlon(task, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12, 12)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": "x", "training": [{"image": 1}]}'])
def test_a_description_that_is_none_is_refused(task, text):
    (task / "dataset.json").write_text(text)
    with pytest.raises(ReadError, match=r"dataset.json: is not a Decathlon description"):
        from_decathlon(task)


def test_a_folder_that_is_no_task_is_refused(tmp_path):
    with pytest.raises(ReadError, match=r"holds neither dataset.json nor images/\*.nii.gz"):
        from_decathlon(tmp_path)


def test_masks_without_structures_make_no_task(task):
    for number in range(10):
        mask(task / "labelsTr" / f"l_{number}.nii.gz", ())
    describe(task, names=("background",))
    with pytest.raises(RecipeError, match=r"its masks hold no structure to make a task of"):
        from_decathlon(task, structures=True)


def test_the_hippocampus_in_its_plain_layout(crossdim_data):
    manifest = from_decathlon(crossdim_data / "hippocampus", seed=2)
    assert Counter(record.split for record in manifest.records) == {"train": 180, "val": 20}
    record = manifest.records[0]
    volume = readers.read_channels(manifest.resolve(record))
    assert volume.kind == record.kind == "volume"
    assert readers.read(manifest.absolute(record.extra["segmentation"])).voxels.shape == volume.voxels.shape
