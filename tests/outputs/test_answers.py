import json

import pytest

from crossdim.outputs.answers import (
    answer_document,
    place_text,
    probability_lines,
    slice_lines,
    top_slices,
)
from crossdim.outputs.blocks import Picture
from crossdim.outputs.document import save_document
from crossdim.outputs.html import to_html
from crossdim.outputs.pictures import slice_scores_figure
from crossdim.samples import Answer, SliceScore
from tests.outputs.test_report import HOSTILE, Page


def scored(scores: list[float], first: int = 10) -> tuple[SliceScore, ...]:
    """Return slice scores whose last one is padding."""
    last = len(scores) - 1
    return tuple(
        SliceScore(score, None if place == last else first + place, 0, (-3.0, 12.55, 2.0 * place))
        for place, score in enumerate(scores)
    )


@pytest.fixture
def answer() -> Answer:
    return Answer(
        ("scans/head.nii.gz",),
        "On which side is the larger hippocampus?",
        "right",
        {"left": 0.2, "right": 0.8},
        (scored([0.1, 0.4, 0.2, 0.4, 0.9]),),
    )


def test_the_best_slices_come_first_without_padding_and_equal_ones_in_their_order(answer):
    assert [(each.index, each.score) for each in top_slices(answer, 3)] == [(11, 0.4), (13, 0.4), (12, 0.2)]
    assert len(top_slices(answer, 99)) == 4
    assert top_slices(answer, volume=1) == ()
    assert top_slices(Answer(("a",), "q", "t")) == ()


def test_a_slice_of_the_file_that_the_model_saw_twice_is_one_slice_with_both_scores():
    scores = [(0.1, 3), (0.3, 3), (0.2, 4), (0.4, None)]
    seen = tuple(SliceScore(score, index, 0, (0.0, 0.0, float(place))) for place, (score, index) in enumerate(scores))
    best = top_slices(Answer(("a",), "q", "t", {}, (seen,)))
    assert [(each.index, each.position_mm[2]) for each in best] == [(3, 1.0), (4, 2.0)]
    assert best[0].score == pytest.approx(0.4)


def test_the_terminal_gets_one_line_per_slice_and_per_choice(answer):
    lines = slice_lines(answer, 2)
    assert lines[0].startswith("slice 11  0.400  ████████████")
    assert lines[0].endswith("x −3.0, y 12.6, z 2.0 mm")
    assert len(lines) == 2
    assert probability_lines(answer) == ("right   80.0%", "left    20.0%")


def test_several_volumes_are_told_apart():
    answer = Answer(("a.nii", "b.nii"), "What changed?", "nothing", {}, (scored([0.5, 0.5]), scored([0.2, 0.8], 40)))
    lines = slice_lines(answer)
    assert [line for line in lines if line.endswith(":")] == ["a.nii:", "b.nii:"]
    tables = [block.caption for block in answer_document(answer).sections[1].blocks if hasattr(block, "caption")]
    assert tables == [
        "a.nii: the 1 best of 1 slices along depth",
        "b.nii: the 1 best of 1 slices along depth",
    ]


def test_a_place_has_real_minus_signs():
    assert place_text(SliceScore(0.1, 3, 0, (-1.04, 0.0, 12.0))) == "x −1.0, y 0.0, z 12.0 mm"
    assert place_text(SliceScore(0.1, 3, 0, (-0.01, 0.0, 12.0))).startswith("x 0.0,")


def test_the_page_has_question_answer_probabilities_picture_slices_model_and_disclaimer(answer, tmp_path):
    scores = [each.score for each in answer.slices[0]]
    planes = [[[0.0, 1.0], [1.0, 0.0]] for _ in scores]
    import numpy as np

    figure = slice_scores_figure(np.array(planes), scores, [each.index for each in answer.slices[0]])
    picture = Picture.from_figure(figure, "Slice scores", "Scores peak at slice 11")
    document = answer_document(answer, [picture], {"model": "runs/anatomy", "seed": "0"}, ["The file says nothing."])
    save_document(document, tmp_path / "answer.html")
    html = (tmp_path / "answer.html").read_text(encoding="utf-8")
    page = Page(html)
    for part in (answer.question, "80.0%", "slice (depth)", "11", "0.400", "runs/anatomy", "not a medical device"):
        assert part in page.text
    assert "The file says nothing." in page.text
    assert [attributes["alt"] for tag, attributes in page.elements if tag == "img"] == ["Scores peak at slice 11"]
    assert "http" not in html.replace("http-equiv", "")


def test_an_answer_that_was_cut_off_says_so():
    cut = Answer(("a",), "Report?", "The liver is", complete=False)
    assert "cut off" in Page(to_html(answer_document(cut))).text
    assert "Slices that mattered" not in Page(to_html(answer_document(cut))).text


def test_texts_of_model_and_user_cannot_become_markup():
    for hostile in HOSTILE:
        page = Page(to_html(answer_document(Answer((hostile,), hostile, hostile, {hostile: 1.0}))))
        assert hostile in page.text
        assert "script" not in {tag for tag, _ in page.elements}


def test_the_json_holds_the_whole_answer(answer, tmp_path):
    save_document(answer_document(answer), tmp_path / "answer.json")
    data = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))["data"]["answer"]
    assert data["text"] == "right"
    assert data["slices"][0][1] == {"score": 0.4, "index": 11, "axis": 0, "position_mm": [-3.0, 12.55, 2.0]}
