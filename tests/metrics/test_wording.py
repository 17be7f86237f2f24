import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdim.metrics.wording import normalised, quantities, sentences, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Left Kidney.", "left kidney"),
        ("an  enlarged\theart!", "enlarged heart"),
        ("1.4 mL", "1.4 ml"),
        ("14 mL", "14 ml"),
        ("−3 mm", "-3 mm"),
        ("T2-weighted", "t2 weighted"),
        ("it isn’t", "it isn't"),
        ("1,400 mm³", "1400 mm3"),
        ("> 5 mm", "> 5 mm"),
        ("A", "a"),
        ("", ""),
    ],
)
def test_words_lose_case_punctuation_and_articles_but_no_sign_or_point(text, expected):
    assert normalised(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    assert words(normalised(text)) == words(normalised(normalised(text)))


def test_sentences_end_at_full_stops_and_lines_not_at_decimal_points():
    text = "The volume is 1.4 mL. No mass!\nIs it seen?  Yes.\n\n- \n"
    assert sentences(text) == ("The volume is 1.4 mL.", "No mass!", "Is it seen?", "Yes.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("about 1.4 mL", [(1.4, "volume")]),
        ("1400 mm^3", [(1.4, "volume")]),
        ("1,400 mm³", [(1.4, "volume")]),
        ("1.4cc", [(1.4, "volume")]),
        ("2 cm and 3 mm", [(20, "length"), (3, "length")]),
        ("12.5 %", [(12.5, "share")]),
        ("-30 HU", [(-30, "intensity")]),
        ("slices 12 to 20", [(12, ""), (20, "")]),
        ("two lesions", [(2, "")]),
        ("One.", [(1, "")]),
        ("the left one", []),
        ("T2 and L3", []),
        ("5 metastases", [(5, "")]),
    ],
)
def test_numbers_are_read_with_their_units(text, expected):
    found = quantities(text)
    assert [quantity.kind for quantity in found] == [kind for _, kind in expected]
    assert [quantity.value for quantity in found] == pytest.approx([value for value, _ in expected])
