"""Which scenes and boxes a detector learns from, and what of them is refused by name."""

from dataclasses import replace

import pytest
import torch

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scene_record import SceneBox
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.geometry.boxes import canonical_yaws
from crossdim.samples import Origin, Scene
from crossdim.training.data import Failure, check_records
from crossdim.training.detection_data import (
    DetectionDataset,
    Labelling,
    collate_detection,
    few_scenes,
    prepare_for_detection,
    split_scenes,
)
from crossdim.training.recipe_detect import LabelsSection
from crossdim.training.schedule import Draw
from crossdim.transforms.contract import PointsContract, PreprocessingContract, SceneContract
from crossdim.transforms.scene_augment import SceneAugmentation, SceneCrop
from tests.training.detect_toys import SIZES, make_blocks, with_boxes

CONTRACT = PreprocessingContract(
    scene=SceneContract(points=PointsContract(drawn=300, kept=64, fewest=16)), source="test"
)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    return make_blocks(tmp_path_factory.mktemp("blocks"), 18)


def box(label="cube", center=(0.0, 0.0, 0.3), size=SIZES["cube"]) -> SceneBox:
    return SceneBox(label=label, center_m=center, size_m=size)


def dataset(manifest, varied=None, outside="refuse", symmetry="none", contract=CONTRACT, **options) -> DetectionDataset:
    return DetectionDataset(
        manifest, contract, Labelling(("cube", "slab"), outside, symmetry), varied=varied, **options
    )


def test_classes_are_the_sorted_labels_of_the_training_boxes(blocks):
    parts = split_scenes(blocks, LabelsSection(), image=False)
    assert parts.classes == ("cube", "slab")
    assert [(name, len(part)) for name, part in parts] == [("train", 12), ("val", 3), ("test", 3)]
    assert parts.left_out == {}


def test_stated_classes_keep_their_order_and_others_are_refused_or_left_out(blocks):
    assert split_scenes(blocks, LabelsSection(classes=("slab", "cube")), image=False).classes == ("slab", "cube")
    with pytest.raises(RecipeError, match="record 's00': has a box of class 'cube', which the detector does not know"):
        split_scenes(blocks, LabelsSection(classes=("slab",)), image=False)
    parts = split_scenes(blocks, LabelsSection(classes=("slab",), other_classes="leave_out"), image=False)
    assert {each.label for record in parts.labelled.records for each in record.scene.boxes} == {"slab"}
    assert parts.left_out == {"boxes of class 'cube'": 12}
    assert len(parts.train) == 12


def test_a_class_that_only_evaluation_has_is_refused_by_name(blocks):
    strange = with_boxes(blocks, 4, (box("lamp"),))
    with pytest.raises(RecipeError, match=r"record 's04': has a box of class 'lamp'.*labels\.other_classes=leave_out"):
        split_scenes(strange, LabelsSection(), image=False)


def test_classes_that_no_training_box_has_are_refused(blocks):
    labels = LabelsSection(classes=("cubes",), other_classes="leave_out")
    with pytest.raises(RecipeError, match=r"names no class of a training box\. Did you mean 'cube'"):
        split_scenes(blocks, labels, image=False)


def test_without_a_single_training_box_nothing_is_learned(blocks):
    records = tuple(record for record in blocks.records if record.split != "train" or not record.scene.boxes)
    with pytest.raises(RecipeError, match="has no training scene with a labelled box"):
        split_scenes(Manifest(blocks.header, records), LabelsSection(), image=False)


def test_empty_scenes_stay_and_scenes_that_nobody_labelled_do_not(blocks):
    parts = split_scenes(with_boxes(blocks, 0, None), LabelsSection(), image=False)
    assert parts.left_out == {"scenes without known boxes": 1}
    assert [record.id for record in parts.train.records][:3] == ["s01", "s03", "s05"]
    assert parts.train.records[2].scene.boxes == ()


def test_a_scene_without_points_is_refused(blocks):
    record = blocks.records[0]
    scene = record.scene.model_copy(update={"points": None, "image": "photo.png"})
    records = (record.model_copy(update={"scene": scene}), *blocks.records[1:])
    with pytest.raises(RecipeError, match="record 's00': has no points, and boxes are found in points"):
        split_scenes(Manifest(blocks.header, records), LabelsSection(), image=False)


def test_images_are_left_out_unless_they_are_used(blocks):
    record = blocks.records[0]
    scene = record.scene.model_copy(update={"image": "photo.png"})
    pictured = Manifest(blocks.header, (record.model_copy(update={"scene": scene}), *blocks.records[1:]))
    assert split_scenes(pictured, LabelsSection(), image=False).train.records[0].scene.image is None
    assert split_scenes(pictured, LabelsSection(), image=True).train.records[0].scene.image == "photo.png"


def test_fewer_labelled_scenes_are_among_more_of_them(blocks):
    chosen = {}
    for fraction in (0.25, 0.5, 1.0):
        parts = split_scenes(blocks, LabelsSection(fraction=fraction), image=False, seed=3)
        chosen[fraction] = [record.id for record in parts.train.records]
        assert chosen[fraction] == sorted(chosen[fraction])
        assert (len(parts.val), len(parts.test), parts.classes) == (3, 3, ("cube", "slab"))
    assert [len(names) for names in chosen.values()] == [3, 6, 12]
    assert set(chosen[0.25]) < set(chosen[0.5]) < set(chosen[1.0])
    by_number = split_scenes(blocks, LabelsSection(scenes=6), image=False, seed=3)
    assert [record.id for record in by_number.train.records] == chosen[0.5]
    other = split_scenes(blocks, LabelsSection(scenes=6), image=False, seed=4)
    assert [record.id for record in other.train.records] != chosen[0.5]


def test_more_labelled_scenes_than_there_are_and_only_empty_ones_are_refused(blocks):
    with pytest.raises(RecipeError, match=r"'labels\.scenes': is 13, and there are 12 labelled training scenes"):
        split_scenes(blocks, LabelsSection(scenes=13), image=False)
    empty = Manifest(blocks.header, tuple(record for record in blocks.records if not record.scene.boxes))
    for labels, key in ((LabelsSection(scenes=1), "scenes"), (LabelsSection(fraction=0.5), "fraction")):
        with pytest.raises(RecipeError, match=f"'labels.{key}': leaves no training scene that has a box"):
            few_scenes(empty, labels, seed=0)


def test_a_sample_depends_on_seed_cycle_and_place_only(blocks):
    varied = (SceneCrop(size=(0.7, 1.0)), SceneAugmentation(flip_x=0.5, rotation_deg=30, scale=(0.8, 1.2)))
    first, again = (dataset(blocks, varied, seed=2) for _ in range(2))
    one, other, later = first[Draw(1, 3)].scene, again[Draw(1, 3)].scene, first[Draw(2, 3)].scene
    assert torch.equal(one.points, other.points)
    assert torch.equal(one.boxes, other.boxes)
    assert not torch.equal(one.points, later.points)
    assert not torch.equal(one.boxes, later.boxes)


def test_evaluated_scenes_are_drawn_the_same_way_whatever_the_seed(blocks):
    one, other = (dataset(blocks, seed=seed)[Draw(0, 3)].scene for seed in (1, 2))
    assert torch.equal(one.points, other.points)
    assert one.points.shape == (64, 3)
    assert one.classes.tolist() == [1, 0]
    assert dataset(blocks).drawn(Draw(0, 3)).points.shape == (300, 3)


def test_a_batch_has_as_many_labels_as_scenes_an_empty_one_included(blocks):
    data = dataset(blocks)
    batch = collate_detection([data[Draw(0, place)] for place in (0, 3, 5)])
    assert batch["points"].shape == (3, 64, 3)
    assert [labels["boxes"].shape for labels in batch["labels"]] == [(1, 7), (2, 7), (0, 7)]
    assert [labels["classes"].tolist() for labels in batch["labels"]] == [[0], [1, 0], []]
    assert batch["labels"][0]["boxes"].dtype == torch.float32


def looking_at(*region) -> PreprocessingContract:
    points = CONTRACT.scene.points.model_copy(update={"region": region})
    return PreprocessingContract(scene=SceneContract(points=points), source="test")


def test_a_box_is_in_the_region_where_its_centre_is(blocks):
    half = looking_at((-2.0, -2.0, -0.1), (0.0, 2.0, 1.0))
    boxes = (box("cube", (-0.1, 0.0, 0.3)), box("cube", (0.1, 0.0, 0.3)), box("slab", (1.5, 0.0, 0.2)))
    two_out = with_boxes(blocks, 0, boxes)
    message = r"record 's00': has a box \(cube, centre 0\.10, 0\.00, 0\.30 m\) outside of the region that is looked at"
    with pytest.raises(ContractError, match=message + r" \(x -2 to 0, .*contract\.region.*labels\.outside=leave_out"):
        dataset(two_out, contract=half).read(0)
    kept = dataset(two_out, outside="leave_out", contract=half).read(0)
    assert kept.boxes[:, 0].tolist() == [-0.1]
    assert kept.classes.tolist() == [0]
    assert float(kept.points[:, 0].max()) <= 0
    assert len(dataset(two_out, outside="keep", contract=half).read(0).boxes) == 3


def test_a_box_in_the_region_and_away_from_its_points_is_told_of_the_points(blocks):
    above = with_boxes(blocks, 0, (box("slab", (0.0, 0.0, 300.0), (2.0, 2.0, 2.0)),))
    with pytest.raises(ContractError, match="outside of its points"):
        dataset(above, contract=looking_at((-2.0, -2.0, -1.0), (2.0, 2.0, 900.0))).read(0)


@pytest.mark.parametrize(("symmetry", "limit"), [("half_turn", 90), ("quarter_turn", 45)])
def test_what_looks_the_same_after_a_turn_is_labelled_the_same_in_training_and_evaluation(blocks, symmetry, limit):
    varied = (SceneCrop(), SceneAugmentation(flip_x=0.5, rotation_deg=180, scale=(0.8, 1.2)))
    turned = 0
    for variation in (varied, None):
        plain, canonical = dataset(blocks, variation), dataset(blocks, variation, symmetry=symmetry)
        for place in range(18):
            before, after = plain[Draw(2, place)].scene, canonical[Draw(2, place)].scene
            assert torch.equal(before.points, after.points)
            assert (after.boxes[:, 6].rad2deg().abs() <= limit).all()
            assert torch.equal(canonical_yaws(before.boxes, symmetry), after.boxes)
            turned += int((before.boxes[:, 6] != after.boxes[:, 6]).sum())
    assert turned > 20


@pytest.mark.parametrize("place", [(9.0, 0.0, 0.3), (0.0, 0.0, 300.0), (-2600.0, 0.0, 300.0)])
def test_a_box_outside_of_the_points_is_refused_left_out_or_kept(blocks, place):
    strange = with_boxes(blocks, 0, (box(), box("slab", place, (2.0, 2.0, 2.0))))
    with pytest.raises(ContractError, match=r"record 's00': has a box \(slab, centre .* m\) outside of its points"):
        dataset(strange).read(0)
    assert isinstance(dataset(strange)[Draw(0, 0)], Failure)
    assert dataset(strange, outside="leave_out").read(0).classes.tolist() == [0]
    assert dataset(strange, outside="keep").read(0).classes.tolist() == [0, 1]
    with pytest.raises(ReadError, match=r"1 of 18 .*outside of its points\)\. .*labels\.outside=leave_out"):
        check_records(dataset(strange))


def test_a_box_that_reaches_into_the_points_is_inside(blocks):
    assert len(dataset(with_boxes(blocks, 0, (box("slab", (2.5, 0.0, 0.1), (1.4, 0.7, 0.2)),))).read(0).boxes) == 1


def test_boxes_of_negative_size_do_not_get_into_a_manifest(blocks, tmp_path):
    blocks.save(tmp_path / "m.jsonl")
    text = (tmp_path / "m.jsonl").read_text().replace('"size_m":[0.6', '"size_m":[-0.6', 1)
    assert "-0.6" in text
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(RecipeError, match=r"size_m.*greater than 0"):
        Manifest.load(tmp_path / "m.jsonl")


def test_only_points_are_prepared_where_the_detector_sees_no_images():
    scene = Scene(Origin("toy"))
    with pytest.raises(ContractError, match="toy: has no points, and boxes are found in points"):
        prepare_for_detection(scene, CONTRACT.scene)


def test_a_contract_without_scenes_is_refused(blocks):
    from crossdim.transforms.contract import ImageContract

    other = PreprocessingContract(image=ImageContract(size=(8, 8)), source="test")
    with pytest.raises(ContractError, match="knows no scenes"):
        DetectionDataset(blocks, other, Labelling(("cube",)))
    assert replace(dataset(blocks).prepared(0), boxes=None).boxes is None
