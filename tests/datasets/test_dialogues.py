"""What the readers of questions share: records by file, patients by shared files, choices out of texts."""

import numpy as np
import pytest

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.dialogues import Asked, chosen, depends_on, gather, lettered_choices, read_json, text_of
from crossdim.datasets.manifest import Header
from crossdim.errors import ReadError, RecipeError
from tests.datasets.toys import nifti, png


def ask(folder, name, *files, **more):
    dialogue = Dialogue(id=name, turns=(Turn(question="What is it?", answer="a scan"),))
    paths = tuple(str(folder / file) for file in files)
    return Asked(**({"place": f"q, {name}", "files": paths, "dialogue": dialogue, "patient": name} | more))


def gathered(folder, *asked, **more):
    return gather(asked, Header(name="q", root=str(folder)), **more)


def test_dialogues_about_the_same_files_are_one_record(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti(tmp_path / name)
    manifest = gathered(
        tmp_path, ask(tmp_path, "1", "a.nii.gz"), ask(tmp_path, "2", "b.nii.gz"), ask(tmp_path, "3", "a.nii.gz")
    )
    assert [(r.id, r.kind, [d.id for d in r.dialogues]) for r in manifest.records] == [
        ("a.nii.gz", "volume", ["1", "3"]),
        ("b.nii.gz", "volume", ["2"]),
    ]


def test_several_volumes_of_a_sample_stay_together_and_so_does_everyone_who_shares_one(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        nifti(tmp_path / name)
    manifest = gathered(
        tmp_path,
        ask(tmp_path, "p10", "b.nii.gz"),
        ask(tmp_path, "p2", "a.nii.gz", "b.nii.gz"),
        ask(tmp_path, "p3", "c.nii.gz"),
    )
    both = manifest.records[1]
    assert (both.id, both.paths, both.more) == ("a.nii.gz + b.nii.gz", ("a.nii.gz",), (("b.nii.gz",),))
    assert [record.patient_id for record in manifest.records] == ["p2", "p2", "p3"]


def test_a_dialogue_without_files_is_a_record_of_text(tmp_path):
    (record,) = gathered(tmp_path, ask(tmp_path, "1")).records
    assert (record.kind, record.paths, record.id) == ("text", (), "text 1")


def test_missing_files_are_refused_or_told_once_for_each(tmp_path):
    nifti(tmp_path / "a.nii.gz")
    asked = [ask(tmp_path, "1", "a.nii.gz"), ask(tmp_path, "2", "gone.nii.gz"), ask(tmp_path, "3", "gone.nii.gz")]
    with pytest.raises(ReadError, match=r"1 files are not in .* \(q, 2: gone.nii.gz, q, 3: gone.nii.gz\)"):
        gathered(tmp_path, *asked)
    manifest = gathered(tmp_path, *asked, missing="skip")
    assert len(manifest) == 1
    (skip,) = manifest.skipped
    assert (skip.path, skip.reason.endswith("gone.nii.gz is not there (2 dialogues)")) == ("q, 2", True)


def test_what_cannot_be_read_or_is_of_another_kind_is_left_out_with_the_reason(tmp_path):
    nifti(tmp_path / "a.nii.gz")
    png(tmp_path / "b.png")
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY nothing")
    manifest = gathered(
        tmp_path,
        ask(tmp_path, "1", "a.nii.gz"),
        ask(tmp_path, "2", "b.png", kind="volume"),
        ask(tmp_path, "3", "c.npy"),
        ask(tmp_path, "4", "a.nii.gz", "b.png"),
    )
    assert [record.id for record in manifest.records] == ["a.nii.gz"]
    reasons = {skip.path: skip.reason for skip in manifest.skipped}
    assert reasons["q, 2"].endswith("b.png is not a volume, as 'q, 2' says")
    assert "c.npy has a damaged NumPy header" in reasons["q, 3"]
    assert reasons["q, 4"] == "its files are images and volumes"


def test_nothing_left_is_refused_with_the_first_reason(tmp_path):
    png(tmp_path / "b.png")
    with pytest.raises(ReadError, match=r"q: holds no dialogue that can be used \(1 left out; first q, 2: .*b.png"):
        gathered(tmp_path, ask(tmp_path, "2", "b.png", kind="volume"))


def test_the_same_files_in_two_parts_are_refused(tmp_path):
    nifti(tmp_path / "a.nii.gz")
    asked = [ask(tmp_path, "1", "a.nii.gz", split="train"), ask(tmp_path, "2", "a.nii.gz", split="test")]
    with pytest.raises(RecipeError, match=r"q, 2: is in 'test', and the same files are in 'train' \(q, 1\)"):
        gathered(tmp_path, *asked)


def test_two_dialogues_of_one_id_about_the_same_files_are_refused(tmp_path):
    nifti(tmp_path / "a.nii.gz")
    with pytest.raises(RecipeError, match=r"the id '1' stands there 2 times\. Give every sample an id"):
        gathered(tmp_path, ask(tmp_path, "1", "a.nii.gz"), ask(tmp_path, "1", "a.nii.gz"))


def test_only_the_header_of_a_file_is_read(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.full((4, 5, 6), np.nan, dtype=np.float32))  # reading its values would refuse it
    assert len(gathered(tmp_path, ask(tmp_path, "1", "a.npy"))) == 1


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        ("Which plane? Choices: A. axial B. coronal C. sagittal D. oblique", "Which plane?",
         ("axial", "coronal", "sagittal", "oblique")),
        ("Which? Choices: A. Vit. B deficit B. none", "Which?", ("Vit. B deficit", "none")),
        ("Which lobe? (a) upper (b) lower\n(c) middle", "Which lobe?", ("upper", "lower", "middle")),
        ("Is it (a bit) large?", "Is it (a bit) large?", ()),
        ("Choices: A. alone", "Choices: A. alone", ()),
    ],
)  # fmt: skip
def test_choices_are_found_in_a_question(text, question, choices):
    assert lettered_choices(text) == (question, choices)


@pytest.mark.parametrize("answer", ["B. Coronal", "(b) coronal", "B", "b.", "coronal", "Coronal."])
def test_an_answer_names_its_choice_by_letter_text_or_both(answer):
    assert chosen(answer, ("axial", "coronal")) == "coronal"


@pytest.mark.parametrize("answer", ["C. oblique", "A. coronal", "somewhere", "both a and b"])
def test_an_answer_that_names_no_choice_is_known(answer):
    assert chosen(answer, ("axial", "coronal")) is None


def test_what_an_answer_depends_on_is_read_from_its_words():
    assert depends_on("Is the lung bright?") == ("intensity",)
    assert depends_on("Which plane?", "axial") == ("plane",)
    assert depends_on("Where is it?", "Left lower lobe") == ("side", "place")
    assert depends_on("Is the heart enlarged?") == ("size",)
    assert depends_on("Is this a scan?", "yes") == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "is not JSON in UTF-8"), (b"{}", "is not a list of things: it holds no list"), (b"\xff", "is not JSON")],
)
def test_a_file_that_is_no_json_list_is_refused(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ReadError, match=words):
        read_json(tmp_path / "a.json", list, "a list of things")


def test_an_absent_json_file_is_refused(tmp_path):
    with pytest.raises(ReadError, match=r"none.json: is not a file. Check the path"):
        read_json(tmp_path / "none.json", dict, "an object")


def test_text_fields_take_numbers_and_refuse_the_rest():
    assert (text_of(3, "q", "answer"), text_of(None, "q", "answer"), text_of(" a ", "q", "answer")) == ("3", "", "a")
    with pytest.raises(RecipeError, match="q: 'answer' is list, not text"):
        text_of(["a"], "q", "answer")
