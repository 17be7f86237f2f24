"""A killed instruction training goes on bit by bit as if nothing had happened; two processes learn what one learns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from crossdim.training import instruct
from crossdim.training.checkpoints import last_complete
from crossdim.training.provenance import read_log
from crossdim.training.trainer import RunTrainer
from tests.conftest import ROOT
from tests.training.dialogue_toys import FROZEN, PARTS, SHORT, instruct_recipe, write_dialogues
from tests.training.test_distributed import launch
from tests.training.test_resume import Killed, assert_same_run, kill_at

SCRIPT = """
import sys
from pathlib import Path
from crossdim.training import instruct
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_instruct import InstructRecipe
instruct.run(Path(sys.argv[1]), Path(sys.argv[2]), load_recipe(None, InstructRecipe, sys.argv[3:]), silent=True)
"""
LORA = ("learning.language_model=lora", "lora.rank=2", "lora.dropout=0.2", *FROZEN)
VARIED = ("augmentation.brightness=0.3", "scoring.slice_loss_weight=0.5", "optimisation.accumulate=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dialogues(tmp_path_factory.mktemp("dialogues"))


@pytest.mark.parametrize("what", [LORA, VARIED], ids=["lora", "varied"])
def test_a_kill_while_a_checkpoint_is_written_is_survived(data, tmp_path, what, monkeypatch):
    monkeypatch.setattr(instruct, "conclude_dialogues", lambda *arguments: None)
    recipe = instruct_recipe(
        *what, f"features.folder={tmp_path / 'cache'}" if what is LORA else "features.keep=never",
        "optimisation.epochs=3", "batch.questions_per_volume=1",
    )  # fmt: skip
    whole = instruct.run(data, tmp_path / "whole", recipe, silent=True)
    write, done = RunTrainer._save_rng_state, []

    def interrupted(self, output_dir):
        write(self, output_dir)
        done.append(self.state.global_step)
        if len(done) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, "_save_rng_state", interrupted)
        with pytest.raises(Killed):
            instruct.run(data, tmp_path / "killed", recipe, silent=True)
    assert last_complete(tmp_path / "killed" / "checkpoints").name == f"checkpoint-{done[0]}"
    killed = instruct.run(data, tmp_path / "killed", recipe, silent=True)
    assert "resumed" in (killed / "log.jsonl").read_text()
    assert_same_run(whole, killed)


def start(data: Path, out: Path, recipe: list[str]) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JAXTYPING_DISABLE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(data), str(out), *recipe]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_by_bit_in_another_process(data, tmp_path):
    recipe = [*PARTS, *SHORT, *VARIED, "optimisation.epochs=12", "batch.questions_per_volume=1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for out, first in ((whole, None), (killed, 3)):
        if first is not None:
            kill_at(first, out, start(data, out, recipe))
        process = start(data, out, recipe)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert "resumed" in (killed / "log.jsonl").read_text()
    assert_same_run(whole, killed)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(data, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    recipe = [
        *PARTS, *SHORT, *FROZEN, f"features.folder={tmp_path / 'cache'}", "scoring.score_dropout=0", "batch.volumes=1",
        "optimisation.steps=3", "logging.log_every=1",
    ]  # fmt: skip
    alone, together = tmp_path / "alone", tmp_path / "together"
    launch(1, script, data, alone, *recipe, "optimisation.accumulate=2")
    launch(2, script, data, together, *recipe)
    one, two = load_file(alone / "model.safetensors"), load_file(together / "model.safetensors")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    losses = [[line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line] for run in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 8
