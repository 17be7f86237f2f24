"""Two processes train on scenes as one process with twice the batches per step does, whatever a batch is made of."""

import pytest
from safetensors.torch import load_file

from crossdim.training.provenance import read_log
from tests.training.scene_toys import RECIPE, make_scenes, mixed
from tests.training.test_distributed import launch
from tests.training.test_scene_resume import SCRIPT

LEARN = (
    *RECIPE, "optimisation.steps=4", "logging.log_every=1", "model.dropout=0.0", "decoder.points_drop_path_rate=0.0",
    "hardware.device=cpu", "health.probe_every=2",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scenes", "mixed"])
def test_two_processes_learn_what_one_learns(name, tmp_path):
    scenes = make_scenes(tmp_path / "all")
    scenes.save(tmp_path / "scenes.jsonl")
    mixed(scenes).save(tmp_path / "mixed.jsonl")
    script, data = tmp_path / "run.py", tmp_path / f"{name}.jsonl"
    script.write_text(SCRIPT)
    alone, together = tmp_path / "alone", tmp_path / "together"
    launch(1, script, data, alone, None, *LEARN, "optimisation.accumulate=2")
    launch(2, script, data, together, None, *LEARN)
    one, other = ([line for line in read_log(out / "log.jsonl") if "loss" in line] for out in (alone, together))
    for left, right in zip(one, other, strict=True):
        assert left["samples_per_second"] > 0
        for key in (key for key in left if key.startswith(("loss", "hidden"))):
            assert left[key] == pytest.approx(right[key], rel=1e-4), key
    weights = [load_file(out / "model.safetensors") for out in (alone, together)]
    for key, value in weights[0].items():
        if "running" not in key and "num_batches" not in key:  # each process has statistics of its own batches
            assert value.allclose(weights[1][key], atol=2e-5), key
