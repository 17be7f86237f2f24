import pytest

from crossdim.datasets.dialogue_table import from_dialogue_table
from crossdim.errors import ReadError, RecipeError
from tests.datasets.toys import nifti, png


@pytest.fixture
def table(tmp_path):
    """Return a function that writes lines to a table beside two volumes and an image."""
    nifti(tmp_path / "a.nii.gz", seed=1)
    nifti(tmp_path / "b.nii.gz", seed=2)
    png(tmp_path / "x.png")

    def write(*lines, header="volume,question,answer,choices,type"):
        (tmp_path / "q.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
        return tmp_path / "q.csv"

    return write


def turns(manifest):
    return [turn for record in manifest.records for dialogue in record.dialogues for turn in dialogue.turns]


def test_rows_become_dialogues_of_their_files(table):
    manifest = from_dialogue_table(
        table(
            "a.nii.gz,Is there a cyst?,yes,yes|no,presence",
            "x.png,Where is it?,in the left eye,,place",
            "a.nii.gz,Describe it.,A cyst.,,report",
            ",What is CT?,X-rays,,",
        )
    )
    assert [(r.id, r.kind, r.patient_id, [d.id for d in r.dialogues]) for r in manifest.records] == [
        ("a.nii.gz", "volume", "a.nii.gz", ["row 2", "row 4"]),
        ("x.png", "image", "x.png", ["row 3"]),
        ("text row 5", "text", "row 5", ["row 5"]),
    ]
    closed, report, openly, _ = turns(manifest)
    assert (closed.form, closed.choices, closed.type) == ("closed", ("yes", "no"), "presence")
    assert report.form == "report"
    assert (openly.form, openly.depends_on) == ("open", ("side", "place"))


def test_the_two_needed_columns_are_enough(table):
    (turn,) = turns(from_dialogue_table(table("a.nii.gz;What is it?", header="volume;question")))
    assert (turn.question, turn.answer, turn.form) == ("What is it?", "", "open")


def test_several_volumes_are_asked_about_together(table):
    (record,) = from_dialogue_table(table("a.nii.gz | b.nii.gz,Same?,no,yes|no,")).records
    assert (record.paths, record.more) == (("a.nii.gz",), (("b.nii.gz",),))


def test_patients_parts_dialogues_and_extents(table):
    lines = (
        "a.nii.gz,Is it there?,yes,p1,training,talk,-1 2 0 3.5 4 5",
        "a.nii.gz,How large?,3 cm,p1,training,talk,",
        "b.nii.gz,Is it there?,no,p2,,,",
    )
    manifest = from_dialogue_table(table(*lines, header="volume,question,answer,patient,split,dialogue,extent"))
    first, second = manifest.records
    assert (first.patient_id, first.split, [len(d.turns) for d in first.dialogues]) == ("p1", "train", [2])
    assert first.dialogues[0].turns[0].extent_mm == (-1, 2, 0, 3.5, 4, 5)
    assert (second.patient_id, second.split) == ("p2", None)


def test_columns_may_have_other_names(table):
    path = table("a.nii.gz,Was?,Niere", header="Datei,Frage,Antwort")
    columns = {"volume": "Datei", "question": "Frage", "answer": "Antwort"}
    assert turns(from_dialogue_table(path, columns=columns))[0].answer == "Niere"
    with pytest.raises(RecipeError, match="column 'Art': is not in the table"):
        from_dialogue_table(path, columns=columns | {"type": "Art"})
    with pytest.raises(RecipeError, match=r"column 'answr': has no meaning here\. Did you mean 'answer'"):
        from_dialogue_table(path, columns={"answr": "Antwort"})


@pytest.mark.parametrize("missing", ["volume", "question"])
def test_a_missing_column_is_named(table, missing):
    header = {"volume": "file,question", "question": "volume,ask"}[missing]
    with pytest.raises(RecipeError, match=f"column '{missing}': is not in the table"):
        from_dialogue_table(table("a.nii.gz,Why?", header=header))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a.nii.gz,,yes,,", "row 2, column 'question': is empty. Ask something"),
        ("a.nii.gz,Is it?,maybe,yes|no,", "row 2: the answer 'maybe' is not one of the choices"),
        ("a.nii.gz,Is it?,yes,yes,", "row 2: a closed question needs at least two different choices"),
    ],
)
def test_a_row_that_is_not_as_it_should_be_is_named(table, line, words):
    with pytest.raises(RecipeError, match=words):
        from_dialogue_table(table(line))


@pytest.mark.parametrize(
    ("cell", "words"),
    [("1 2 3", "'1 2 3' is not six numbers"), ("a b c d e f", "is not six numbers"), ("5 1 0 1 0 1", "extent_mm must")],
)
def test_an_extent_that_is_none_is_named(table, cell, words):
    with pytest.raises(RecipeError, match=words):
        from_dialogue_table(table(f"a.nii.gz,Where?,{cell}", header="volume,question,extent"))


def test_an_unknown_form_or_part_is_named_with_the_nearest(table):
    with pytest.raises(RecipeError, match=r"column 'form': 'close' is no form\. Did you mean 'closed'"):
        from_dialogue_table(table("a.nii.gz,Where?,close", header="volume,question,form"))
    with pytest.raises(RecipeError, match=r"column 'split': 'tarin' is no part of a data set\. Did you mean"):
        from_dialogue_table(table("a.nii.gz,Where?,tarin", header="volume,question,split"))


def test_turns_of_a_dialogue_that_disagree_about_the_patient_are_refused(table):
    lines = ("a.nii.gz,Is it?,talk,p1", "a.nii.gz,Where?,talk,p2")
    with pytest.raises(RecipeError, match="row 3: belongs to the dialogue of row 2, with another patient"):
        from_dialogue_table(table(*lines, header="volume,question,dialogue,patient"))


def test_an_empty_or_absent_table_is_refused(table, tmp_path):
    with pytest.raises(RecipeError, match="has no row below the names of its columns"):
        from_dialogue_table(table())
    with pytest.raises(ReadError, match=r"none.csv: is not a file"):
        from_dialogue_table(tmp_path / "none.csv")


def test_missing_files_are_refused_or_skipped(table):
    path = table("a.nii.gz,Why?,,,", "gone.nii.gz,Why?,,,")
    with pytest.raises(ReadError, match=r"row 3: gone.nii.gz"):
        from_dialogue_table(path)
    assert len(from_dialogue_table(path, missing="skip")) == 1
