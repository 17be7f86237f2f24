import json
from html.parser import HTMLParser

import numpy as np
import pytest

from crossdim.errors import RecipeError
from crossdim.metrics.classification import chance_baseline, evaluate_classification, paired_bootstrap
from crossdim.metrics.resampling import Estimate
from crossdim.outputs.document import Document, Facts, Picture, Section, Table, Warnings, save_document, to_markdown
from crossdim.outputs.html import to_html
from crossdim.outputs.pictures import reliability, save_figure
from crossdim.outputs.report import evaluation_report, interval_text, pretraining_report
from tests.metrics.toys import exclusive, several

HOSTILE = ("<script>alert(1)</script>", 'a" onerror="x', "$x|y`*_", "'&amp;")
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects what a browser would see, and checks that every element is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def evaluation():
    probabilities, labels = exclusive(80, 4, 0)
    model = evaluate_classification(probabilities, labels, None, "ordinal", HOSTILE, 30)
    chance = chance_baseline(labels, labels, None, "ordinal", HOSTILE, bootstrap=30)
    difference = paired_bootstrap(probabilities, np.full_like(probabilities, 0.25), labels, None, "ordinal", 30)
    return evaluation_report(
        model, "Eye <grades>", {"command": "crossdim evaluate <run>"}, {"chance": chance}, {"chance": difference}
    )


def test_the_page_is_well_formed_and_names_cannot_become_markup(evaluation):
    page = Page(to_html(evaluation))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "grades", "run", "iframe", "link"}
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    for name in HOSTILE:
        assert name in page.text
    assert "Eye <grades>" in page.text


def test_the_page_needs_no_network(evaluation):
    page = to_html(evaluation)
    sources = [attributes["src"] for tag, attributes in Page(page).elements if tag == "img"]
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_the_page_is_made_for_light_dark_and_paper_and_every_picture_is_described(evaluation):
    page = to_html(evaluation)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    pictures = [attributes for tag, attributes in Page(page).elements if tag == "img"]
    assert all(attributes["alt"] and int(attributes["width"]) > 200 for attributes in pictures)


def test_the_report_compares_the_model_with_others_and_says_how(evaluation):
    text = Page(to_html(evaluation)).text
    assert "Model minus chance, on the same resamples" in text
    assert "30 resamples of patients with replacement (percentiles, seed 0)" in text
    assert "Patients are not known" in text
    assert evaluation.summary.startswith("AUC 0.")
    assert "80 cases of 80 patients, 4 classes" in evaluation.summary


def test_the_json_has_the_numbers_and_no_nan(evaluation, tmp_path):
    save_document(evaluation, tmp_path / "report.json")
    loaded = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (
        loaded["data"]["evaluation"]["metrics"]["auc"]["low"] < loaded["data"]["evaluation"]["metrics"]["auc"]["high"]
    )
    assert loaded["data"]["others"]["chance"]["metrics"]["auc"]["value"] == 0.5
    kinds = [block["kind"] for section in loaded["sections"] for block in section["blocks"]]
    assert {"table", "picture", "paragraph", "facts"} <= set(kinds)


def test_what_is_not_finite_is_null_in_json(tmp_path):
    save_document(Document("t", "s", (), {"a": float("nan"), "b": [1, float("inf")]}), tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["data"] == {"a": None, "b": [1, None]}


def test_the_markdown_has_its_pictures_beside_it_and_one_line_per_row(evaluation, tmp_path):
    save_document(evaluation, tmp_path / "my report.md")
    text = (tmp_path / "my report.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "\\$x\\|y\\`\\*\\_" in text
    assert sorted(path.name for path in (tmp_path / "my report-pictures").iterdir()) == ["01.png", "02.png", "03.png"]
    assert "(<my report-pictures/01.png>)" in text
    rows = [line for line in text.splitlines() if line.startswith("| AUC")]
    assert rows[0].count("|") == 4


def test_markdown_shows_every_kind_of_block():
    section = Section("s", (Warnings(("a\nb",)), Facts({"k": "v"}), Table("", ("x", "y"), (("1", "2"),))))
    text = to_markdown(Document("t", "", (section,)), "p")
    assert text == ("# t\n\n## s\n\n> **Look out**\n>\n> - a b\n\n- k: v\n\n| x | y |\n| --- | ---: |\n| 1 | 2 |\n")


def test_an_unknown_report_format_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"'\.docx' is no format for reports"):
        save_document(Document("t", "s", ()), tmp_path / "x.docx")


def test_several_labels_and_suspicious_results_can_be_reported():
    probabilities, labels = several(12, 3, 0)
    report = evaluate_classification(probabilities, labels, None, "multilabel", ("a", "b", "c"), 20)
    text = Page(to_html(evaluation_report(report, "t", {}))).text
    assert "Fewer than 20 patients (12)" in text
    assert "Confusion matrix" not in text


def test_a_result_without_auc_is_still_reported():
    report = evaluate_classification(np.eye(2)[[0, 0, 1]], np.zeros(3, int), None, "multiclass", ("a", "b"), 5)
    document = evaluation_report(report, "t", {})
    assert document.summary.startswith("balanced accuracy 0.667")
    assert "–" in to_html(document)


def test_a_pretraining_run_is_reported_with_curves_and_reconstructions(tmp_path):
    save_figure(
        reliability(evaluate_classification(*exclusive(20, 2, 0), None, "multiclass", "ab", 2).calibration),
        tmp_path / "p.png",
    )
    picture = Picture.from_file(tmp_path / "p.png", "Step 500", "reconstructions")
    rows = [{"step": step, "loss": 1 / step, "loss/image/intensity": 0.5 / step} for step in (10, 20, 30)]
    document = pretraining_report(rows, "Pre-training", {"seed": "0"}, [picture], ["The loss was not finite."])
    assert document.summary == "30 steps, loss 0.03333 at the end."
    assert [section.title for section in document.sections] == ["Warnings", "Training", "Reconstructions", "Provenance"]
    page = Page(to_html(document))
    widths = [int(attributes["width"]) for tag, attributes in page.elements if tag == "img"]
    assert widths == [499, 461]
    assert "The loss was not finite." in page.text


def test_a_run_that_logged_nothing_is_reported_without_curves():
    document = pretraining_report([], "Pre-training", {"seed": "0"})
    assert document.summary == "0 steps."
    assert [section.title for section in document.sections] == ["Provenance"]


def test_a_picture_that_is_no_png_is_refused(tmp_path):
    (tmp_path / "p.png").write_bytes(b"GIF89a")
    with pytest.raises(RecipeError, match="is no PNG picture"):
        Picture.from_file(tmp_path / "p.png", "c", "a")


def test_numbers_without_value_or_interval_are_written_without_them():
    nan = float("nan")
    assert interval_text(Estimate(0.5, 0.4, 0.61, 9)) == "0.500 (0.400 to 0.610)"
    assert interval_text(Estimate(0.5, nan, nan, 9)) == "0.500"
    assert interval_text(Estimate(nan, nan, nan, 0)) == "–"
