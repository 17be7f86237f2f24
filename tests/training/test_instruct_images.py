"""Data that hold images alone, as VQA-RAD does: no 3D tower, nothing to weigh, and everything else as with volumes."""

import json

import pytest

import crossdim
from crossdim.datasets.manifest import Manifest
from crossdim.errors import RecipeError
from crossdim.training import instruct
from tests.training.dialogue_toys import PARTS, instruct_recipe, write_dialogues

WITHOUT_VOLUMES = tuple(key for key in PARTS if "volume_size" not in key)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    loaded = Manifest.load(write_dialogues(root, images=True))
    chosen = [record for record in loaded.records if record.kind == "image"]
    parts = ("train", "val", "test")
    records = tuple(record.model_copy(update={"split": parts[n % 3]}) for n, record in enumerate(chosen))
    Manifest(loaded.header, records).save(root / "images.jsonl")
    return root / "images.jsonl"


def recipe(*overrides):
    return instruct_recipe(*WITHOUT_VOLUMES, "optimisation.steps=1", *overrides, anew=False)


def test_images_alone_train_evaluate_and_are_asked_about_without_a_3d_tower(images, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSDIM_CACHE", str(tmp_path / "cache"))
    run = instruct.run(images, tmp_path / "run", recipe(), silent=True)
    assert json.loads((run / "metrics.json").read_text())["test"]["answers"]["questions"] == 8
    model = crossdim.load(run, "cpu")
    assert model.model.vision3d is None
    assert (model.model.config.fusion, model.model.config.slice_weights) == ("2d_only", "uniform")
    manifest = Manifest.load(images)
    answer = model.ask(manifest.resolve(manifest.records[0])[0], "Is there a nodule?", ["yes", "no"])
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.slices == ()


@pytest.mark.parametrize("key", ["fusion=3d_only", "fusion=both", "slice_weights=tgis"])
def test_what_only_volumes_have_is_refused_where_there_are_none(images, tmp_path, key):
    with pytest.raises(RecipeError, match=r"'scoring\..*': is .*, and the data hold images alone"):
        instruct.run(images, tmp_path / "run", recipe(f"scoring.{key}"), silent=True)
