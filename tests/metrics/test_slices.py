import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from crossdim.errors import ContractError, RecipeError
from crossdim.metrics.slices import SliceQuestion, SliceReport, evaluate_slices, slice_prior, slice_scores


def target(slices: int, first: int, last: int) -> np.ndarray:
    found = np.zeros(slices, dtype=bool)
    found[first : last + 1] = True
    return found


def toy(patients: int = 25, strength: float = 0.7, seed: int = 0) -> list[SliceQuestion]:
    """Return two questions about each patient, whose ranges are anywhere; slices in the range score higher."""
    generator = np.random.default_rng(seed)
    questions = []
    for patient in range(patients):
        for place, kind in enumerate(("side", "size")):
            first = int(generator.integers(0, 26))
            truth = target(32, first, first + 4)
            scores = truth * strength + generator.random(32)
            questions.append(SliceQuestion(f"{patient}-{place}", f"p{patient}", kind, scores / scores.sum(), truth))
    return questions


@settings(max_examples=80)
@given(arrays(float, 12, elements=st.sampled_from([0.0, 0.1, 0.2, 0.5])), arrays(bool, 12))
def test_auroc_and_average_precision_equal_scikit_learns(scores, targets):
    found = slice_scores(scores, targets)
    if targets.all() or not targets.any():
        assert all(np.isnan(value) for value in found.values())
        return
    assert found["auroc"] == pytest.approx(roc_auc_score(targets, scores))
    assert found["average_precision"] == pytest.approx(average_precision_score(targets, scores))


@settings(max_examples=40)
@given(st.permutations(range(10)), st.integers(0, 1000))
def test_the_order_of_slices_does_not_matter(order, seed):
    scores = np.random.default_rng(seed).integers(0, 4, 10).astype(float)
    targets = target(10, 2, 5)
    assert slice_scores(scores, targets) == pytest.approx(slice_scores(scores[list(order)], targets[list(order)]))


def test_pointing_is_right_if_the_best_slice_is_in_the_range_and_ties_count_by_their_share():
    assert slice_scores(np.array([0.0, 0.1, 0.9, 0.2]), target(4, 2, 3))["pointing"] == 1
    assert slice_scores(np.array([0.9, 0.1, 0.0, 0.2]), target(4, 2, 3))["pointing"] == 0
    assert slice_scores(np.array([0.9, 0.1, 0.9, 0.9]), target(4, 2, 3))["pointing"] == pytest.approx(2 / 3)


def test_equal_scores_stand_beside_and_are_computed():
    report = evaluate_slices(toy(), bootstrap=50)
    uniform = report.scorers["uniform"].micro
    assert uniform["auroc"].value == 0.5
    assert uniform["average_precision"].value == pytest.approx(5 / 32)
    assert uniform["pointing"].value == pytest.approx(5 / 32)
    model = report.scorers["model"].micro
    assert model["auroc"].value > 0.85
    assert report.differences["uniform"].micro["auroc"].low > 0
    assert [(each.name, each.questions, each.patients) for each in report.scorers["model"].types] == [
        ("side", 25, 25),
        ("size", 25, 25),
    ]
    values = [roc_auc_score(question.targets, question.scores) for question in toy() if question.targets is not None]
    assert model["auroc"].value == pytest.approx(np.mean(values))
    assert model["auroc"].low < model["auroc"].value < model["auroc"].high


def test_the_prior_finds_ranges_that_are_always_in_the_same_place():
    prior = slice_prior([target(16, 4, 7), target(64, 16, 31)])
    assert slice_scores(prior(32), target(32, 8, 15))["auroc"] == 1
    questions = [
        SliceQuestion(str(n), str(n), "", np.random.default_rng(n).random(32), target(32, 8, 15)) for n in range(20)
    ]
    report = evaluate_slices(questions, prior, bootstrap=30)
    assert report.scorers["prior"].micro["auroc"].value == 1
    assert any("No better than the usual place" in flag for flag in report.flags)


def test_the_prior_knows_the_share_of_training_ranges_at_each_place():
    prior = slice_prior([target(8, 0, 3), target(8, 0, 1)])
    assert prior(8) == pytest.approx([1, 1, 0.5, 0.5, 0, 0, 0, 0], abs=1e-9)
    with pytest.raises(RecipeError, match="no training questions with a range"):
        slice_prior([])


def test_questions_that_measure_nothing_are_left_out_and_counted():
    rest = [
        SliceQuestion("a", "p", "side", np.ones(4), None),
        SliceQuestion("b", "p", "side", np.ones(4), np.zeros(4, dtype=bool)),
        SliceQuestion("c", "p", "side", np.ones(4), np.ones(4, dtype=bool)),
    ]
    report = evaluate_slices([*toy(), *rest], bootstrap=20)
    assert report.questions == 50
    assert report.left_out == {"no known range": 1, "no slice in the range": 1, "all slices in the range": 1}
    with pytest.raises(RecipeError, match="none of 3 questions can be measured"):
        evaluate_slices(rest)


def test_scores_that_do_not_fit_are_refused():
    with pytest.raises(ContractError, match="'q': are 3 for 4 targets"):
        evaluate_slices([SliceQuestion("q", "p", "", np.ones(3), target(4, 0, 1))])
    with pytest.raises(ContractError, match="hold NaN"):
        evaluate_slices([SliceQuestion("q", "p", "", np.array([1.0, np.nan]), target(2, 0, 0))])


def test_suspicious_localisation_is_flagged():
    perfect = [SliceQuestion(q.id, q.patient, q.type, q.targets.astype(float), q.targets) for q in toy()]
    assert any("found perfectly" in flag for flag in evaluate_slices(perfect, bootstrap=20).flags)
    equal = [SliceQuestion(q.id, q.patient, q.type, np.ones(32), q.targets) for q in toy()]
    flags = evaluate_slices(equal, bootstrap=20).flags
    assert any("same score" in flag for flag in flags)
    assert any("No better than equal scores" in flag for flag in flags)
    turned = [SliceQuestion(q.id, q.patient, q.type, 1 - q.scores, q.targets) for q in toy()]
    assert any("other way" in flag for flag in evaluate_slices(turned, bootstrap=20).flags)


def test_the_report_survives_json():
    report = evaluate_slices(toy(3), slice_prior([target(32, 3, 9)]), bootstrap=20)
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    again = SliceReport.from_dict(document)
    assert again.to_dict() == report.to_dict()
    assert again.scorers["model"].micro["auroc"] == report.scorers["model"].micro["auroc"]
    assert len(report.items) == 6
