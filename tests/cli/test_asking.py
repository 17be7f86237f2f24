"""Ask and report by commands: streamed answers, slices, saved pages, a conversation, and one line for every mistake."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.manifest import Header, Manifest, Record
from crossdim.transforms.contract import PreprocessingContract, RangeIntensity, VolumeContract, WindowIntensity
from tests.inference.toys import SIZE, save_run, save_volume

ASKED = "Is the left kidney larger?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "answers")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSDIM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def scan(tmp_path):
    return save_volume(tmp_path / "scan.nii.gz", shape=(20, 24, 40))


def refused(result) -> str:
    assert result.exit_code == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("crossdim: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    return lines[0]


def test_a_choice_is_shown_with_probabilities_and_slices(crossdim, run, scan, tmp_path):
    result = crossdim("ask", scan, ASKED, "--model", run, "--choices", "yes, no", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    first, *others = result.stdout.splitlines()
    assert first in ("yes", "no")
    assert sum("%" in line for line in others) == 2
    assert sum(line.startswith("slice ") for line in others) == 5
    assert "mm" in result.stdout
    assert list((tmp_path / "cache").glob("*.safetensors"))


def test_an_answer_is_json(crossdim, run, scan):
    arguments = ("ask", scan, ASKED, "--model", run, "--device", "cpu", "--json")
    chosen = json.loads(crossdim(*arguments, "--choices", "yes", "--choices", "no, it is not").stdout)
    assert set(chosen["probabilities"]) == {"yes", "no, it is not"}
    assert len(chosen["slices"][0]) == SIZE[0]
    assert set(chosen["slices"][0][0]) == {"score", "index", "axis", "position_mm"}
    written = json.loads(crossdim(*arguments, "--max-new-tokens", "3").stdout)
    assert written["tokens"] <= 3
    assert written["question"] == ASKED


def test_what_is_streamed_is_the_answer(crossdim, run, scan):
    arguments = ("ask", scan, ASKED, "--model", run, "--device", "cpu", "--max-new-tokens", "8")
    answer = json.loads(crossdim(*arguments, "--json").stdout)
    assert crossdim(*arguments).stdout.startswith(answer["text"])


def test_an_answer_is_saved_as_picture_page_and_data(crossdim, run, scan, tmp_path):
    out = tmp_path / "out"
    result = crossdim("ask", scan, ASKED, "--model", run, "--choices", "yes,no", "--save", out, "--no-cache")
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in out.iterdir()} == {"slices.png", "answer.html", "answer.json"}
    assert (out / "slices.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "answer.html").read_text()
    assert ASKED in page
    assert "data:image/png;base64" in page
    assert "<script" not in page
    data = json.loads((out / "answer.json").read_text())
    assert data["provenance"]["model"] == str(run)
    assert not (tmp_path / "cache").exists()


def test_a_conversation_goes_on_until_quit_and_survives_a_mistake(run, scan, tmp_path):
    from typer.testing import CliRunner

    from crossdim.cli import app

    lines = f"{ASKED}\n\n{'why ' * 500}\nIs it?\nquit\nnever asked\n"
    arguments = ["ask", scan, "--interactive", "--model", str(run), "--choices", "yes,no", "--json", "--follow-up",
                 "--save", str(tmp_path / "out")]  # fmt: skip
    result = CliRunner().invoke(app, arguments, input=lines)
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["question"] for line in result.stdout.splitlines()] == [ASKED, "Is it?"]
    assert "context overflow" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["01", "03"]


def test_a_report_is_written(crossdim, run, scan, tmp_path):
    result = crossdim("report", scan, "--model", run, "--max-new-tokens", "2", "--save", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "cut off after 2 tokens" in result.stderr
    assert (tmp_path / "out" / "answer.html").is_file()


def test_without_a_model_the_demos_is_taken_or_the_ways_to_get_one_are_named(
    crossdim, run, scan, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    line = refused(crossdim("ask", scan, ASKED))
    for way in ("crossdim instruct", "crossdim convert med2e3", "hf:OWNER/NAME", "crossdim demo"):
        assert way in line
    shutil.copytree(run, tmp_path / "crossdim-demo" / "answers")
    result = crossdim("ask", scan, ASKED, "--choices", "yes,no")
    assert result.exit_code == 0, result.stderr
    assert "the demo's" in result.stderr


def test_every_kind_of_file_can_be_asked_about(crossdim, run, tmp_path):
    from tests.readers.toys import write_series

    np.save(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=(9, 12, 14)).astype(np.float32))
    four = np.random.default_rng(0).normal(size=(10, 11, 12, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(four, np.eye(4)), tmp_path / "four.nii.gz")
    for source in (tmp_path / "scan.npy", f"{tmp_path / 'four.nii.gz'}#1", write_series(tmp_path / "series")):
        result = crossdim("ask", source, ASKED, "--model", run, "--choices", "yes,no", "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["paths"] == [str(source)]


def test_questions_that_cannot_be_asked_are_one_line(crossdim, run, scan):
    ask = ("ask", "--model", run)
    assert "question: is missing" in refused(crossdim(*ask, scan))
    assert "is about no volume" in refused(crossdim(*ask, ASKED))
    assert "question: is empty" in refused(crossdim(*ask, scan, " "))
    assert "2 <volume> placeholders for 1 volumes" in refused(crossdim(*ask, scan, "<volume><volume> Which?"))
    assert "context overflow" in refused(crossdim(*ask, scan, "why " * 500))
    assert "at least two, different" in refused(crossdim(*ask, scan, ASKED, "--choices", "yes"))
    assert "does not exist" in refused(crossdim(*ask, "nowhere.nii.gz", ASKED))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.random.default_rng(0).normal(size=(12, 14, 1)), "is a volume of one slice"),
        (np.zeros((12, 14, 9)), "holds one value only"),
        (np.full((12, 14, 9), np.nan), "holds no finite value"),
        (np.random.default_rng(0).normal(size=(12, 14, 9, 3)), "holds 3 volumes. Choose one"),
    ],
    ids=["one slice", "all zero", "all NaN", "4D"],
)
def test_volumes_without_anything_to_see_are_one_line(crossdim, run, tmp_path, values, said):
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    line = refused(crossdim("ask", tmp_path / "scan.nii.gz", ASKED, "--model", run, "--choices", "yes,no"))
    assert said in line
    assert "scan.nii.gz" in line


def test_some_nan_is_a_warning_and_no_nan_reaches_the_answer(crossdim, run, tmp_path):
    values = np.random.default_rng(0).normal(size=(12, 14, 9)).astype(np.float32)
    values[0, 0, :3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    result = crossdim("ask", tmp_path / "scan.nii.gz", ASKED, "--model", run, "--choices", "yes,no", "--json")
    assert result.exit_code == 0, result.stderr
    assert "NaN" in result.stderr
    answer = json.loads(result.stdout)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert sum(each["score"] for each in answer["slices"][0]) == pytest.approx(1, abs=1e-4)


def test_two_thousand_slices_are_shown_as_the_contract_says(crossdim, run, tmp_path):
    values = np.random.default_rng(0).integers(0, 99, (12, 12, 2000), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "long.nii.gz")
    result = crossdim("ask", tmp_path / "long.nii.gz", ASKED, "--model", run, "--choices", "yes,no", "--json")
    assert result.exit_code == 0, result.stderr
    numbers = [each["index"] for each in json.loads(result.stdout)["slices"][0]]
    assert len(numbers) == SIZE[0]
    assert numbers[0] == 62
    assert numbers[-1] == 1937


def test_data_of_another_kind_than_the_models_are_one_line(crossdim, tmp_path, scan):
    for intensity, said in (
        (WindowIntensity(low=-160, high=240), "Hounsfield units"),
        (RangeIntensity(), "display"),
    ):
        contract = PreprocessingContract(volume=VolumeContract(size=SIZE, intensity=intensity), source="CT")
        folder = save_run(tmp_path / intensity.kind, processing={"contract": contract})
        assert said in refused(crossdim("ask", scan, ASKED, "--model", folder, "--choices", "yes,no"))
    images = PreprocessingContract(volume=VolumeContract(size=SIZE), source="volumes only")
    folder = save_run(tmp_path / "volumes", processing={"contract": images})
    from PIL import Image as Picture

    Picture.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "photo.png")
    assert "is an image" in refused(crossdim("ask", tmp_path / "photo.png", ASKED, "--model", folder))


def test_models_that_cannot_do_it_are_one_line(crossdim, run, scan, tmp_path):
    from tests.inference.test_predictor import classifier

    line = refused(crossdim("ask", scan, ASKED, "--model", classifier(tmp_path / "grader")))
    assert "does not answer questions" in line
    for command in (("predict", run, scan), ("embed", run, scan, "--out", tmp_path / "features.npz")):
        assert "crossdim ask" in refused(crossdim(*command))
    assert "is not a folder" in refused(crossdim("ask", scan, ASKED, "--model", tmp_path / "nowhere"))
    assert "device 'fast': cannot be used" in refused(crossdim("ask", scan, ASKED, "--model", run, "--device", "fast"))
    (tmp_path / "damaged").mkdir()
    for content in ("{", "[1]", "3"):
        (tmp_path / "damaged" / "config.json").write_text(content)
        line = refused(crossdim("ask", scan, ASKED, "--model", tmp_path / "damaged"))
        assert "damaged/config.json: is damaged" in line


def test_a_chat_prompt_needs_a_chat_template(crossdim, scan, tmp_path):
    folder = save_run(tmp_path / "run", processing={"prompt": "chat"})
    for path in folder.rglob("chat_template*"):
        path.unlink()
    for path in folder.rglob("tokenizer_config.json"):
        stated = json.loads(path.read_text())
        stated.pop("chat_template", None)
        path.write_text(json.dumps(stated))
    line = refused(crossdim("ask", scan, ASKED, "--model", folder))
    assert "needs a chat template" in line
    assert "prompt=vicuna" in line


def write_questions(folder, name, splits, question=ASKED, closed=True):
    """Write a manifest of one question about each of some volumes, all of different patients."""
    records = []
    for place, split in enumerate(splits):
        save_volume(folder / f"{name}-{place}.nii.gz", place)
        form = {"choices": ("yes", "no"), "form": "closed"} if closed else {}
        turn = Turn(
            question=question, answer=("yes", "no")[place % 2], type="size", extent_mm=(0, 20, 0, 24, 6, 16), **form
        )
        records.append(
            Record(
                id=f"r{place}", patient_id=f"p{place}", split=split, kind="volume",
                paths=(f"{name}-{place}.nii.gz",), dialogues=(Dialogue(id="a", turns=(turn,)),),
            )
        )  # fmt: skip
    Manifest(Header(name=name, root=str(folder)), tuple(records)).save(folder / f"{name}.jsonl")
    return folder / f"{name}.jsonl"


def test_answers_are_evaluated_by_command(crossdim, run, tmp_path):
    manifest = write_questions(tmp_path, "toy", ("train", "train", "test", "test"))
    arguments = ("evaluate", run, manifest, "--bootstrap", "100", "--out", tmp_path / "out")
    told = crossdim(*arguments)
    assert told.exit_code == 0, told.stderr
    assert "beside blind" in told.stdout
    printed = json.loads(crossdim(*arguments, "--json", "--closed", "write").stdout)
    assert printed["answers"]["forms"]["closed"]["predictors"].keys() == {"model", "blind", "shuffled"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "predictions.jsonl", "report.html"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == printed


def test_an_evaluation_of_a_hubs_model_needs_a_place_of_its_own(crossdim, tmp_path):
    assert "Name a folder (--out)" in refused(crossdim("evaluate", "hf:owner/name", tmp_path / "questions.jsonl"))


def test_data_from_elsewhere_are_compared_with_what_training_makes_one_expect(crossdim, run, tmp_path):
    training = write_questions(tmp_path, "training", ("train", "train"))
    elsewhere = write_questions(tmp_path, "elsewhere", (None, None))
    evaluate = ("evaluate", run, elsewhere, "--split", "all", "--bootstrap", "100", "--json")
    alone = json.loads(crossdim(*evaluate).stdout)
    assert "blind" not in alone["answers"]["forms"]["closed"]["predictors"]
    assert any(note.startswith("No blind baseline") for note in alone["notes"])
    beside = json.loads(crossdim(*evaluate, "--training", training).stdout)
    assert beside["answers"]["forms"]["closed"]["predictors"].keys() == {"model", "blind", "shuffled"}
    assert not beside["notes"]
    assert beside["slices"]["scorers"].keys() - alone["slices"]["scorers"].keys() == {"prior"}


def test_questions_without_room_are_refused_by_name_or_left_out_and_counted(crossdim, run, tmp_path):
    manifest = write_questions(tmp_path, "long", ("test",), question="why " * 500)
    line = refused(crossdim("evaluate", run, manifest))
    assert "question 'r0/a': context overflow" in line
    assert "that is short enough" in refused(crossdim("evaluate", run, manifest, "--too-long", "skip"))


def test_bertscore_is_measured_by_the_encoder_that_is_named_and_named_beside_the_numbers(crossdim, run, tmp_path):
    from transformers import BertConfig, BertModel

    from tests.inference.toys import tokenizer

    manifest = write_questions(tmp_path, "open", ("train", "test"), closed=False)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer()), **sizes)).save_pretrained(tmp_path / "encoder")
    tokenizer().save_pretrained(tmp_path / "encoder")
    arguments = ("evaluate", run, manifest, "--bootstrap", "100", "--json", "--bertscore")
    found = json.loads(crossdim(*arguments, tmp_path / "encoder").stdout)
    assert "bertscore" in found["answers"]["forms"]["open"]["predictors"]["model"]["micro"]
    assert any(note.startswith(f"BERTScore by the encoder in {tmp_path / 'encoder'}") for note in found["notes"])
    assert "no folder with a language model" in refused(crossdim(*arguments, tmp_path / "nowhere"))
