"""`crossdim detect`: from a run and scenes to tables, JSON, pictures, points in colours and a page."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from crossdim import readers
from crossdim.cli.detection import folders_of
from crossdim.convert.detr3d_file import convert_3detr
from crossdim.datasets.scene_folder import from_scene_folder
from crossdim.inference import load_detector
from crossdim.models.detr3d_config import SUNRGBD
from crossdim.training import detect
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe
from tests.convert.test_detr3d import SMALL, save, weights_of
from tests.training.detect_toys import MODEL, RECIPE, make_blocks
from tests.training.scene_toys import INTRINSICS, SIZE


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with points, a manifest of them with boxes, and a detector that has learned a little."""
    root = tmp_path_factory.mktemp("place")
    make_blocks(root / "blocks", 6).save(root / "blocks.jsonl")
    recipe = load_recipe("detect-tiny", DetectRecipe, (*MODEL, *RECIPE))
    detect.run(root / "blocks.jsonl", root / "run", recipe, silent=True)
    return root


def test_a_table_says_class_score_place_size_and_yaw(crossdim, place):
    result = crossdim("detect", place / "run", place / "blocks" / "s02.npy", "--threshold", 0)
    assert result.exit_code == 0, result.stderr
    first, heading, row = result.stdout.splitlines()[:3]
    assert "s02.npy" in first
    assert "with a score of 0 at least" in first
    assert heading.split() == ["class", "score", "centre", "(m)", "size", "(m)", "yaw", "(°)"]
    assert row.split()[0] in {"cube", "slab"}


def test_a_converted_3detr_finds_boxes_of_its_classes(crossdim, place, tmp_path):
    convert_3detr(save(tmp_path, weights_of(SMALL), SMALL), tmp_path / "out")
    result = crossdim("detect", tmp_path / "out", place / "blocks" / "s02.npy", "--threshold", 0, "--json")
    assert result.exit_code == 0, result.stderr
    boxes = json.loads(result.stdout)["boxes"]
    assert boxes
    assert {box["label"] for box in boxes} <= set(SUNRGBD)
    assert all(min(box["size_m"]) > 0 for box in boxes)


def test_labels_in_a_manifest_are_compared_with_what_is_found(crossdim, place):
    result = crossdim("detect", place / "run", f"{place / 'blocks.jsonl'}#s02", "--threshold", 0)
    assert result.stdout.splitlines()[1].split()[-1] == "IoU"


def test_json_is_one_object_for_each_scene_with_the_boxes_that_python_gives(crossdim, place):
    result = crossdim("detect", place / "run", place / "blocks.jsonl", "--threshold", 0, "--json")
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["path"] for line in lines] == [f"{place / 'blocks.jsonl'}#s{number:02d}" for number in range(6)]
    boxes = load_detector(place / "run", device="cpu").detect(lines[2]["path"], 0.0).boxes
    np.testing.assert_allclose([box["center_m"] for box in lines[2]["boxes"]], boxes.centers_m, atol=1e-5)
    np.testing.assert_allclose([box["score"] for box in lines[2]["boxes"]], boxes.scores, atol=1e-5)


def test_a_scene_without_boxes_says_how_near_it_comes(crossdim, place):
    result = crossdim("detect", place / "run", place / "blocks" / "s02.npy", "--threshold", 1)
    assert result.exit_code == 0
    assert "no box with a score of 1 at least" in result.stdout
    (line,) = result.stderr.splitlines()
    assert "the best one, " in line
    assert "--threshold asks for less" in line


def test_oriented_suppression_keeps_boxes_that_the_protocol_drops(crossdim, place):
    common = ("detect", place / "run", place / "blocks" / "s02.npy", "--threshold", 0, "--json")
    plain, oriented = (len(json.loads(crossdim(*common, *option).stdout)["boxes"]) for option in ((), ("--oriented",)))
    assert oriented >= plain


def test_boxes_can_be_tightened(crossdim, place):
    common = ("detect", place / "run", place / "blocks" / "s02.npy", "--threshold", 0, "--json")
    boxes = json.loads(crossdim(*common, "--tighten", 0.05).stdout)["boxes"]
    found = load_detector(place / "run", device="cpu").detect(place / "blocks" / "s02.npy", 0.0, tighten_m=0.05).boxes
    np.testing.assert_allclose([box["size_m"] for box in boxes], found.sizes_m, atol=1e-5)
    assert [box["size_m"] for box in boxes] != [box["size_m"] for box in json.loads(crossdim(*common).stdout)["boxes"]]
    refused = crossdim(*common, "--tighten", -1)
    assert refused.exit_code == 2
    assert "--tighten" in refused.stderr


def test_a_single_scene_is_saved_with_its_page(crossdim, place, tmp_path):
    out = tmp_path / "out"
    result = crossdim("detect", place / "run", place / "blocks" / "s02.npy", "--threshold", 0, "--save", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"written: {out / 'report.html'}"
    names = sorted(path.name for path in out.iterdir())
    assert names == ["boxes.json", "boxes.ply", "detections.json", "points.ply", "report.html", "scene.png"]
    cloud = readers.read(out / "points.ply")
    assert cloud.attributes["box"].max() >= 0
    page = (out / "report.html").read_text()
    assert "<img" in page
    assert str(place / "run") in page


def test_several_scenes_are_saved_in_folders_of_their_own(crossdim, place, tmp_path):
    out = tmp_path / "out"
    scenes = (place / "blocks" / "s01.npy", f"{place / 'blocks.jsonl'}#s01", place / "blocks" / "s02.npy")
    result = crossdim("detect", place / "run", *scenes, "--save", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 3
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "s01", "s01-2", "s02"]
    assert (out / "report.html").read_text().count("<img") == 3


def test_found_boxes_can_be_taken_as_labels(crossdim, place, tmp_path):
    out, folder = tmp_path / "out", tmp_path / "scenes" / "kitchen"
    crossdim("detect", place / "run", place / "blocks" / "s02.npy", "--threshold", 0, "--save", out)
    folder.mkdir(parents=True)
    shutil.copy(out / "points.ply", folder)
    shutil.copy(out / "boxes.json", folder)
    (folder / "camera.json").write_text(json.dumps({"intrinsics": INTRINSICS, "size": list(SIZE)}))
    (record,) = from_scene_folder(tmp_path / "scenes").records
    assert len(record.scene.boxes) == len(json.loads((out / "detections.json").read_text())["boxes"])


def test_what_cannot_be_used_is_named_and_the_others_go_on(crossdim, place, tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 24)).save(picture)
    result = crossdim(
        "detect", place / "run", tmp_path / "absent", picture, place / "blocks" / "s02.npy", "--threshold", 0, "--json"
    )
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 1
    absent, without = result.stderr.splitlines()
    assert "absent" in absent
    assert "has no points, and boxes are found in points" in without


def test_nothing_is_written_where_no_scene_can_be_used(crossdim, place, tmp_path):
    result = crossdim("detect", place / "run", tmp_path / "absent", "--save", tmp_path / "out")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_model_that_finds_no_boxes_is_refused_in_one_line(crossdim, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "uni4eye"}')
    result = crossdim("detect", tmp_path, tmp_path)
    assert result.exit_code == 2
    assert "finds no boxes" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_detector_cannot_be_used_as_a_classifier(crossdim, place):
    for command in (("predict", place / "run", place), ("embed", place / "run", place, "--out", place / "f.npz")):
        result = crossdim(*command)
        assert result.exit_code == 2
        assert "Use it with crossdim detect" in result.stderr


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["a/kitchen"], [""]),
        (["a/kitchen", "b/kitchen/", "b/office/points.ply"], ["kitchen", "kitchen-2", "points"]),
        (["rooms.jsonl#r1", "rooms.jsonl#R1", ".."], ["r1", "R1-2", "scene"]),
        (["x#a/b c", "x#../.."], ["b-c", "scene"]),
    ],
)
def test_each_scene_has_a_folder_of_its_own(names, folders):
    assert folders_of(names) == folders
