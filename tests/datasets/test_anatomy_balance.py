from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from crossdim.datasets.anatomy_balance import Candidate, balance, blind_accuracy
from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.manifest import SPLITS, Header, Manifest, Record

answers = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(SPLITS),
        st.sampled_from(["presence", "count"]),
        st.sampled_from(["a?", "b?", "c?"]),
        st.sampled_from(["0", "1", "2"]),
    ),
    max_size=150,
)


def candidates(given_ones):
    return [Candidate(*one, about=("x",)) for one in given_ones]


def counts(kept):
    table = {}
    for one in kept:
        table.setdefault((one.type, one.question, one.split), Counter())[one.answer] += 1
    return table


def manifest_of(kept):
    records = []
    for split in SPLITS:
        turns = [
            Turn(question=c.question, answer=c.answer, choices=c.choices, form="closed", type=c.type)
            for c in kept
            if c.split == split
        ]
        if turns:
            dialogues = tuple(Dialogue(id=str(number), turns=(turn,)) for number, turn in enumerate(turns))
            records.append(Record(id=split, patient_id=split, split=split, kind="text", dialogues=dialogues))
    return Manifest(Header(name="x", root="/"), tuple(records))


@given(answers, st.integers(0, 5))
def test_every_answer_to_the_same_words_is_equally_frequent_in_each_part(given_ones, seed):
    kept, _ = balance(candidates(given_ones), seed, 9)
    choices = {}
    for one in kept:
        assert choices.setdefault((one.type, one.question), one.choices) == one.choices
        assert len(one.choices) > 1
    for (kind, question, _), found in counts(kept).items():
        assert set(found) == set(choices[kind, question])
        assert len(set(found.values())) == 1


@given(answers, st.integers(0, 5))
def test_whoever_guesses_from_the_words_is_right_as_often_as_by_chance(given_ones, seed):
    kept, _ = balance(candidates(given_ones), seed, 9)
    for blind in blind_accuracy(manifest_of(kept)).values():
        assert abs(blind.accuracy - blind.chance) < 1e-9


@given(answers)
def test_nothing_is_made_up_and_the_same_seed_keeps_the_same(given_ones):
    kept, _ = balance(candidates(given_ones), 1, 9)
    assert kept == balance(candidates(given_ones), 1, 9)[0]
    made = Counter((c.record, c.split, c.type, c.question, c.answer) for c in kept)
    assert made <= Counter(given_ones)


def ask(answers, split="train", question="a?", choices=()):
    return [
        Candidate(number, split, "presence", question, answer, ("x",), choices=choices)
        for number, answer in enumerate(answers)
    ]


def test_a_question_with_one_answer_is_dropped_and_told():
    kept, told = balance([*ask("yyyy"), *ask("yn", "test"), *ask("yn", question="b?")], 0, 9)
    assert {one.question for one in kept} == {"b?"}
    assert told[0] == "presence: 1 of 2 questions dropped: the training part has one answer to them, such as 'a?'"
    assert told[1].startswith("presence: asked 2 times, and 6 left out")


def test_rare_answers_are_left_out_where_that_leaves_more_to_learn():
    kept, _ = balance([*ask("0" * 30 + "1" * 30 + "2"), *ask("012", "test")], 0, 9)
    assert counts(kept)["presence", "a?", "train"] == {"0": 30, "1": 30}
    assert counts(kept)["presence", "a?", "test"] == {"0": 1, "1": 1}
    assert {one.choices for one in kept} == {("0", "1")}


def test_choices_keep_the_order_they_are_given_in():
    kept, _ = balance(ask(["yes", "no"], choices=("yes", "maybe", "no")), 0, 9)
    assert {one.choices for one in kept} == {("yes", "no")}


def test_the_questions_that_are_asked_most_often_are_kept():
    kept, told = balance([*ask("yn" * 5), *ask("yn", question="b?")], 0, 1)
    assert {one.question for one in kept} == {"a?"}
    assert "presence: 1 of 2 questions dropped: more than are kept of a type" in told


def test_guessing_uses_the_most_frequent_answer_of_the_text_and_else_of_the_type():
    def record(split, *pairs):
        turns = (Turn(question=q, answer=a, type="slices") for q, a in pairs)
        dialogues = tuple(Dialogue(id=str(number), turns=(turn,)) for number, turn in enumerate(turns))
        return Record(id=split, patient_id=split, split=split, kind="text", dialogues=dialogues)

    records = (
        record("train", ("a?", "1"), ("a?", "1"), ("a?", "2"), ("b?", "3"), ("b?", "3"), ("b?", "3")),
        record("test", ("a?", "1"), ("a?", "2"), ("new?", "3"), ("new?", "1")),
    )
    blind = blind_accuracy(Manifest(Header(name="x", root="/"), records))["slices"]
    assert (blind.accuracy, blind.chance, blind.questions) == (0.5, 0.0, 4)
