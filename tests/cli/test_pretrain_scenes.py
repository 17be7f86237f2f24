"""From a folder of RGB-D frames to features and a classifier, by commands alone."""

import json
import shutil

import numpy as np
import pytest

from tests.training.scene_toys import RECIPE, make_scenes

SMALL = [word for key in (*RECIPE, "optimisation.steps=2") for word in ("--set", key)]
BRIEF = [
    word
    for key in ("optimisation.epochs=2", "bootstrap=100", "logging.report_to=none", "batch.images=4")
    for word in ("--set", key)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with scenes, frames of one camera, a manifest with labels, and a pre-trained run."""
    from typer.testing import CliRunner

    from crossdim.cli import app

    root = tmp_path_factory.mktemp("place")
    make_scenes(root / "scenes", 24).save(root / "rooms.jsonl")
    for part, name in (("rgb", "image.png"), ("depth", "depth.png")):
        (root / "frames" / part).mkdir(parents=True)
        for number in range(4):
            shutil.copy(root / "scenes" / f"scene{number:02d}" / name, root / "frames" / part / f"{number}.png")
    shutil.copy(root / "scenes" / "scene00" / "camera.json", root / "frames")
    command = ["pretrain", "pimae", str(root / "scenes"), "--out", str(root / "run"), *SMALL]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    return root


def test_without_the_word_scenes_train_pimae(crossdim, place, tmp_path):
    for data in ("frames", "rooms.jsonl"):
        result = crossdim("pretrain", place / data, "--out", tmp_path / data, *SMALL, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout) == {"run": str(tmp_path / data)}
        assert json.loads((tmp_path / data / "config.json").read_text())["model_type"] == "pimae"


def test_a_misspelt_system_is_refused_with_the_nearest(crossdim, place, tmp_path):
    result = crossdim("pretrain", "pimea", place / "frames", "--out", tmp_path / "run")
    assert result.exit_code != 0
    assert "Did you mean 'pimae'" in result.stderr


def test_scenes_frames_images_and_points_are_embedded_together(crossdim, place, tmp_path):
    image = place / "scenes" / "scene01" / "image.png"
    sources = (place / "scenes" / "scene00", place / "frames", image, f"{place / 'rooms.jsonl'}#scene02")
    result = crossdim("embed", place / "run", *sources, "--out", tmp_path / "f.npz", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"path": str(tmp_path / "f.npz"), "files": 7, "dim": 32}
    with np.load(tmp_path / "f.npz") as found:
        assert found["features"].shape == (7, 32)
        assert found["paths"].tolist()[0] == str(place / "scenes" / "scene00")
        assert found["paths"].tolist()[1] == f"{place / 'frames'}#0"


def test_a_damaged_scene_is_named_and_the_others_are_embedded(crossdim, place, tmp_path):
    shutil.copytree(place / "scenes" / "scene00", tmp_path / "good")
    shutil.copytree(place / "scenes" / "scene00", tmp_path / "bad")
    (tmp_path / "bad" / "depth.png").write_bytes(b"no picture")
    result = crossdim(
        "embed", place / "run", tmp_path / "bad", tmp_path / "none", tmp_path / "good", "--out", tmp_path / "f.npz"
    )
    assert result.exit_code == 2
    assert "depth.png" in result.stderr
    assert str(tmp_path / "none") in result.stderr
    assert "features 1 x 32" in result.stdout


def test_the_image_branch_is_probed_on_few_labels_evaluated_and_used(crossdim, place, tmp_path):
    command = ("finetune", place / "rooms.jsonl", "--from", place / "run", "--recipe", "finetune-linear")
    result = crossdim(*command, "--out", tmp_path / "probe", *BRIEF, "--set", "shots=3")
    assert result.exit_code == 0, result.stderr
    photo = place / "scenes" / "scene00" / "image.png"
    answer = crossdim("predict", tmp_path / "probe", photo, "--json")
    assert json.loads(answer.stdout)["task"] == "side"
    evaluated = crossdim("evaluate", tmp_path / "probe", place / "rooms.jsonl", "--split", "val", "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert "auc" in evaluated.stdout
    features = crossdim("embed", tmp_path / "probe", photo, "--out", tmp_path / "f.npz")
    assert "features 1 x 32" in features.stdout


def test_a_pre_trained_run_is_not_evaluated(crossdim, place, tmp_path):
    result = crossdim("evaluate", place / "run", place / "rooms.jsonl", "--out", tmp_path)
    assert result.exit_code != 0
    assert "without a classifier" in result.stderr
