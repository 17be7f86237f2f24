"""Training of a detector on tiny scenes: where it begins, what it learns, keeps, measures and leaves behind."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scene_record import SceneBox
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.metrics.detection3d import compare_detections
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.models.pimae_config import PimaeConfig
from crossdim.training import detect, pretrain_scenes
from crossdim.training.averaging import MovingAverage
from crossdim.training.detection_data import split_scenes
from crossdim.training.detection_evaluation import measure, protocol_of, read_predictions
from crossdim.training.detection_model import begin, learning_factor
from crossdim.training.finetuning import aim_for, finetune_on
from crossdim.training.provenance import read_log
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
from crossdim.transforms.contract import PreprocessingContract
from tests.training.detect_toys import MODEL, RECIPE, make_blocks, with_boxes
from tests.training.scene_toys import RECIPE as PRETRAIN
from tests.training.scene_toys import make_scenes, without

SEEN = (
    "model.num_queries=8", "model.decoder_num_hidden_layers=2", "model.decoder_intermediate_size=32", "batch.scenes=4",
    "contract.drawn_points=200", "optimisation.steps=2", "logging.log_every=1", "logging.report_to=none",
    "evaluation.bootstrap=100", "evaluation.pictures=1",
)  # fmt: skip
"""A detector that begins with a pre-trained model."""


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Return the file of a manifest of blocks on floors."""
    root = tmp_path_factory.mktemp("blocks")
    make_blocks(root, 18).save(root / "blocks.jsonl")
    return root / "blocks.jsonl"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Return a pre-training run; beside it lie the scenes it saw, with a box in each, some without an image."""
    root = tmp_path_factory.mktemp("walls")
    make_scenes(root / "all").save(root / "plain.jsonl")
    manifest = Manifest.load(root / "plain.jsonl")
    for place in range(len(manifest)):
        label = "wall" if place % 2 else "mirror"
        box = SceneBox(label=label, center_m=(0.0, 2.0, 0.0), size_m=(1.6, 1.0, 1.2), yaw_rad=0.25 * (1 - place % 2))
        manifest = with_boxes(manifest, place, (box,))
    halves = (replace(manifest, records=manifest.records[:8]), replace(manifest, records=manifest.records[8:]))
    Manifest(manifest.header, (*halves[0].records, *without(halves[1], "image").records)).save(root / "boxes.jsonl")
    recipe = load_recipe(None, PimaeRecipe, [*PRETRAIN, "optimisation.steps=2"])
    return pretrain_scenes.run(root / "plain.jsonl", root / "run", recipe, silent=True)


def fresh(*overrides: str) -> DetectRecipe:
    long = any(override.startswith("optimisation.steps") for override in overrides)
    kept = (override for override in RECIPE if not (long and override.startswith("optimisation.epochs")))
    return load_recipe(None, DetectRecipe, (*MODEL, *kept, *overrides))


def seen(*overrides: str) -> DetectRecipe:
    return load_recipe(None, DetectRecipe, (*SEEN, *overrides))


def begun(recipe, manifest, start=None):
    return begin(recipe, split_scenes(Manifest.load(manifest), recipe.labels, recipe.model.image), start)


def test_a_run_leaves_detector_contract_scores_predictions_and_a_page_behind(blocks, tmp_path):
    recipe = fresh("evaluation.pictures=2")
    out = detect.run(blocks, tmp_path / "run", recipe, silent=True)
    model = Detr3dForObjectDetection.from_pretrained(out)
    assert dict(model.config.id2label) == {0: "cube", 1: "slab"}
    assert PreprocessingContract.from_pretrained(out).scene.points.kept == model.config.num_points == 256
    document = json.loads((out / "run.json").read_text())
    assert (document["status"], document["selected_on"], document["kind"]) == ("finished", "val", "detect")
    assert "test_evaluated" in document
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"val", "test"}
    assert [each["iou"] for each in metrics["test"]["thresholds"]] == [0.25, 0.5]
    assert metrics["test"]["scenes"] == 3
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Boxes found in" in page
    assert "average precision" in page
    line = read_log(out / "log.jsonl")[0]
    parts = {"classes", "angle_class", "angle_residual", "center", "size", "cardinality"}
    assert {f"loss/{name}" for name in parts} <= set(line)
    assert line["samples_per_second"] > 0
    found = next(row for row in read_log(out / "log.jsonl") if "eval_ap25" in row)
    assert {"eval_loss", "eval_ap25", "eval_ap50", "eval_ar25", "eval_ar50"} <= set(found)


def test_predictions_of_a_run_are_read_back_and_give_its_scores(blocks, tmp_path):
    recipe = fresh("evaluation.fewest_points=0")
    out = detect.run(blocks, tmp_path / "run", recipe, silent=True)
    classes, found = read_predictions(out / "predictions.jsonl")
    assert classes == ("cube", "slab")
    protocol = protocol_of(recipe.evaluation)
    report = measure(found, classes, protocol, bootstrap=100, seed=recipe.seed)
    assert report.to_dict() == json.loads((out / "metrics.json").read_text())["test"]
    pair = [each.detections(protocol) for each in found]
    same = compare_detections(pair, pair, [each.truth for each in found], 2, 0.25, bootstrap=50)
    assert same.value == same.low == same.high == 0
    with pytest.raises(ReadError, match="holds no scene of the split 'train'"):
        read_predictions(out / "predictions.jsonl", "train")
    with pytest.raises(ReadError, match=r"none\.jsonl: cannot be read"):
        read_predictions(tmp_path / "none.jsonl")


def test_the_final_detector_gives_the_boxes_that_were_counted(blocks, tmp_path):
    import crossdim

    out = detect.run(blocks, tmp_path / "run", fresh(), silent=True)
    classes, found = read_predictions(out / "predictions.jsonl")
    scene = crossdim.load(out, device="cpu").detect(f"{blocks}#{found[0].id}", threshold=0.0)
    best = np.sort(found[0].raw.objectness * found[0].raw.class_probabilities.max(axis=1))[::-1]
    assert len(scene.boxes) == len(best)
    assert np.allclose(scene.boxes.scores, best, atol=1e-5)
    assert set(scene.boxes.labels) <= set(classes)


def test_training_learns_the_scenes_and_selects_by_what_is_asked_for(blocks, tmp_path):
    recipe = fresh("optimisation.steps=40", "selection.metric=loss", "selection.evaluate_every_epochs=6")
    out = detect.run(blocks, tmp_path / "run", recipe, silent=True)
    losses = [line["loss"] for line in read_log(out / "log.jsonl") if "loss" in line]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    measured = {line["step"]: line["eval_loss"] for line in read_log(out / "log.jsonl") if "eval_loss" in line}
    best = min(measured, key=measured.get)
    kept = load_file(out / "checkpoints" / f"checkpoint-{best}" / "model.safetensors")
    final = load_file(out / "model.safetensors")
    assert all(kept[name].equal(final[name]) for name in final)


def test_scenes_without_boxes_are_kept_in_evaluation(blocks, tmp_path):
    manifest = with_boxes(Manifest.load(blocks), 2, ())
    manifest.save(tmp_path / "m.jsonl")
    out = detect.run(tmp_path / "m.jsonl", tmp_path / "run", fresh("optimisation.steps=1"), silent=True)
    report = json.loads((out / "metrics.json").read_text())["test"]
    assert (report["scenes"], report["empty_scenes"]) == (3, 1)


def test_a_validation_split_without_boxes_cannot_choose_by_precision_but_by_the_loss(blocks, tmp_path):
    manifest = Manifest.load(blocks)
    for place, record in enumerate(manifest.records):
        if record.split == "val":
            manifest = with_boxes(manifest, place, ())
    manifest.save(tmp_path / "m.jsonl")
    with pytest.raises(RecipeError, match="'ap25' cannot be computed on a validation split without boxes"):
        detect.run(tmp_path / "m.jsonl", tmp_path / "run", fresh("optimisation.steps=1"), silent=True)
    recipe = fresh("optimisation.steps=1", "selection.metric=loss")
    out = detect.run(tmp_path / "m.jsonl", tmp_path / "other", recipe, silent=True)
    assert "precision and recall are not defined" not in (out / "report.html").read_text()


def test_without_validation_and_test_splits_the_last_step_is_kept(blocks, tmp_path, capsys):
    manifest = Manifest.load(blocks)
    records = tuple(record for record in manifest.records if record.split == "train")
    Manifest(manifest.header, records).save(tmp_path / "m.jsonl")
    recipe = fresh("optimisation.steps=3", "optimisation.average=0.5")
    out = detect.run(tmp_path / "m.jsonl", tmp_path / "run", recipe)
    assert "No validation split: the last step is kept" in capsys.readouterr().err
    assert json.loads((out / "metrics.json").read_text()) == {}
    assert "nothing was measured" in (out / "report.html").read_text()
    last = out / "checkpoints" / "checkpoint-3"
    average, weights = load_file(last / "average.safetensors"), load_file(last / "model.safetensors")
    final = load_file(out / "model.safetensors")
    assert all(final[name].equal(average[name]) for name in average)
    assert any(not weights[name].equal(average[name]) for name in average)


def test_the_average_follows_the_weights_and_the_best_one_is_kept(blocks, tmp_path):
    recipe = fresh(
        "optimisation.steps=4", "optimisation.average=0.9", "selection.metric=loss",
        "selection.evaluate_every_epochs=0.3",
    )  # fmt: skip
    out = detect.run(blocks, tmp_path / "run", recipe, silent=True)
    measured = {line["step"]: line["eval_loss"] for line in read_log(out / "log.jsonl") if "eval_loss" in line}
    assert list(measured) == [1, 2, 3, 4]
    best = load_file(out / "checkpoints" / f"checkpoint-{min(measured, key=measured.get)}" / "average.safetensors")
    final = load_file(out / "model.safetensors")
    assert all(final[name].equal(value) for name, value in best.items())


def test_an_average_forgets_its_first_weights_soon_and_is_put_in_place_for_a_while(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.BatchNorm1d(1))
    average = MovingAverage(model, 0.9)
    state, wanted = TrainerState(), model[0].weight.detach().clone()
    for step, decay in ((1, 2 / 11), (2, 3 / 12), (1000, 0.9)):
        state.global_step = step
        with torch.no_grad():
            model[0].weight += step
        model[1].running_mean += 1
        average.on_step_end(TrainingArguments(str(tmp_path)), state, TrainerControl())
        wanted = decay * wanted + (1 - decay) * model[0].weight.detach()
    weight = model[0].weight.detach().clone()
    with average.in_place():
        assert torch.allclose(model[0].weight, wanted)
        assert 0 < model[1].running_mean.item() < 3
    assert torch.equal(model[0].weight, weight)
    assert model[1].running_mean.item() == 3


def test_everything_that_has_a_place_comes_from_the_pre_trained_model(pretrained):
    data = pretrained.parent / "boxes.jsonl"
    beginning = begun(seen(), data, pretrained)
    assert (beginning.config.tokenizer, beginning.config.num_groups, beginning.config.num_points) == ("groups", 12, 96)
    assert beginning.config.decoder_num_hidden_layers == 2
    assert beginning.contract.scene.image is None
    assert set(beginning.facts) == {"encoder"}
    model, moved = beginning.build()
    theirs, ours = load_file(pretrained / "model.safetensors"), model.state_dict()
    assert {"detr3d.point_tokens.first_conv.0.weight", "detr3d.points_embedding"} <= moved
    names = [name for name in ours if name.startswith(("detr3d.joint", "detr3d.point"))]
    assert set(names) == moved
    assert all(ours[name].equal(theirs[name.replace("detr3d.", "pimae.", 1)]) for name in names)
    assert not {name for name in moved if "decoder" in name or "head" in name or "image" in name}


def test_the_unit_is_the_pre_trained_models_unless_the_recipe_says_another(pretrained):
    data = pretrained.parent / "boxes.jsonl"
    assert PimaeConfig.from_pretrained(pretrained).unit_m == begun(seen(), data, pretrained).config.unit_m == 1
    beginning = begun(seen("model.unit_m=0.2"), data, pretrained)
    assert beginning.config.unit_m == 0.2
    assert "detr3d.point_tokens.first_conv.0.weight" in beginning.build()[1]


def test_the_region_is_the_pre_trained_models_unless_the_recipe_says_another(pretrained, tmp_path):
    data, stated = pretrained.parent / "boxes.jsonl", "contract.region=[[-1, 1, 0], [1, 3, 2.5]]"
    assert begun(seen(), data, pretrained).contract.scene.points.region is None
    beginning = begun(seen(stated), data, pretrained)
    assert beginning.contract.scene.points.region == ((-1, 1, 0), (1, 3, 2.5))
    started = shutil.copytree(pretrained, tmp_path / "looks_at_a_part")
    beginning.contract.save_pretrained(started)
    assert begun(seen(), data, started).contract.scene.points.region == ((-1, 1, 0), (1, 3, 2.5))
    wide = begun(seen("contract.region=[[-9, -9, -9], [9, 9, 9]]"), data, started).contract.scene.points.region
    assert wide == ((-9, -9, -9), (9, 9, 9))


def test_the_image_branch_comes_along_where_images_are_used(pretrained):
    beginning = begun(seen("model.image=true"), pretrained.parent / "boxes.jsonl", pretrained)
    assert beginning.contract.scene.image == PreprocessingContract.from_pretrained(pretrained).scene.image
    _, moved = beginning.build()
    assert {"detr3d.patch_embed.weight", "detr3d.image_encoder.layers.0.mlp.fc1.weight"} <= moved


def test_the_authors_transfer_moves_layers_alone_and_learns_balls_anew(pretrained):
    beginning = begun(
        seen("transfer=official", "contract.num_points=128", "model.num_groups=12"),
        pretrained.parent / "boxes.jsonl",
        pretrained,
    )
    assert beginning.config.tokenizer == "set_abstraction"
    assert beginning.config.num_points == 128
    _, moved = beginning.build()
    assert moved
    assert all(".layers." in name for name in moved)


def test_nothing_but_sizes_and_preprocessing_comes_along_if_nothing_is_to(pretrained):
    data = pretrained.parent / "boxes.jsonl"
    one, other = begun(seen(), data, pretrained), begun(seen("transfer=none"), data, pretrained)
    assert one.config.to_dict() == other.config.to_dict()
    assert one.contract == other.contract
    assert other.build()[1] == frozenset()


def test_a_detector_learns_from_scenes_with_and_without_an_image(pretrained, tmp_path):
    recipe = seen("model.image=true", "optimisation.steps=4", "augmentation.flip_x=0.5", "crop.size=[0.9, 1.0]")
    out = detect.run(pretrained.parent / "boxes.jsonl", tmp_path / "run", recipe, pretrained, silent=True)
    before, after = load_file(pretrained / "model.safetensors"), load_file(out / "model.safetensors")
    assert not after["detr3d.patch_embed.weight"].equal(before["pimae.patch_embed.weight"])
    assert json.loads((out / "metrics.json").read_text())["val"]["scenes"] == 4
    assert PreprocessingContract.from_pretrained(out).scene.image is not None


def test_images_from_random_weights_are_looked_at_too(pretrained, tmp_path):
    sizes = ("model.patch_size=[8, 8]", "model.image_num_hidden_layers=1", "model.image_intermediate_size=32")
    recipe = fresh("model.image=true", *sizes, "contract.image_size=[24, 32]", "optimisation.steps=1")
    out = detect.run(pretrained.parent / "boxes.jsonl", tmp_path / "run", recipe, silent=True)
    config = Detr3dConfig.from_pretrained(out)
    assert (tuple(config.image_size), config.tokenizer) == ((24, 32), "set_abstraction")


def test_pre_trained_layers_learn_more_slowly_the_deeper_they_lie():
    config = Detr3dConfig.preset("tiny", id2label={0: "a"})
    names = (
        "detr3d.points_encoder.layers.0.norm1.weight", "detr3d.points_encoder.layers.1.norm1.weight",
        "detr3d.joint.layers.0.norm1.weight", "detr3d.joint.layers.1.norm1.weight", "detr3d.point_tokens.x",
        "detr3d.joint.cls_token", "detr3d.image_encoder.layers.0.norm1.weight",
    )  # fmt: skip
    rates = [learning_factor(name, config, names, 0.5) for name in names]
    assert rates == [0.5**4, 0.5**3, 0.5**2, 0.5, 0.5**5, 0.5**5, 0.5**4]
    assert learning_factor("detr3d.set_abstraction.weight", config, names, 0.5) == 1
    assert learning_factor(names[0], config, (), 0.5) == 1


@pytest.mark.parametrize(
    ("overrides", "start", "error", "message"),
    [
        (("transfer=none",), False, RecipeError, r"'transfer': is none, and there is no pre-trained model"),
        (("transfer=official",), False, RecipeError, r"'transfer': is official, and there is no"),
        (("transfer=official", "model.image=true"), True, RecipeError, "which takes nothing over for images"),
        (("model.hidden_size=32",), True, RecipeError, r"'model\.hidden_size': is given, and the pre-trained"),
        (
            ("model.tokenizer=groups", "model.point_hidden_size=32"),
            True,
            RecipeError,
            r"'model\.point_hidden_size': is given, and the pre-trained",
        ),
        (("contract.image_size=[8, 8]",), True, RecipeError, r"'contract\.image_size': is given, and the pre"),
        (("model.group_radius=0.3",), True, RecipeError, r"'model\.group_radius': is given, and groups"),
        (("contract.num_points=8",), True, RecipeError, r"'contract\.num_points': is 8, where 12 groups of 8 need 12"),
        (("contract.drawn_points=50",), True, RecipeError, "is 96, where 12 groups .*, and 50 are drawn"),
        (("model.num_queries=40",), True, ContractError, r"num_queries 40: is not between 1 and 12"),
    ],
)
def test_what_cannot_begin_is_refused_by_name(overrides, start, error, message, pretrained):
    kept = [override for override in SEEN if override.partition("=")[0] not in {o.partition("=")[0] for o in overrides}]
    recipe = load_recipe(None, DetectRecipe, [*kept, *overrides])
    with pytest.raises(error, match=message):
        begun(recipe, pretrained.parent / "boxes.jsonl", pretrained if start else None)


def test_a_detector_with_images_needs_some(blocks, pretrained, tmp_path):
    with pytest.raises(RecipeError, match=r"'model\.image': is true, and no training scene has an image"):
        begun(fresh("model.image=true"), blocks)
    contract = PreprocessingContract.from_pretrained(pretrained)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((pretrained / name).read_bytes())
    blind = contract.scene.model_copy(update={"image": None})
    contract.model_copy(update={"scene": blind}).save_pretrained(tmp_path)
    with pytest.raises(ContractError, match="was pre-trained without images"):
        begun(seen("model.image=true"), pretrained.parent / "boxes.jsonl", tmp_path)


def test_a_folder_without_a_model_is_no_beginning(blocks, tmp_path):
    with pytest.raises(ReadError, match="holds no model"):
        begun(fresh(), blocks, tmp_path / "nothing")


def test_the_number_of_queries_is_cut_to_the_tokens_unless_it_is_stated(blocks):
    fewer = fresh("model.num_queries=null", "model.num_groups=20")
    assert begun(fewer, blocks).config.num_queries == 20
    with pytest.raises(ContractError, match="num_queries 32: is not between 1 and 20"):
        begun(fresh("model.num_groups=20"), blocks)


def test_data_say_what_they_are_for_unless_word_recipe_or_task_do(blocks, pretrained, tmp_path):
    assert aim_for(blocks) == "detect"
    assert aim_for(pretrained.parent / "plain.jsonl") == "classify"
    overrides = [*MODEL, *RECIPE, "optimisation.epochs=1"]
    out = finetune_on(blocks, tmp_path / "by_data", overrides=overrides, silent=True)
    assert json.loads((out / "run.json").read_text())["kind"] == "detect"
    with pytest.raises(RecipeError, match=r"'detct': is nothing to fine-tune for\. Did you mean 'detect'"):
        finetune_on(blocks, tmp_path / "none", aim="detct")
    with pytest.raises(RecipeError, match="'task': is given, and a detector learns from boxes"):
        finetune_on(blocks, tmp_path / "none", aim="detect", task="side")
    with pytest.raises(RecipeError, match="is of kind 'detect' where 'finetune' is needed"):
        finetune_on(blocks, tmp_path / "none", aim="classify", recipe="detect-tiny")
    with pytest.raises(RecipeError, match="task 'x': is not a task of manifest 'blocks'"):
        finetune_on(blocks, tmp_path / "none", task="x", silent=True)


def test_the_packaged_recipe_begins_with_a_pre_trained_model_and_its_dropout_replaces_the_models(pretrained):
    keys = ("model.num_queries=12", "model.num_groups=12", "contract.num_points=96")
    recipe = load_recipe("detect-tiny", DetectRecipe, keys)
    manifest = Manifest.load(pretrained.parent / "boxes.jsonl")
    found = begin(recipe, split_scenes(manifest, recipe.labels, image=False), pretrained)
    assert PimaeConfig.from_pretrained(pretrained).dropout > 0
    assert found.config.dropout == 0
