import numpy as np
import pytest

from crossdim.metrics.calibration import calibration
from crossdim.metrics.classification import evaluate_classification


def test_the_error_is_the_weighted_gap_of_the_bins():
    result = calibration(
        np.array([0.9, 0.9, 0.9, 0.9, 0.6]), np.array([True, True, False, False, True]), "toy", bins=10
    )
    assert result.error == pytest.approx(0.8 * 0.4 + 0.2 * 0.4)
    assert sum(result.counts) == 5
    assert result.counts[8] == 4
    assert np.isnan(result.frequency[0])
    assert result.binning == "toy, 10 bins of equal width"


def test_bins_are_closed_on_the_right_and_hold_both_ends():
    result = calibration(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), "toy", bins=2)
    assert result.counts == (2, 1)


def test_honest_probabilities_are_calibrated_and_boasting_ones_are_not():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 20000)
    correct = generator.random(20000) < confidence
    assert calibration(confidence, correct, "toy").error < 0.02
    assert calibration(np.minimum(confidence + 0.2, 1), correct, "toy").error > 0.1


def test_reports_say_what_was_binned():
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6]])
    single = evaluate_classification(probabilities, np.array([0, 0]), None, "multiclass", ("a", "b"), 5)
    assert single.calibration.binning == "probability of the predicted class, 15 bins of equal width"
    assert single.calibration.error == pytest.approx((0.2 + 0.6) / 2)
    both = evaluate_classification(probabilities, np.array([[1, 0], [0, 1]]), None, "multilabel", ("a", "b"), 5)
    assert sum(both.calibration.counts) == 4
    assert both.calibration.binning.startswith("probability of every class of every case")
