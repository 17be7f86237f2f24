"""From files to a classifier, numbers and features, by commands alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from crossdim.datasets.synthetic import make_images, make_volumes

SMALL = (
    "--set", "model.num_hidden_layers=1", "--set", "model.hidden_size=24", "--set", "model.num_attention_heads=2",
    "--set", "model.intermediate_size=24",
    "--set", "model.patch_size=[8,8]", "--set", "model.volume_patch_size=[8,8,8]",
    "--set", "decoder.hidden_size=16", "--set", "decoder.num_hidden_layers=1", "--set", "decoder.num_attention_heads=2",
    "--set", "contract.image_size=[32,32]", "--set", "contract.volume_size=[16,16,16]",
    "--set", "mixing.images=4", "--set", "mixing.volumes=2", "--set", "logging.report_to=none",
)  # fmt: skip
BRIEF = ("--set", "optimisation.epochs=1", "--set", "bootstrap=100", "--set", "logging.report_to=none")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """Return a folder with labelled photographs and unlabelled volumes."""
    folder = tmp_path_factory.mktemp("clinic")
    make_images(folder / "photos", count=36, size=32)
    make_volumes(folder / "scans", count=6, size=32)
    return folder


@pytest.fixture(scope="module")
def runs(clinic, tmp_path_factory):
    """Return the folder of a pre-training run and of a fine-tuning run, made by commands."""
    from typer.testing import CliRunner

    from crossdim.cli import app

    folder = tmp_path_factory.mktemp("runs")
    labels = clinic / "photos" / "manifest.jsonl"
    for command in (
        ("pretrain", clinic, "--out", folder / "encoder", *SMALL, "--set", "optimisation.steps=2"),
        ("finetune", labels, "--from", folder / "encoder", "--task", "sign", "--out", folder / "grader", *BRIEF),
    ):
        result = CliRunner().invoke(app, [str(word) for word in command])
        assert result.exit_code == 0, result.stderr
    return folder


def test_a_run_is_resumed_by_its_own_command_and_a_finished_one_says_so(crossdim, clinic, runs):
    command = ("pretrain", clinic, "--out", runs / "encoder", *SMALL, "--set", "optimisation.steps=2")
    result = crossdim(*command)
    assert result.exit_code == 0, result.stderr
    assert "is finished: nothing to do" in result.stdout + result.stderr
    assert json.loads(crossdim(*command, "--json").stdout) == {"run": str(runs / "encoder")}


def test_a_misspelt_key_is_refused_with_the_nearest_name(crossdim, clinic, tmp_path):
    result = crossdim("pretrain", clinic, "--out", tmp_path / "run", "--set", "optimisation.step=2")
    assert result.exit_code == 2
    assert "Did you mean 'optimisation.steps'" in result.stderr or "Did you mean 'steps'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_task_whose_name_looks_like_yaml_stays_a_name(crossdim, clinic, tmp_path):
    labels = clinic / "photos" / "manifest.jsonl"
    result = crossdim("finetune", labels, "--task", "no", "--out", tmp_path / "run", *BRIEF)
    assert result.exit_code == 2
    assert "'no'" in result.stderr


def test_an_evaluation_is_printed_and_written(crossdim, clinic, runs):
    arguments = ("evaluate", runs / "grader", clinic / "photos" / "manifest.jsonl", "--bootstrap", "100")
    told, printed = crossdim(*arguments), crossdim(*arguments, "--json")
    assert told.exit_code == 0, told.stderr
    assert "balanced accuracy" in told.stdout
    folder = runs / "grader" / "evaluations" / "manifest-test"
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(printed.stdout)
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "crossdim" in page


def test_a_part_without_labels_is_refused(crossdim, clinic, runs, tmp_path):
    from crossdim.datasets.manifest import Manifest

    manifest = Manifest.load(clinic / "photos" / "manifest.jsonl")
    Manifest(manifest.header, manifest.split("train").records).save(tmp_path / "train.jsonl")
    result = crossdim("evaluate", runs / "grader", tmp_path / "train.jsonl")
    assert result.exit_code == 2
    assert "has no record with a label for 'sign'. Choose another part with --split." in result.stderr


def test_predictions_are_printed_and_a_bad_file_does_not_spoil_the_rest(crossdim, clinic, runs, tmp_path):
    good, bad = clinic / "photos" / "images" / "p0000_left.png", tmp_path / "cut.png"
    bad.write_bytes(good.read_bytes()[:100])
    result = crossdim("predict", runs / "grader", bad, good, "--json")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"crossdim: {bad}: ")
    prediction = json.loads(result.stdout)
    assert prediction["path"] == str(good)
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_a_folder_is_predicted_as_a_table(crossdim, clinic, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = crossdim("predict", runs / "grader", clinic / "photos" / "images")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("p00") == 36


def test_predicting_with_an_encoder_is_refused(crossdim, clinic, runs):
    result = crossdim("predict", runs / "encoder", clinic / "photos" / "images" / "p0000_left.png")
    assert result.exit_code == 2
    assert "is an encoder without a classifier" in result.stderr


def test_features_of_images_and_volumes_are_written(crossdim, clinic, runs, tmp_path):
    out = tmp_path / "new" / "features.npz"
    result = crossdim("embed", runs / "encoder", clinic / "photos" / "images", clinic / "scans", "--out", out)
    assert result.exit_code == 0, result.stderr
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["features"].shape == (42, 24)
        assert arrays["features"].dtype == np.float32
        assert len(set(arrays["paths"])) == 42
    assert [path.name for path in out.parent.iterdir()] == ["features.npz"]


def test_nothing_to_predict_is_refused(crossdim, runs, tmp_path):
    result = crossdim("predict", runs / "grader", tmp_path)
    assert result.exit_code == 2
    assert "holds no file that crossdim can read" in result.stderr


def test_a_checkpoint_is_converted_and_every_key_accounted_for(crossdim, tmp_path):
    from tests.convert.test_uni4eye import dual

    weights = {name: torch.zeros(shape) for name, shape in dual().items()}
    torch.save({"model": weights}, tmp_path / "authors.pth")
    arguments = ("convert", "uni4eye", tmp_path / "authors.pth")
    told = crossdim(*arguments, tmp_path / "told", "--volume-size", "16", "28", "16")
    assert told.exit_code == 0, told.stderr
    assert " used, " in told.stdout
    printed = crossdim(*arguments, tmp_path / "printed", "--volume-size", "16", "28", "16", "--json")
    keys = json.loads(printed.stdout)["keys"]
    assert set(keys["used"]) | set(keys["unused"]) == set(weights)
    again = crossdim(*arguments, tmp_path / "told", "--volume-size", "16", "28", "16")
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_a_detector_of_the_authors_is_converted(crossdim, tmp_path):
    from tests.convert.test_detr3d import SMALL, save, weights_of

    path = save(tmp_path, weights_of(SMALL), SMALL)
    told = crossdim("convert", "3detr", path, tmp_path / "told")
    assert told.exit_code == 0, told.stderr
    assert "Detr3dForObjectDetection" in told.stdout
    printed = crossdim("convert", "3detr", path, tmp_path / "printed", "--heads", "2", "--json")
    assert "enc_nhead 2" in json.loads(printed.stdout)["notes"][0]


def test_a_3d_encoder_of_m3d_is_converted_and_the_report_printed(crossdim, tmp_path):
    from tests.convert.test_med2e3 import released_vit

    torch.save(released_vit(), tmp_path / "pretrained_ViT.bin")
    told = crossdim("convert", "med2e3", tmp_path / "pretrained_ViT.bin", tmp_path / "told")
    assert told.exit_code == 0, told.stderr
    assert "VisionTransformer3D" in told.stdout
    printed = crossdim("convert", "med2e3", tmp_path / "pretrained_ViT.bin", tmp_path / "printed", "--json")
    assert set(json.loads(printed.stdout)["keys"]["used"]) == set(released_vit())
    wrong = crossdim(
        "convert", "med2e3", tmp_path / "pretrained_ViT.bin", tmp_path / "wrong", "--random-text-projection", "1"
    )
    assert wrong.exit_code == 2
    assert "have no meaning for M3D-CLIP alone" in wrong.stderr


@pytest.mark.slow
def test_real_photographs_and_real_volumes_become_a_grader_and_features(crossdim, crossdim_data, tmp_path):
    """The story of the README on IDRiD photographs and hippocampus MR volumes."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in sorted((crossdim_data / "hippocampus" / "images").iterdir())[:12]:
        shutil.copy(path, mixed)
    for path in sorted((crossdim_data / "idrid" / "grading" / "train").rglob("*.jpg"))[:24]:
        shutil.copy(path, mixed)
    labels, encoder, grader = tmp_path / "idrid.jsonl", tmp_path / "encoder", tmp_path / "grader"
    photo = str(next(Path(mixed).glob("*.jpg")))
    for command in (
        ("inspect", mixed),
        ("prepare", "folder", mixed, "--fractions", "1", "0", "0", "--out", tmp_path / "mixed.jsonl"),
        ("pretrain", tmp_path / "mixed.jsonl", "--out", encoder, *SMALL, "--set", "optimisation.steps=4"),
        ("prepare", "idrid", crossdim_data / "idrid", "--no-audit", "--out", labels),
        ("finetune", labels, "--from", encoder, "--task", "dr_grade", "--out", grader, *BRIEF),
        ("evaluate", grader, labels, "--split", "val", "--bootstrap", "100"),
        ("predict", grader, photo),
        ("embed", encoder, mixed, "--out", tmp_path / "features.npz"),
    ):
        result = crossdim(*command)
        assert result.exit_code == 0, f"{command}: {result.stderr}"
    with np.load(tmp_path / "features.npz", allow_pickle=False) as arrays:
        assert arrays["features"].shape == (36, 24)
