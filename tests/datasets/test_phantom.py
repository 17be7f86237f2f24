import json
from collections import Counter

import nibabel
import numpy as np
import pytest

from crossdim.datasets.anatomy_map import take_apart
from crossdim.datasets.labelmaps import LabelMap, read_label_map, read_names
from crossdim.datasets.phantom import BODY, NAMES, make_phantoms, phantom
from crossdim.errors import RecipeError


def test_phantoms_are_real_files_with_names_and_no_image(tmp_path):
    calls = []
    cases, names = make_phantoms(tmp_path, 3, 24, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert [case.id for case in cases] == ["phantom_0000", "phantom_0001", "phantom_0002"]
    assert read_names(tmp_path / "names.json") == names == NAMES
    assert json.loads((tmp_path / "names.json").read_text())["2"] == "right lung"
    assert {case.image for case in cases} == {None}
    assert read_label_map(cases[0].labels, names, unnamed="ignore").labels.shape == (24, 24, 24)


def test_the_same_seed_gives_the_same_phantoms_and_a_larger_set_begins_with_the_smaller(tmp_path):
    few, _ = make_phantoms(tmp_path / "few", 2, 20, seed=4)
    many, _ = make_phantoms(tmp_path / "many", 3, 20, seed=4)
    other, _ = make_phantoms(tmp_path / "other", 2, 20, seed=5)
    voxels = [[np.asarray(nibabel.load(case.labels).dataobj) for case in cases] for cases in (few, many, other)]
    np.testing.assert_array_equal(voxels[0][1], voxels[1][1])
    assert not np.array_equal(voxels[0][1], voxels[2][1])


def test_organs_lie_inside_the_body_on_the_side_of_their_name():
    for seed in range(20):
        labels, affine = phantom(np.random.default_rng(seed), 32, absent=0.0)
        assert set(np.unique(labels)) == {0, BODY, *NAMES}
        body = take_apart(LabelMap(labels.astype(np.int32), affine, NAMES, "phantom"), whole=True)
        assert body.mirrored == ()


def test_organs_are_missing_as_often_as_asked_and_vary_in_size():
    made = [phantom(np.random.default_rng(seed), 24, absent=0.4)[0] for seed in range(100)]
    missing = Counter(value for labels in made for value in NAMES if not (labels == value).any())
    assert all(25 <= missing[value] <= 55 for value in NAMES)
    sizes = [(labels == 4).sum() for labels in made if (labels == 4).any()]
    assert max(sizes) > 1.5 * min(sizes)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"size": 8}, {"absent": 1.0}])
def test_arguments_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(RecipeError, match=r"are out of range. Take at least 1, at least 16"):
        make_phantoms(tmp_path, **wrong)
