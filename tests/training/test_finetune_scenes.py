"""The image branch of a pre-trained PiMAE alone, on all labels or on a few of each class."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import crossdim
from crossdim import readers
from crossdim.datasets.manifest import Header, Manifest, Record, Task
from crossdim.errors import ContractError, RecipeError
from crossdim.models.pimae import PimaeForImageClassification
from crossdim.training import finetune, pretrain_scenes
from crossdim.training.evaluation import evaluate
from crossdim.training.labelled import as_images, few, split
from crossdim.training.optimisation import layer_of
from crossdim.training.recipe import FinetuneRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe
from tests.training.scene_toys import RECIPE, make_scenes, without

TUNE = ("logging.report_to=none", "bootstrap=100", "batch.images=4", "optimisation.epochs=2")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Return the folder of a pre-training run; the manifest lies beside it."""
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root / "all", 24).save(root / "scenes.jsonl")
    recipe = load_recipe(None, PimaeRecipe, [*RECIPE, "optimisation.steps=2"])
    return pretrain_scenes.run(root / "scenes.jsonl", root / "run", recipe, silent=True)


def tuned(pretrained, out, name, *overrides):
    recipe = load_recipe(name, FinetuneRecipe, [*TUNE, *overrides])
    return finetune.run(pretrained.parent / "scenes.jsonl", out, recipe, pretrained, silent=True)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("finetune-linear", ()),
        ("finetune-full", ()),
        ("finetune-lora", ()),
        ("finetune-partial", ("adaptation.frozen_layers=1",)),
    ],
)
def test_every_adaptation_trains_the_image_branch(name, more, pretrained, tmp_path):
    out = tuned(pretrained, tmp_path / "run", name, *more)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["PimaeForImageClassification"]
    before, after = load_file(pretrained / "model.safetensors"), load_file(out / "model.safetensors")
    assert not {key for key in after if "point" in key or "decoder" in key}
    frozen = all(after[key].equal(before[key]) for key in after if "image_encoder" in key)
    assert frozen == (name in ("finetune-linear", "finetune-partial"))
    prediction = crossdim.load(out, device="cpu").predict(pretrained.parent / "all" / "scene00" / "image.png")
    assert set(prediction.probabilities) == {"l", "r"}


def test_images_are_prepared_as_the_scenes_were(pretrained, tmp_path):
    out = tuned(pretrained, tmp_path / "run", "finetune-linear")
    contract, scene = (crossdim.load(path, device="cpu").contract for path in (out, pretrained))
    assert contract.image == scene.scene.image
    assert contract.scene is None


def test_a_probe_sees_the_features_of_the_pre_trained_branch(pretrained, tmp_path):
    out = tuned(pretrained, tmp_path / "run", "finetune-linear")
    photo = pretrained.parent / "all" / "scene00" / "image.png"
    feature = crossdim.load(out, device="cpu").embed(photo)
    whole = crossdim.load(pretrained, device="cpu")
    pixels = crossdim.load(out, device="cpu").contract.prepare(readers.read(photo)).tensor[None]
    with torch.no_grad():
        tokens = whole.model(None, pixels).image_hidden_state
    assert np.allclose(feature, tokens.mean(dim=1)[0].numpy(), atol=1e-5)


def test_a_manifest_of_scenes_is_evaluated_by_its_images(pretrained, tmp_path):
    predictor = crossdim.load(tuned(pretrained, tmp_path / "run", "finetune-linear"), device="cpu")
    scenes = Manifest.load(pretrained.parent / "scenes.jsonl")
    report = evaluate(predictor, scenes.split("val"), "side", bootstrap=100)
    assert report.metrics["accuracy"].value in np.arange(9) / 8


def test_a_scene_without_an_image_is_refused(pretrained, tmp_path):
    scenes = Manifest.load(pretrained.parent / "scenes.jsonl")
    without(scenes, "image").save(tmp_path / "clouds.jsonl")
    recipe = load_recipe("finetune-linear", FinetuneRecipe, TUNE)
    with pytest.raises(RecipeError, match="record 'scene00-image': is a scene without an image"):
        finetune.run(tmp_path / "clouds.jsonl", tmp_path / "run", recipe, pretrained, silent=True)


def test_scenes_become_their_images_and_images_stay():
    scene = {"image": "a/rgb.png", "points": "a/p.ply"}
    line = {"id": "a", "patient_id": "a", "kind": "scene", "scene": scene, "labels": {"side": 1}}
    records = (
        Record.model_validate_json(json.dumps(line)),
        Record(id="b", patient_id="b", kind="image", paths=("b.png",)),
    )
    found = as_images(Manifest(Header(name="x", root="/x", tasks=TASKS), records)).records
    assert [(record.kind, record.paths) for record in found] == [("image", ("a/rgb.png",)), ("image", ("b.png",))]
    assert found[0].labels == {"side": 1}


def test_a_class_token_is_refused_because_there_is_none(pretrained, tmp_path):
    with pytest.raises(RecipeError, match=r"'head\.pooling': is cls, and PiMAE's image branch has no class token"):
        tuned(pretrained, tmp_path / "run", "finetune-full", "head.pooling=cls")


def test_stochastic_depth_reaches_the_image_branch(pretrained, tmp_path):
    out = tuned(pretrained, tmp_path / "run", "finetune-full", "head.drop_path_rate=0.25")
    assert PimaeForImageClassification.from_pretrained(out).config.image_drop_path_rate == 0.25


def test_layer_decay_knows_the_layers_of_the_image_branch():
    names = ("pimae.patch_embed.weight", "pimae.image_embedding", "pimae.image_encoder.layers.1.mlp.fc1.weight")
    assert [layer_of(name, 3) for name in (*names, "classifier.linear.weight")] == [0, 0, 2, 4]


TASKS = {
    "side": Task(kind="multiclass", classes=("l", "r")),
    "signs": Task(kind="multilabel", classes=("x", "y")),
}


def labelled(counts=(10, 6)) -> Manifest:
    records = tuple(
        Record(id=f"{label}-{number}", patient_id=f"{label}-{number}", split="train", kind="image",
               paths=(f"{label}-{number}.png",), labels={"side": label, "signs": (0,)})
        for label, count in enumerate(counts) for number in range(count)
    )  # fmt: skip
    return Manifest(Header(name="x", root="/x", tasks=TASKS), records)


def test_few_labels_are_equally_many_of_each_class_drawn_with_the_seed():
    chosen = few(labelled(), "side", 4, seed=1)
    assert [record.labels["side"] for record in chosen.records] == [0] * 4 + [1] * 4
    assert chosen.records == few(labelled(), "side", 4, seed=1).records
    assert chosen.records != few(labelled(), "side", 4, seed=2).records


def test_more_labels_hold_the_fewer():
    ids = [{record.id for record in few(labelled(), "side", shots, seed=0).records} for shots in (1, 2, 5)]
    assert ids[0] < ids[1] < ids[2]


def test_a_class_with_too_few_records_is_named():
    with pytest.raises(RecipeError, match="'shots': is 7, and class 'r' of 'side' has 6 training records"):
        few(labelled(), "side", 7, seed=0)


def test_few_labels_of_a_multi_label_task_are_refused():
    with pytest.raises(RecipeError, match="'shots': needs one class per record, and 'signs' may have several"):
        few(labelled(), "signs", 1, seed=0)


def test_only_the_training_split_is_thinned_out(pretrained):
    scenes = Manifest.load(pretrained.parent / "scenes.jsonl")
    whole, part = split(scenes, "side"), split(scenes, "side", shots=2, seed=0)
    assert (len(part.train), len(part.val)) == (4, len(whole.val))
    assert len(part.labelled) == len(whole.labelled)


def test_a_run_on_few_labels_sees_no_others(pretrained, tmp_path, monkeypatch):
    seen = []
    announce = finetune.announce
    monkeypatch.setattr(
        "crossdim.training.finetune.announce",
        lambda announcer, training, *rest: seen.append(len(training)) or announce(announcer, training, *rest),
    )
    tuned(pretrained, tmp_path / "run", "finetune-linear", "shots=3")
    assert seen == [6]


def test_a_pooling_that_the_classifier_does_not_have_is_refused(pretrained, tmp_path):
    predictor = crossdim.load(tuned(pretrained, tmp_path / "run", "finetune-linear"), device="cpu")
    photo = str(pretrained.parent / "all" / "scene00" / "image.png")
    assert np.array_equal(predictor.embed(photo, pooling="mean"), predictor.embed(photo))
    with pytest.raises(ContractError, match=r"pooling 'cls': is not what this classifier was trained with \(mean\)"):
        predictor.embed(photo, pooling="cls")
