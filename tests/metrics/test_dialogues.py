import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.errors import RecipeError
from crossdim.metrics.dialogue_report import DialogueReport, Reference
from crossdim.metrics.dialogues import Measures, evaluate_answers
from tests.metrics.toys import dialogues

SIDES = ("left", "right")
PLAIN = Measures(without_wordnet="WordNet: is not here")


def closed(place: int, answer: str = "left", type_: str = "side", patient: str | None = None) -> Reference:
    return Reference(f"q{place}", patient or f"p{place}", "Which side?", answer, "closed", type_, SIDES)


def evaluate(references, predictions, blind=None, shuffled=None, measures=PLAIN, bootstrap=40):
    return evaluate_answers(references, predictions, {"blind": blind, "shuffled": shuffled}, measures, bootstrap)


def test_accuracy_is_micro_over_questions_and_macro_over_types():
    references = [closed(0), closed(1), closed(2, "right", "plane"), closed(3)]
    report = evaluate(references, ["A.", "b) right", "the right one", "who knows"])
    found = report.forms["closed"]
    assert found.predictors["model"].micro["accuracy"].value == pytest.approx(2 / 4)
    assert found.predictors["model"].macro["accuracy"].value == pytest.approx((1 / 3 + 1) / 2)
    assert found.unparsed == {"model": 1}
    assert found.chance == 0.5
    assert [item.choice for item in report.items] == ["left", "right", "right", None]
    assert [item.scores["accuracy"] for item in report.items] == [1, 0, 1, 0]


def test_the_authors_rule_can_be_asked_for():
    references = [closed(0), closed(1)]
    said = ["A left", "B. see region A."]
    assert evaluate(references, said).forms["closed"].predictors["model"].micro["accuracy"].value == 0.5
    report = evaluate(references, said, measures=Measures("substring"))
    assert report.forms["closed"].predictors["model"].micro["accuracy"].value == 0.5
    assert [item.scores["accuracy"] for item in report.items] == [0, 1]
    assert "authors' rule" in " ".join(report.notes)


def test_chance_is_the_mean_of_one_over_the_number_of_choices():
    other = Reference("q9", "p9", "Plane?", "axial", "closed", "plane", ("axial", "coronal", "sagittal", "oblique"))
    found = evaluate([closed(0), closed(1), other], ["left"] * 3).forms["closed"]
    assert found.chance == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert found.chance_by_type == {"plane": 0.25, "side": 0.5}


def test_baselines_stand_beside_with_paired_differences():
    references, model, blind, shuffled = dialogues(30)
    report = evaluate(references, model, blind, shuffled, bootstrap=100)
    assert report.baselines == ("blind", "shuffled")
    for form in ("closed", "open", "report"):
        found = report.forms[form]
        assert list(found.predictors) == ["model", "blind", "shuffled"]
        for name in ("blind", "shuffled"):
            difference = found.differences[name].micro[found.primary]
            model_value = found.predictors["model"].micro[found.primary].value
            assert difference.value == pytest.approx(model_value - found.predictors[name].micro[found.primary].value)
            assert difference.low <= difference.value <= difference.high
    assert report.forms["closed"].differences["blind"].micro["accuracy"].low > 0


def test_a_missing_baseline_is_said_to_be_missing():
    report = evaluate([closed(0), closed(1, "right")], ["left", "right"], blind=["left", "left"])
    assert report.baselines == ("blind",)
    assert any("no shuffled baseline" in flag for flag in report.flags)
    assert not any("no blind baseline" in flag for flag in report.flags)


def test_every_form_has_its_metrics_and_the_one_that_speaks_for_it():
    references, model, blind, shuffled = dialogues(8)
    forms = evaluate(references, model, blind, shuffled).forms
    assert {form: found.primary for form, found in forms.items()} == {
        "closed": "accuracy",
        "open": "within_15_percent",
        "report": "finding_f1",
    }
    assert set(forms["report"].predictors["model"].micro) == {
        "bleu1",
        "rouge1",
        "rougeL",
        "finding_precision",
        "finding_recall",
        "finding_f1",
    }
    texts = [Reference("a", "p", "What?", "a large cyst", "open"), Reference("b", "p", "How big?", "2 mL", "open")]
    assert evaluate(texts, ["cyst", "2 mL"]).forms["open"].primary == "rouge1"


def test_findings_are_counted_over_all_reports():
    references = [
        Reference(
            "a", "p1", "Report?", "CT. X is large. Y is small.", "report", "", (), ("X is large.", "Y is small.")
        ),
        Reference("b", "p2", "Report?", "CT. Z is seen.", "report", "", (), ("Z is seen.",)),
        Reference("c", "p3", "Report?", "Free text about nothing known.", "report"),
    ]
    found = evaluate(references, ["CT. X is large. Z is seen.", "", "X is large."]).forms["report"]
    micro = found.predictors["model"].micro
    assert micro["finding_precision"].value == pytest.approx(1 / 2)
    assert micro["finding_recall"].value == pytest.approx(1 / 3)
    assert micro["finding_f1"].value == pytest.approx(2 * 1 / (2 + 3))
    assert found.empty == {"model": 1}


def test_a_model_that_states_nothing_has_no_precision_to_show():
    references = [Reference("a", "p1", "Report?", "X is large.", "report", "", (), ("X is large.",))]
    micro = evaluate(references, [""]).forms["report"].predictors["model"].micro
    assert [micro[f"finding_{name}"].value for name in ("precision", "recall", "f1")] == [0, 0, 0]


def test_without_wordnet_meteor_is_reported_as_unavailable_with_the_reason():
    references = [Reference("a", "p", "What?", "a cyst", "open")]
    report = evaluate(references, ["a cyst"])
    assert report.unavailable == {"meteor": "WordNet: is not here"}
    assert "meteor" not in report.forms["open"].predictors["model"].micro
    assert evaluate([closed(0)], ["left"]).unavailable == {}, "closed questions need no METEOR"


def test_a_similarity_is_measured_where_it_is_given():
    references = [Reference("a", "p", "What?", "a cyst", "open"), Reference("b", "p", "What?", "a mass", "open")]
    measures = Measures(similarity=lambda said, true: [0.75 for _ in said])
    report = evaluate(references, ["cyst", ""], measures=measures)
    assert report.forms["open"].predictors["model"].micro["bertscore"].value == pytest.approx(0.75 / 2)


def test_unknown_answers_are_left_out_and_flagged():
    report = evaluate([closed(0), closed(1, ""), closed(2, "right")], ["left", "left", "left"])
    assert (report.questions, report.left_out) == (2, 1)
    assert any("1 questions have no true answer" in flag for flag in report.flags)
    with pytest.raises(RecipeError, match="none of 1 true answers is known"):
        evaluate([closed(0, "")], ["left"])


@pytest.mark.parametrize(
    ("references", "predictions", "reason"),
    [
        ([closed(0)], ["left", "right"], "are 2 to 1 questions"),
        ([closed(0), closed(0)], ["left", "right"], "the id 'q0' occurs twice"),
        ([closed(0, "both")], ["left"], "answer 'both' that is not one of"),
    ],
)
def test_answers_that_do_not_fit_the_questions_are_refused(references, predictions, reason):
    with pytest.raises(RecipeError, match=reason):
        evaluate(references, predictions)


def sides(patients: int) -> list[Reference]:
    return [closed(place, SIDES[place % 2]) for place in range(patients)]


def test_suspicious_results_are_flagged():
    references = sides(30)
    truth = [reference.answer for reference in references]
    flags = " ".join(evaluate(references, truth, truth, ["left"] * 30).flags)
    assert "Every closed answer is right" in flags
    assert "The question alone gives 100.0% of closed answers where guessing gives 50.0%" in flags
    assert "cannot be told from those of the blind baseline" in flags
    assert "shuffled" not in flags
    flags = " ".join(evaluate(references, ["left"] * 30, ["left"] * 30, truth).flags)
    assert "All 30 closed questions get the same answer" in flags
    wrong = [SIDES[answer == "left"] for answer in truth]
    assert "worse than guessing" in " ".join(evaluate(references, wrong).flags)
    assert "30 of 30 closed answers are none of the choices" in " ".join(evaluate(references, ["?"] * 30).flags)
    assert "Fewer than 20 patients (4)" in " ".join(evaluate(sides(4), ["left"] * 4).flags)


def test_a_sound_result_raises_no_flag():
    generator = np.random.default_rng(0)
    references = sides(60)
    model = [SIDES[(place % 2) ^ int(generator.random() < 0.1)] for place in range(60)]
    guessed = [SIDES[int(side)] for side in generator.integers(0, 2, 60)]
    assert evaluate(references, model, guessed, guessed[::-1], bootstrap=200).flags == ()


def test_the_report_survives_json():
    report = evaluate(*dialogues(5))
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    again = DialogueReport.from_dict(document)
    assert again.to_dict() == report.to_dict()
    assert again.items == report.items
    assert again.forms["closed"].predictors["model"].micro == report.forms["closed"].predictors["model"].micro


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(18)))
def test_the_order_of_questions_does_not_matter(order):
    references, model, blind, shuffled = dialogues(6)
    one = evaluate(references, model, blind, shuffled)
    other = evaluate(*([values[place] for place in order] for values in (references, model, blind, shuffled)))
    for form in one.forms:
        first, second = (
            {name: each.value for name, each in report.forms[form].predictors["model"].micro.items()}
            for report in (one, other)
        )
        assert first == pytest.approx(second)
    assert sorted(item.id for item in one.items) == sorted(item.id for item in other.items)
