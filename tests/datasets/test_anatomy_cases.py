import json

import pytest

from crossdim.datasets.anatomy_cases import find_cases
from crossdim.errors import ReadError, RecipeError
from tests.datasets.anatomy_toys import NAMES, label_map, save
from tests.datasets.toys import nifti


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(NAMES))
    return str(path)


def test_label_maps_are_paired_with_the_images_of_their_name(tmp_path, names):
    for name in ("b", "a10", "a2"):
        save(tmp_path / "maps" / f"{name}.nii.gz", label_map())
    for name in ("b.nii", "a10_0000.nii.gz", "a2.nii.gz", "other.nii.gz"):
        nifti(tmp_path / "scans" / name)
    cases, found = find_cases(str(tmp_path / "scans"), str(tmp_path / "maps"), names)
    assert found == NAMES
    assert [(case.id, case.image.rpartition("/")[2]) for case in cases] == [
        ("a2", "a2.nii.gz"), ("a10", "a10_0000.nii.gz"), ("b", "b.nii"),
    ]  # fmt: skip
    assert [case.patient_id for case in cases] == ["a2", "a10", "b"]


def test_maps_alone_have_no_images(tmp_path, names):
    save(tmp_path / "maps" / "a.nii.gz", label_map())
    cases, _ = find_cases(None, str(tmp_path / "maps"), names)
    assert [case.image for case in cases] == [None]


def test_a_missing_image_is_named(tmp_path, names):
    save(tmp_path / "maps" / "a.nii.gz", label_map())
    nifti(tmp_path / "scans" / "b.nii.gz")
    with pytest.raises(ReadError, match=r"holds no image for 1 of 1 label maps, such as 'a.nii.gz'"):
        find_cases(str(tmp_path / "scans"), str(tmp_path / "maps"), names)


def test_a_decathlon_task_tells_images_labels_and_names(tmp_path):
    save(tmp_path / "labelsTr" / "a.nii.gz", label_map())
    nifti(tmp_path / "imagesTr" / "a.nii.gz")
    about = {"labels": {"0": "background", "1": "liver", "2": "tumour"}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    cases, names = find_cases(str(tmp_path), None)
    assert names == {1: "liver", 2: "tumour"}
    assert cases[0].image.endswith("imagesTr/a.nii.gz")


def test_folders_of_masks_beside_their_image_tell_their_names(tmp_path):
    for case in ("s1", "s2"):
        nifti(tmp_path / case / "ct.nii.gz")
        nifti(tmp_path / case / "segmentations" / "kidney_left.nii.gz")
    nifti(tmp_path / "s2" / "segmentations" / "liver.nii.gz")
    cases, names = find_cases(str(tmp_path), None)
    assert names == {1: "left kidney", 2: "liver"}
    assert [(case.id, case.image) for case in cases] == [(s, str(tmp_path / s / "ct.nii.gz")) for s in ("s1", "s2")]
    nifti(tmp_path / "s1" / "mr.nii.gz")
    with pytest.raises(ReadError, match="holds 2 volumes beside segmentations"):
        find_cases(str(tmp_path), None)


def test_patients_are_found_by_an_expression(tmp_path, names):
    for name in ("p1_a", "p1_b", "p2_a"):
        save(tmp_path / "maps" / f"{name}.nii.gz", label_map())
    cases, _ = find_cases(None, str(tmp_path / "maps"), names, "(p[0-9])_")
    assert [case.patient_id for case in cases] == ["p1", "p1", "p2"]
    with pytest.raises(RecipeError, match=r"patient '\(q\)': finds no patient"):
        find_cases(None, str(tmp_path / "maps"), names, "(q)")


def test_what_is_not_there_is_refused(tmp_path, names):
    with pytest.raises(RecipeError, match="have no label maps"):
        find_cases(None, None)
    with pytest.raises(ReadError, match="is not a folder"):
        find_cases(str(tmp_path / "absent"), None)
    with pytest.raises(ReadError, match="holds neither labels, labelsTr nor case/segmentations"):
        find_cases(str(tmp_path), None)
    (tmp_path / "maps").mkdir()
    with pytest.raises(ReadError, match=r"holds no label map"):
        find_cases(None, str(tmp_path / "maps"), names)
    save(tmp_path / "maps" / "a.nii.gz", label_map())
    with pytest.raises(RecipeError, match=r"does not tell what its label values are called. Give a table"):
        find_cases(None, str(tmp_path / "maps"))
    with pytest.raises(ReadError, match="is not a folder"):
        find_cases(str(tmp_path / "absent"), str(tmp_path / "maps"), names)
