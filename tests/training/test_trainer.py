import json
from importlib.util import find_spec

import pytest
import torch

from crossdim.errors import RecipeError
from crossdim.training import pretrain
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe import PretrainRecipe
from crossdim.training.schedule import MixedSchedule, Stream
from crossdim.training.sections import HardwareSection, OptimisationSection
from crossdim.training.trainer import trackers, training_arguments


def arguments(tmp_path, optimisation, hardware=HardwareSection()):  # noqa: B008 (frozen)
    schedule = MixedSchedule({"image": Stream(range(8), 0, "image")}, {"image": 4, "volume": 0})
    schedule.set_length(None, 100)
    folder = RunFolder(tmp_path, PretrainRecipe())
    return training_arguments(folder, optimisation, hardware, schedule, seed=3, report_to=[])


def test_the_recipe_s_schedule_becomes_the_trainer_s(tmp_path):
    found = arguments(tmp_path, OptimisationSection(warmup=0.2, betas=(0.8, 0.9), max_grad_norm=2.0, accumulate=3))
    assert (found.max_steps, found.warmup_steps, found.seed) == (100, 20, 3)
    assert (found.adam_beta1, found.adam_beta2, found.max_grad_norm) == (0.8, 0.9, 2.0)
    assert found.gradient_accumulation_steps == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, auto is bf16")
def test_without_a_gpu_auto_precision_is_fp32_and_bf16_must_be_asked_for(tmp_path):
    assert not arguments(tmp_path, OptimisationSection()).bf16
    assert arguments(tmp_path, OptimisationSection(), HardwareSection(precision="bf16")).bf16


def test_bf16_on_a_gpu_that_lacks_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(RecipeError, match=r"'hardware.precision': is bf16, which this GPU does not have"):
        arguments(tmp_path, OptimisationSection(), HardwareSection(precision="bf16"))


def test_trackers_are_the_trainer_s_own():
    assert trackers("none") == []
    assert trackers("auto") == (["tensorboard"] if find_spec("tensorboard") else [])
    with pytest.raises(RecipeError, match=r"wanb: is no tracker of the Trainer. Did you mean 'wandb'"):
        trackers(("wanb",))
    if not find_spec("clearml"):
        with pytest.raises(RecipeError, match=r"clearml: is not installed. Install it"):
            trackers(("clearml",))


@pytest.mark.skipif(not find_spec("tensorboard"), reason="tensorboard is not installed")
def test_tensorboard_is_written_when_it_is_asked_for(toy_folder, tmp_path, pretrain_recipe):
    recipe = pretrain_recipe("logging.report_to=[tensorboard]", "optimisation.steps=2")
    run = pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", recipe, silent=True)
    assert list((run / "checkpoints" / "runs").rglob("events.out.tfevents.*"))


def test_the_learning_rate_rises_then_falls_to_zero_and_groups_keep_their_proportions(
    toy_folder, tmp_path, pretrain_recipe
):
    recipe = pretrain_recipe("optimisation.steps=10", "optimisation.warmup=0.4", "logging.log_every=1")
    run = pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", recipe, silent=True)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    peak = 0.02 * 6 / 256
    assert rates[:5] == pytest.approx([peak * share for share in (0, 0.25, 0.5, 0.75, 1)], rel=1e-6)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.1 * peak
