"""Scores of texts against numbers worked out by hand, and against the definitions."""

from math import exp, isnan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.metrics.language import bleu1, exact_match, meteor, number_match, rouge, text_scores
from crossdim.metrics.wordnet import open_wordnet
from tests.metrics.toys import wordnet_files

TRUE = "The left kidney is large."


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wordnet")
    wordnet_files(folder / "dict", {"large": "big", "tumor": "neoplasm"})
    return open_wordnet([folder / "dict"], folder / "cache")


def test_exact_match_ignores_case_punctuation_and_articles():
    assert exact_match("left kidney is large", TRUE) == 1
    assert exact_match("Left kidney is larger", TRUE) == 0
    assert exact_match("", "") == 0


@pytest.mark.parametrize(
    ("said", "true", "tolerance", "expected"),
    [
        ("1.5 mL", "1.4 mL", 0.10, 1),
        ("1.6 mL", "1.4 mL", 0.10, 0),
        ("1.6 mL", "1.4 mL", 0.15, 1),
        ("about 1400 mm³", "1.4 mL", 0.10, 1),
        ("1.4", "1.4 mL", 0.10, 1),
        ("1.4 cm", "1.4 mL", 0.10, 0),
        ("1.4 mL or 9 mL", "1.4 mL", 0.10, 0),
        ("large", "1.4 mL", 0.10, 0),
        ("", "1.4 mL", 0.10, 0),
        ("two", "2", 0.10, 1),
        ("12 to 20", "slices 12 to 21", 0.10, 1),
        ("0", "0 mL", 0.10, 1),
    ],
)
def test_a_measurement_is_right_within_a_share_of_the_true_value(said, true, tolerance, expected):
    assert number_match(said, true, tolerance) == expected


def test_a_true_answer_without_a_number_has_no_number_to_match():
    assert isnan(number_match("3 mL", "left", 0.1))


def test_bleu_is_the_share_of_words_times_the_brevity_penalty():
    assert bleu1(TRUE, TRUE) == pytest.approx(1)
    assert bleu1("The left kidney is small.", TRUE) == pytest.approx(5 / 6)
    assert bleu1("The left kidney", TRUE) == pytest.approx(exp(1 - 6 / 3))
    assert bleu1("the the the the the the", TRUE) == 0, "upper and lower case differ"
    assert bleu1("kidney kidney kidney kidney kidney kidney", TRUE) == pytest.approx(1 / 6), "counts are clipped"


def test_rouge_is_f_of_words_and_of_the_longest_common_subsequence():
    scores = rouge("kidney left large", TRUE)
    assert scores["rouge1"] == pytest.approx(2 * 1 * 0.6 / 1.6)
    assert scores["rougeL"] == pytest.approx(2 * (2 / 3) * 0.4 / (2 / 3 + 0.4))


def test_meteor_counts_words_stems_and_synonyms(wordnet):
    assert meteor("a neoplasm", "a tumor", wordnet) == pytest.approx(1 - 0.5 * (1 / 2) ** 3)
    assert meteor("a cyst", "a tumor", wordnet) == pytest.approx(0.5 * 0.5)
    assert meteor("kidneys", "kidney", wordnet) == pytest.approx(0.5)
    assert meteor("x", "y", wordnet) == 0


def test_an_empty_answer_gets_zero_everywhere(wordnet):
    for empty in ("", "  \n"):
        scores = text_scores([empty], [TRUE], wordnet)
        assert {name: values[0] for name, values in scores.items() if not isnan(values[0])} == {
            "exact": 0,
            "bleu1": 0,
            "rouge1": 0,
            "rougeL": 0,
            "meteor": 0,
        }


def test_without_wordnet_meteor_is_absent_and_the_rest_is_there():
    assert set(text_scores(["a"], ["b"])) == {
        "exact",
        "bleu1",
        "rouge1",
        "rougeL",
        "within_10_percent",
        "within_15_percent",
    }


@settings(max_examples=50)
@given(st.text(max_size=40), st.text(max_size=40))
def test_every_score_is_between_zero_and_one(said, true):
    for values in text_scores([said], [true]).values():
        assert isnan(values[0]) or 0 <= values[0] <= 1 + 1e-9
