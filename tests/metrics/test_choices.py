from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdim.metrics.choices import accepted, parse_choice

PLANES = ("axial", "coronal", "sagittal")
SIDES = ("left", "right")
YES_NO = ("yes", "no")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", "axial"),
        ("b", "coronal"),
        ("A.", "axial"),
        ("(b)", "coronal"),
        ("[C]", "sagittal"),
        ("C)", "sagittal"),
        ("**B**", "coronal"),
        ("Answer: C", "sagittal"),
        ("The correct answer is B.", "coronal"),
        ("the answer is (c)", "sagittal"),
        ("Option A", "axial"),
        ("A. axial", "axial"),
        ("A axial", "axial"),
        ("B. see region A.", "coronal"),
        ("C because of the bright spot", "sagittal"),
        ("I think that it is (b).", "coronal"),
        ("Axial", "axial"),
        ("The plane is axial.", "axial"),
        ("A coronal plane", "coronal"),
        ("the answer is a coronal plane", "coronal"),
        ("not axial but coronal", "coronal"),
        ("sagittal rather than coronal", "sagittal"),
        ("Axial, as coronal slices look different", "axial"),
    ],
)
def test_an_answer_is_read_by_its_letter_or_its_text(text, expected):
    assert parse_choice(text, PLANES) == expected


@pytest.mark.parametrize(
    "text", ["", "   ", "D", "D.", "oblique", "A. coronal", "not axial", "axial or coronal", "A because", "1"]
)
def test_an_answer_that_is_none_of_the_choices_or_several_is_not_read(text):
    assert parse_choice(text, PLANES) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no, it is not visible", "no"),
        ("No.", "no"),
        ("Yes, there is no bleeding.", "yes"),
        ("There is no evidence of it", "no"),
        ("yes", "yes"),
        ("It is not visible", None),
        ("nothing", None),
        ("yesterday", None),
    ],
)
def test_yes_and_no_are_words_and_the_first_word_decides(text, expected):
    assert parse_choice(text, YES_NO) == expected


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("b) left", ("right", "left"), "left"),
        ("a left one", SIDES, "left"),
        ("It isn't on the left", SIDES, None),
        ("the left upper lobe", ("left", "left upper lobe"), "left upper lobe"),
        ("not visible", ("visible", "not visible"), "not visible"),
        ("14 mL", ("1.4 mL", "14 mL"), "14 mL"),
        ("1.4 ml.", ("1.4 mL", "14 mL"), "1.4 mL"),
        ("> 5 mm", ("< 5 mm", "> 5 mm"), "> 5 mm"),
        ("coronal", ("A. axial", "B. coronal"), "B. coronal"),
        ("B", ("A. axial", "B. coronal"), "B. coronal"),
        ("more than 3 mL", ("less than 2 mL", "2 to 3 mL", "more than 3 mL"), "more than 3 mL"),
        ("left", (), None),
    ],
)
def test_the_longest_choice_wins_and_denied_ones_do_not_count(text, choices, expected):
    assert parse_choice(text, choices) == expected


def test_the_authors_rule_counts_as_the_authors_code_does():
    assert not accepted("A axial", "axial", PLANES, "substring")
    assert accepted("B. see region A.", "axial", PLANES, "substring")
    assert accepted("B. see region A.", "coronal", PLANES, "substring")
    assert accepted("the answer is (b)", "coronal", PLANES, "substring")
    assert not accepted("", "axial", PLANES, "substring")
    assert parse_choice("B. see region A.", PLANES, "substring") == "coronal"
    assert parse_choice("A axial", PLANES, "substring") is None


def test_the_robust_rule_sees_what_the_authors_rule_gets_wrong():
    assert accepted("A axial", "axial", PLANES)
    assert not accepted("B. see region A.", "axial", PLANES)


def test_more_choices_than_letters_are_read_by_their_text():
    many = tuple(f"region {number}" for number in range(30))
    assert parse_choice("region 29", many) == "region 29"
    assert not accepted("region 29", "region 29", many, "substring")


names = st.text(alphabet="bcdfghjklmnpqrstvwxz", min_size=3, max_size=9)


@given(st.lists(names, min_size=2, max_size=6, unique=True), st.data())
def test_every_choice_is_read_from_its_text_its_letter_and_both(choices, data):
    place = data.draw(st.integers(0, len(choices) - 1))
    letter, choice = ascii_uppercase[place], choices[place]
    forms = (choice, choice.upper(), f"{choice}.", f"The {choice}", letter, f"{letter}.", f"({letter.lower()})")
    for text in (*forms, f"{letter}. {choice}", f"{letter}) {choice}", f"Answer: {letter}", f"{letter} {choice}"):
        assert parse_choice(text, choices) == choice


@given(st.text(max_size=60), st.lists(st.text(max_size=12), max_size=5, unique=True))
def test_whatever_is_said_the_result_is_a_choice_or_none(text, choices):
    for rule in ("robust", "substring"):
        assert parse_choice(text, choices, rule) in {*choices, None}
