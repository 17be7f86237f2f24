import json

import numpy as np
import pytest

from crossdim.metrics.dialogues import Measures, evaluate_answers
from crossdim.metrics.slices import evaluate_slices, slice_prior
from crossdim.outputs.dialogues import dialogue_document, dialogue_headline, dialogue_sections
from crossdim.outputs.document import save_document, to_markdown
from crossdim.outputs.html import to_html
from tests.metrics.test_slices import target, toy
from tests.metrics.toys import dialogues
from tests.outputs.test_report import Page

PLAIN = Measures(without_wordnet="WordNet: is not here")


@pytest.fixture(scope="module")
def report():
    references, model, blind, shuffled = dialogues(30)
    return evaluate_answers(references, model, {"blind": blind, "shuffled": shuffled}, PLAIN, 60)


@pytest.fixture(scope="module")
def slices():
    return evaluate_slices(toy(), slice_prior([target(32, 10, 20)]), bootstrap=60)


def tables(sections) -> dict[str, list[tuple[str, ...]]]:
    return {
        block.caption: [block.columns, *block.rows]
        for section in sections
        for block in section.blocks
        if hasattr(block, "rows")
    }


def test_results_stand_beside_both_baselines_and_guessing(report):
    found = tables(dialogue_sections(report))
    rows = found["30 questions about 30 patients: value (95 % interval)"]
    assert rows[0] == ("metric", "model", "blind", "shuffled")
    by_type = found["Accuracy by type of question"]
    assert by_type[0] == ("type", "questions", "patients", "model", "blind", "shuffled", "guessing")
    assert by_type[1][0] == "side"
    assert by_type[1][-1] == "0.500"
    assert " to " in by_type[1][3]


def test_every_difference_is_called_noise_or_real(report):
    rows = tables(dialogue_sections(report))["Model minus blind, on the same resamples"]
    assert rows[0] == ("metric", "difference", "95 % interval", "noise or real")
    assert {row[3] for row in rows[1:]} <= {"noise", "real"}
    assert rows[1][1].startswith("+")


def test_a_baseline_that_is_missing_keeps_its_place(report):
    references, model, blind, _ = dialogues(6)
    alone = evaluate_answers(references, model, {"blind": blind}, PLAIN, 20)
    rows = next(iter(tables(dialogue_sections(alone)).values()))
    assert rows[0] == ("metric", "model", "blind", "shuffled")
    assert rows[1][3] == "not measured"


def test_slices_are_beside_equal_scores_and_the_usual_place(report, slices):
    found = tables(dialogue_sections(report, slices))
    rows = found["50 questions about 25 patients: mean (95 % interval)"]
    assert rows[0] == ("metric", "model", "equal scores", "usual place")
    assert rows[1][2] == "0.500 (0.500 to 0.500)"
    assert [row[0] for row in found["By type of question"][1:]] == ["side", "size"]
    assert "Model minus the usual place of ranges in training, on the same resamples" in found


def test_the_page_shows_doubts_examples_and_how_to_read_it(report, slices, tmp_path):
    document = dialogue_document(report, "Anatomy", {"seed": "0"}, slices)
    text = Page(to_html(document)).text
    assert "METEOR is unavailable: WordNet: is not here" in text
    assert "Right" in text
    assert "Wrong" in text
    assert "taken for" in text
    assert "none of the choices" in text
    assert "60 resamples of patients" in text
    assert "not a medical device" in text
    titles = [section.title for section in document.sections]
    assert titles[:5] == ["Look out", "Closed questions", "Open questions", "Reports", "Slices"]
    save_document(document, tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)["data"]
    assert data["answers"]["forms"]["closed"]["chance"] == 0.5
    assert data["slices"]["questions"] == 50
    assert "| Accuracy, micro |" in to_markdown(document, "p")


def test_the_headline_names_the_model_and_what_it_is_to_be_compared_with(report, slices):
    line = dialogue_headline(report, slices)
    assert line.startswith("closed: Accuracy 0.")
    assert "beside blind 0.500" in line
    assert "guessing 0.500" in line
    assert "slices: AUROC 0." in line
    assert line.endswith("90 questions about 30 patients.")


def test_examples_are_of_as_many_types_as_possible():
    references, *_ = dialogues(12)
    mixed = [
        type(each)(each.id, each.patient, each.question, each.answer, "closed", f"t{place % 3}", each.choices)
        for place, each in enumerate(each for each in references if each.form == "closed")
    ]
    said = ["left" if place % 2 else "right" for place in range(len(mixed))]
    found = evaluate_answers(mixed, said, {}, PLAIN, 20)
    (section,) = [each for each in dialogue_sections(found) if each.title.startswith("Examples")]
    heads = [next(iter(block.items.items())) for block in section.blocks]
    assert {value.rpartition(", ")[2] for _, value in heads} >= {"t0", "t1", "t2"}


def test_a_long_report_is_cut_in_the_examples_only():
    references, model, _, _ = dialogues(4)
    long = ["word " * 2000 if each.form == "report" else text for each, text in zip(references, model, strict=True)]
    document = dialogue_document(evaluate_answers(references, long, {}, PLAIN, 10), "t", {})
    assert len(Page(to_html(document)).text) < 40_000
    assert np.any([len(item["prediction"]) > 9000 for item in document.data["answers"]["items"]])
