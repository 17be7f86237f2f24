from dataclasses import dataclass

from crossdim.datasets.dialogue import Turn
from crossdim.metrics.priors import question_prior

SIDES = ("left", "right")


def turn(question: str, answer: str = "", choices: tuple[str, ...] = SIDES, type_: str = "side") -> Turn:
    return Turn(question=question, answer=answer, choices=choices, form="closed" if choices else "open", type=type_)


def test_the_most_frequent_answer_to_the_same_question_wins():
    prior = question_prior([turn("Which side?", "left"), *[turn("which  side", "right")] * 2, turn("Where?", "left")])
    assert prior(turn("WHICH SIDE")) == "right"
    assert prior(turn("Where?")) == "left"


def test_an_unknown_question_gets_its_types_answer_and_an_unknown_type_its_forms():
    prior = question_prior([*[turn("a?", "right")] * 3, *[turn("b?", "yes", ("yes", "no"), "presence")] * 2])
    assert prior(turn("c?")) == "right"
    assert prior(turn("d?", choices=("no", "yes"), type_="new")) == "yes"


def test_a_closed_question_gets_one_of_its_own_choices():
    prior = question_prior([*[turn("a?", "right")] * 3, turn("a?", "left")])
    assert prior(turn("a?", choices=("Left", "both"))) == "Left"
    assert prior(turn("a?", choices=("upper", "lower"))) == "upper"


def test_an_open_question_gets_the_most_frequent_text_and_nothing_without_training():
    prior = question_prior([turn("How large?", "2 mL", ()), turn("How large?", "3 mL", ()), turn("?", "3 mL", ())])
    assert prior(turn("How large?", choices=())) == "2 mL", "the first of equally frequent answers"
    assert prior(turn("How many?", choices=())) == "3 mL"
    assert question_prior([])(turn("How many?", choices=())) == ""


def test_unknown_answers_teach_nothing_and_the_asked_turns_answer_is_not_looked_at():
    prior = question_prior([turn("a?"), turn("a?", "left")])
    assert prior(turn("a?", "right")) == "left"


def test_anything_with_a_questions_fields_can_be_asked():
    @dataclass(frozen=True)
    class Plain:
        question: str = "a?"
        answer: str = "right"
        choices: tuple[str, ...] = SIDES
        form: str = "closed"
        type: str = ""

    assert question_prior([Plain()])(Plain()) == "right"
