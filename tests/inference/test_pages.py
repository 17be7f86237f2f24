"""An answer to look at: sides of the patient where they are known, no padding, warnings on the page."""

import numpy as np
import pytest

from crossdim.inference.pages import answer_page, slice_figure, slice_figures
from crossdim.outputs.html import to_html
from crossdim.transforms.contract import PreprocessingContract, VolumeContract
from tests.inference.toys import answerer, save_run, save_volume

ASKED = "Is the left kidney larger?"


def texts(figure) -> set[str]:
    parts = [axes for part in figure.subfigs for axes in part.axes]
    return {text.get_text() for axes in parts for text in axes.texts} | {axes.get_title() for axes in parts}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    contract = PreprocessingContract(volume=VolumeContract(size=(16, 32, 32), fit="crop_pad"), source="a test")
    folder = tmp_path_factory.mktemp("runs") / "answers"
    return answerer(save_run(folder, processing={"contract": contract}))


def test_padding_has_no_number_and_is_not_shown(model, tmp_path):
    scan = save_volume(tmp_path / "scan.nii.gz", shape=(20, 24, 6))
    answer = model.ask(scan, ASKED, ("yes", "no"))
    numbers = [each.index for each in answer.slices[0]]
    assert numbers == [None] * 5 + [0, 1, 2, 3, 4, 5] + [None] * 5
    assert sum(each.score for each in answer.slices[0] if each.index is not None) == pytest.approx(1, abs=1e-4)
    (figure,) = slice_figures(answer, [model.look(scan)])
    assert {title for title in texts(figure) if title.startswith("slice ")} <= {f"slice {n}" for n in range(6)}


def test_the_patients_sides_are_named_where_the_file_knows_them(model, tmp_path):
    scan = save_volume(tmp_path / "scan.nii.gz")
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=(9, 20, 20)).astype(np.float32))
    for source, known in ((scan, True), (str(tmp_path / "scan.npy"), False)):
        answer = model.ask(source, ASKED, ("yes", "no"))
        figure = slice_figure(model.look(source), answer.slices[0], ASKED)
        assert ({"R", "L", "A", "P"} <= texts(figure)) is known


def test_the_page_says_what_the_reader_said(model, tmp_path):
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=(9, 20, 20)).astype(np.float32))
    source = str(tmp_path / "scan.npy")
    seen = [model.look(source)]
    answer = model.ask(source, ASKED, ("yes", "no"))
    page = to_html(answer_page(answer, seen, slice_figures(answer, seen), {"model": "a test"}))
    assert seen[0].warnings
    assert ASKED in page
    assert "a test" in page
