"""A detector measured by a command: the numbers of its training, scenes it never saw, boxes it cannot know."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from crossdim.convert.detr3d_file import convert_3detr
from crossdim.datasets.manifest import Manifest
from crossdim.metrics.detection_protocol import Protocol
from crossdim.training import detect
from crossdim.training.detection_evaluation import read_predictions
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe
from tests.convert.test_detr3d import SMALL, save, weights_of
from tests.training.detect_toys import MODEL, RECIPE, make_blocks, with_boxes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with scenes, their manifest, a detector, and scenes of another place."""
    root = tmp_path_factory.mktemp("place")
    make_blocks(root / "blocks", 12).save(root / "blocks.jsonl")
    recipe = load_recipe("detect-tiny", DetectRecipe, (*MODEL, *RECIPE))
    detect.run(root / "blocks.jsonl", root / "run", recipe, silent=True)
    make_blocks(root / "others", 6, seed=1).save(root / "others.jsonl")
    return root


def renamed(manifest, names):
    """Return the manifest with other names of classes."""
    for place, record in enumerate(manifest.records):
        boxes = tuple(box.model_copy(update={"label": names[box.label]}) for box in record.scene.boxes)
        manifest = with_boxes(manifest, place, boxes)
    return manifest


def moved(manifest, place, shift):
    """Return the manifest with the boxes of one scene elsewhere."""
    boxes = manifest.records[place].scene.boxes
    away = tuple(box.model_copy(update={"center_m": tuple(value + shift for value in box.center_m)}) for box in boxes)
    return with_boxes(manifest, place, away)


def test_the_test_part_gives_the_numbers_and_the_boxes_that_the_training_gave(crossdim, place):
    result = crossdim(
        "evaluate", place / "run", place / "blocks.jsonl", "--bootstrap", 100, "--json", "--device", "cpu"
    )
    assert result.exit_code == 0, result.stderr
    out = place / "run" / "evaluations" / "blocks-test"
    expected = json.loads((place / "run" / "metrics.json").read_text())["test"]
    told = json.loads((out / "metrics.json").read_text())
    assert set(json.loads(result.stdout)) == set(told)
    assert told.pop("protocol") == json.loads(json.dumps(asdict(Protocol())))
    assert told == expected
    lines = (place / "run" / "predictions.jsonl").read_text().splitlines()
    assert (out / "predictions.jsonl").read_text().splitlines() == [
        line for line in lines if json.loads(line)["split"] == "test"
    ]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Boxes found in" in page
    assert "average precision" in page
    assert "manifest SHA-256" in page


def test_scenes_that_a_detector_never_saw_are_measured_as_a_whole(crossdim, place, tmp_path):
    out = tmp_path / "external"
    result = crossdim(
        "evaluate", place / "run", place / "others.jsonl", "--split", "all", "--bootstrap", 100, "--out", out
    )
    assert result.exit_code == 0, result.stderr
    assert "8 boxes in 6 scenes (1 of them empty)" in " ".join(result.stdout.split())
    classes, found = read_predictions(out / "predictions.jsonl", "all")
    assert classes == ("cube", "slab")
    assert len(found) == 6
    thresholds = json.loads((out / "metrics.json").read_text())["thresholds"]
    assert [each["iou"] for each in thresholds] == [0.25, 0.5]
    assert [each["name"] for each in thresholds[0]["classes"]] == ["cube", "slab"]


def measuring(place, folder):
    """Return the command that measures the run on all of a folder's ``m.jsonl``."""
    common = ("--split", "all", "--bootstrap", 100, "--out", folder / "out")
    return ("evaluate", place / "run", folder / "m.jsonl", *common)


def test_a_class_that_a_detector_does_not_know_is_refused_by_name_or_left_out_and_counted(crossdim, place, tmp_path):
    renamed(Manifest.load(place / "others.jsonl"), {"cube": "cube", "slab": "board"}).save(tmp_path / "m.jsonl")
    command = measuring(place, tmp_path)
    refused = crossdim(*command)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "record 's01': has a box of class 'board', which the detector does not know (it knows cube" in refused.stderr
    assert "--other-classes leave_out" in refused.stderr
    assert not (tmp_path / "out").exists()
    result = crossdim(*command, "--other-classes", "leave_out")
    assert result.exit_code == 0, result.stderr
    assert "4 boxes of class 'board'" in result.stdout
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["boxes"] == 4


def test_a_box_outside_of_its_points_is_refused_or_kept_as_one_that_cannot_be_found(crossdim, place, tmp_path):
    moved(Manifest.load(place / "others.jsonl"), 0, 30.0).save(tmp_path / "m.jsonl")
    command = measuring(place, tmp_path)
    refused = crossdim(*command)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "outside of its points" in refused.stderr
    assert "--outside keep" in refused.stderr
    assert crossdim(*command, "--outside", "keep").exit_code == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["boxes"] == 8


def test_a_part_without_a_labelled_scene_is_refused(crossdim, place, tmp_path):
    manifest = Manifest.load(place / "others.jsonl")
    for number in range(len(manifest)):
        manifest = with_boxes(manifest, number, None if number else ())
    manifest.save(tmp_path / "m.jsonl")
    refused = crossdim("evaluate", place / "run", tmp_path / "m.jsonl", "--out", tmp_path / "out")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "has no scene whose boxes are known in this part. Choose another part with --split" in refused.stderr
    result = crossdim(
        "evaluate", place / "run", tmp_path / "m.jsonl", "--split", "all", "--bootstrap", 100, "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.stderr
    assert "5 scenes without known boxes" in result.stdout


def test_boxes_may_suppress_one_another_as_they_are_turned(crossdim, place, tmp_path):
    def kept(*options):
        command = (
            "evaluate",
            place / "run",
            place / "others.jsonl",
            "--split",
            "all",
            "--bootstrap",
            100,
            "--out",
            tmp_path / "out",
        )
        assert crossdim(*command, *options).exit_code == 0
        return sum(len(each.raw.boxes) for each in read_predictions(tmp_path / "out" / "predictions.jsonl", "all")[1])

    assert kept("--oriented") > kept()


def test_boxes_are_measured_tightened_if_that_is_asked_for(crossdim, place, tmp_path):
    command = ("evaluate", place / "run", place / "others.jsonl", "--split", "all", "--bootstrap", 100)
    found = []
    for name, options in (("plain", ()), ("tight", ("--tighten", 0.05))):
        assert crossdim(*command, "--out", tmp_path / name, *options).exit_code == 0
        found.append(read_predictions(tmp_path / name / "predictions.jsonl", "all")[1])
    told = [json.loads((tmp_path / name / "metrics.json").read_text())["protocol"] for name in ("plain", "tight")]
    assert [protocol.pop("tighten_m") for protocol in told] == [None, 0.05]
    assert told[0] == told[1]
    for plain, tight in zip(*found, strict=True):
        assert np.array_equal(plain.raw.objectness, tight.raw.objectness)
    assert any(not np.allclose(plain.raw.boxes, tight.raw.boxes) for plain, tight in zip(*found, strict=True))


def test_a_converted_3detr_is_measured_like_a_run(crossdim, place, tmp_path):
    convert_3detr(save(tmp_path, weights_of(SMALL), SMALL), tmp_path / "converted")
    renamed(Manifest.load(place / "others.jsonl"), {"cube": "table", "slab": "bed"}).save(tmp_path / "m.jsonl")
    result = crossdim(
        "evaluate", tmp_path / "converted", tmp_path / "m.jsonl", "--split", "all", "--bootstrap", 100, "--json"
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert {each["name"]: each["boxes"] for each in report["thresholds"][0]["classes"] if each["boxes"]} == {
        "bed": 4,
        "table": 4,
    }
