import json
from pathlib import Path

import pytest
import torch

from crossdim.errors import ReadError
from crossdim.inference.feature_cache import FeatureCache
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.training import instruct
from crossdim.training.recipe_instruct import InstructRecipe
from tests.training.dialogue_toys import FROZEN, instruct_recipe, write_dialogues

FILES = 8
"""Volumes of the training and the validation split."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dialogues(tmp_path_factory.mktemp("dialogues"))


@pytest.fixture(autouse=True)
def no_evaluation(monkeypatch):
    """Leave out the evaluation, which looks at volumes of its own."""
    monkeypatch.setattr(instruct, "conclude_dialogues", lambda *arguments: None)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Count the volumes that the towers look at."""
    calls: list[int] = []
    plain = Med2E3ForConditionalGeneration.encode_towers

    def counted(self, voxel_values=None, *more, **named):
        calls.extend([1] * len(voxel_values))
        return plain(self, voxel_values, *more, **named)

    monkeypatch.setattr(Med2E3ForConditionalGeneration, "encode_towers", counted)
    return calls


def recipe(folder: Path, *overrides: str) -> InstructRecipe:
    return instruct_recipe(*FROZEN, f"features.folder={folder}", *overrides)


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_frozen_towers_look_at_every_file_once_whatever_the_number_of_epochs_and_questions(data, tmp_path, encoded):
    instruct.run(data, tmp_path / "run", recipe(tmp_path / "cache", "optimisation.epochs=3"), silent=True)
    assert len(encoded) == FILES


def test_a_second_run_encodes_nothing_and_what_changed_alone_is_encoded_again(tmp_path, encoded):
    data = write_dialogues(tmp_path / "data")
    cache = tmp_path / "cache"

    def count(name: str, *overrides: str) -> int:
        encoded.clear()
        instruct.run(data, tmp_path / name, recipe(cache, "optimisation.steps=1", *overrides), silent=True)
        return len(encoded)

    assert count("first") == FILES
    assert count("again", "optimisation.warmup=0.5") == 0
    assert count("contract", "contract.volume_size=[8, 16, 32]") == FILES
    assert count("weights", "seed=1") == FILES
    volume = data.parent / "v" / "volumes" / "v0000.nii.gz"
    import nibabel

    image = nibabel.load(volume)
    voxels = image.get_fdata().astype("float32")
    voxels[0, 0, 0] += 1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), volume)
    assert count("byte") == 1


def test_kept_features_train_as_the_files_do(data, tmp_path):
    kept = instruct.run(data, tmp_path / "kept", recipe(tmp_path / "cache", "scoring.slice_loss_weight=1"), silent=True)
    never = recipe(tmp_path / "cache", "scoring.slice_loss_weight=1", "features.keep=never")
    plain = instruct.run(data, tmp_path / "plain", never, silent=True)
    assert losses(kept) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.parametrize(
    "why", ["augmentation.brightness=0.1", "learning.vision2d=train", "features.limit_gib=0.000001"]
)
def test_files_are_encoded_in_every_epoch_where_features_change_or_do_not_fit(data, tmp_path, encoded, why):
    instruct.run(data, tmp_path / "run", recipe(tmp_path / "cache", why, "optimisation.epochs=3"), silent=True)
    assert len(encoded) > 2 * FILES
    assert "limit" in why or not list((tmp_path / "cache").rglob("*.safetensors"))


def test_features_that_are_gone_in_the_middle_are_named(data, tmp_path, monkeypatch):
    plain = FeatureCache.load
    calls = []

    def forgetful(self, key):
        calls.append(key)
        return plain(self, key) if len(calls) <= FILES else None

    monkeypatch.setattr(FeatureCache, "load", forgetful)
    with pytest.raises(ReadError, match=r"features of v/volumes/.*: are gone from .*Give the same command again"):
        instruct.run(data, tmp_path / "run", recipe(tmp_path / "cache", "hardware.cache_gib=0"), silent=True)


def test_features_of_images_are_kept_as_well(tmp_path):
    data = write_dialogues(tmp_path / "data", images=True)
    settings = recipe(tmp_path / "cache", "contract.image_size=[16, 16]", "optimisation.steps=4")
    run = instruct.run(data, tmp_path / "run", settings, silent=True)
    assert all(torch.isfinite(torch.tensor(losses(run))))
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) > FILES
