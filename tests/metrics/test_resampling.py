"""Every metric, on weighted cases, against scikit-learn on the cases repeated that often."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from crossdim.metrics import resampling
from crossdim.metrics.resampling import (
    Cases,
    estimate,
    patient_weights,
    resampled_scores,
    weighted_auc,
    weighted_average_precision,
    weighted_scores,
)
from tests.metrics.toys import exclusive, several


def repeated(cases: Cases, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    return cases.probabilities[rows], cases.truth[rows], cases.predicted[rows]


def resample_with_all_classes(cases: Cases, seed: int) -> np.ndarray:
    for weights in patient_weights(np.arange(len(cases.truth)), 200, seed):
        whole = (weights @ cases.truth > 0).all(axis=1) & (weights @ ~cases.truth > 0).all(axis=1)
        if whole.any():
            return weights[whole][0]
    raise AssertionError("no resample has all classes")


def as_cases(toy: tuple[np.ndarray, np.ndarray], problem: str) -> Cases:
    probabilities, labels = toy
    truth = labels.astype(bool) if problem == "multilabel" else labels[:, None] == np.arange(probabilities.shape[1])
    return Cases(probabilities, truth, problem)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_exclusive_classes_score_as_scikit_learn_says(classes, ties, seed):
    cases = as_cases(exclusive(80, classes, seed, ties), "ordinal")
    weights = resample_with_all_classes(cases, seed)
    scores = weighted_scores(cases, weights[None])
    probabilities, truth, predicted = repeated(cases, weights)
    y, guess = truth.argmax(axis=1), predicted.argmax(axis=1)
    macro = {"average": "macro", "zero_division": 0, "labels": range(classes)}
    expected = {
        "auc": sk.roc_auc_score(truth, probabilities, average="macro"),
        "accuracy": sk.accuracy_score(y, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
        "precision": sk.precision_score(y, guess, **macro),
        "recall": sk.recall_score(y, guess, **macro),
        "f1": sk.f1_score(y, guess, **macro),
        "average_precision": sk.average_precision_score(truth, probabilities, average="macro"),
        "quadratic_kappa": sk.cohen_kappa_score(y, guess, weights="quadratic", labels=range(classes)),
    }
    assert {name: values[0] for name, values in scores.overall.items()} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_each_class_scores_as_scikit_learn_says(seed):
    cases = as_cases(exclusive(60, 4, seed), "multiclass")
    weights = resample_with_all_classes(cases, seed)
    scores = weighted_scores(cases, weights[None]).per_class
    probabilities, truth, predicted = repeated(cases, weights)
    for place in range(4):
        y, guess, column = truth[:, place], predicted[:, place], probabilities[:, place]
        expected = {
            "auc": sk.roc_auc_score(y, column),
            "average_precision": sk.average_precision_score(y, column),
            "precision": sk.precision_score(y, guess, zero_division=0),
            "recall": sk.recall_score(y, guess),
            "specificity": sk.recall_score(~y, ~guess),
            "f1": sk.f1_score(y, guess),
        }
        assert {name: values[0, place] for name, values in scores.items()} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_several_labels_score_as_scikit_learn_says(seed):
    cases = as_cases(several(70, 4, seed), "multilabel")
    weights = resample_with_all_classes(cases, seed)
    scores = weighted_scores(cases, weights[None])
    probabilities, truth, predicted = repeated(cases, weights)
    macro = {"average": "macro", "zero_division": 0}
    expected = {
        "auc": sk.roc_auc_score(truth, probabilities, average="macro"),
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": np.mean(
            [sk.balanced_accuracy_score(truth[:, place], predicted[:, place]) for place in range(4)]
        ),
        "precision": sk.precision_score(truth, predicted, **macro),
        "recall": sk.recall_score(truth, predicted, **macro),
        "f1": sk.f1_score(truth, predicted, **macro),
        "average_precision": sk.average_precision_score(truth, probabilities, average="macro"),
    }
    assert {name: values[0] for name, values in scores.overall.items()} == pytest.approx(expected)


def test_with_two_classes_the_auc_is_the_positive_class_own():
    cases = as_cases(exclusive(50, 2, 0), "multiclass")
    scores = weighted_scores(cases, np.ones((1, 50))).overall
    y, column = cases.truth[:, 1], cases.probabilities[:, 1]
    assert scores["auc"][0] == pytest.approx(sk.roc_auc_score(y, column))
    assert scores["average_precision"][0] == pytest.approx(sk.average_precision_score(y, column))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_areas_agree_with_scikit_learn_for_any_scores_and_weights(data):
    size = data.draw(st.integers(2, 25))
    scores = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), min_size=size, max_size=size)))
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), dtype=float)
    auc = weighted_auc(scores, positive, weights[None])[0]
    average_precision = weighted_average_precision(scores, positive, weights[None])[0]
    rows = np.repeat(np.arange(size), weights.astype(int))
    if not positive[rows].any():
        assert np.isnan(average_precision)
    else:
        assert average_precision == pytest.approx(sk.average_precision_score(positive[rows], scores[rows]))
    if len(set(positive[rows])) < 2:
        assert np.isnan(auc)
    else:
        assert auc == pytest.approx(sk.roc_auc_score(positive[rows], scores[rows]))


def test_a_patient_is_drawn_with_all_cases_or_not_at_all():
    groups = np.array([0, 0, 0, 1, 1, 2])
    (weights,) = patient_weights(groups, 50, seed=3)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 3, 5]].sum(axis=1) == 3).all()


def test_the_size_of_the_blocks_changes_no_resample(monkeypatch):
    cases = as_cases(exclusive(30, 3, 1), "multiclass")
    groups = np.arange(30) // 2
    whole = resampled_scores(cases, groups, 40, seed=5)
    monkeypatch.setattr(resampling, "WEIGHTS_AT_A_TIME", 200)
    pieces = resampled_scores(cases, groups, 40, seed=5)
    for name, values in whole.overall.items():
        np.testing.assert_array_equal(values, pieces.overall[name])


def test_a_missing_class_makes_only_the_metrics_that_need_it_undefined():
    cases = as_cases(exclusive(20, 3, 0), "ordinal")
    weights = np.ones((1, 20))
    weights[0, cases.truth[:, 2]] = 0
    scores = weighted_scores(cases, weights).overall
    undefined = {name for name, values in scores.items() if np.isnan(values[0])}
    assert undefined == {"auc", "balanced_accuracy", "precision", "recall", "f1", "average_precision"}


def test_an_interval_rests_on_the_defined_resamples_and_needs_half_of_them():
    values = np.array([0.1, 0.2, 0.3, np.nan])
    assert estimate(0.2, values, True).resamples == 3
    assert 0.1 <= estimate(0.2, values, True).low <= estimate(0.2, values, True).high <= 0.3
    assert np.isnan(estimate(0.2, np.array([0.1, np.nan, np.nan]), True).low)
    assert np.isnan(estimate(0.2, values, False).low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        right = generator.random(120) < 0.7
        probabilities = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
        cases = Cases(probabilities, np.tile([True, False], (120, 1)), "multiclass")
        accuracy = resampled_scores(cases, np.arange(120), 200, seed).overall["accuracy"]
        interval = estimate(0.7, accuracy, True)
        covered += interval.low <= 0.7 <= interval.high
    assert covered / 60 >= 0.85
