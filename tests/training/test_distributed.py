"""Several processes: torchrun with gloo on one machine."""

import json
import os
import subprocess
import sys
from math import isfinite

import pytest
from safetensors.torch import load_file

from crossdim.training.provenance import read_log
from tests.conftest import ROOT
from tests.training import detect_toys
from tests.training.conftest import CONTRACT, DECODER, MODEL
from tests.training.detect_toys import make_blocks

RECIPE = [
    *MODEL, *CONTRACT, *DECODER, "optimisation.base_learning_rate=0.02", "optimisation.steps=4",
    "logging.log_every=1", "logging.save_every=2", "logging.report_to=none", "health.picture_every=0",
    "health.probe_every=2", "hardware.device=cpu",
]  # fmt: skip

SCRIPT = """
import json, os, sys
from pathlib import Path
from crossdim.training import pretrain, finetune
from crossdim.training.data import RecordDataset
from crossdim.training.recipe import PretrainRecipe, FinetuneRecipe
from crossdim.training.recipe_files import load_recipe

data, out, kind, encoder, *overrides = sys.argv[1:]
seen, sample = [], RecordDataset._sample

def watched(self, draw):
    if self.augmentation is not None:
        seen.append(draw)
    return sample(self, draw)

RecordDataset._sample = watched
if kind == "pretrain":
    pretrain.run(Path(data), Path(out), load_recipe(None, PretrainRecipe, overrides), silent=True)
else:
    finetune.run(Path(data), Path(out), load_recipe(None, FinetuneRecipe, overrides), Path(encoder), silent=True)
Path(f"{out}-rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(seen))
"""

DETECT = """
import json, os, sys
from pathlib import Path
from crossdim.training import detect
from crossdim.training.detection_data import DetectionDataset
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe

data, out, *overrides = sys.argv[1:]
seen, sample = [], DetectionDataset._sample

def watched(self, draw):
    if self.varied is not None:
        seen.append((os.environ["RANK"], draw.cycle, draw.place))
    return sample(self, draw)

DetectionDataset._sample = watched
detect.run(Path(data), Path(out), load_recipe(None, DetectRecipe, overrides), silent=True)
Path(f"{out}-rank{os.environ['RANK']}.json").write_text(json.dumps(seen))
"""


def launch(processes, script, *arguments):
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JAXTYPING_DISABLE": "1"}
    command = [sys.executable, *(torchrun if processes > 1 else []), str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_see_disjoint_samples_and_learn_what_one_learns(toy_folder, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    data = toy_folder / "both.jsonl"
    alone, together = tmp_path / "alone", tmp_path / "together"
    launch(
        1,
        script,
        data,
        alone,
        "pretrain",
        "-",
        *RECIPE,
        "mixing.images=2",
        "mixing.volumes=1",
        "optimisation.accumulate=2",
    )
    launch(2, script, data, together, "pretrain", "-", *RECIPE, "mixing.images=2", "mixing.volumes=1")

    shares = [
        {tuple(draw) for draw in json.loads((tmp_path / f"together-rank{rank}.json").read_text())} for rank in (0, 1)
    ]
    assert not shares[0] & shares[1]
    assert shares[0] | shares[1] >= {tuple(draw) for draw in json.loads((tmp_path / "alone-rank0.json").read_text())}

    one, two = load_file(alone / "model.safetensors"), load_file(together / "model.safetensors")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    losses = [
        [line["loss/volume/gradient"] for line in read_log(run / "log.jsonl") if "loss" in line]
        for run in (alone, together)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert json.loads((together / "run.json").read_text())["facts"]["processes"] == 2

    tune = ["task=sign", "batch.images=2", "optimisation.epochs=2", "selection.metric=loss", "logging.report_to=none",
            "bootstrap=100", "hardware.device=cpu"]  # fmt: skip
    launch(2, script, data, tmp_path / "tuned", "finetune", alone, *tune)
    assert json.loads((tmp_path / "tuned" / "metrics.json").read_text())["val"]["cases"] > 0


@pytest.mark.slow
def test_two_processes_train_one_detector_and_predict_every_scene_once(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(DETECT)
    make_blocks(tmp_path / "blocks", 18).save(tmp_path / "blocks.jsonl")
    options = [*detect_toys.MODEL, *detect_toys.RECIPE, "optimisation.average=0.8", "hardware.device=cpu"]
    launch(2, script, tmp_path / "blocks.jsonl", tmp_path / "out", *options)
    shares = [json.loads((tmp_path / f"out-rank{rank}.json").read_text()) for rank in (0, 1)]
    seen = [{(cycle, place) for _, cycle, place in share} for share in shares]
    assert seen[0]
    assert seen[1]
    assert not seen[0] & seen[1]
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["facts"]["processes"] == 2
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    test = [row["id"] for row in map(json.loads, lines) if row["split"] == "test"]
    assert sorted(test) == ["s02", "s08", "s14"]
    assert all(isfinite(line["loss"]) for line in read_log(tmp_path / "out" / "log.jsonl") if "loss" in line)
