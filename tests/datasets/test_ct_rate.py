"""CT-RATE is not at hand: the layout is built from the published description."""

import json

import pytest

from crossdim.datasets.ct_rate import from_ct_rate
from crossdim.errors import ReadError, RecipeError
from tests.datasets.toys import nifti

FINDINGS = "The left lung is clear."


def volume(folder, name):
    part, number, scan, _ = name.split("_")
    path = folder / part / f"{part}_{number}" / f"{part}_{number}_{scan}" / f"{name}.nii.gz"
    return nifti(path, seed=sum(map(ord, name)))


def conversation(*texts, type_="long_answer", image="train_1_a_1.nii.gz", **more):
    said = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]
    return {"id": 1, "image": image, "conversations": said, "type": type_} | more


@pytest.fixture
def data(tmp_path):
    """Return a function that writes reports and questions beside three volumes of two patients."""
    for name in ("train_1_a_1", "train_1_b_1", "valid_2_a_1"):
        volume(tmp_path, name)

    def write(reports=(), questions=()):
        folder = tmp_path / "radiology_text_reports"
        folder.mkdir(exist_ok=True)
        lines = ["VolumeName,ClinicalInformation_EN,Findings_EN,Impressions_EN", *reports]
        (folder / "train_reports.csv").write_text("\n".join(lines))
        (tmp_path / "vqa").mkdir(exist_ok=True)
        (tmp_path / "vqa/train_vqa.json").write_text(json.dumps(list(questions)))
        return tmp_path

    return write


def turns(manifest):
    return [turn for record in manifest.records for dialogue in record.dialogues for turn in dialogue.turns]


def test_reports_and_questions_about_a_volume_are_one_record_of_its_patient(data):
    reports = (
        f'train_1_a_1.nii.gz,cough,{FINDINGS},"Normal, as before."',
        "train_1_b_1.nii.gz,,Nodule.,Not given.",
        "valid_2_a_1.nii.gz,,,Emphysema.",
    )
    asked = conversation("<image>\n<long_answer>What about the left lung?", "It is clear.")
    manifest = from_ct_rate(data(reports, [asked]))
    assert [(r.id.rpartition("/")[2], r.patient_id, r.split, len(r.dialogues)) for r in manifest.records] == [
        ("train_1_a_1.nii.gz", "train_1", "train", 2),
        ("train_1_b_1.nii.gz", "train_1", "train", 1),
        ("valid_2_a_1.nii.gz", "valid_2", "test", 1),
    ]
    answers = [turn.answer for turn in turns(manifest)]
    assert answers == [
        f"{FINDINGS}\nImpression: Normal, as before.",
        "It is clear.",
        "Nodule.",
        "Impression: Emphysema.",
    ]
    assert [turn.form for turn in turns(manifest)] == ["report", "open", "report", "report"]
    assert turns(manifest)[1].question == "What about the left lung?"
    assert turns(manifest)[1].depends_on == ("side",)


def test_several_turns_stay_one_dialogue_with_a_type_each(data):
    texts = ("<image>\n<short_answer>Is it?", "Yes.", "<report_generation>Write a report.", "All is well.")
    (dialogue,) = (
        from_ct_rate(data(questions=[conversation(*texts, type_=["short_answer", "report_generation"])]))
        .records[0]
        .dialogues
    )
    assert [(turn.question, turn.type, turn.form) for turn in dialogue.turns] == [
        ("Is it?", "short_answer", "open"),
        ("Write a report.", "report_generation", "report"),
    ]


def test_choices_in_the_text_become_choices(data):
    asked = "<image>\n<multiple_choice>Which lobe? (a) upper (b) lower"
    questions = [
        conversation(asked, "(b) lower", type_="multiple_choice"),
        conversation(asked, "(c) middle", type_="multiple_choice"),
    ]
    manifest = from_ct_rate(data(questions=questions))
    (turn,) = turns(manifest)
    assert (turn.question, turn.choices, turn.answer, turn.form) == (
        "Which lobe?",
        ("upper", "lower"),
        "lower",
        "closed",
    )
    assert manifest.skipped[0].reason == "its answer is none of its choices"


def test_what_is_not_on_the_disk_is_counted(data):
    reports = ("train_1_a_1.nii.gz,,Clear.,", "train_9_a_1.nii.gz,,Clear.,", "train_1_b_1.nii.gz,,nan,Not given.")
    questions = [conversation("What?", "Nothing.", image="train_8_a_1.nii.gz")] * 2
    manifest = from_ct_rate(data(reports, questions))
    assert len(manifest) == 1
    assert set(manifest.notes) == {
        "2 x a dialogue is about a volume that is not there",
        "2 x the volume has no report and no question, and is left out",
        "1 x a report is of a volume that is not there",
        "1 x a report is empty",
    }


def test_files_of_reports_can_be_named(data, tmp_path):
    folder = data(("train_1_a_1.nii.gz,,Wrong.,",))
    (tmp_path / "mine.csv").write_text("VolumeName;Findings_EN;Impressions_EN\ntrain_1_a_1.nii.gz;Right.;")
    assert [turn.answer for turn in turns(from_ct_rate(folder, reports=[str(tmp_path / "mine.csv")]))] == ["Right."]


def test_a_folder_without_its_volumes_is_refused(tmp_path):
    nifti(tmp_path / "scan.nii.gz")
    with pytest.raises(ReadError, match=r"holds no volume named like train_1_a_1\.nii\.gz"):
        from_ct_rate(tmp_path)
    with pytest.raises(ReadError, match="none: is not a folder"):
        from_ct_rate(tmp_path / "none")


def test_two_versions_of_the_data_at_once_are_refused(data, tmp_path):
    data()
    nifti(tmp_path / "train_fixed/train_1/train_1_a/train_1_a_1.nii.gz")
    with pytest.raises(RecipeError, match=r"'train_1_a_1.nii.gz' is in two places.*Give the folder of one version"):
        from_ct_rate(tmp_path)


def test_volumes_without_any_report_or_question_are_refused(data):
    with pytest.raises(ReadError, match="CT-RATE: holds no dialogue that can be used"):
        from_ct_rate(data())


def test_two_reports_of_a_volume_are_refused(data):
    with pytest.raises(RecipeError, match="row 3: the id 'report' stands there 2 times"):
        from_ct_rate(data(["train_1_a_1.nii.gz,,Clear.,"] * 2))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"id": 3}, r"train_vqa.json, sample 1: has no 'image'"),
        (conversation("<image>", "yes"), r"sample 1 \('1'\): turn 1 asks nothing"),
        (conversation(), r"sample 1 \('1'\): has no 'conversations'"),
        (conversation("What?", "x", type_={}), "'type' is dict, not text"),
    ],
)
def test_a_sample_that_is_not_as_it_should_be_is_named(data, broken, words):
    with pytest.raises(RecipeError, match=words):
        from_ct_rate(data(questions=[broken]))
