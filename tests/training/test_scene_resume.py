"""A killed pre-training on scenes goes on bit by bit, with workers and augmentation, in batches of any composition."""

import pytest

import crossdim.training.pretrain_scenes as room
from crossdim.training.checkpoints import last_complete
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
from crossdim.training.trainer import RunTrainer
from tests.training.scene_toys import RECIPE, make_scenes, mixed
from tests.training.test_resume import Killed, assert_same_run, finish, kill_at, start

VARIED = (
    *RECIPE, "model.dropout=0.2", "decoder.points_drop_path_rate=0.2", "augmentation.flip_x=0.5",
    "augmentation.rotation_deg=30", "augmentation.scale=[0.85, 1.15]", "optimisation.accumulate=2",
    "hardware.device=cpu",
)  # fmt: skip
SCRIPT = """
import sys
from pathlib import Path
from crossdim.training import pretrain_scenes
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
recipe = load_recipe(None, PimaeRecipe, sys.argv[4:])
pretrain_scenes.run(Path(sys.argv[1]), Path(sys.argv[2]), recipe, silent=True)
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    mixed(make_scenes(root / "all")).save(root / "mixed.jsonl")
    return root / "mixed.jsonl"


def test_a_run_that_stopped_while_a_checkpoint_was_written_goes_on_bit_by_bit(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("crossdim.training.pretrain_scenes.report_pretraining", lambda folder: None)
    recipe = load_recipe(None, PimaeRecipe, [*VARIED, "optimisation.steps=6"])
    whole = room.run(manifest, tmp_path / "whole", recipe, silent=True)
    write = RunTrainer._save_rng_state

    def interrupted(self, output_dir):
        write(self, output_dir)
        if self.state.global_step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "_save_rng_state", interrupted)
        with pytest.raises(Killed):
            room.run(manifest, tmp_path / "killed", recipe, silent=True)
    assert last_complete(tmp_path / "killed" / "checkpoints").name == "checkpoint-2"
    killed = room.run(manifest, tmp_path / "killed", recipe, silent=True)
    assert_same_run(whole, killed)


def test_workers_change_no_number(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("crossdim.training.pretrain_scenes.report_pretraining", lambda folder: None)
    runs = [
        room.run(
            manifest,
            tmp_path / str(workers),
            load_recipe(None, PimaeRecipe, [*VARIED, "optimisation.steps=3", f"hardware.workers={workers}"]),
            silent=True,
        )
        for workers in (0, 2)
    ]
    assert_same_run(*runs)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_bit_by_bit(manifest, tmp_path):
    recipe = [*VARIED, "optimisation.steps=40", "logging.log_every=7", "logging.save_every=5", "health.probe_every=6"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(SCRIPT, manifest, whole, None, recipe)
    kill_at(10, killed, start(SCRIPT, manifest, killed, None, recipe))
    kill_at(25, killed, start(SCRIPT, manifest, killed, None, recipe))
    finish(SCRIPT, manifest, killed, None, [*recipe, "hardware.workers=2"])
    assert "resumed" in (killed / "log.jsonl").read_text()
    assert_same_run(whole, killed)
