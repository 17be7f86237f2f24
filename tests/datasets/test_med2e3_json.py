import json

import numpy as np
import pytest

from crossdim.datasets.med2e3_json import Source, from_med2e3
from crossdim.datasets.splits import split_by_patient
from crossdim.errors import ReadError, RecipeError
from tests.datasets.toys import png


def said(*texts):
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def sample(name, *texts, files=("case1/a.npy",), **more):
    asked = texts[0].replace("<image3d>\n", "")
    return {"id": name, "vision3d": list(files), "conversations": said(*texts), "question": asked} | more


@pytest.fixture
def data(tmp_path):
    """Return a function that writes samples to a file beside four small volumes."""
    for seed, name in enumerate(("case1/a.npy", "case1/b.npy", "case2/a.npy", "case3/a.npy")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.random.default_rng(seed).random((4, 6, 7), dtype=np.float32))

    def write(*samples, name="train.json"):
        (tmp_path / name).write_text(json.dumps(samples), encoding="utf-8")
        return Source(str(tmp_path / name))

    return write


OPEN = ("<image3d>\nWhich organ is this?", "the liver")


def only_turn(manifest):
    ((turn,),) = [dialogue.turns for record in manifest.records for dialogue in record.dialogues]
    return turn


def test_samples_about_one_volume_are_one_record_of_its_case(data):
    manifest = from_med2e3([data(sample("1", *OPEN), sample("2", *OPEN, files=["case2/a.npy"]), sample(3, *OPEN))])
    assert [(r.id, r.patient_id, r.kind, [d.id for d in r.dialogues]) for r in manifest.records] == [
        ("case1/a.npy", "case1", "volume", ["1", "3"]),
        ("case2/a.npy", "case2", "volume", ["2"]),
    ]
    assert manifest.header.name == "train"
    assert manifest.notes == ()


def test_markers_leave_the_question_and_types_have_names(data):
    turn = only_turn(from_med2e3([data(sample("1", *OPEN, question_type=3))]))
    assert (turn.question, turn.answer, turn.type, turn.form) == ("Which organ is this?", "the liver", "organ", "open")


def test_a_list_of_choices_in_the_text_becomes_choices(data):
    asked = "<image3d>\nWhich plane? Choices: A. axial B. coronal C. sagittal D. oblique"
    turn = only_turn(from_med2e3([data(sample("1", asked, "B. coronal", question_type=1))]))
    assert (turn.question, turn.answer, turn.form) == ("Which plane?", "coronal", "closed")
    assert turn.choices == ("axial", "coronal", "sagittal", "oblique")
    assert turn.depends_on == ("plane",)


def test_an_answer_that_is_no_choice_leaves_the_sample_out(data):
    asked = "<image3d>\nWhich plane? Choices: A. axial B. coronal"
    manifest = from_med2e3([data(sample("1", *OPEN), sample("2", asked, "C. sagittal"))])
    (skip,) = manifest.skipped
    assert skip.path.endswith("train.json, sample '2'")
    assert "its answer 'C. sagittal' is none of its choices ['axial', 'coronal']" in skip.reason


def test_several_turns_and_several_volumes(data):
    text = "Compare <image3d> with <image3d>."
    turns = (text, "alike", "Which is larger?", "the first")
    (record,) = from_med2e3([data(sample("1", *turns, files=["case1/a.npy", "case1/b.npy"]))]).records
    assert (record.paths, record.more) == (("case1/a.npy",), (("case1/b.npy",),))
    assert [turn.question for turn in record.dialogues[0].turns] == ["Compare with .", "Which is larger?"]
    assert record.dialogues[0].turns[1].depends_on == ("size",)


def test_images_and_text_alone_are_records_too(data, tmp_path):
    png(tmp_path / "x.png")
    picture = {"id": "1", "vision2d": ["x.png"], "conversations": said("<image>\nWhat is it?", "noise")}
    manifest = from_med2e3([data(picture, {"id": "2", "conversations": said("What is CT?", "X-rays")})])
    assert [(record.kind, record.id) for record in manifest.records] == [("image", "x.png"), ("text", "text 2")]
    assert str(tmp_path) not in "".join(record.model_dump_json() for record in manifest.records)


def test_a_long_answer_without_a_type_is_a_report(data):
    assert only_turn(from_med2e3([data(sample("1", "<image3d>\nDescribe.", "It shows " * 30))])).form == "report"


@pytest.mark.parametrize(
    ("text", "files", "words"),
    [
        ("What?", ["case1/a.npy"], "has 0 markers <image3d> in its questions, and 1 files in 'vision3d'"),
        ("<image3d><image3d>What?", ["case1/a.npy"], "has 2 markers <image3d> .* and 1 files in 'vision3d'"),
        ("<image3d>What?", [], "has 1 markers <image3d> .* and 0 files in 'vision3d'"),
        ("<image3d>What? <image>", ["case1/a.npy"], "has 1 markers <image> .* and 0 files in 'vision2d'"),
    ],
)
def test_markers_and_files_that_do_not_match_are_refused_with_both_counts(data, text, files, words):
    with pytest.raises(RecipeError, match=f"sample 'q7': {words}. Give one marker for every file"):
        from_med2e3([data(sample("q7", text, "x", files=files))])


def test_a_missing_question_is_taken_from_the_conversation_and_told_or_refused_if_strict(data):
    source = data(sample("1", *OPEN, question=None), sample("2", *OPEN))
    manifest = from_med2e3([source])
    assert manifest.notes == (
        "1 x the sample has no 'question', so its conversation's first question guides the slices",
    )
    with pytest.raises(RecipeError, match=r"sample '1': has no 'question'\. Add the text that guides the slices"):
        from_med2e3([source], strict=True)


def test_a_question_that_is_nowhere_is_refused_even_if_not_strict(data):
    with pytest.raises(RecipeError, match="sample '1': has neither 'question' nor a question to the files"):
        from_med2e3([data(sample("1", "<image3d>", "a report", question=""))])


def test_the_question_stands_in_for_a_conversation_that_only_shows_the_volume(data):
    turn = only_turn(from_med2e3([data(sample("1", "<image3d>", "a report", question="Describe it."))]))
    assert turn.question == "Describe it."


def test_a_question_that_differs_from_the_conversation_is_told(data):
    manifest = from_med2e3([data(sample("1", *OPEN, question="Something else?"))])
    assert "'question' differs from the conversation's first question" in manifest.notes[0]
    assert only_turn(manifest).question == "Which organ is this?"


def test_answers_come_from_a_file_of_their_own(data, tmp_path):
    asked = "<image3d>\nWhich plane? Choices: A. axial B. coronal"
    source = data(sample(1, asked), sample(2, *OPEN[:1]), name="closed.json")
    answers = [
        {"id": 1, "answer": "coronal", "answer_choice": "B", "question_type": 1},
        {"id": 2, "answer": "liver", "question_type": 3},
    ]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    source = Source(source.path, "test", str(tmp_path / "answers.json"))
    (record,) = from_med2e3([source]).records
    turns = [dialogue.turns[0] for dialogue in record.dialogues]
    assert [(turn.answer, turn.type) for turn in turns] == [("coronal", "plane"), ("liver", "organ")]
    assert record.split == "test"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([{"id": 9, "answer": "x"}], "sample '1': has no answer in the file of answers"),
        ([{"id": 1, "answer": "x"}, {"id": 9, "answer": "x"}], "answers '9', which is no sample of .*train.json"),
        ([{"id": 1, "answer": "x"}, {"id": 1, "answer": "y"}], "entry 2: answers '1' a second time"),
        ([{"id": 1}], "entry 1: has no 'id' or no 'answer'"),
    ],
)
def test_answers_that_do_not_fit_are_refused(data, tmp_path, answers, words):
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    with pytest.raises(RecipeError, match=words):
        from_med2e3([Source(data(sample(1, OPEN[0])).path, None, str(tmp_path / "answers.json"))])


def test_two_files_are_two_parts_and_ids_may_repeat_between_them(data):
    train, test = data(sample(1, *OPEN)), data(sample(1, *OPEN, files=["case2/a.npy"]), name="test.json")
    manifest = from_med2e3([Source(train.path, "train"), Source(test.path, "test")])
    assert [(r.split, r.dialogues[0].id) for r in manifest.records] == [("train", "train/1"), ("test", "test/1")]


def test_volumes_asked_about_together_stay_in_one_part(data):
    both = sample("b", "<image3d><image3d>Same?", "no", files=["case1/a.npy", "case3/a.npy"])
    others = (sample("a", *OPEN), sample("c", *OPEN, files=["case3/a.npy"]), sample("d", *OPEN, files=["case2/a.npy"]))
    for seed in range(6):
        manifest = split_by_patient(from_med2e3([data(*others, both)]), (0.5, 0.0, 0.5), seed)
        assert len({record.split for record in manifest.records if record.patient_id == "case1"}) == 1


def test_whose_file_it_is_can_be_an_expression(data):
    source = data(sample(1, *OPEN), sample(2, *OPEN, files=["case2/a.npy"]))
    manifest = from_med2e3([source], patient=r"case(2)")
    assert [record.patient_id for record in manifest.records] == ["2"]
    assert "the rule 'case(2)' finds no patient" in manifest.skipped[0].reason


def test_volumes_and_images_at_once_are_left_out(data, tmp_path):
    png(tmp_path / "x.png")
    mixed = sample("2", "<image3d><image>Same?", "no", vision2d=["x.png"])
    manifest = from_med2e3([data(sample("1", *OPEN), mixed)])
    assert manifest.skipped[0].reason == "is about volumes and images at once"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (["a"], "sample 1: is not an object"),
        ({"conversations": said("What?")}, "sample 1: has no 'id'"),
        ({"id": "1"}, "sample '1': has no 'conversations'"),
        ({"id": "1", "conversations": [{"from": "gpt", "value": "x"}]}, "part 1 .* is from 'gpt', not from 'human'"),
        ({"id": "1", "conversations": said("What?") * 2}, "part 2 .* is from 'human', not from 'gpt'"),
        ({"id": "1", "conversations": [{"from": "human", "value": ["x"]}]}, "'value' is list, not text"),
        ({"id": "1", "vision3d": [3], "conversations": said("What?")}, "'vision3d' is no list of paths"),
        ({"id": "1", "conversations": said("What?", "x", "", "y")}, "has a turn without a question"),
    ],
)
def test_a_sample_that_is_not_as_it_should_be_is_named(data, broken, words):
    with pytest.raises(RecipeError, match=words):
        from_med2e3([data(broken)])


def test_an_id_that_comes_twice_is_refused(data):
    with pytest.raises(RecipeError, match="sample '1': has the id of an earlier sample"):
        from_med2e3([data(sample(1, *OPEN), sample("1", *OPEN))])


def test_missing_volumes_are_refused_or_skipped(data):
    source = data(sample(1, *OPEN), sample(2, *OPEN, files=["case9/a.npy"]))
    with pytest.raises(ReadError, match=r"sample '2': case9/a.npy"):
        from_med2e3([source])
    assert len(from_med2e3([source], missing="skip")) == 1
