import json

import nibabel
import numpy as np
import pytest

from crossdim.datasets.labelmaps import Structure, mask_names, read_label_map, read_names, same_grid
from crossdim.errors import ReadError, RecipeError
from tests.datasets.anatomy_toys import NAMES, label_map, ras_labels, save


@pytest.mark.parametrize(
    ("raw", "name", "base", "side"),
    [
        ("left cerebral white matter", "left cerebral white matter", "cerebral white matter", "left"),
        ("Left-Thalamus", "left thalamus", "thalamus", "left"),
        ("kidney_right", "right kidney", "kidney", "right"),
        ("Hippocampus_L", "left hippocampus", "hippocampus", "left"),
        ("ctx-rh-insula", "right ctx insula", "ctx insula", "right"),
        ("left ventral DC", "left ventral DC", "ventral DC", "left"),
        ("anterior hippocampus", "anterior hippocampus", "anterior hippocampus", None),
        ("brain-stem", "brain-stem", "brain-stem", None),
        ("vertebrae_L1", "vertebrae L1", "vertebrae L1", None),
        ("3rd ventricle", "3rd ventricle", "3rd ventricle", None),
        ("Left", "left", "left", None),
        ("CSF", "CSF", "CSF", None),
    ],
)
def test_a_side_is_found_in_a_name_wherever_it_stands(raw, name, base, side):
    assert Structure.of(raw) == Structure(name, base, side)


TABLES = {
    "plain.json": '{"1": "anterior hippocampus", "2": "posterior hippocampus"}',
    "dataset.json": json.dumps({"name": "x", "labels": {"0": "background", "1": "anterior hippocampus",
                                                        "2": "posterior hippocampus"}}),
    "nnunet.json": json.dumps({"labels": {"background": 0, "anterior hippocampus": 1, "posterior hippocampus": 2}}),
    "synthseg.txt": "List of structures.\n\nlabels    structures\n0   background\n1    anterior hippocampus\n"
    "2         posterior hippocampus",
    "freesurfer.txt": "#No. Label\n0 Unknown 0 0 0 0\n1 Anterior_Hippocampus 70 130 180 0\n"
    "2 Posterior_Hippocampus 245 245 245 0\n",
    "itksnap.txt": '# IDX -R- -G- -B- -A-- VIS MSH LABEL\n 0  0 0 0  0 0 0 "Clear Label"\n'
    ' 1  255 0 0  1 1 1 "anterior hippocampus"\n 2  0 255 0  1 1 1 "posterior hippocampus"\n',
    "aal.txt": "1 Anterior_Hippocampus 2001\n2 Posterior_Hippocampus 2002\n",
    "aal.xml": "<atlas><data><label><index>1</index><name>Anterior_Hippocampus</name></label>"
    "<label><index>2</index><name>Posterior_Hippocampus</name></label></data></atlas>",
    "fsl.xml": '<atlas><data><label index="0" x="1">anterior hippocampus</label>'
    '<label index="1" x="1">posterior hippocampus</label></data></atlas>',
    "table.csv": "index,name,colour\n1,anterior hippocampus,red\n2,posterior hippocampus,blue\n",
    "plain.csv": "1;anterior hippocampus\n2;posterior hippocampus\n",
    "bids.tsv": "index\tname\n1\tanterior hippocampus\n2\tposterior hippocampus\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_names_are_read_from_what_public_sets_ship(tmp_path, name):
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    assert read_names(tmp_path / name) == {1: "anterior hippocampus", 2: "posterior hippocampus"}


def test_names_that_end_in_numbers_keep_them(tmp_path):
    (tmp_path / "t.txt").write_text("1 lobe 1\n2 lobe 2\n")
    assert read_names(tmp_path / "t.txt") == {1: "lobe 1", 2: "lobe 2"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ReadError, "is no JSON of values and names"),
        ('{"labels": {"liver": "x"}}', ReadError, "is no JSON of values and names"),
        ("<atlas>", ReadError, "is no XML of labels"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", ReadError, "declares entities"),
        ("", ReadError, "names no label value"),
        ("nothing here", ReadError, "names no label value"),
        ('{"1": "liver", "2": "liver"}', RecipeError, r"calls values \[1, 2\] 'liver' alike"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, error, message):
    (tmp_path / "t").write_text(text)
    with pytest.raises(error, match=message):
        read_names(tmp_path / "t")


def test_a_table_that_is_absent_or_no_text_is_refused(tmp_path):
    with pytest.raises(ReadError, match=r"cannot be read as text \(FileNotFoundError\)"):
        read_names(tmp_path / "absent.json")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00\x9c")
    with pytest.raises(ReadError, match=r"cannot be read as text \(UnicodeDecodeError\)"):
        read_names(tmp_path / "b")


def test_a_label_map_is_read_in_the_files_own_order(tmp_path):
    body = label_map("SPL")
    read = read_label_map(save(tmp_path / "l.nii.gz", body), NAMES)
    np.testing.assert_array_equal(read.labels, body.labels)
    np.testing.assert_allclose(read.affine, body.affine)
    assert read.labels.dtype == np.int32


def volume(path, voxels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.nifti1.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def test_whole_numbers_stored_as_real_ones_are_labels_and_others_are_not(tmp_path):
    labels = ras_labels().astype(np.float32)
    assert read_label_map(volume(tmp_path / "a.nii", labels), NAMES).labels.max() == 5
    with pytest.raises(ReadError, match=r"is no label map: its values \(0 to 5.5\) are not whole numbers"):
        read_label_map(volume(tmp_path / "b.nii", labels * 1.1), NAMES)
    with pytest.raises(ReadError, match=r"is no label map: its values \(-1 to 4\)"):
        read_label_map(volume(tmp_path / "c.nii", labels - 1), NAMES)


def test_an_empty_map_and_values_without_names_are_refused(tmp_path):
    with pytest.raises(ReadError, match="holds no labelled voxel"):
        read_label_map(volume(tmp_path / "a.nii", np.zeros((4, 4, 4), np.uint8)), NAMES)
    path = volume(tmp_path / "b.nii", ras_labels().astype(np.uint8))
    some = {1: "left kidney", 3: "liver"}
    with pytest.raises(ReadError, match=r"holds 3 values that have no name \(2, 4, 5\). Name them, or"):
        read_label_map(path, some)
    assert read_label_map(path, some, unnamed="ignore").labels.max() == 5
    with pytest.raises(ReadError, match="holds 5 values that have no name"):
        read_label_map(path, {9: "spleen"}, unnamed="ignore")


def test_a_colour_volume_is_no_label_map(tmp_path):
    colours = np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(ReadError, match="is not a volume with one value a voxel"):
        read_label_map(volume(tmp_path / "c.nii", colours), NAMES)


def test_a_folder_of_masks_is_one_label_map(tmp_path):
    labels = ras_labels()
    for name, value in (("kidney_left", 1), ("kidney_right", 2), ("liver", 3)):
        volume(tmp_path / f"{name}.nii.gz", (labels == value).astype(np.uint8))
    names = mask_names([tmp_path])
    assert names == {1: "left kidney", 2: "liver", 3: "right kidney"}
    read = read_label_map(tmp_path, names)
    np.testing.assert_array_equal(read.labels.transpose(2, 1, 0) == 3, labels == 2)


def test_masks_that_do_not_fit_one_another_are_refused(tmp_path):
    volume(tmp_path / "a" / "liver.nii", np.ones((4, 4, 4), np.uint8))
    volume(tmp_path / "a" / "spleen.nii", np.ones((4, 4, 5), np.uint8))
    with pytest.raises(ReadError, match=r"spleen.nii: is \(5, 4, 4\), and other masks are \(4, 4, 4\)"):
        read_label_map(tmp_path / "a", mask_names([tmp_path / "a"]))
    volume(tmp_path / "b" / "liver.nii", np.ones((4, 4, 4), np.uint8))
    volume(tmp_path / "b" / "spleen.nii", np.ones((4, 4, 4), np.uint8), np.diag([1, 1, 2.0, 1]))
    with pytest.raises(ReadError, match="does not lie where the other masks lie"):
        read_label_map(tmp_path / "b", mask_names([tmp_path / "b"]))
    with pytest.raises(ReadError, match="holds no mask with a known name"):
        read_label_map(tmp_path / "b", {1: "heart"})


def test_a_map_that_does_not_fit_its_image_is_refused():
    body = label_map()
    same_grid(body, body.labels.shape, body.affine, "i.nii")
    with pytest.raises(ReadError, match=r"is 24 x 20 x 16, and its image 'i.nii' is 24 x 20 x 15. Resample the labels"):
        same_grid(body, (24, 20, 15), body.affine, "i.nii")
    moved = body.affine.copy()
    moved[0, 3] += 5
    with pytest.raises(ReadError, match=r"does not lie where its image 'i.nii' lies"):
        same_grid(body, body.labels.shape, moved, "i.nii")


def test_the_names_of_synthseg(crossdim_data):
    names = read_names(crossdim_data / "synthseg_labelmaps" / "labels table.txt")
    assert len(names) == 32
    assert (names[2], names[16], names[60]) == ("left cerebral white matter", "brain-stem", "right ventral DC")
