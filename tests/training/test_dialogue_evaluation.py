"""Answers measured beside a blind and a shuffled baseline, slices beside uniform scores and a prior."""

import json
from collections import Counter

import pytest

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.manifest import Header, Manifest, Record
from crossdim.errors import ContractError, RecipeError
from crossdim.metrics.dialogues import Measures
from crossdim.training.dialogue_conclusion import example_pictures, write_predictions
from crossdim.training.dialogue_evaluation import Evaluating, _donors, evaluate_dialogues
from tests.inference.toys import answerer, encoder_calls, save_run, save_volume

HOW = Evaluating(bootstrap=100, max_new_tokens=3)
MEASURES = Measures()
YES_NO = ("yes", "no")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return answerer(save_run(tmp_path_factory.mktemp("runs") / "answers"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return eight patients; the true range of a question moves with the patient, training answers are mostly yes."""
    folder = tmp_path_factory.mktemp("data")
    records = []
    for place in range(8):
        save_volume(folder / f"{place}.nii.gz", place, shape=(12, 14, 32), spacing=(1.0, 1.0, 2.0))
        low = 8.0 + 4 * (place % 4)
        turns = (
            Turn(
                question="Is it there?", answer=YES_NO[place % 4 == 0], choices=YES_NO, form="closed", type="presence",
                extent_mm=(0, 12, 0, 14, low, low + 12),
            ),
            Turn(question="Where?", answer="below", type="place"),
        )  # fmt: skip
        report = Turn(question="Describe it.", answer="It is there. It is small.", form="report", type="report")
        unknown = Turn(question="Why?", type="place")
        dialogues = (
            Dialogue(id="a", turns=turns), Dialogue(id="b", turns=(report,)), Dialogue(id="c", turns=(unknown,))
        )  # fmt: skip
        records.append(
            Record(
                id=f"r{place}",
                patient_id=f"p{place}",
                split="test" if place < 4 else "train",
                kind="volume",
                paths=(f"{place}.nii.gz",),
                dialogues=dialogues,
            )
        )
    return Manifest(Header(name="toy", root=str(folder)), tuple(records))


@pytest.fixture(scope="module")
def found(model, manifest):
    return evaluate_dialogues(model, manifest.split("test"), manifest.split("train"), HOW, MEASURES)


def test_every_answered_question_is_measured_beside_both_baselines(found):
    assert {item.id for item in found.answers.items} == {
        f"r{place}/{name}" for place in range(4) for name in ("a/0", "a/1", "b")
    }
    assert set(found.answers.forms) == {"closed", "open", "report"}
    for form in found.answers.forms.values():
        assert set(form.predictors) == {"model", "blind", "shuffled"}
    assert found.answers.patients == 4


def test_the_blind_baseline_says_what_training_said_most(found):
    blind = {each["id"]: each["blind"] for each in found.predictions}
    assert blind["r0/a/0"] == "yes"
    assert blind["r1/a/1"] == "below"
    assert blind["r2/b"] == "It is there. It is small."


def test_predictions_are_the_models_own_answers_by_id(found, model, manifest, tmp_path):
    part = manifest.split("test")
    by_id = {each["id"]: each for each in found.predictions}
    for record in part.records:
        answer = model.ask([part.resolve(record)], "Is it there?", YES_NO)
        prediction = by_id[f"{record.id}/a/0"]
        assert prediction["prediction"] == answer.text
        assert prediction["probabilities"] == pytest.approx(answer.probabilities, rel=1e-3)
        (slices,) = prediction["slices"]
        assert [each["index"] for each in slices] == [each.index for each in answer.slices[0]]
        assert [each["score"] for each in slices] == pytest.approx([e.score for e in answer.slices[0]], abs=1e-4)
    write_predictions(found, tmp_path / "predictions.jsonl")
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(by_id)


def test_the_shuffled_baseline_is_the_model_shown_another_patient(found, model, manifest):
    part = manifest.split("test")
    donors = _donors(part.records, HOW.seed)
    assert Counter(donor.id for donor in donors.values()) == Counter(record.id for record in part.records)
    by_id = {each["id"]: each for each in found.predictions}
    for record in part.records:
        donor = donors[record.id]
        assert donor.patient_id != record.patient_id
        said = model.ask([part.resolve(donor)], "Is it there?", YES_NO).text
        assert by_id[f"{record.id}/a/0"]["shuffled"] == said


def test_each_volume_is_encoded_once_for_its_own_and_for_foreign_questions(model, manifest):
    calls = encoder_calls(model.model)
    evaluate_dialogues(model, manifest.split("test"), None, HOW, MEASURES)
    assert calls.count("vision3d") <= 4


def test_slices_are_measured_against_each_questions_own_range(found):
    slices = found.slices
    assert slices.questions == 4
    assert set(slices.scorers) == {"model", "uniform", "prior"}
    assert slices.scorers["uniform"].micro["auroc"].value == pytest.approx(0.5)
    assert {item["id"] for item in slices.items} == {f"r{place}/a/0" for place in range(4)}
    assert "slices" in found.to_dict()
    json.dumps(found.to_dict())


def test_a_scorer_that_looks_where_the_answer_is_is_found_out(model, manifest, monkeypatch):
    """The targets that scores are held against lie where the extent says, in the order of the slices."""
    from crossdim.inference.looking import Seen
    from crossdim.samples import SliceScore

    def knowing(seen, scores):
        low = 8.0 + 4 * (int(seen.files[0].split("/")[-1][0]) % 4)
        there = [seen.prepared.slice_in_file(place) for place in range(len(scores))]
        return tuple(
            SliceScore(float(low <= each.centre_mm[2] <= low + 12), each.index, each.axis, each.centre_mm)
            for each in there
        )

    monkeypatch.setattr(Seen, "slice_scores", knowing)
    found = evaluate_dialogues(model, manifest.split("test"), manifest.split("train"), HOW, MEASURES)
    assert found.slices.scorers["model"].micro["auroc"].value == 1.0
    assert found.slices.scorers["prior"].micro["auroc"].value < 1.0


def test_without_training_data_or_other_patients_the_baselines_are_named_as_missing(model, manifest):
    alone = Manifest(manifest.header, manifest.records[:1])
    found = evaluate_dialogues(model, alone, None, HOW, MEASURES)
    assert found.answers.baselines == ()
    assert any("No blind baseline" in note for note in found.notes)
    assert any("No shuffled baseline" in note for note in found.notes)
    assert "prior" not in found.slices.scorers


def test_one_patient_with_most_records_still_leaves_the_others_somebody_else():
    records = [Record(id=f"r{i}", patient_id="a" if i < 4 else "b", kind="volume", paths=("x",)) for i in range(5)]
    donors = _donors(records, 0)
    assert all(donors[record.id].patient_id != record.patient_id for record in records)


def test_records_of_text_are_asked_without_a_volume(model, manifest):
    turn = Turn(question="Is it there?", answer="yes", choices=YES_NO, form="closed")
    record = Record(id="t", patient_id="t", kind="text", dialogues=(Dialogue(id="a", turns=(turn,)),))
    found = evaluate_dialogues(model, Manifest(manifest.header, (record,)), None, HOW, MEASURES)
    assert found.answers.questions == 1
    assert found.slices is None


def test_long_questions_are_refused_by_name_or_left_out(model, manifest):
    record = manifest.records[0]
    long = Dialogue(id="long", turns=(Turn(question="why " * 500, answer="because"),))
    part = Manifest(manifest.header, (record.model_copy(update={"dialogues": (*record.dialogues, long)}),))
    with pytest.raises(ContractError, match=r"question 'r0/long': context overflow"):
        evaluate_dialogues(model, part, None, HOW, MEASURES)
    skipping = Evaluating(bootstrap=100, max_new_tokens=3, too_long="skip")
    found = evaluate_dialogues(model, part, None, skipping, MEASURES)
    assert any("1 questions are longer" in note for note in found.notes)


def test_a_part_without_answers_is_refused(model, manifest):
    empty = Manifest(manifest.header, (manifest.records[0].model_copy(update={"dialogues": ()}),))
    with pytest.raises(RecipeError, match="has no question with a known answer"):
        evaluate_dialogues(model, empty, None, HOW, MEASURES)


def test_examples_are_drawn_beside_the_true_range(model, manifest):
    (picture,) = example_pictures(model, manifest.split("test"))
    assert picture.png.startswith(b"\x89PNG")
    assert "True: " in picture.caption
