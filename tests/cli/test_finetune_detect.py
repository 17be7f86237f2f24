"""From scenes with boxes to a detector, by commands alone."""

import json

import pytest

from tests.training.detect_toys import MODEL, RECIPE, make_blocks

SMALL = [word for key in (*MODEL, *RECIPE, "optimisation.epochs=1") for word in ("--set", key)]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    root = tmp_path_factory.mktemp("blocks")
    make_blocks(root).save(root / "blocks.jsonl")
    return root / "blocks.jsonl"


@pytest.mark.parametrize("word", [("detect",), ()])
def test_scenes_with_boxes_train_a_detector(word, crossdim, blocks, tmp_path):
    result = crossdim("finetune", *word, blocks, "--out", tmp_path / "run", *SMALL, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"run": str(tmp_path / "run")}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model_type"] == "detr3d"


def test_what_was_found_is_said_at_the_end(crossdim, blocks, tmp_path):
    result = crossdim("finetune", "detect", blocks, "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "test: AP25 " in result.stderr
    assert "4 boxes in 2 scenes" in result.stderr
    again = crossdim("finetune", "detect", blocks, "--out", tmp_path / "run", *SMALL)
    assert "is finished: nothing to do" in again.stderr
    other = crossdim("finetune", "detect", blocks, "--out", tmp_path / "run", *SMALL, "--set", "seed=3")
    assert other.exit_code == 2
    assert "seed: 0 → 3" in other.stderr


def test_a_mistake_is_one_line(crossdim, blocks, tmp_path):
    wrong = crossdim("finetune", "dtect", blocks, "--out", tmp_path / "run")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "Did you mean 'detect'" in wrong.stderr
    labels = crossdim("finetune", blocks, "--out", tmp_path / "run", *SMALL, "--set", "labels.classes=[cube]")
    assert (labels.exit_code, labels.stderr.count("\n")) == (2, 1)
    assert "has a box of class 'slab'" in labels.stderr
