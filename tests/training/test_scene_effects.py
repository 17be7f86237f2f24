"""Every key of PiMAE's recipe changes something right before the first step."""

import pytest

from crossdim.training import pretrain_scenes
from crossdim.training.recipe_files import flatten, load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
from tests.training.scene_toys import RECIPE, make_scenes, mixed
from tests.training.test_effects import Ready, outcome, splitted

CHANGES = (
    "seed=1", "model.preset=paper", "contract.image_size=[16, 16]", "contract.image_size=null contract.image_tokens=6",
    "contract.statistics=imagenet", "contract.drawn_points=150", "contract.num_points=50", "contract.frame=released",
    "contract.region=[[-3, 0.5, -2], [3, 2.5, 2]]",
    "augmentation.flip_x=1.0", "augmentation.flip_y=1.0",
    "augmentation.rotation_deg=90", "augmentation.scale=[0.5, 0.6]", "batch.scenes=2", "batch.images=2",
    "batch.points=2", "optimisation.base_learning_rate=0.5", "optimisation.weight_decay=0.5",
    "optimisation.betas=[0.8, 0.9]", "optimisation.warmup=0.5", "optimisation.steps=null optimisation.epochs=2",
    "optimisation.steps=9", "optimisation.accumulate=2", "optimisation.max_grad_norm=1", "hardware.precision=bf16",
    "hardware.workers=2", "hardware.cache_gib=0", "hardware.activation_checkpointing=true", "logging.log_every=3",
    "logging.save_every=3", "logging.keep_checkpoints=3", "logging.report_to=[tensorboard]", "health.picture_every=1",
    "health.pictures=1", "health.probe_every=1", "health.probe_samples=9", "health.neighbours=2",
    "health.min_spread=0.5", "health.min_effective_rank=9",
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    mixed(make_scenes(root / "all", 6)).save(root / "mixed.jsonl")
    return root / "mixed.jsonl"


def test_every_key_has_an_effect(manifest, tmp_path, monkeypatch):
    def stop(trainer, announcer):
        raise Ready(trainer)

    monkeypatch.setattr(pretrain_scenes, "run_trainer", stop)

    def before_the_first_step(*overrides: str) -> dict:
        recipe = load_recipe(None, PimaeRecipe, [*RECIPE, "optimisation.steps=8", *overrides])
        return outcome(pretrain_scenes.run, manifest, tmp_path / "run", recipe)

    base = before_the_first_step()
    assert base == before_the_first_step()
    assert not [change for change in CHANGES if before_the_first_step(*splitted(change)) == base]


def test_the_list_of_keys_is_complete():
    tried = {part.partition("=")[0] for change in CHANGES for part in splitted(change)}
    elsewhere = {key for key in flatten(PimaeRecipe().model_dump()) if key.split(".")[0] in ("model", "decoder")}
    elsewhere |= {key for key in flatten(PimaeRecipe().model_dump()) if key.split(".")[0] in ("masking", "loss")}
    # test_pretrain_scenes.py: every key of these reaches the config; a contract from a file; one device here
    elsewhere |= {"kind", "contract.file", "hardware.device"}
    assert set(flatten(PimaeRecipe().model_dump())) - tried - elsewhere == set()
