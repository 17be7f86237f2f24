"""A killed training of a detector goes on bit by bit, with its average, its choice of the best and its variation."""

import pytest
from safetensors.torch import load_file

from crossdim.training import detect
from crossdim.training.checkpoints import last_complete
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.training.trainer import RunTrainer
from tests.training.detect_toys import MODEL, RECIPE, make_blocks
from tests.training.test_resume import Killed, assert_same_run, finish, kill_at, start

VARIED = (
    *MODEL, *(override for override in RECIPE if "epochs" not in override), "augmentation.flip_x=0.5",
    "augmentation.flip_y=0.5", "augmentation.rotation_deg=30", "augmentation.scale=[0.85, 1.15]",
    "crop.size=[0.8, 1.0]", "optimisation.average=0.8", "optimisation.accumulate=2", "selection.metric=loss",
    "selection.evaluate_every_epochs=0.6", "labels.fraction=0.75", "hardware.device=cpu",
)  # fmt: skip
SCRIPT = """
import sys
from pathlib import Path
from crossdim.training import detect
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe
detect.run(Path(sys.argv[1]), Path(sys.argv[2]), load_recipe(None, DetectRecipe, sys.argv[4:]), silent=True)
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("blocks")
    make_blocks(root, 18).save(root / "blocks.jsonl")
    return root / "blocks.jsonl"


def same_results(one, other) -> None:
    assert_same_run(one, other)
    for name in ("metrics.json", "predictions.jsonl"):
        assert (one / name).read_text() == (other / name).read_text()
    last = last_complete(one / "checkpoints").name
    left, right = (load_file(each / "checkpoints" / last / "average.safetensors") for each in (one, other))
    assert all(left[name].equal(right[name]) for name in left)


def test_a_run_that_stopped_while_a_checkpoint_was_written_goes_on_bit_by_bit(manifest, tmp_path, monkeypatch):
    recipe = load_recipe(None, DetectRecipe, [*VARIED, "optimisation.steps=4"])
    whole = detect.run(manifest, tmp_path / "whole", recipe, silent=True)
    write = RunTrainer._save_rng_state

    def interrupted(self, output_dir):
        write(self, output_dir)
        if self.state.global_step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "_save_rng_state", interrupted)
        with pytest.raises(Killed):
            detect.run(manifest, tmp_path / "killed", recipe, silent=True)
    assert last_complete(tmp_path / "killed" / "checkpoints").name == "checkpoint-2"
    killed = detect.run(manifest, tmp_path / "killed", recipe, silent=True)
    same_results(whole, killed)


def test_workers_change_no_number(manifest, tmp_path):
    runs = [
        detect.run(
            manifest,
            tmp_path / str(workers),
            load_recipe(None, DetectRecipe, [*VARIED, "optimisation.steps=2", f"hardware.workers={workers}"]),
            silent=True,
        )
        for workers in (0, 2)
    ]
    same_results(*runs)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_bit_by_bit(manifest, tmp_path):
    recipe = [*VARIED, "optimisation.steps=30", "logging.log_every=7"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(SCRIPT, manifest, whole, None, recipe)
    kill_at(8, killed, start(SCRIPT, manifest, killed, None, recipe))
    kill_at(19, killed, start(SCRIPT, manifest, killed, None, recipe))
    finish(SCRIPT, manifest, killed, None, [*recipe, "hardware.workers=2"])
    assert "resumed" in (killed / "log.jsonl").read_text()
    same_results(whole, killed)
