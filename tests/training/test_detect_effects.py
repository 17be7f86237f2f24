"""Every key of the detector's recipe changes something right before the first step, or in how it is measured."""

import pytest

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scene_record import SceneBox
from crossdim.metrics.detection_protocol import Protocol
from crossdim.training import detect
from crossdim.training.detection_evaluation import protocol_of
from crossdim.training.recipe_detect import DetectionEvaluationSection, DetectRecipe
from crossdim.training.recipe_files import flatten, load_recipe
from tests.training.detect_toys import MODEL, RECIPE, make_blocks, with_boxes
from tests.training.test_effects import Ready, outcome, splitted

CHANGES = (
    "seed=1", "model.preset=scannet", "model.tokenizer=groups", "model.num_groups=40", "model.group_size=4",
    "model.group_radius=0.5", "model.unit_m=0.2", "model.num_queries=4", "model.query_features=tokens",
    "model.angle_bins=1", "model.hidden_size=16", "model.num_attention_heads=4", "model.dropout=0.3",
    "model.points_num_hidden_layers=2", "model.points_intermediate_size=16", "model.joint_num_hidden_layers=0",
    "model.joint_intermediate_size=16", "model.decoder_num_hidden_layers=1", "model.decoder_intermediate_size=16",
    "model.decoder_dropout=0.3", "model.head_dropout=0.1", "model.skip_points_near_origin=true", "loss.class_cost=3",
    "loss.objectness_cost=3", "loss.center_cost=3", "loss.giou_cost=9", "loss.no_object_weight=0.5",
    "loss.class_weight=3", "loss.angle_class_weight=3", "loss.angle_residual_weight=3", "loss.center_weight=3",
    "loss.size_weight=3", "loss.giou_weight=3", "loss.giou=released", "labels.classes=[slab,cube]",
    "labels.fraction=0.5", "labels.scenes=2", "labels.symmetry=quarter_turn",
    "contract.drawn_points=300", "contract.num_points=100", "contract.region=[[-2, -2, -1], [2, 2, 0.6]]",
    "augmentation.flip_x=1.0", "augmentation.flip_y=1.0", "augmentation.rotation_deg=90",
    "augmentation.scale=[0.5, 0.6]", "crop.size=[0.5, 0.6] crop.fewest_points=0.1", "batch.scenes=2",
    "optimisation.base_learning_rate=0.5", "optimisation.weight_decay=0.5", "optimisation.betas=[0.8, 0.9]",
    "optimisation.warmup=0.5", "optimisation.epochs=null optimisation.steps=9", "optimisation.epochs=3",
    "optimisation.accumulate=2", "optimisation.max_grad_norm=1", "optimisation.average=0.5", "selection.metric=loss",
    "selection.evaluate_every_epochs=2", "selection.patience=3", "hardware.precision=bf16", "hardware.workers=2",
    "hardware.cache_gib=0", "hardware.activation_checkpointing=true", "logging.log_every=3",
    "logging.report_to=[tensorboard]",
)  # fmt: skip
OF_A_CROP = ("crop.aspect=1.0", "crop.fewest_points=0.9")
OF_GROUPS = "model.point_hidden_size=32"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("blocks")
    make_blocks(root, 12).save(root / "blocks.jsonl")
    return root / "blocks.jsonl"


@pytest.fixture
def before_the_first_step(manifest, tmp_path, monkeypatch):
    def stop(trainer, announcer):
        raise Ready(trainer)

    monkeypatch.setattr(detect, "run_trainer", stop)

    def look(*overrides: str, data=manifest) -> dict:
        recipe = load_recipe(None, DetectRecipe, [*MODEL, *RECIPE, *overrides])
        return outcome(detect.run, data, tmp_path / "run", recipe)

    return look


def test_every_key_has_an_effect(before_the_first_step):
    base = before_the_first_step()
    assert base == before_the_first_step()
    without = [change for change in CHANGES if before_the_first_step(*splitted(change)) == base]
    assert without == ["optimisation.average=0.5"]  # test_detect.py: the average is what is kept
    cut = "crop.size=[0.6, 1.0]"
    for change in OF_A_CROP:
        assert before_the_first_step(cut, change) != before_the_first_step(cut)
    mirrored = "augmentation.flip_x=1.0"  # no yaw of the boxes that are looked at needs a half turn before
    assert before_the_first_step(mirrored, "labels.symmetry=half_turn") != before_the_first_step(mirrored)
    groups = "model.tokenizer=groups"
    assert before_the_first_step(groups, OF_GROUPS) != before_the_first_step(groups)


def test_what_to_do_with_boxes_outside_and_with_other_classes_has_an_effect(before_the_first_step, manifest, tmp_path):
    boxes = Manifest.load(manifest).records[0].scene.boxes
    away = SceneBox(label="cube", center_m=(50.0, 0.0, 0.0), size_m=(1.0, 1.0, 1.0))
    with_boxes(Manifest.load(manifest), 0, (*boxes, away)).save(tmp_path / "away.jsonl")
    kept = before_the_first_step("labels.outside=leave_out", data=tmp_path / "away.jsonl")
    assert kept["config.id2label"] == {0: "cube", 1: "slab"}
    fewer = before_the_first_step("labels.classes=[slab]", "labels.other_classes=leave_out")
    assert fewer["config.id2label"] == {0: "slab"}


def test_the_protocol_follows_the_recipe():
    assert protocol_of(DetectionEvaluationSection()) == Protocol()
    for key, value in (("fewest_points", 0), ("oriented", True), ("absent", "zero"), ("tighten_m", 0.02)):
        assert getattr(protocol_of(DetectionEvaluationSection(**{key: value})), key) == value


def test_the_list_of_keys_is_complete():
    tried = {part.partition("=")[0] for change in (*CHANGES, *OF_A_CROP, OF_GROUPS) for part in splitted(change)}
    tried |= {f"evaluation.{key}" for key in ("fewest_points", "oriented", "absent", "tighten_m")}
    tried |= {"labels.outside", "labels.other_classes"}
    # test_detect.py: what a pre-trained model gives, images, the average, resamples and pictures; the contract's other
    # keys as in test_scene_effects.py; one device here
    elsewhere = {"kind", "transfer", "optimisation.layer_decay", "evaluation.bootstrap", "evaluation.pictures"}
    elsewhere |= {f"model.{key}" for key in ("image", "patch_size", "image_num_hidden_layers")}
    elsewhere |= {"model.image_intermediate_size", "hardware.device"}
    elsewhere |= {f"contract.{key}" for key in ("file", "image_size", "image_tokens", "statistics")}
    assert set(flatten(DetectRecipe().model_dump())) - tried - elsewhere == set()
