"""The demo, as a user runs it."""

import json
import re
import subprocess
import sys

import pytest
import torch

from crossdim import demo
from crossdim.demo import scenes
from crossdim.errors import ReadError
from crossdim.heads.point_reconstruction import chamfer_distance
from crossdim.outputs.blocks import Picture, Table


def test_the_real_files_lie_inside_installed_packages():
    files = demo.real_files()
    assert {"retina.jpg", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"} <= set(files)
    assert all(path.is_file() for path in files.values())


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(ReadError, match=r"'skimage'.*is not installed.*pip install 'crossdim\[demo\]'"):
        demo.real_files()


def test_the_typical_group_is_the_one_that_the_others_resemble_most():
    near = torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    groups = torch.cat([near[:1] + 4, near])
    typical = scenes.typical_group(groups)
    distances = [float(chamfer_distance(group.expand_as(groups), groups)) for group in groups]
    assert distances[0] == max(distances)
    torch.testing.assert_close(typical, groups[distances.index(min(distances))])


def test_the_part_about_rooms_measures_beside_what_needs_no_learning(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "ROOMS", 15)
    monkeypatch.setattr(scenes, "TYPICAL_OF", 2)
    monkeypatch.setattr(scenes, "RECIPE", (*scenes.RECIPE, "optimisation.steps=2", "logging.save_every=2"))
    told = []
    section = scenes.tell(tmp_path, told.append, silent=True)
    assert told[0].startswith("8. Pictures and points of 15 furnished rooms")
    text = "\n".join(told)
    for who in ("model", "untrained model", "mean colour", "nearest colour", "typical group", "nearest group", "zeros"):
        assert re.search(rf"[:,e] {who} \d", text)
    assert text.count("minus the best of these") == 3
    assert [type(block) for block in section.blocks].count(Picture) == 2
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert len(table.rows) == 10
    assert (tmp_path / scenes.FOLDER / "model.safetensors").is_file()


def test_what_is_had_without_learning_is_measured_where_something_is_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "ROOMS", 15)
    monkeypatch.setattr(scenes, "RECIPE", (*scenes.RECIPE, "optimisation.steps=1", "logging.save_every=1"))
    manifest = scenes.rooms(tmp_path / "rooms")
    run = scenes.learn(tmp_path, silent=True)
    (sample, *_), model = scenes.samples(run, manifest, "test").manifest.records, scenes.load_model(run)
    output = scenes.look(model, scenes.samples(run, manifest, "test"), 0)
    found = scenes.without_learning(output, model.config, output.points_target[0, 0])
    hidden = output.encoded.image_mask.mask[0] > 0
    seen = output.image_target[0, ~hidden].reshape(-1, 3).mean(dim=0)
    error = (output.image_target[0, hidden].reshape(-1, 3) - seen).square().mean()
    assert sample.split == "test"
    assert found["image"]["mean colour"] == pytest.approx(float(error), rel=1e-4)
    assert found["image"]["nearest colour"] > 0
    target, only = output.points_target[0], output.points_target[0, :1]
    assert found["points"]["typical group"] == pytest.approx(float(chamfer_distance(only.expand_as(target), target)))
    counts = output.cross_modal_counts[0] > 0
    expected = output.cross_modal_target[0, counts].square().mean()
    assert found["cross_modal"]["zeros"] == pytest.approx(float(expected))


@pytest.mark.slow
def test_the_demo_tells_its_story_and_leaves_a_report(tmp_path):
    command = [sys.executable, "-m", "crossdim", "demo", "--out", str(tmp_path / "demo")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line[0] for line in told.splitlines() if line[:1].isdigit()] == list("12345678")
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") >= 5
    assert "http-equiv" in page
    metrics = json.loads((tmp_path / "demo" / "pretrained" / "metrics.json").read_text(encoding="utf-8"))
    chance = 0.5
    assert metrics["test"]["metrics"]["auc"]["value"] > chance + 0.1
    answers = json.loads((tmp_path / "demo" / "answers" / "metrics.json").read_text(encoding="utf-8"))["test"]
    right = answers["answers"]["forms"]["closed"]["predictors"]
    assert right["model"]["micro"]["accuracy"]["low"] > right["blind"]["micro"]["accuracy"]["high"]
    assert answers["slices"]["scorers"]["model"]["micro"]["auroc"]["value"] > 0.9
    assert "A body that no run has seen" in told
    assert told.count(": better") >= 2, "what is hidden of points and of features"
    embed = [sys.executable, "-m", "crossdim", "embed", str(tmp_path / "demo" / "spaces")]
    made = tmp_path / "features.npz"
    room = tmp_path / "demo" / "rooms" / "rooms" / "r0000"
    subprocess.run([*embed, str(room), "--out", str(made)], capture_output=True, check=True)
    assert made.is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "5." in again
