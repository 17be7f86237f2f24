import json
import shutil

import pytest

from crossdim.datasets.audit import audit
from crossdim.datasets.splits import split_by_patient
from crossdim.datasets.vqa_rad import TASK, choices_in, from_vqa_rad
from crossdim.errors import ReadError, RecipeError
from tests.datasets.toys import png


def question(qid, image="a.png", **more):
    asked = {"question": "Is it normal?", "answer": "Yes", "answer_type": "CLOSED", "question_type": "ABN"}
    return {"qid": qid, "image_name": image, "image_organ": "HEAD"} | asked | more


@pytest.fixture
def data(tmp_path):
    """Return a function that writes questions about four images, two of them with the same pixels."""
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        png(tmp_path / "images" / name, seed)
    shutil.copy(tmp_path / "images/b.png", tmp_path / "images/copy.png")

    def write(*questions):
        (tmp_path / "questions.json").write_text(json.dumps(questions))
        return tmp_path

    return write


def turns(manifest):
    return {d.id: d.turns[0] for record in manifest.records for d in record.dialogues}


def test_all_questions_about_an_image_are_one_record(data):
    rows = (question(1), question(2, "b.png", image_organ="CHEST"), question(3, phrase_type="para"))
    manifest = from_vqa_rad(data(*rows))
    assert [(r.id, r.kind, [d.id for d in r.dialogues]) for r in manifest.records] == [
        ("images/a.png", "image", ["1", "3"]),
        ("images/b.png", "image", ["2"]),
    ]
    assert manifest.header.tasks[TASK].classes == ("chest", "head")
    assert [record.labels[TASK] for record in manifest.records] == [1, 0]


def test_images_with_the_same_pixels_stay_in_one_part_whatever_the_seed(data):
    folder = data(question(1), question(2, "b.png"), question(3, "copy.png"), question(4, "c.png"))
    for seed in range(8):
        manifest = split_by_patient(from_vqa_rad(folder), (0.5, 0.0, 0.5), seed)
        assert not [finding for finding in audit(manifest) if finding.severity == "error"]


def test_answers_are_in_small_letters_and_closed_ones_have_choices(data):
    found = turns(
        from_vqa_rad(
            data(
                question(1),
                question(2, question="Is it left or right?", answer=" Right side ", question_type="POS"),
                question(3, answer="Left  Lung.", answer_type="OPEN", question_type="POS, PRES"),
                question(4, question="How many?", answer=2, answer_type="OPEN ", question_type="COUNT"),
            )
        )
    )
    assert (found["1"].form, found["1"].choices, found["1"].answer) == ("closed", ("yes", "no"), "yes")
    assert (found["2"].choices, found["2"].answer, found["2"].type) == (("left", "right"), "right", "position")
    assert found["2"].depends_on == ("side",)
    assert (found["3"].form, found["3"].answer, found["3"].type) == ("open", "left lung", "position")
    assert (found["4"].answer, found["4"].type) == ("2", "count")


def test_a_closed_question_that_names_no_choices_is_open_and_told(data):
    manifest = from_vqa_rad(data(question(1, question="Where is it?", answer="Right side")))
    assert turns(manifest)["1"].form == "open"
    assert manifest.notes == ("1 x a closed question does not name its choices, and is open here",)


@pytest.mark.parametrize(
    ("asked", "answer", "choices", "meant"),
    [
        ("Is the hila normal or enlarged?", "enlarged", ("normal", "enlarged"), "enlarged"),
        ("Is this a T1 weighted, T2 weighted, or FLAIR image?", "flair", ("t1 weighted", "t2 weighted", "flair"),
         "flair"),
        ("Located on the left, right, or both sides?", "both", ("left", "right", "both"), "both"),
        ("A contrast CT or a non-contrast CT?", "contrast ct with iv", ("contrast ct", "non-contrast ct"),
         "contrast ct"),
        ("Is this a pneumonia vs. pleural effusion?", "pleural effusion", ("pneumonia", "pleural"), "pleural"),
    ],
)  # fmt: skip
def test_choices_are_the_words_around_or(asked, answer, choices, meant):
    assert choices_in(asked, answer) == (choices, meant)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("What is the cause?", "infection"),
        ("Is it normal or enlarged?", "not sure"),
        ("Found on top of the patient or within the patient?", "on top of the patient"),
        ("Is it one or one?", "one"),
        ("Is it large or", "large"),
    ],
)
def test_no_choices_are_made_up(asked, answer):
    assert choices_in(asked, answer) is None


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("x", "entry 1: is not an object"),
        (question(7, question=""), "qid 7: has no 'question'"),
        (question(7, answer=None), "qid 7: has no 'answer'"),
        (question(7, answer_type="?"), r"qid 7: 'answer_type' is '\?', not CLOSED or OPEN"),
        (question(None), "entry 1: has no 'qid'"),
    ],
)
def test_a_question_that_is_not_as_it_should_be_is_named(data, broken, words):
    with pytest.raises(RecipeError, match=words):
        from_vqa_rad(data(broken))


def test_missing_images_and_files_are_refused(data, tmp_path):
    with pytest.raises(ReadError, match=r"questions.json: is not a file"):
        from_vqa_rad(tmp_path)
    with pytest.raises(ReadError, match=r"qid 1: images/none.png"):
        from_vqa_rad(data(question(1, "none.png")))


def test_an_image_that_cannot_be_read_is_left_out(data, tmp_path):
    folder = data(question(1), question(2, "b.png"))
    (tmp_path / "images/b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    manifest = from_vqa_rad(folder)
    assert len(manifest) == 1
    assert manifest.skipped[0].path.endswith("b.png")


def test_the_real_vqa_rad(crossdim_data):
    manifest = from_vqa_rad(crossdim_data / "vqa_rad")
    found = list(turns(manifest).values())
    assert (len(manifest), len(found)) == (236, 2299 - len(manifest.skipped))
    closed = [turn for turn in found if turn.form == "closed"]
    assert sum(turn.choices == ("yes", "no") for turn in closed) == 1271
    assert len(closed) > 1330
    parts = split_by_patient(manifest, stratify=TASK)
    images = {part: {record.paths for record in parts.split(part).records} for part in ("train", "val", "test")}
    assert not images["train"] & images["test"]
