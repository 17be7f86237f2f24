"""Dialogues in a manifest: what is refused, and that manifests without them keep their hash."""

import hashlib
import json

import pytest
from pydantic import ValidationError

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.manifest import Header, Manifest, Record
from crossdim.errors import RecipeError

ASKED = Turn(question="Is it there?", answer="yes", choices=("yes", "no"), form="closed", type="presence")


def record(**more):
    return Record(**({"id": "a", "patient_id": "p", "kind": "volume", "paths": ("a.nii.gz",)} | more))


def test_a_manifest_with_dialogues_comes_back_as_it_was(tmp_path):
    dialogue = Dialogue(
        id="1", turns=(ASKED, Turn(question="Where?", answer="slices 3 to 5", extent_mm=(0, 1, 2, 3, 4, 5.5)))
    )
    manifest = Manifest(Header(name="m", root=str(tmp_path)), (record(dialogues=(dialogue,), more=(("b.nii.gz",),)),))
    manifest.save(tmp_path / "m.jsonl")
    loaded = Manifest.load(tmp_path / "m.jsonl")
    assert loaded.records == manifest.records
    assert loaded.resolve_all(loaded.records[0]) == ((str(tmp_path / "a.nii.gz"),), (str(tmp_path / "b.nii.gz"),))


def test_a_record_without_files_is_text_and_nothing_else():
    assert record(kind="text", paths=()).kind == "text"
    with pytest.raises(ValidationError, match="needs at least one file"):
        record(paths=())
    with pytest.raises(ValidationError, match="needs no file"):
        record(kind="text")
    with pytest.raises(ValidationError, match="every entry of 'more' needs at least one file"):
        record(more=((),))


def test_a_closed_question_has_choices_and_its_answer_is_one_of_them():
    with pytest.raises(ValidationError, match="at least two different choices"):
        Turn(question="?", form="closed", choices=("yes", "yes"))
    with pytest.raises(ValidationError, match="'maybe' is not one of the choices"):
        Turn(question="?", answer="maybe", form="closed", choices=("yes", "no"))


def test_an_extent_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValidationError, match=r"extent_mm must be \(low, high\)"):
        Turn(question="?", extent_mm=(1, 0, 0, 1, 0, 1))


def test_two_dialogues_of_a_record_have_different_ids():
    with pytest.raises(ValidationError, match="two dialogues have the same id"):
        record(dialogues=(Dialogue(id="1", turns=(ASKED,)), Dialogue(id="1", turns=(ASKED,))))


def test_a_misspelt_key_of_a_turn_is_named_with_its_line(tmp_path):
    header = {"name": "m", "root": "."}
    line = {"id": "a", "patient_id": "p", "kind": "text", "dialogues": [{"id": "1", "turns": [{"qestion": "?"}]}]}
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(part) for part in (header, line)))
    with pytest.raises(RecipeError, match=r"line 2, field 'dialogues\.0\.turns\.0\.question'.* is missing"):
        Manifest.load(tmp_path / "m.jsonl")


def test_the_hash_of_a_manifest_without_dialogues_is_what_it_was_before_there_were_any(tmp_path):
    manifest = Manifest(Header(name="m", root=str(tmp_path)), (record(),))
    old = {
        "id": "a",
        "patient_id": "p",
        "split": None,
        "kind": "volume",
        "paths": ["a.nii.gz"],
        "labels": {},
        "extra": {},
    }
    parts = [manifest.header.model_dump(exclude={"root"}), old]
    lines = [json.dumps(part, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n" for part in parts]
    assert manifest.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
