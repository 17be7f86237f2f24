import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from crossdim.errors import ContractError, RecipeError
from crossdim.metrics.classification import chance_baseline, evaluate_classification, paired_bootstrap
from tests.metrics.toys import exclusive, several

GRADES = ("none", "mild", "severe")


def report_on(probabilities, labels, patients=None, problem="ordinal", classes=GRADES, bootstrap=100, seed=0):
    return evaluate_classification(probabilities, labels, patients, problem, classes, bootstrap, seed)


def test_every_metric_has_a_value_inside_its_interval():
    report = report_on(*exclusive(120, 3, 0))
    assert set(report.metrics) == {
        "auc",
        "accuracy",
        "balanced_accuracy",
        "precision",
        "recall",
        "f1",
        "average_precision",
        "quadratic_kappa",
    }
    for metric in report.metrics.values():
        assert metric.low < metric.value < metric.high
        assert metric.resamples == 100
    assert report.flags == ()


def test_the_report_holds_a_table_a_confusion_matrix_and_a_curve_for_every_class():
    probabilities, labels = exclusive(90, 3, 1)
    report = report_on(probabilities, labels)
    assert [each.name for each in report.per_class] == list(GRADES)
    assert [each.cases for each in report.per_class] == np.bincount(labels).tolist()
    assert np.array(report.confusion).sum(axis=1).tolist() == np.bincount(labels).tolist()
    for place, curve in enumerate(report.roc):
        area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
        assert area == pytest.approx(report.per_class[place].metrics["auc"].value, abs=1e-4)


def test_a_long_roc_curve_is_thinned_and_keeps_its_ends():
    curve = report_on(*exclusive(3000, 2, 0), problem="multiclass", classes=("no", "yes"), bootstrap=2).roc[0]
    assert len(curve.false_positive_rate) == 200
    assert (curve.false_positive_rate[0], curve.true_positive_rate[-1]) == (0, 1)


def test_two_classes_are_a_positive_and_a_negative_one():
    probabilities, labels = exclusive(80, 2, 0)
    report = report_on(probabilities, labels, problem="multiclass", classes=("healthy", "ill"))
    assert report.metrics["auc"].value == pytest.approx(roc_auc_score(labels, probabilities[:, 1]))
    assert [curve.name for curve in report.roc] == ["ill"]
    assert any("'ill', the positive class" in note for note in report.notes)


def test_several_labels_have_no_confusion_matrix_and_no_kappa():
    report = report_on(*several(60, 3, 0), problem="multilabel")
    assert report.confusion is None
    assert "quadratic_kappa" not in report.metrics
    assert len(report.roc) == 3


def test_intervals_by_patient_are_wider_when_cases_of_a_patient_agree():
    probabilities, labels = exclusive(40, 3, 2)
    repeated = [np.repeat(part, 5, axis=0) for part in (probabilities, labels)]
    by_case = report_on(*repeated).metrics["accuracy"]
    by_patient = report_on(*repeated, patients=np.repeat(np.arange(40), 5)).metrics["accuracy"]
    assert by_patient.value == by_case.value
    assert by_patient.high - by_patient.low > 1.5 * (by_case.high - by_case.low)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    toy = exclusive(60, 3, 0)
    assert report_on(*toy, seed=1).to_dict() == report_on(*toy, seed=1).to_dict()
    assert report_on(*toy, seed=1).metrics["auc"].low != report_on(*toy, seed=2).metrics["auc"].low


def test_a_class_absent_from_the_truth_is_left_out_of_averages_and_named():
    probabilities, labels = exclusive(60, 3, 0)
    kept = labels != 1
    report = report_on(probabilities[kept], labels[kept])
    present = [report.per_class[place].metrics["auc"].value for place in (0, 2)]
    assert report.metrics["auc"].value == pytest.approx(np.mean(present))
    assert np.isnan(report.per_class[1].metrics["auc"].value)
    assert any("left out of the averages over classes: mild" in note for note in report.notes)


def test_the_report_is_json_without_nan():
    probabilities, labels = exclusive(12, 3, 0)
    text = json.dumps(report_on(probabilities[labels == 0], labels[labels == 0]).to_dict(), allow_nan=False)
    assert json.loads(text)["metrics"]["auc"] == {"value": None, "low": None, "high": None, "resamples": 0}


def test_a_class_of_one_patient_keeps_the_resamples_that_have_it_and_says_how_many_had_not():
    probabilities, labels = exclusive(50, 3, 0)
    labels = np.where(np.arange(50) == 2, 2, labels % 2)
    report = report_on(probabilities, labels, bootstrap=400)
    assert 200 < report.metrics["auc"].resamples < 300
    assert report.metrics["accuracy"].resamples == 400
    assert "'severe' has fewer than 5 patients (1)." in report.flags
    assert any("A class was missing from 3" in flag for flag in report.flags)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (np.eye(2)[[0, 1] * 15], "Every case is right"),
        (np.array([[0.9, 0.1], [0.8, 0.2]] * 15), "The AUC is exactly 1"),
        (np.array([[0.9, 0.1], [0.8, 0.2]] * 15), "Only 'no' is ever predicted"),
        (np.full((30, 2), 0.5), "Every case gets the same probabilities"),
        (np.array([[0.1, 0.9], [0.8, 0.2]] * 15), "The AUC is below chance"),
    ],
)
def test_suspicious_results_are_flagged(probabilities, expected):
    report = report_on(probabilities, np.array([0, 1] * 15), problem="multiclass", classes=("no", "yes"))
    assert any(flag.startswith(expected) for flag in report.flags), report.flags


def test_few_patients_are_flagged_and_one_patient_has_no_interval():
    toy = exclusive(30, 3, 0)
    assert any("Fewer than 20 patients (10)" in flag for flag in report_on(*toy, np.arange(30) // 3).flags)
    alone = report_on(*toy, ["x"] * 30).metrics["accuracy"]
    assert np.isfinite(alone.value)
    assert np.isnan(alone.low)


def test_predictors_that_never_look_are_at_chance():
    train, (_, labels) = exclusive(100, 3, 0)[1], exclusive(300, 3, 1)
    majority = chance_baseline(train, labels, None, "ordinal", GRADES, bootstrap=50)
    assert majority.metrics["auc"].value == 0.5
    assert majority.metrics["quadratic_kappa"].value == 0
    assert majority.metrics["accuracy"].value == np.mean(labels == np.bincount(train).argmax())
    stratified = chance_baseline(train, labels, None, "ordinal", GRADES, "stratified", bootstrap=200)
    low, high = stratified.metrics["balanced_accuracy"].low, stratified.metrics["balanced_accuracy"].high
    assert low < 1 / 3 < high


@pytest.mark.parametrize("strategy", ["majority", "stratified"])
def test_the_baseline_of_several_labels_is_at_chance_too(strategy):
    labels = several(200, 3, 0)[1]
    report = chance_baseline(labels, labels, None, "multilabel", GRADES, strategy, bootstrap=50)
    assert report.metrics["auc"].value == pytest.approx(0.5, abs=0.08)


def test_a_better_model_is_better_beyond_doubt_and_a_model_equals_itself():
    good, labels = exclusive(300, 3, 0)
    poor = np.random.default_rng(1).dirichlet(np.ones(3), 300)
    difference = paired_bootstrap(good, poor, labels, None, "ordinal", 200)
    assert difference["auc"].low > 0
    assert difference["auc"].value == pytest.approx(
        report_on(good, labels).metrics["auc"].value - report_on(poor, labels).metrics["auc"].value
    )
    same = paired_bootstrap(good, good, labels, None, "ordinal", 50)
    assert all(each.value == each.low == each.high == 0 for each in same.values())


def test_pairing_makes_the_interval_of_a_difference_narrower_than_either_models():
    good, labels = exclusive(200, 3, 0)
    slightly_worse = 0.95 * good + 0.05 * np.random.default_rng(0).dirichlet(np.ones(3), 200)
    difference = paired_bootstrap(good, slightly_worse, labels, None, "ordinal", 200)["auc"]
    alone = report_on(good, labels).metrics["auc"]
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)


PROBABILITIES, LABELS = exclusive(20, 3, 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"probabilities": PROBABILITIES * np.nan}, ContractError, "20 of 20 rows hold NaN"),
        ({"probabilities": np.log(PROBABILITIES)}, ContractError, "range from -.*not its logits"),
        ({"probabilities": PROBABILITIES / 2}, ContractError, "do not sum to 1"),
        ({"classes": ("a", "b")}, ContractError, "3 columns for 2 classes"),
        ({"labels": LABELS + 1}, RecipeError, "range from 1 to 3, but 3 classes go from 0 to 2"),
        ({"labels": LABELS[:7]}, RecipeError, "there are 7 for 20 predictions"),
        ({"labels": LABELS.astype(float)}, RecipeError, "one class index per case, not float64"),
        ({"problem": "multilabel"}, RecipeError, "must be 0 or 1 for each class"),
        ({"patients": ["p"] * 3}, RecipeError, "there are 3 for 20 cases"),
        ({"bootstrap": 0}, RecipeError, "at least one resample"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        report_on(**({"probabilities": PROBABILITIES, "labels": LABELS} | change))


def test_a_baseline_without_training_labels_is_refused():
    with pytest.raises(RecipeError, match="train_labels: there are none"):
        chance_baseline(np.array([], dtype=int), LABELS, None, "ordinal", GRADES)
