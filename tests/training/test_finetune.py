import json

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

import crossdim
from crossdim.datasets.manifest import Header, Manifest, Task
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.models.uni4eye import Uni4EyeForImageClassification, Uni4EyeModel
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.training import finetune, pretrain
from crossdim.training.adaptation import adapt, build_classifier, encoder_folder, merged
from crossdim.training.checkpoints import mark_complete
from crossdim.training.evaluation import evaluate, labels_of
from crossdim.training.labelled import class_weights, split
from crossdim.training.provenance import read_log
from crossdim.training.recipe import FinetuneRecipe, LoraAdaptation, PartialAdaptation, PretrainRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.training.selection import EarlyStopping
from crossdim.transforms.contract import PreprocessingContract
from tests.training.conftest import CONTRACT, DECODER, MODEL, SHORT, TUNE


@pytest.fixture(scope="module")
def encoder(toy_folder, tmp_path_factory):
    recipe = load_recipe(None, PretrainRecipe, [*MODEL, *CONTRACT, *DECODER, *SHORT])
    return pretrain.run(toy_folder / "both.jsonl", tmp_path_factory.mktemp("runs") / "encoder", recipe, silent=True)


@pytest.fixture(scope="module")
def finished(toy_folder, encoder, tmp_path_factory):
    recipe = load_recipe(None, FinetuneRecipe, [*TUNE, "task=nodule", "optimisation.epochs=3", "selection.metric=loss"])
    out = tmp_path_factory.mktemp("runs") / "tuned"
    return finetune.run(toy_folder / "both.jsonl", out, recipe, encoder, silent=True)


def evaluations(run):
    return [line for line in read_log(run / "log.jsonl") if "eval_loss" in line]


def test_a_run_leaves_a_classifier_that_predicts(finished, toy):
    model = crossdim.load(finished)
    assert model.classes == ("none", "solid", "hollow")
    record = next(record for record in toy.records if record.kind == "volume")
    prediction = model.predict(toy.resolve(record)[0])
    assert prediction.task == "nodule"
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_the_contract_is_the_encoder_s_for_the_kind_that_has_labels(finished, encoder):
    ours, theirs = (PreprocessingContract.from_pretrained(folder) for folder in (finished, encoder))
    assert ours.volume == theirs.volume
    assert theirs.image is not None
    assert ours.image is None


def test_a_kind_that_had_no_labels_is_refused_at_inference(finished, toy):
    record = next(record for record in toy.records if record.kind == "image")
    with pytest.raises(ContractError, match="is an image, and the contract knows volumes only"):
        crossdim.load(finished).predict(toy.resolve(record)[0])


def test_the_best_checkpoint_on_validation_is_the_final_model(finished):
    best = min(evaluations(finished), key=lambda line: line["eval_loss"])["step"]
    kept = Uni4EyeForImageClassification.from_pretrained(finished).state_dict()
    state = json.loads((sorted((finished / "checkpoints").glob("checkpoint-*"))[-1] / "trainer_state.json").read_text())
    assert state["best_global_step"] == best
    chosen = Uni4EyeForImageClassification.from_pretrained(finished / "checkpoints" / f"checkpoint-{best}").state_dict()
    assert all(torch.equal(kept[name], chosen[name]) for name in kept)


def test_the_test_split_is_evaluated_once_at_the_end(finished):
    document = json.loads((finished / "run.json").read_text())
    assert document["test_evaluated"] >= document["sessions"][0]["start"]
    assert not any("test" in key for line in read_log(finished / "log.jsonl") for key in line)
    assert document["selected_on"] == "val"


def test_metrics_have_intervals_and_agree_with_another_evaluation(finished, toy):
    stored = json.loads((finished / "metrics.json").read_text())
    assert set(stored) == {"val", "test"}
    again = evaluate(crossdim.load(finished), toy.split("val"), "nodule", bootstrap=100, seed=0)
    assert again.to_dict()["metrics"] == stored["val"]["metrics"]


def test_the_page_compares_with_chance(finished):
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "On the test split" in page
    assert "chance" in page


@pytest.mark.parametrize(
    "adaptation",
    [
        "adaptation.mode=linear",
        "adaptation.mode=partial adaptation.frozen_layers=1",
        "adaptation.mode=lora adaptation.rank=2",
        "adaptation.mode=full adaptation.layer_decay=0.5",
    ],
)
def test_every_adaptation_trains_saves_and_loads(adaptation, toy_folder, encoder, tmp_path, finetune_recipe):
    recipe = finetune_recipe(
        "task=sign", "selection.metric=loss", "optimisation.base_learning_rate=0.1", *adaptation.split()
    )
    run = finetune.run(toy_folder / "both.jsonl", tmp_path / "run", recipe, encoder, silent=True)
    before, after = Uni4EyeModel.from_pretrained(encoder).state_dict(), Uni4EyeModel.from_pretrained(run).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if "linear" in adaptation:
        assert not changed
    elif "partial" in adaptation:
        assert not any(name.startswith(("patch_embed", "cls_token", "encoder.layers.0")) for name in changed)
        assert "encoder.layers.1.mlp.fc1.weight" in changed
    elif "lora" in adaptation:
        assert changed == {f"encoder.layers.{n}.attention.{part}.weight" for n in (0, 1) for part in ("qkv", "proj")}
    else:
        assert "encoder.layers.0.mlp.fc1.weight" in changed
    losses = [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]
    assert losses[-1] < losses[0]


def test_a_linear_probe_on_stored_features_equals_one_that_encodes_in_every_step(
    toy_folder, encoder, tmp_path, finetune_recipe, monkeypatch
):
    runs = []
    for name in ("stored", "encoded"):
        if name == "encoded":
            monkeypatch.setattr(finetune, "LinearAdaptation", type("Never", (), {}))
        recipe = finetune_recipe("task=nodule", "adaptation.mode=linear", "selection.metric=loss")
        runs.append(finetune.run(toy_folder / "both.jsonl", tmp_path / name, recipe, encoder, silent=True))
    heads = [Uni4EyeForImageClassification.from_pretrained(run).classifier.linear.weight for run in runs]
    torch.testing.assert_close(*heads, rtol=1e-3, atol=1e-5)


def test_training_from_scratch_proposes_its_own_contract(toy_folder, tmp_path, finetune_recipe):
    recipe = finetune_recipe("task=sign", "selection.metric=accuracy", "optimisation.steps=2", scratch=True)
    run = finetune.run(toy_folder / "images.jsonl", tmp_path / "run", recipe, silent=True)
    contract = PreprocessingContract.from_pretrained(run)
    assert contract.volume is None
    assert contract.image.size == (32, 32)


def test_one_classifier_learns_from_images_and_volumes(toy, toy_folder, encoder, tmp_path, finetune_recipe):
    task = Task(kind="multiclass", classes=("no", "yes"))
    records = tuple(
        record.model_copy(update={"labels": {"ill": min(1, next(iter(record.labels.values())))}})
        for record in toy.records
    )
    Manifest(Header(name="m", root=toy.header.root, tasks={"ill": task}), records).save(tmp_path / "m.jsonl")
    recipe = finetune_recipe("selection.metric=loss", "optimisation.steps=6")
    run = finetune.run(tmp_path / "m.jsonl", tmp_path / "run", recipe, encoder, silent=True)
    assert json.loads((run / "metrics.json").read_text())["val"]["cases"] == len(toy.split("val"))


@pytest.mark.parametrize("kind", ["multilabel", "ordinal"])
def test_other_kinds_of_problems_train(kind, toy, encoder, tmp_path, finetune_recipe):
    task = Task(kind=kind, classes=("a", "b", "c"))
    images = toy.for_task("sign")

    def label(record):
        value = record.labels["sign"]
        return value if kind == "ordinal" else tuple(sorted({0, value}))

    records = tuple(record.model_copy(update={"labels": {"t": label(record)}}) for record in images.records)
    Manifest(Header(name="m", root=toy.header.root, tasks={"t": task}), records).save(tmp_path / "m.jsonl")
    recipe = finetune_recipe("selection.metric=loss", "head.class_weights=balanced", "optimisation.steps=4")
    run = finetune.run(tmp_path / "m.jsonl", tmp_path / "run", recipe, encoder, silent=True)
    assert Uni4EyeConfig.from_pretrained(run).problem == kind
    assert json.loads((run / "metrics.json").read_text())["val"]["problem"] == kind


def test_without_a_validation_split_the_last_step_is_kept(toy, encoder, tmp_path, finetune_recipe, capsys):
    Manifest(toy.header, toy.split("train").records).save(tmp_path / "m.jsonl")
    recipe = finetune_recipe("task=sign", "optimisation.steps=2")
    run = finetune.run(tmp_path / "m.jsonl", tmp_path / "run", recipe, encoder)
    assert "No validation split: the last step is kept" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["selected_on"] == "last step"
    assert json.loads((run / "metrics.json").read_text()) == {}


def test_a_run_stops_early_when_nothing_gets_better(toy_folder, encoder, tmp_path, finetune_recipe):
    recipe = finetune_recipe(
        "task=nodule", "selection.metric=loss", "selection.patience=1", "optimisation.epochs=12",
        "optimisation.base_learning_rate=30.0",
    )  # fmt: skip
    run = finetune.run(toy_folder / "both.jsonl", tmp_path / "run", recipe, encoder, silent=True)
    losses = [line["eval_loss"] for line in evaluations(run)]
    assert len(losses) < 12
    assert losses.index(min(losses)) == len(losses) - 2


@pytest.mark.parametrize(("patience", "stops"), [(2, True), (3, False)])
def test_patience_survives_a_resumption(patience, stops, tmp_path):
    history = [{"eval_auc": value} for value in (0.5, 0.7, 0.6, 0.7)] + [{"loss": 1.0}]
    control = TrainerControl()
    EarlyStopping("auc", patience).on_train_begin(
        TrainingArguments(str(tmp_path)), TrainerState(log_history=history), control
    )
    assert control.should_training_stop is stops


def test_a_metric_that_the_validation_split_does_not_define_is_refused(
    toy_folder, toy, encoder, tmp_path, finetune_recipe
):
    train = [record for record in toy.for_task("sign").records if record.split == "train"]
    same = [
        record.model_copy(update={"split": "val"}) for record in toy.for_task("sign").records
        if record.split != "train" and record.labels["sign"] == 1
    ]  # fmt: skip
    Manifest(toy.header, (*train, *(same or [train[0].model_copy(update={"id": "v", "split": "val"})]))).save(
        tmp_path / "m.jsonl"
    )
    with pytest.raises(RecipeError, match="'auc' cannot be computed on a validation split where classes are missing"):
        finetune.run(tmp_path / "m.jsonl", tmp_path / "run", finetune_recipe("task=sign"), encoder, silent=True)


def test_a_metric_that_the_problem_does_not_have_is_refused(toy, encoder, tmp_path, finetune_recipe):
    task = Task(kind="multilabel", classes=("a", "b", "c"))
    records = tuple(r.model_copy(update={"labels": {"t": (r.labels["sign"],)}}) for r in toy.for_task("sign").records)
    Manifest(Header(name="m", root=toy.header.root, tasks={"t": task}), records).save(tmp_path / "m.jsonl")
    recipe = finetune_recipe("selection.metric=quadratic_kappa")
    with pytest.raises(RecipeError, match="'quadratic_kappa' is not a metric of multilabel tasks"):
        finetune.run(tmp_path / "m.jsonl", tmp_path / "run", recipe, encoder, silent=True)


def test_data_of_a_kind_that_the_encoder_never_saw_are_refused(toy_folder, tmp_path, finetune_recipe, pretrain_recipe):
    recipe = pretrain_recipe("contract.volume_size=null", "optimisation.steps=1")
    encoder = pretrain.run(toy_folder / "images.jsonl", tmp_path / "encoder", recipe, silent=True)
    with pytest.raises(ContractError, match="knows no volumes, and the data hold some"):
        finetune.run(toy_folder / "both.jsonl", tmp_path / "run", finetune_recipe("task=nodule"), encoder, silent=True)


@pytest.mark.parametrize("key", ["model.preset=tiny", "contract.image_size=[32, 32]"])
def test_stating_what_the_encoder_states_is_refused(key, toy_folder, encoder, tmp_path, finetune_recipe):
    with pytest.raises(RecipeError, match="is given, and the encoder has its own"):
        finetune.run(
            toy_folder / "both.jsonl", tmp_path / "run", finetune_recipe("task=sign", key), encoder, silent=True
        )


def test_a_task_must_be_named_where_there_are_several(toy):
    with pytest.raises(RecipeError, match=r"the manifest has several \(nodule, sign\)"):
        split(toy, None)


def test_a_manifest_without_labels_is_refused(toy):
    bare = tuple(record.model_copy(update={"labels": {}}) for record in toy.records)
    with pytest.raises(RecipeError, match="has no labels in this manifest"):
        split(Manifest(Header(name="m", root="/"), bare), None)


def test_a_manifest_without_a_training_split_is_refused(toy):
    with pytest.raises(RecipeError, match="has no training record with a label for 'sign'"):
        split(toy.split("test"), "sign")


def test_an_encoder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ReadError, match="holds no model"):
        encoder_folder(tmp_path)


def test_an_unfinished_run_whose_checkpoints_hold_only_what_learns_is_refused(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").touch()
    mark_complete(checkpoint)
    with pytest.raises(ReadError, match="is a fine-tuning run that has not finished"):
        encoder_folder(tmp_path)


def test_an_unfinished_run_gives_its_last_complete_checkpoint(encoder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(encoder / "checkpoints")
    assert encoder_folder(tmp_path / "run").name == "checkpoint-4"


def test_freezing_more_layers_than_there_are_is_refused(encoder):
    model = build_classifier(Uni4EyeConfig.from_pretrained(encoder, num_labels=2), encoder)
    with pytest.raises(RecipeError, match="is 3, and the encoder has 2 layers"):
        adapt(model, PartialAdaptation(frozen_layers=3))


def test_merged_low_rank_updates_compute_the_same(encoder):
    torch.manual_seed(0)
    model = adapt(
        build_classifier(Uni4EyeConfig.from_pretrained(encoder, num_labels=2), encoder), LoraAdaptation(rank=2)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    values = torch.randn(2, 3, 32, 32)
    before = model.eval()(pixel_values=values).logits
    plain = merged(model)
    assert isinstance(plain, Uni4EyeForImageClassification)
    torch.testing.assert_close(plain.eval()(values).logits, before, rtol=1e-4, atol=1e-5)
    assert merged(plain) is plain


def test_balanced_weights_are_inverse_to_the_frequencies(toy):
    parts = split(toy, "sign")
    counts = np.bincount(labels_of(parts.train, "sign"), minlength=3)
    assert class_weights(parts) == pytest.approx((counts.sum() / (3 * counts)).tolist())


def test_balanced_weights_of_multilabel_tasks_weigh_positives(toy):
    task = Task(kind="multilabel", classes=("a", "b", "c"))
    labels = [(0,), (0, 1), (0,), ()]
    records = tuple(
        record.model_copy(update={"labels": {"t": label}, "split": "train"})
        for record, label in zip(toy.records, labels, strict=False)
    )
    parts = split(Manifest(Header(name="m", root="/", tasks={"t": task}), records), "t")
    assert class_weights(parts) == [1 / 3, 3.0, 4.0]
    assert labels_of(parts.train, "t").tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_evaluating_on_other_classes_is_refused(finished, toy):
    header = toy.header.model_copy(
        update={
            "tasks": {"nodule": Task(kind="multiclass", classes=("none", "hollow", "solid")), "sign": toy.task("sign")}
        }
    )
    with pytest.raises(RecipeError, match="where the model has"):
        evaluate(crossdim.load(finished), Manifest(header, toy.records), "nodule")


def test_a_finished_run_says_so(finished, toy_folder, encoder, capsys):
    recipe = load_recipe(finished / "recipe.yaml", FinetuneRecipe)
    finetune.run(toy_folder / "both.jsonl", finished, recipe, encoder)
    assert "is finished: nothing to do" in " ".join(capsys.readouterr().err.split())


def test_another_encoder_is_another_run(finished, toy_folder, encoder, tmp_path):
    document = json.loads((finished / "run.json").read_text()) | {"status": "running"}
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "run.json").write_text(json.dumps(document))
    (copy / "recipe.yaml").write_text((finished / "recipe.yaml").read_text())
    recipe = load_recipe(copy / "recipe.yaml", FinetuneRecipe)
    checkpoint = encoder / "checkpoints" / "checkpoint-2"
    with pytest.raises(RecipeError, match="holds a run that differs from this one \\(encoder: "):
        finetune.run(toy_folder / "both.jsonl", copy, recipe, checkpoint, silent=True)
