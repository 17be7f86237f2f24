import csv

import numpy as np
import pytest

from crossdim.datasets.m3d_vqa import from_m3d_vqa
from crossdim.errors import ReadError, RecipeError

COLUMNS = ("Image Path", "Text", "Question Type", "Question", "Choice A", "Choice B", "Choice C", "Choice D",
           "Answer", "Answer Choice")  # fmt: skip
PLANE = {
    "Image Path": "case1/a.npy", "Question Type": "1", "Question": "Which plane is it?", "Choice A": "axial",
    "Choice B": "coronal", "Choice C": "sagittal", "Choice D": "oblique", "Answer": "Coronal", "Answer Choice": "B",
}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """Return a function that writes rows, each the plane question with something changed, beside two volumes."""
    for seed, name in enumerate(("case1/a.npy", "case2/a.npy")):
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / name, np.random.default_rng(seed).random((4, 6, 7), dtype=np.float32))

    def write(*changes, name="train.csv", columns=COLUMNS):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(PLANE | change for change in changes)
        return str(tmp_path / name)

    return write


def turns(manifest):
    return [turn for record in manifest.records for dialogue in record.dialogues for turn in dialogue.turns]


def test_rows_about_a_volume_are_one_record_and_choices_stay_apart_from_the_question(table):
    manifest = from_m3d_vqa({None: [table({}, {"Question": "Plane?"}, {"Image Path": "case2/a.npy"})]})
    assert [(record.patient_id, len(record.dialogues)) for record in manifest.records] == [("case1", 2), ("case2", 1)]
    turn = turns(manifest)[0]
    assert (turn.question, turn.answer, turn.form) == ("Which plane is it?", "coronal", "closed")
    assert turn.choices == ("axial", "coronal", "sagittal", "oblique")


@pytest.mark.parametrize(
    ("number", "type_", "depends"),
    [("1", "plane", ("plane",)), ("2", "phase", ("plane",)), ("5", "location", ("place", "plane", "side"))],
)
def test_types_have_names_and_say_what_answers_depend_on(table, number, type_, depends):
    (turn,) = turns(from_m3d_vqa({None: [table({"Question Type": number})]}))
    assert (turn.type, turn.depends_on) == (type_, depends)


def test_rows_can_be_asked_openly_or_both_ways(table):
    path = table({})
    (turn,) = turns(from_m3d_vqa({None: [path]}, ask="open"))
    assert (turn.form, turn.choices, turn.answer) == ("open", (), "coronal")
    assert [turn.form for turn in turns(from_m3d_vqa({None: [path]}, ask="both"))] == ["closed", "open"]


def test_each_table_is_a_part(table):
    train, test = table({}), table({"Image Path": "case2/a.npy"}, name="test.csv")
    manifest = from_m3d_vqa({"train": [train], "test": [test]})
    assert [record.split for record in manifest.records] == ["train", "test"]


def test_a_volume_in_two_parts_is_refused(table):
    with pytest.raises(RecipeError, match="is in 'test', and the same files are in 'train'"):
        from_m3d_vqa({"train": [table({})], "test": [table({}, name="test.csv")]})


def test_a_question_of_yes_and_no_has_two_choices(table):
    rows = {"Choice A": "Yes", "Choice B": "No", "Choice C": "", "Choice D": "", "Answer": "No", "Answer Choice": "B."}
    (turn,) = turns(from_m3d_vqa({None: [table(rows)]}))
    assert (turn.choices, turn.answer) == (("Yes", "No"), "No")


@pytest.mark.parametrize("change", [{"Answer": "axial"}, {"Answer Choice": "C"}, {"Choice A": "coronal"}])
def test_rows_that_contradict_themselves_are_left_out_and_told(table, change):
    manifest = from_m3d_vqa({None: [table({}, change)]})
    (skip,) = manifest.skipped
    assert skip.path.endswith("train.csv, row 3")
    assert "is not choice" in skip.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Question Type": "7"}, r"row 3, column 'Question Type': '7' is no type of question\. Give a number"),
        ({"Question": ""}, "row 3, column 'Question': is empty"),
        ({"Image Path": ""}, "row 3, column 'Image Path': is empty"),
        ({"Answer Choice": ""}, "row 3, column 'Answer Choice': is empty"),
        ({"Answer Choice": "E"}, "row 3, column 'Answer Choice': 'E' is none of A, B, C and D"),
    ],
)
def test_a_cell_that_is_not_as_it_should_be_is_named(table, change, words):
    with pytest.raises(RecipeError, match=words):
        from_m3d_vqa({None: [table({}, change)]})


def test_a_column_that_is_missing_is_named(table):
    with pytest.raises(RecipeError, match="column 'Question': is not in the table"):
        from_m3d_vqa({None: [table({}, columns=[name for name in COLUMNS if name != "Question"])]})


def test_missing_volumes_are_refused_or_skipped(table):
    path = table({}, {"Image Path": "case9/a.npy"})
    with pytest.raises(ReadError, match=r"row 3 \(closed\): case9/a.npy"):
        from_m3d_vqa({None: [path]})
    assert len(from_m3d_vqa({None: [path]}, missing="skip")) == 1
