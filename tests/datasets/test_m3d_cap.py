import json

import numpy as np
import pytest

from crossdim.datasets.m3d_cap import QUESTIONS, from_m3d_cap, question_for, report_of
from crossdim.errors import ReadError, RecipeError

REPORT = "study_findings: A cyst in the left kidney."


@pytest.fixture
def data(tmp_path):
    """Return a function that writes a data set of the given cases by part."""

    def write(**parts):
        for number, case in enumerate(case for cases in parts.values() for case in cases):
            folder = tmp_path / "npy" / case
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / "axial.npy", np.random.default_rng(number).random((3, 5, 6), dtype=np.float32))
            (folder / "text.txt").write_text(REPORT)
        listed = {
            part: [{"image": f"npy/{case}/axial.npy", "text": f"npy/{case}/text.txt"} for case in cases]
            for part, cases in parts.items()
        }
        (tmp_path / "M3D_Cap.json").write_text(json.dumps(listed))
        return tmp_path / "M3D_Cap.json"

    return write


def test_reports_become_dialogues_in_the_official_parts(data):
    manifest = from_m3d_cap(data(train=["quiz/1"], validation=["quiz/2"], test=["quiz/3"]))
    assert [(r.split, r.patient_id, r.kind) for r in manifest.records] == [
        ("train", "npy/quiz/1", "volume"),
        ("val", "npy/quiz/2", "volume"),
        ("test", "npy/quiz/3", "volume"),
    ]
    (turn,) = manifest.records[0].dialogues[0].turns
    assert (turn.answer, turn.form, turn.depends_on) == ("A cyst in the left kidney.", "report", ("side",))
    assert turn.question in QUESTIONS


def test_two_series_of_a_case_are_two_records_of_one_patient(data, tmp_path):
    path = data(train=["quiz/1"])
    np.save(tmp_path / "npy/quiz/1/coronal.npy", np.ones((3, 5, 6), dtype=np.float32))
    listed = json.loads(path.read_text())
    listed["train"].append({"image": "npy/quiz/1/coronal.npy", "text": "npy/quiz/1/text.txt"})
    path.write_text(json.dumps(listed))
    assert [record.patient_id for record in from_m3d_cap(path).records] == ["npy/quiz/1"] * 2


def test_parts_of_the_test_part_are_read_only_in_its_place(data):
    manifest = from_m3d_cap(data(train=["1"], test=["2", "3"], test100=["2"]))
    assert [record.split for record in manifest.records] == ["train", "test", "test"]
    assert manifest.notes == ("1 x 'test100' is not read: it repeats a part of 'test'",)
    manifest = from_m3d_cap(data(train=["1"], test100=["2"], test500=["2", "3"]))
    assert [record.split for record in manifest.records] == ["train", "test", "test"]


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("clinical: cough\nstudy_findings: Clear lungs.\ndiscussion: None", "Clear lungs.\ndiscussion: None"),
        ("discussion: A large mass. study_findings: no", "A large mass. study_findings: no"),
        ("study_findings:\ndiscussion: A large mass.", "discussion: A large mass."),
        (" A mass. ", "A mass."),
        ("  \n", ""),
    ],
)
def test_the_report_is_the_section_of_findings_or_of_discussion_or_all(text, report):
    assert report_of(text) == report


def test_the_words_that_ask_depend_on_seed_and_sample_only():
    asked = [question_for(f"case {number}", seed=1) for number in range(200)]
    assert set(asked) == set(QUESTIONS)
    assert asked[:3] == [question_for(f"case {number}", seed=1) for number in range(3)]
    assert asked != [question_for(f"case {number}", seed=2) for number in range(200)]


def test_empty_reports_are_left_out_and_missing_texts_refused_or_skipped(data, tmp_path):
    path = data(train=["1", "2", "3"])
    (tmp_path / "npy/2/text.txt").write_text(" \n")
    assert "npy/2/text.txt is empty" in from_m3d_cap(path).skipped[0].reason
    (tmp_path / "npy/3/text.txt").unlink()
    with pytest.raises(ReadError, match=r"1 files are not in .*train, entry 3: npy/3/text.txt"):
        from_m3d_cap(path)
    manifest = from_m3d_cap(path, missing="skip")
    assert len(manifest) == 1
    assert "npy/3/text.txt is not there" in manifest.skipped[1].reason


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ([], ReadError, r"is not M3D_Cap.json: it holds no object"),
        ({"train": {}}, RecipeError, "train: is no list of entries"),
        ({"first": []}, RecipeError, "'first' is no part of a data set"),
        ({"train": [{"image": "a.npy"}]}, RecipeError, "train, entry 1: has no 'image' or no 'text'"),
        ({"train": ["a.npy"]}, RecipeError, "train, entry 1: has no 'image' or no 'text'"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused(tmp_path, content, error, words):
    (tmp_path / "M3D_Cap.json").write_text(json.dumps(content))
    with pytest.raises(error, match=words):
        from_m3d_cap(tmp_path / "M3D_Cap.json")


def test_a_report_in_another_encoding_is_named(data, tmp_path):
    path = data(train=["1"])
    (tmp_path / "npy/1/text.txt").write_bytes(b"na\xefve")
    with pytest.raises(ReadError, match=r"text.txt: is not UTF-8 text .*Save the report as UTF-8"):
        from_m3d_cap(path)
