"""Kill at any time, same command resumes: bit by bit as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from crossdim.training.checkpoints import last_complete
from crossdim.training.provenance import read_log
from tests.conftest import ROOT
from tests.training.conftest import CONTRACT, DECODER, MODEL

PRETRAIN = [
    *MODEL, *CONTRACT, *DECODER, "mixing.images=4", "mixing.volumes=2", "optimisation.steps=60",
    "optimisation.base_learning_rate=0.02", "optimisation.accumulate=2", "model.drop_path_rate=0.1",
    "logging.log_every=7", "logging.save_every=5", "logging.report_to=none", "health.picture_every=0",
    "health.probe_every=6", "hardware.device=cpu",
]  # fmt: skip
FINETUNE = [
    "task=sign", "batch.images=4", "optimisation.epochs=40", "selection.metric=loss", "selection.patience=null",
    "logging.log_every=3", "logging.report_to=none", "adaptation.mode=lora", "adaptation.dropout=0.1",
    "bootstrap=100", "hardware.device=cpu",
]  # fmt: skip

SCRIPT = """
import sys
from pathlib import Path
from crossdim.training import {kind}
from crossdim.training.recipe import {recipe}
from crossdim.training.recipe_files import load_recipe
{kind}.run(Path(sys.argv[1]), Path(sys.argv[2]), load_recipe(None, {recipe}, sys.argv[4:]), {encoder}silent=True)
"""
PRETRAIN_SCRIPT = SCRIPT.format(kind="pretrain", recipe="PretrainRecipe", encoder="")
FINETUNE_SCRIPT = SCRIPT.format(kind="finetune", recipe="FinetuneRecipe", encoder="Path(sys.argv[3]), ")


def start(script: str, data: Path, out: Path, encoder: Path | None, recipe: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-c", script, str(data), str(out), str(encoder), *recipe]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JAXTYPING_DISABLE": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*arguments) -> None:
    process = start(*arguments)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def kill_at(step: int, out: Path, process: subprocess.Popen) -> None:
    """Kill -9 as soon as a checkpoint of at least that step is complete, whatever is being written then."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        found = last_complete(out / "checkpoints")
        if found and int(found.name.rpartition("-")[2]) >= step:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.001)
    process.kill()
    raise AssertionError(f"no checkpoint in time: {process.communicate()[1]}")


def numbers(out: Path) -> list[dict]:
    """Return the log without what depends on the clock."""
    timing = ("seconds", "runtime", "per_second", "train_loss", "flos")
    return [
        {key: value for key, value in line.items() if not any(word in key for word in timing)}
        for line in read_log(out / "log.jsonl")
    ]


def assert_same_run(one: Path, other: Path) -> None:
    assert numbers(one) == numbers(other)
    left, right = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)


@pytest.fixture(scope="module")
def pretrained(toy_folder, tmp_path_factory) -> tuple[Path, Path]:
    """Return an uninterrupted run and one that was killed twice and resumed with two workers."""
    root = tmp_path_factory.mktemp("resume")
    whole, killed = root / "whole", root / "killed"
    data = toy_folder / "both.jsonl"
    finish(PRETRAIN_SCRIPT, data, whole, None, PRETRAIN)
    kill_at(10, killed, start(PRETRAIN_SCRIPT, data, killed, None, PRETRAIN))
    half_written = killed / "checkpoints" / "checkpoint-999"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text('{"global_step": 999}')
    finish(PRETRAIN_SCRIPT, data, killed, None, [*PRETRAIN, "hardware.workers=2"])
    return whole, killed


@pytest.mark.slow
def test_a_killed_pretraining_resumes_bit_by_bit(pretrained):
    whole, killed = pretrained
    assert "resumed" in (killed / "log.jsonl").read_text()
    assert_same_run(whole, killed)


@pytest.mark.slow
def test_a_half_written_checkpoint_is_removed_and_not_resumed_from(pretrained):
    _, killed = pretrained
    assert not (killed / "checkpoints" / "checkpoint-999").exists()


@pytest.mark.slow
def test_a_killed_finetuning_resumes_bit_by_bit(pretrained, toy_folder, tmp_path):
    encoder, _ = pretrained
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    data = toy_folder / "both.jsonl"
    finish(FINETUNE_SCRIPT, data, whole, encoder, FINETUNE)
    kill_at(30, killed, start(FINETUNE_SCRIPT, data, killed, encoder, FINETUNE))
    finish(FINETUNE_SCRIPT, data, killed, encoder, FINETUNE)
    assert_same_run(whole, killed)
    assert (whole / "metrics.json").read_text() == (killed / "metrics.json").read_text()


class Killed(BaseException):
    """Stands for a kill: nothing in between catches it."""


@pytest.mark.parametrize("moment", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_kill_while_a_checkpoint_is_written_is_survived(moment, toy_folder, tmp_path, pretrain_recipe, monkeypatch):
    from crossdim.training import pretrain
    from crossdim.training.trainer import RunTrainer

    recipe = pretrain_recipe("optimisation.steps=6", "model.drop_path_rate=0.2")
    data = toy_folder / "both.jsonl"
    whole = pretrain.run(data, tmp_path / "whole", recipe, silent=True)
    write = getattr(RunTrainer, moment)

    def interrupted(self, output_dir):
        write(self, output_dir)
        if self.state.global_step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunTrainer, moment, interrupted)
        with pytest.raises(Killed):
            pretrain.run(data, tmp_path / "killed", recipe, silent=True)
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-4").is_dir()
    assert last_complete(tmp_path / "killed" / "checkpoints").name == "checkpoint-2"
    killed = pretrain.run(data, tmp_path / "killed", recipe, silent=True)
    assert_same_run(whole, killed)
