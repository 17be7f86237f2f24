"""`crossdim prepare` for questions, from toys of each data set to the manifest and the summary."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from crossdim.datasets.manifest import Manifest

FRACTIONS = ("--fractions", "0.34", "0.33", "0.33")
COLUMNS = "Image Path,Question Type,Question,Choice A,Choice B,Choice C,Choice D,Answer,Answer Choice"


@pytest.fixture
def volumes(tmp_path):
    """Write six volumes in [0, 1], each in the folder of a case, with a report beside it."""
    for case in range(6):
        folder = tmp_path / "npy" / f"case{case}"
        folder.mkdir(parents=True)
        np.save(folder / "a.npy", np.random.default_rng(case).random((3, 5, 6), dtype=np.float32))
        (folder / "text.txt").write_text(f"study_findings: {case} cysts in the left kidney.")
    return tmp_path


def entries(*cases):
    return [{"image": f"npy/case{case}/a.npy", "text": f"npy/case{case}/text.txt"} for case in cases]


def sample(case, **more):
    said = [{"from": "human", "value": "<image3d>\nIs it?"}, {"from": "gpt", "value": "yes"}]
    return {"id": case, "vision3d": [f"npy/case{case}/a.npy"], "conversations": said, "question": "Is it?"} | more


def run(crossdim, folder, *arguments):
    result = crossdim("prepare", *arguments, "--out", folder / "m.jsonl", "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), Manifest.load(folder / "m.jsonl")


def test_a_table_of_questions(crossdim, volumes):
    lines = [f"npy/case{case}/a.npy,Is it there?,yes,yes|no,presence,0 1 0 1 0 1" for case in range(6)]
    lines += [f"npy/case{case}/a.npy,Where is it?,,,," for case in range(6)]
    (volumes / "q.csv").write_text("\n".join(["volume,question,answer,choices,kind,extent", *lines]))
    summary, manifest = run(crossdim, volumes, "dialogues", volumes / "q.csv", "--column", "type=kind", *FRACTIONS)
    assert summary["parts"] == {"train": 2, "val": 2, "test": 2}
    assert summary["questions"]["closed"] == {"presence": {"train": 2, "val": 2, "test": 2}}
    assert summary["located"] == 0.5
    assert [finding["problem"] for finding in summary["findings"]] == ["question_without_answer"]
    assert manifest.header.split_seed == 0
    told = crossdim("prepare", "dialogues", volumes / "q.csv", *FRACTIONS, "--out", volumes / "m.jsonl")
    assert "closed questions" in told.stdout
    assert "located           50% of the questions have a known extent" in told.stdout


def test_a_column_option_that_names_no_column_is_refused(crossdim, tmp_path):
    result = crossdim("prepare", "dialogues", "q.csv", "--column", "type", "--out", tmp_path / "m.jsonl")
    assert result.exit_code == 2
    assert "--column type: names no column of the table. Write it as question=Frage." in result.stderr


def test_med2e3_json_with_a_test_part_and_its_answers(crossdim, volumes):
    (volumes / "train.json").write_text(json.dumps([sample(case) for case in range(4)]))
    asked = sample(5)
    del asked["conversations"][1]
    (volumes / "test.json").write_text(json.dumps([asked]))
    (volumes / "answers.json").write_text(json.dumps([{"id": 5, "answer": "no"}]))
    summary, manifest = run(
        crossdim, volumes, "med2e3", volumes / "train.json", "--test", volumes / "test.json",
        "--test-answers", volumes / "answers.json", "--validation", "0.25",
    )  # fmt: skip
    assert summary["parts"] == {"train": 3, "val": 1, "test": 1}
    assert manifest.split("test").records[0].dialogues[0].turns[0].answer == "no"


def test_med2e3_json_alone_is_split_by_patient_and_tells_what_it_took_for_the_question(crossdim, volumes):
    (volumes / "all.json").write_text(json.dumps([sample(case, question=None) for case in range(6)]))
    summary, _ = run(crossdim, volumes, "med2e3", volumes / "all.json", *FRACTIONS)
    assert summary["parts"] == {"train": 2, "val": 2, "test": 2}
    assert summary["notes"][0].startswith("6 x the sample has no 'question'")
    told = crossdim("prepare", "med2e3", volumes / "all.json", *FRACTIONS, "--out", volumes / "m.jsonl")
    assert "note" in told.stdout
    strict = crossdim("prepare", "med2e3", volumes / "all.json", "--strict", "--out", volumes / "m.jsonl")
    assert strict.exit_code == 2
    assert "sample '0': has no 'question'. Add the text that guides the slices" in strict.stderr


def test_answers_for_some_of_the_tests_are_refused(crossdim, tmp_path):
    arguments = ("--test", "a.json", "--test", "b.json", "--test-answers", "c.json", "--out", tmp_path / "m.jsonl")
    result = crossdim("prepare", "med2e3", "train.json", *arguments)
    assert result.exit_code == 2
    assert "--test-answers: is given 1 times, and --test 2 times. Give one for each --test" in result.stderr


def test_m3d_cap_in_its_official_parts(crossdim, volumes):
    parts = {"train": entries(0, 1), "validation": entries(2), "test": entries(3), "test100": entries(3)}
    (volumes / "M3D_Cap.json").write_text(json.dumps(parts))
    summary, manifest = run(crossdim, volumes, "m3d-cap", volumes / "M3D_Cap.json")
    assert summary["parts"] == {"train": 2, "val": 1, "test": 1}
    assert summary["questions"] == {"report": {"report": {"train": 2, "val": 1, "test": 1}}}
    assert manifest.records[1].dialogues[0].turns[0].answer == "1 cysts in the left kidney."


def test_m3d_vqa_with_tables_for_the_parts(crossdim, volumes):
    def table(name, *cases):
        rows = [f"npy/case{case}/a.npy,3,Which organ?,liver,spleen,heart,lung,spleen,B" for case in cases]
        (volumes / name).write_text("\n".join([COLUMNS, *rows]))
        return volumes / name

    arguments = ("m3d-vqa", table("train.csv", 0, 1), "--val", table("val.csv", 2), "--test", table("test.csv", 3))
    summary, _ = run(crossdim, volumes, *arguments, "--ask", "both")
    assert summary["questions"] == {
        "closed": {"organ": {"train": 2, "val": 1, "test": 1}},
        "open": {"organ": {"train": 2, "val": 1, "test": 1}},
    }
    summary, _ = run(crossdim, volumes, "m3d-vqa", table("all.csv", 0, 1, 2, 9), "--skip-missing", *FRACTIONS)
    assert summary["parts"] == {"train": 1, "val": 1, "test": 1}
    assert summary["skipped"][0]["reason"].endswith("case9/a.npy is not there")


def test_vqa_rad_is_split_by_image(crossdim, tmp_path):
    (tmp_path / "images").mkdir()
    asked = []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        asked += [
            {"qid": 2 * number + again, "image_name": f"{number}.png", "image_organ": ("HEAD", "CHEST")[number % 2],
             "question": "Is it normal?", "answer": "No", "answer_type": "CLOSED", "question_type": "ABN"}
            for again in (0, 1)
        ]  # fmt: skip
    (tmp_path / "questions.json").write_text(json.dumps(asked))
    summary, manifest = run(crossdim, tmp_path, "vqa-rad", tmp_path, *FRACTIONS)
    assert summary["parts"] == {"train": 4, "val": 4, "test": 4}
    assert summary["labels"]["organ"]["head"] == {"train": 2, "val": 2, "test": 2}
    assert all(len(record.dialogues) == 2 for record in manifest.records)


def test_ct_rate_with_a_validation_part_out_of_training(crossdim, tmp_path):
    rows = ["VolumeName,Findings_EN,Impressions_EN"]
    for number, name in enumerate(("train_1_a_1", "train_2_a_1", "valid_1_a_1")):
        folder = tmp_path / name.split("_")[0] / name
        folder.mkdir(parents=True)
        voxels = np.random.default_rng(number).integers(-1000, 1000, (4, 5, 6), dtype=np.int16)
        nibabel.save(nibabel.nifti1.Nifti1Image(voxels, np.eye(4)), folder / f"{name}.nii.gz")
        rows.append(f"{name}.nii.gz,Clear lungs.,")
    (tmp_path / "reports.csv").write_text("\n".join(rows))
    arguments = ("ct-rate", tmp_path, "--report", tmp_path / "reports.csv", "--validation", "0.5")
    summary, manifest = run(crossdim, tmp_path, *arguments)
    assert summary["parts"] == {"train": 1, "val": 1, "test": 1}
    assert {record.patient_id for record in manifest.split("test").records} == {"valid_1"}
