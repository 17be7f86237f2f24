import numpy as np
import pytest
from PIL import Image

from crossdim.datasets.audit import Finding, audit, count_labels, count_questions
from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.idrid import from_idrid
from crossdim.datasets.manifest import Header, Manifest, Record, Task
from crossdim.datasets.medmnist import from_medmnist
from crossdim.datasets.splits import split_by_patient
from crossdim.datasets.synthetic import make_images, make_volumes
from tests.datasets.toys import nifti, png

TASKS = {
    "grade": Task(kind="ordinal", classes=("none", "mild", "severe")),
    "signs": Task(kind="multilabel", classes=("drusen", "oedema")),
}


def manifest_of(folder, *records):
    return Manifest(Header(name="m", root=str(folder), tasks=TASKS), records)


def entry(name, split="train", **fields):
    return Record(**({"id": name, "patient_id": name, "split": split, "kind": "image", "paths": (name,)} | fields))


def problems(findings):
    return [(finding.problem, finding.records) for finding in findings]


@pytest.mark.parametrize("make", [make_images, make_volumes])
def test_a_sound_data_set_has_no_findings(tmp_path, make):
    assert audit(make(tmp_path, 18, 32, fractions=(0.34, 0.33, 0.33))) == []


def test_a_patient_in_two_parts_is_found(tmp_path):
    records = (entry("a", patient_id="p"), entry("b", "test", patient_id="p"), entry("c", None, patient_id="p"))
    (finding,) = audit(manifest_of(tmp_path, *records), read_files=False)
    assert finding == Finding("patient_in_several_splits", "patient 'p' is in train and test", ("a", "b", "c"))
    assert finding.severity == "error"


def test_the_same_pixels_are_found_in_other_files_and_formats(tmp_path):
    png(tmp_path / "a.png", seed=1)
    Image.open(tmp_path / "a.png").save(tmp_path / "b.tif")
    png(tmp_path / "c.png", seed=2)
    png(tmp_path / "d.png", seed=2)
    records = (entry("a.png"), entry("b.tif", "val"), entry("c.png"), entry("d.png"))
    findings = audit(manifest_of(tmp_path, *records))
    assert problems(findings) == [
        ("duplicate_across_splits", ("a.png", "b.tif")),
        ("duplicate", ("c.png", "d.png")),
    ]
    assert findings[0].message == "'a.png', 'b.tif' are the same, in train and val"
    assert [finding.severity for finding in findings] == ["error", "warning"]


def test_the_same_pixels_with_other_labels_are_found(tmp_path):
    png(tmp_path / "a.png", seed=1)
    png(tmp_path / "b.png", seed=1)
    records = (entry("a.png", labels={"grade": 0, "signs": (1,)}), entry("b.png", labels={"grade": 2, "signs": (1,)}))
    findings = {finding.problem: finding for finding in audit(manifest_of(tmp_path, *records))}
    assert findings["conflicting_labels"].message.endswith("with 2 different labels for task 'grade'")
    assert "duplicate" in findings


def test_constant_unreadable_missing_and_mistaken_files_are_found(tmp_path):
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "flat.png")
    (tmp_path / "bad.png").write_bytes(b"")
    nifti(tmp_path / "volume.nii.gz")
    records = [entry(name) for name in ("flat.png", "bad.png", "absent.png", "volume.nii.gz")]
    findings = audit(manifest_of(tmp_path, *records))
    assert problems(findings) == [
        ("unreadable", ("absent.png",)),
        ("unreadable", ("bad.png",)),
        ("wrong_kind", ("volume.nii.gz",)),
        ("constant", ("flat.png",)),
    ]
    assert "absent.png" in findings[0].message
    assert findings[2].message == "'volume.nii.gz' is a volume, not an image"


def test_two_constant_files_are_not_called_duplicates(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    assert {finding.problem for finding in audit(manifest_of(tmp_path, entry("a.png"), entry("b.png")))} == {"constant"}


def test_classes_without_examples_are_found_by_part_and_unlabelled_parts_are_not(tmp_path):
    records = (
        entry("a", labels={"grade": 0, "signs": (0, 1)}),
        entry("b", labels={"grade": 2}),
        entry("c", "val", labels={"grade": 1}),
        entry("d", "test"),
    )
    findings = audit(manifest_of(tmp_path, *records), read_files=False)
    assert [finding.message for finding in findings] == [
        "task 'grade': train has no 'mild'",
        "task 'grade': val has no 'none, severe'",
    ]


def test_labels_are_counted_by_task_class_and_part(tmp_path):
    records = (
        entry("a", labels={"grade": 0, "signs": (0, 1)}),
        entry("b", "val", labels={"grade": 0, "signs": ()}),
        entry("c", None, labels={"grade": 2}),
    )
    assert count_labels(manifest_of(tmp_path, *records)) == {
        "grade": {
            "none": {"train": 1, "val": 1, None: 0},
            "mild": {"train": 0, "val": 0, None: 0},
            "severe": {"train": 0, "val": 0, None: 1},
        },
        "signs": {"drusen": {"train": 1, "val": 0, None: 0}, "oedema": {"train": 1, "val": 0, None: 0}},
    }


def test_progress_is_told_for_each_record(tmp_path):
    png(tmp_path / "a.png")
    calls = []
    audit(manifest_of(tmp_path, entry("a.png")), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 1)]


def test_the_twins_of_idrid_are_found_and_none_is_divided(crossdim_data):
    manifest = from_idrid(crossdim_data / "idrid", validation=0.2)
    records = tuple(record for record in manifest.records if record.id[-3:] in ("021", "391", "028", "327", "001"))
    findings = audit(Manifest(manifest.header, records))
    twins = {finding.records for finding in findings if finding.problem == "duplicate"}
    assert twins == {("train/IDRiD_021", "train/IDRiD_391"), ("train/IDRiD_028", "train/IDRiD_327")}
    assert any(finding.problem == "conflicting_labels" for finding in findings)
    assert not any(finding.problem == "duplicate_across_splits" for finding in findings)


def test_a_set_of_medmnist_is_audited(crossdim_data):
    manifest = from_medmnist(crossdim_data / "medmnist" / "retinamnist.npz").split("val")
    assert not any(finding.severity == "error" for finding in audit(manifest))


def test_a_split_by_file_of_data_with_twins_is_caught(tmp_path):
    for name in range(12):
        png(tmp_path / f"{name}.png", seed=name // 2)
    manifest = split_by_patient(manifest_of(tmp_path, *[entry(f"{name}.png", None) for name in range(12)]), seed=1)
    assert any(finding.problem == "duplicate_across_splits" for finding in audit(manifest))


def talk(name, *turns):
    return Dialogue(id=name, turns=tuple(Turn(question=question, answer=answer) for question, answer in turns))


def test_questions_without_answers_and_answers_without_words_are_found(tmp_path):
    records = (
        entry("a", dialogues=(talk("1", ("Is it?", "")), talk("2", ("Is it?", "yes")))),
        entry("b", dialogues=(talk("1", ("Is it?", ""), ("Describe it.", " -. ")),)),
    )
    findings = audit(manifest_of(tmp_path, *records), read_files=False)
    assert problems(findings) == [("empty_reference", ("b",)), ("question_without_answer", ("a", "b"))]
    assert findings[1].message.startswith("2 questions have no answer")
    assert findings[1].message.endswith("the first is dialogue '1' of 'a'")
    assert {finding.severity for finding in findings} == {"warning"}


def test_one_question_with_two_answers_is_found_and_what_was_said_before_counts(tmp_path):
    records = (
        entry("a", dialogues=(talk("1", ("Is it there?", "Yes.")), talk("2", ("is it there ?", "no")))),
        entry("b", dialogues=(talk("1", ("Is it there?", "Yes")), talk("2", ("Is it there?", "yes.")))),
        entry(
            "c", dialogues=(talk("1", ("Liver?", "yes"), ("Size?", "1")), talk("2", ("Spleen?", "yes"), ("Size?", "2")))
        ),
    )
    (finding,) = audit(manifest_of(tmp_path, *records), read_files=False)
    assert finding == Finding("conflicting_answers", "'a' is asked 'is it there' and answered 'Yes.', 'no'", ("a",))


def test_text_alone_is_not_looked_for_on_the_disk_and_further_volumes_are(tmp_path):
    nifti(tmp_path / "a.nii.gz", 1)
    nifti(tmp_path / "b.nii.gz", 2)
    records = (
        entry("talk", kind="text", paths=(), dialogues=(talk("1", ("Is it?", "yes")),)),
        entry("a.nii.gz", kind="volume"),
        entry("both", kind="volume", paths=("a.nii.gz",), more=(("b.nii.gz",),)),
        entry("more", kind="volume", paths=("b.nii.gz",), more=(("gone.nii.gz",),)),
    )
    assert problems(audit(manifest_of(tmp_path, *records))) == [("unreadable", ("more",))]
    moved = records[2].model_copy(update={"split": "test"})
    leak = audit(manifest_of(tmp_path, records[1], moved))
    assert problems(leak) == [("duplicate_across_splits", ("a.nii.gz", "both"))]


def test_questions_are_counted_by_form_type_and_part(tmp_path):
    closed = Turn(question="Is it?", answer="yes", choices=("yes", "no"), form="closed", type="presence")
    records = (
        entry("a", dialogues=(Dialogue(id="1", turns=(closed, closed)), talk("2", ("What?", "x")))),
        entry("b", "test", dialogues=(Dialogue(id="1", turns=(closed,)),)),
    )
    assert count_questions(manifest_of(tmp_path, *records)) == {
        "closed": {"presence": {"train": 2, "test": 1}},
        "open": {"": {"train": 1, "test": 0}},
    }
