"""The contract on files as they come: photos and MR from the data folder, a whole head from nilearn."""

from pathlib import Path

import numpy as np
import pytest

from crossdim.readers import read
from crossdim.transforms.augment import PRESETS, generator_for
from crossdim.transforms.presets import contract_for, for_mr


@pytest.fixture(scope="module")
def head():
    nilearn = pytest.importorskip("nilearn", reason="nilearn is not installed (extra demo)")
    (path,) = (Path(nilearn.__file__).parent / "datasets" / "data").glob("*t1*.nii.gz")
    return read(str(path))


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0)])
def test_the_same_structure_is_found_again_in_a_prepared_head(head, spacing):
    prepared = for_mr((96, 96, 96), spacing).prepare(head)
    assert np.isfinite(prepared.tensor).all()
    values = prepared.tensor[0].numpy()
    for point in ([48.0, 40.0, 40.0], [30.0, 60.0, 50.0], [60.0, 50.0, 30.0]):
        middle = np.array(point)
        around = middle + np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
        in_file = np.rint(prepared.to_file_index(around)).astype(int)
        original = head.voxels[0][tuple(in_file.T)].astype(float)
        ours = values[tuple(around.astype(int).T)]
        low, high = np.percentile(head.voxels, [0.5, 99.5])
        assert ours.mean() == pytest.approx(((original - low) / (high - low)).clip(0, 1).mean(), abs=0.06)


def test_the_left_side_stays_the_left_side(head):
    prepared = for_mr((48, 48, 48)).prepare(head)
    first, last = prepared.to_patient_mm(np.array([[24.0, 24.0, 0.0], [24.0, 24.0, 47.0]]))
    assert first[0] > 0 > last[0]  # width points to the patient's left; RAS+ counts to the right


def test_photos_and_mr_share_a_proposed_contract(crossdim_data):
    photos = sorted((crossdim_data / "idrid" / "grading" / "train").rglob("*.jpg"))[:4]
    crops = sorted((crossdim_data / "hippocampus" / "images").glob("*.nii.gz"))[:4]
    nouns = [read(str(path)) for path in (*photos, *crops)]
    contract = contract_for(nouns)
    assert contract.image.size == (176, 272)
    assert contract.volume.size == (48, 64, 48)
    for place, noun in enumerate(nouns):
        prepared = contract.prepare(noun)
        varied = PRESETS["pretraining"].vary(prepared, generator_for(0, 0, place))
        assert np.isfinite(prepared.tensor).all()
        assert varied.tensor.shape == prepared.tensor.shape
        assert abs(float(prepared.tensor.mean())) < 2
