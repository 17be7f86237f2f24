"""The demo, as a user runs it."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from crossdim import demo
from crossdim.cli import app
from crossdim.demo import boxes, scenes
from crossdim.errors import ReadError
from crossdim.heads.point_reconstruction import chamfer_distance
from crossdim.metrics.detection3d import TrueBoxes
from crossdim.metrics.detection_protocol import RawBoxes
from crossdim.outputs.blocks import Picture, Table
from crossdim.training.detection_evaluation import ScenePrediction


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


@pytest.fixture(scope="module")
def part_about_boxes(tmp_path_factory):
    """A demo with the parts about rooms and boxes only, after hardly any steps: its folder, the story, the section."""
    folder, told = tmp_path_factory.mktemp("demo"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "ROOMS", 15)
        patch.setattr(scenes, "RECIPE", (*scenes.RECIPE, "optimisation.steps=1", "logging.save_every=1"))
        patch.setattr(boxes, "STEPS", 2)
        few = ("evaluation.bootstrap=100", "labels.other_classes=leave_out")  # so few rooms miss some classes
        patch.setattr(boxes, "RECIPE", (*boxes.RECIPE, *few))
        patch.setattr(boxes, "THRESHOLD", 0.0)
        scenes.rooms(folder / "rooms")
        scenes.learn(folder, silent=True)
        section = boxes.tell(folder, told.append, silent=True)
    return folder, told, section


def test_the_part_about_boxes_tells_precision_beside_boxes_of_other_rooms_and_what_is_in_an_unseen_one(
    part_about_boxes,
):
    folder, told, section = part_about_boxes
    assert re.match(r"9\. \d+ labelled boxes in the 11 rooms\.", told[0])
    assert told[1].strip().startswith("In the other 4 rooms")
    for line, name in zip(told[2:4], ("AP25", "AP50"), strict=True):
        assert re.search(
            rf"{name} \S+ \(.* to .*\) beside shuffled \S+; more by .*: (better|worse|within noise)$", line
        )
    assert f"({folder / 'rooms' / 'rooms'}" in told[4]
    assert told[5].split()[:2] == ["class", "score"]
    assert len(told) > 6, "boxes"
    assert [type(block) for block in section.blocks].count(Picture) == 1
    titles = [block.caption for block in section.blocks if isinstance(block, Table)]
    assert titles[0] == "Boxes found in it, the most certain first"
    assert any("shuffled" in block.columns for block in section.blocks if isinstance(block, Table))


def test_the_unseen_room_is_one_that_neither_step_has_learned_from(part_about_boxes):
    folder, _, _ = part_about_boxes
    manifest = scenes.rooms(folder / "rooms")
    room = boxes.unseen(folder, manifest).name
    assert room in {record.id for record in manifest.split("test").records}
    assert room not in {record.id for record in manifest.split("train").records}


def test_the_command_that_the_demo_names_finds_the_same_boxes_and_writes_them(part_about_boxes, tmp_path, monkeypatch):
    folder, told, _ = part_about_boxes
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(boxes.command(folder))
    assert name == "crossdim"
    done = CliRunner().invoke(app, [*words, "--threshold", "0"])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found" / "detections.json").read_text(encoding="utf-8"))["boxes"]
    assert [box["label"] for box in found] == [line.split("  ")[1].strip() for line in told[6:]]
    assert (tmp_path / "found" / "report.html").is_file()


def test_shuffled_measures_what_was_found_in_another_room_against_the_boxes_of_this_one():
    def room(x):
        box = np.array([[x, 0, 0, 1, 1, 1, 0.0]])
        raw = RawBoxes(box, np.ones((1, 1)), np.ones(1))
        return ScenePrediction(f"r{x}", f"r{x}", raw, TrueBoxes(box, np.zeros(1, dtype=np.int64)))

    rooms = [room(x) for x in (0, 10, 20)]
    others = boxes.shuffled(rooms)
    assert [each.raw.boxes[0, 0] for each in others] == [20, 0, 10]
    assert [each.truth.boxes[0, 0] for each in others] == [0, 10, 20]
    assert [each.id for each in others] == ["r0", "r10", "r20"]


def test_a_table_of_the_story_has_its_numbers_below_one_another():
    lines = boxes.table_lines(("class", "score"), [("bed", "0.90"), ("nightstand", "0.5")])
    assert lines == ["class       score", "bed          0.90", "nightstand    0.5"]
    assert boxes.table_lines(("class", "score"), []) == []


@pytest.mark.slow
def test_the_demo_tells_its_story_and_leaves_a_report(tmp_path):
    command = [sys.executable, "-m", "crossdim", "demo", "--out", str(tmp_path / "demo")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line[0] for line in told.splitlines() if line[:1].isdigit()] == list("123456789")
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
    for what in ("points, Chamfer", "picture's features", "AP25"):
        assert next(line for line in told.splitlines() if line.strip().startswith(what)).endswith(": better")
    embed = [sys.executable, "-m", "crossdim", "embed", str(tmp_path / "demo" / "spaces")]
    made = tmp_path / "features.npz"
    room = tmp_path / "demo" / "rooms" / "rooms" / "r0000"
    subprocess.run([*embed, str(room), "--out", str(made)], capture_output=True, check=True)
    assert made.is_file()
    detect = next(line for line in told.splitlines() if "crossdim detect" in line).split(": ", 1)[1]
    subprocess.run([sys.executable, "-m", *shlex.split(detect)], capture_output=True, check=True, cwd=tmp_path)
    assert (tmp_path / "found" / "scene.png").is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "5." in again
