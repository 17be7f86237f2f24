"""A toy data set of real files, and recipes small enough for a second of training."""

from pathlib import Path

import pytest

from crossdim.datasets.manifest import Header, Manifest
from crossdim.datasets.synthetic import make_images, make_volumes
from crossdim.training.recipe import FinetuneRecipe, PretrainRecipe
from crossdim.training.recipe_files import load_recipe

MODEL = (
    "model.hidden_size=32", "model.num_hidden_layers=2", "model.num_attention_heads=2", "model.intermediate_size=64",
    "model.patch_size=[8, 8]", "model.volume_patch_size=[8, 8, 8]",
)  # fmt: skip
CONTRACT = ("contract.image_size=[32, 32]", "contract.volume_size=[16, 16, 16]")
DECODER = (
    "decoder.hidden_size=32", "decoder.num_hidden_layers=1", "decoder.num_attention_heads=2",
    "decoder.intermediate_size=64",
)  # fmt: skip
SHORT = (
    "mixing.images=4", "mixing.volumes=2", "optimisation.steps=4", "optimisation.base_learning_rate=0.02",
    "logging.log_every=2", "logging.save_every=2", "logging.report_to=none", "health.picture_every=0",
    "health.probe_every=0",
)  # fmt: skip
TUNE = ("batch.images=4", "batch.volumes=4", "logging.report_to=none", "bootstrap=100")


def merge(root: Path, name: str, *manifests: Manifest) -> Manifest:
    """Put manifests of folders below ``root`` together."""
    tasks, records = {}, []
    for manifest in manifests:
        tasks |= manifest.header.tasks
        prefix = Path(manifest.header.root).relative_to(root)
        records += [
            record.model_copy(update={"paths": tuple(f"{prefix}/{path}" for path in record.paths)})
            for record in manifest.records
        ]
    return Manifest(Header(name=name, root=str(root), tasks=tasks), tuple(records))


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory) -> Path:
    """Return a folder of 18 images and 12 volumes with the manifests ``images``, ``volumes`` and ``both``."""
    root = tmp_path_factory.mktemp("toy")
    images = make_images(root / "i", count=18, size=32, difficulty=0.0)
    volumes = make_volumes(root / "v", count=12, size=32, difficulty=0.0)
    for name, parts in (("images", (images,)), ("volumes", (volumes,)), ("both", (images, volumes))):
        merge(root, name, *parts).save(root / f"{name}.jsonl")
    return root


@pytest.fixture
def toy(toy_folder) -> Manifest:
    return Manifest.load(toy_folder / "both.jsonl")


@pytest.fixture
def pretrain_recipe():
    def build(*overrides: str) -> PretrainRecipe:
        return load_recipe(None, PretrainRecipe, (*MODEL, *CONTRACT, *DECODER, *SHORT, *overrides))

    return build


@pytest.fixture
def finetune_recipe():
    def build(*overrides: str, scratch: bool = False) -> FinetuneRecipe:
        length = () if any("steps=" in override for override in overrides) else ("optimisation.epochs=2",)
        return load_recipe(None, FinetuneRecipe, (*(MODEL if scratch else ()), *TUNE, *length, *overrides))

    return build


@pytest.fixture(autouse=True)
def no_reports(monkeypatch):
    """Leave out the page at the end of a run, which takes longer than the run; module fixtures still write it."""
    monkeypatch.setattr("crossdim.training.pretrain.report_pretraining", lambda folder: None)
    monkeypatch.setattr("crossdim.training.conclusion.report_finetuning", lambda *arguments: None)
    monkeypatch.setattr("crossdim.training.dialogue_conclusion.report_dialogues", lambda *arguments: None)
    monkeypatch.setattr("crossdim.training.dialogue_conclusion.example_pictures", lambda *arguments: [])
