"""Boxes of scenes: from a folder as training leaves it, in the scene's frame, by the protocol of the evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import crossdim
from crossdim.datasets.scenes import find_scenes
from crossdim.errors import ContractError, ReadError
from crossdim.geometry.boxes import as_array, axis_aligned_iou, iou_3d
from crossdim.geometry.tightening import tightened
from crossdim.inference import Detector, load_answerer, load_detector, load_encoder, load_predictor
from crossdim.metrics.detection_protocol import Protocol, points_inside
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.samples import Image, Origin, PointCloud, Scene
from crossdim.training import detect
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.transforms.contract import ImageContract, PointsContract, PreprocessingContract, SceneContract
from tests.training.detect_toys import MODEL, RECIPE, make_blocks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with scenes, their manifest and a detector that has learned a little."""
    root = tmp_path_factory.mktemp("place")
    make_blocks(root / "blocks", 12).save(root / "blocks.jsonl")
    recipe = load_recipe("detect-tiny", DetectRecipe, (*MODEL, *RECIPE, "optimisation.epochs=8"))
    detect.run(root / "blocks.jsonl", root / "run", recipe, silent=True)
    return root


@pytest.fixture(scope="module")
def model(place):
    return crossdim.load(place / "run", device="cpu")


def test_a_run_of_finetune_detect_loads_as_what_finds_boxes(model, place):
    assert isinstance(model, Detector)
    assert isinstance(load_detector(place / "run", device="cpu"), Detector)
    assert model.classes == ("cube", "slab")
    assert not model.model.training


def test_a_scene_comes_back_with_the_boxes_that_were_found_the_most_certain_first(model, place):
    scene = model.detect(f"{place / 'blocks.jsonl'}#s02", threshold=0.0)
    assert scene.points is not None
    assert len(scene.boxes) > 0
    assert scene.boxes.scores.dtype == np.float64
    assert (np.diff(scene.boxes.scores) <= 0).all()
    assert (scene.boxes.sizes_m > 0).all()
    assert set(scene.boxes.labels) <= {"cube", "slab"}


def test_boxes_are_those_that_the_evaluation_counts(model, place):
    def best(box):
        return max(box["probabilities"], key=box["probabilities"].get)

    for line in (place / "run" / "predictions.jsonl").read_text().splitlines():
        counted = json.loads(line)
        found = model.detect(f"{place / 'blocks.jsonl'}#{counted['id']}", threshold=0.0).boxes
        order = np.argsort(found.centers_m[:, 0])
        expected = sorted(counted["boxes"], key=lambda box: box["center_m"][0])
        np.testing.assert_allclose(found.centers_m[order], [box["center_m"] for box in expected], atol=1e-4)
        np.testing.assert_allclose(found.sizes_m[order], [box["size_m"] for box in expected], atol=1e-4)
        np.testing.assert_allclose(found.yaws_rad[order], [box["yaw_rad"] for box in expected], atol=1e-4)
        scores = [box["objectness"] * max(box["probabilities"].values()) for box in expected]
        np.testing.assert_allclose(found.scores[order], scores, atol=1e-4)
        assert [found.labels[place] for place in order] == [best(box) for box in expected]


def test_a_threshold_keeps_the_boxes_with_this_score_at_least(model, place):
    source = f"{place / 'blocks.jsonl'}#s02"
    everything = model.detect(source, threshold=0.0).boxes
    middle = float(everything.scores[len(everything) // 2])
    kept = model.detect(source, threshold=middle).boxes
    assert len(kept) == (everything.scores >= middle).sum()
    assert len(model.detect(source, threshold=1.0).boxes) == 0


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_score_is_refused(model, place, threshold):
    with pytest.raises(ContractError, match=r"is no score.*0 to 1"):
        model.detect(f"{place / 'blocks.jsonl'}#s02", threshold)


def test_boxes_of_one_class_overlap_little_as_the_protocol_or_the_option_measures_overlap(model, place):
    ((_, load),) = find_scenes(f"{place / 'blocks.jsonl'}#s02")
    raw, _ = model.look(load())
    for oriented, overlap in ((False, axis_aligned_iou), (True, iou_3d)):
        boxes = model.boxes(load(), 0.0, oriented=oriented)
        assert len(boxes) < len(raw.boxes)
        same = np.array(boxes.labels)[:, None] == np.array(boxes.labels)
        overlaps = overlap(as_array(boxes), as_array(boxes)) * (same & ~np.eye(len(boxes), dtype=bool))
        assert overlaps.max(initial=0) <= Protocol().overlap
    assert len(model.boxes(load(), 0.0, oriented=True)) >= len(model.boxes(load(), 0.0))


def test_tightened_boxes_end_at_the_points_that_they_hold(model, place):
    ((_, load),) = find_scenes(f"{place / 'blocks.jsonl'}#s02")
    plain, found = model.boxes(load(), 0.0), model.boxes(load(), 0.0, tighten_m=0.05)
    assert found.labels == plain.labels
    assert np.array_equal(found.scores, plain.scores)
    _, points = model.look(load())
    assert np.allclose(as_array(found), tightened(as_array(plain).astype(np.float32), points, 0.05))
    assert not np.allclose(found.sizes_m, plain.sizes_m)
    assert model.detect(f"{place / 'blocks.jsonl'}#s02", 0.0, tighten_m=0.05).boxes.labels == found.labels


def test_every_box_holds_points_of_the_scene(model, place):
    ((_, load),) = find_scenes(f"{place / 'blocks.jsonl'}#s02")
    _, points = model.look(load())
    assert points_inside(as_array(model.boxes(load(), 0.0)), points).min() >= 5


def test_the_same_scene_has_the_same_boxes_whichever_way_it_is_named(model, place):
    first = model.detect(f"{place / 'blocks.jsonl'}#s02", 0.0).boxes
    again = model.detect(str(place / "blocks" / "s02.npy"), 0.0).boxes
    assert np.array_equal(as_array(first), as_array(again))
    assert np.array_equal(first.scores, again.scores)


def test_a_scene_that_is_moved_has_its_boxes_moved(model, place):
    ((_, load),) = find_scenes(f"{place / 'blocks.jsonl'}#s02")
    scene, shift = load(), np.array([3.0, -2.0, 0.5])
    moved = replace(scene.points, points=scene.points.points + shift.astype(np.float32))
    here, there = model.boxes(scene, 0.0), model.boxes(replace(scene, points=moved), 0.0)
    np.testing.assert_allclose(there.centers_m[0] - here.centers_m[0], shift, atol=1e-2)
    np.testing.assert_allclose(there.scores[0], here.scores[0], atol=1e-2)


def test_labelled_boxes_change_nothing_and_nothing_is_written_into_the_scene(model, place):
    ((_, load),) = find_scenes(f"{place / 'blocks.jsonl'}#s02")
    scene = load()
    found = model.boxes(scene, 0.0)
    bare = model.boxes(replace(scene, boxes=None), 0.0)
    assert np.array_equal(as_array(found), as_array(bare))
    assert len(scene.boxes) == 2


def test_a_list_gives_a_scene_for_each_and_says_how_far_it_is(model, place):
    shown = []
    found = model.detect([str(place / "blocks.jsonl")], progress=lambda done, total: shown.append((done, total)))
    assert len(found) == 12
    assert shown[-1] == (12, 12)


def test_boxes_are_found_in_the_region_alone_whatever_lies_around_it(model, place):
    ((_, load),) = find_scenes(f"{place / 'blocks.jsonl'}#s02")
    scene, region = load(), ((-2.0, -2.0, -0.5), (0.0, 2.0, 1.5))
    points = model.contract.scene.points.model_copy(update={"region": region})
    contract = PreprocessingContract(scene=model.contract.scene.model_copy(update={"points": points}), source="a test")
    narrow = Detector(model.model, contract, "toy")
    inside = scene.points.points[(scene.points.points[:, 0] <= 0)]
    found, part = (
        narrow.boxes(scene, 0.0),
        model.boxes(replace(scene, points=replace(scene.points, points=inside)), 0.0),
    )
    assert len(found) > 0
    assert np.array_equal(as_array(found), as_array(part))
    assert points_inside(as_array(found), inside).min() >= 5
    assert len(narrow.detect(f"{place / 'blocks.jsonl'}#s02", 0.0).points.points) == len(scene.points.points)
    with pytest.raises(ContractError, match=r"in the region that the model looks at \(x -2 to 0"):
        narrow.boxes(replace(scene, points=replace(scene.points, points=scene.points.points + np.float32(9))))


def test_several_scenes_where_one_is_meant_are_refused(model, place):
    with pytest.raises(ContractError, match=r"holds 12 scenes.*in a list"):
        model.detect(place / "blocks.jsonl")
    with pytest.raises(ContractError, match=r"is empty.*at least one"):
        model.detect([])


def test_an_image_is_left_out_where_the_detector_uses_none(model, place):
    ((_, load),) = find_scenes(f"{place / 'blocks.jsonl'}#s02")
    image = Image(np.zeros((3, 24, 32), np.uint8), "uint8", Origin("x"))
    found = model.boxes(replace(load(), image=image), 0.0)
    assert np.array_equal(as_array(found), as_array(model.boxes(load(), 0.0)))


def test_what_does_not_fit_is_refused_in_one_line(model):
    origin = Origin("kitchen")
    image = Image(np.zeros((3, 24, 32), np.uint8), "uint8", origin)
    with pytest.raises(ContractError, match=r"kitchen.*has no points"):
        model.boxes(Scene(origin, image=image))
    few = PointCloud(np.zeros((3, 3), np.float32), origin)
    with pytest.raises(ContractError, match=r"has 3 points.*needs 32"):
        model.boxes(Scene(origin, points=few))


def test_a_detector_is_refused_where_another_model_is_meant_and_the_other_way_round(place, tmp_path):
    with pytest.raises(ContractError, match=r"finds boxes in scenes.*crossdim detect"):
        load_predictor(place / "run")
    with pytest.raises(ContractError, match=r"finds boxes in scenes.*crossdim detect"):
        load_encoder(place / "run")
    with pytest.raises(ContractError, match=r"'detr3d', which finds boxes, and does not answer.*crossdim detect"):
        load_answerer(place / "run")
    (tmp_path / "config.json").write_text('{"model_type": "pimae"}')
    with pytest.raises(ContractError, match=r"'pimae', which finds no boxes.*finetune detect"):
        load_detector(tmp_path)
    with pytest.raises(ReadError, match="is not a folder"):
        load_detector(tmp_path / "absent")


def test_preprocessing_that_knows_no_scenes_is_refused(model):
    with pytest.raises(ContractError, match="scenes"):
        Detector(model.model, PreprocessingContract(image=ImageContract(size=(24, 32)), source="a test"), "toy")


def test_the_image_is_looked_at_where_the_detector_uses_it():
    torch.manual_seed(0)
    config = Detr3dConfig(
        hidden_size=32, num_attention_heads=2, tokenizer="groups", num_points=96, num_groups=12, group_size=8,
        num_queries=12, image=True, image_size=(24, 32), patch_size=8, image_num_hidden_layers=1,
        points_num_hidden_layers=1, joint_num_hidden_layers=1, decoder_hidden_size=32, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, id2label={0: "thing"},
    )  # fmt: skip
    part = SceneContract(image=ImageContract(size=(24, 32)), points=PointsContract(drawn=200, kept=96, fewest=12))
    detector = Detector(
        Detr3dForObjectDetection(config).eval(), PreprocessingContract(scene=part, source="a test"), "toy"
    )
    rng, origin = np.random.default_rng(0), Origin("kitchen")
    cloud = PointCloud(rng.uniform(0, 2, (300, 3)).astype(np.float32), origin)
    images = [Image(np.full((3, 24, 32), value, np.uint8), "uint8", origin) for value in (0, 255)]
    seen = [detector.look(Scene(origin, cloud, image))[0].objectness for image in (None, *images)]
    assert not np.allclose(seen[1], seen[2])
    assert not np.allclose(seen[0], seen[1])
