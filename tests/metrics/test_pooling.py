"""Ratios of sums, micro and macro, on weighted questions against the questions repeated that often."""

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.metrics.pooling import Tally, is_noise, pool
from crossdim.metrics.resampling import Estimate, patient_weights


def toy(questions: int, seed: int) -> tuple[Tally, list[str], np.ndarray]:
    generator = np.random.default_rng(seed)
    types = [("a", "b", "c")[place % 3] for place in range(questions)]
    groups = np.arange(questions) // 3
    return Tally.of_scores({"score": generator.random(questions).tolist()}), types, groups


def test_micro_is_the_mean_over_questions_and_macro_over_types():
    tally = Tally.of_scores({"score": [1.0, 0.0, 0.0, 1.0]})
    found, _ = pool({"model": tally}, ["a", "a", "a", "b"], np.arange(4), 50, 0)
    assert found["model"].micro["score"].value == 0.5
    assert found["model"].macro["score"].value == pytest.approx((1 / 3 + 1) / 2)
    assert [(each.name, each.questions, each.patients) for each in found["model"].types] == [("a", 3, 3), ("b", 1, 1)]


def test_the_interval_is_that_of_resampled_patients():
    tally, types, groups = toy(60, 0)
    found, _ = pool({"model": tally}, types, groups, 200, 3)
    scores = tally.gained[:, 0]
    resampled = [
        scores[np.repeat(np.arange(60), row.astype(int))].mean()
        for weights in patient_weights(groups, 200, 3)
        for row in weights
    ]
    estimate = found["model"].micro["score"]
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])))


def test_what_does_not_apply_to_a_question_is_left_out_of_the_mean():
    tally = Tally.of_scores({"score": [1.0, nan, 0.0, nan], "never": [nan] * 4})
    found, _ = pool({"model": tally}, ["a", "a", "a", "b"], np.arange(4), 20, 0)
    assert found["model"].micro["score"].value == 0.5
    assert found["model"].macro["score"].value == 0.5, "a type without any value is no type of that metric"
    assert isnan(found["model"].micro["never"].value)
    assert isnan(found["model"].types[1].metrics["score"].value)


def test_a_predictor_equals_itself_and_a_better_one_is_told_from_it():
    tally, types, groups = toy(60, 0)
    better = Tally(tally.names, tally.gained + 0.2, tally.possible)
    _, differences = pool({"model": better, "same": better, "worse": tally}, types, groups, 100, 0)
    assert differences["same"].micro["score"] == Estimate(0.0, 0.0, 0.0, 100)
    assert is_noise(differences["same"].micro["score"])
    difference = differences["worse"].macro["score"]
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.2, 0.2, 0.2))
    assert not is_noise(difference)
    assert is_noise(Estimate(0.2, nan, nan, 0)), "without an interval nothing is known"


def test_one_patient_has_no_interval():
    tally, types, _ = toy(6, 0)
    found, _ = pool({"model": tally}, types, np.zeros(6, dtype=int), 10, 0)
    assert isnan(found["model"].micro["score"].low)


@settings(max_examples=25, deadline=None)
@given(st.integers(6, 40), st.integers(0, 100))
def test_the_order_of_questions_does_not_matter_and_intervals_hold_their_value(questions, seed):
    tally, types, groups = toy(questions, seed)
    order = np.random.default_rng(seed).permutation(questions)
    one, _ = pool({"model": tally}, types, groups, 60, seed)
    moved = Tally(tally.names, tally.gained[order], tally.possible[order])
    other, _ = pool({"model": moved}, [types[place] for place in order], groups[order], 60, seed)
    for kind in ("micro", "macro"):
        first, second = getattr(one["model"], kind)["score"], getattr(other["model"], kind)["score"]
        assert (first.value, first.low, first.high) == pytest.approx(
            (second.value, second.low, second.high), nan_ok=True
        )
        assert isnan(first.low) or first.low <= first.value <= first.high
