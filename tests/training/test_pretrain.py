import json
import shutil

import jaxtyping
import pytest
import torch

import crossdim.training.health as health
from crossdim.datasets.manifest import Manifest
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.models.uni4eye import Uni4EyeForPreTraining
from crossdim.training import pretrain
from crossdim.training.alarm import TrainingError
from crossdim.training.checkpoints import last_complete
from crossdim.training.configs import model_config
from crossdim.training.contracts import contract_for_run
from crossdim.training.data import Collate, RecordDataset
from crossdim.training.provenance import read_log
from crossdim.training.recipe import PretrainRecipe
from crossdim.training.recipe_files import load_recipe
from crossdim.training.schedule import MixedSchedule, Stream
from crossdim.transforms.collate import collate_pretraining
from crossdim.transforms.contract import PreprocessingContract


def logged(run, key):
    return [line[key] for line in read_log(run / "log.jsonl") if key in line]


@pytest.fixture(scope="module")
def finished(toy_folder, tmp_path_factory):
    """Return a finished run with pictures, probes and the default contract for a plain folder."""
    from tests.training.conftest import CONTRACT, DECODER, MODEL, SHORT

    recipe = load_recipe(
        None,
        PretrainRecipe,
        [*MODEL, *CONTRACT, *DECODER, *SHORT, "health.picture_every=4", "health.probe_every=2", "health.pictures=2"],
    )
    return pretrain.run(toy_folder / "both.jsonl", tmp_path_factory.mktemp("runs") / "run", recipe, silent=True)


def test_a_run_leaves_model_contract_recipe_log_and_provenance(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.json", "model.safetensors", "contract.json", "recipe.yaml", "run.json", "log.jsonl", "pictures",
        "checkpoints", "report.html",
    } <= names  # fmt: skip
    model = Uni4EyeForPreTraining.from_pretrained(finished)
    assert model.config.num_hidden_layers == 2
    assert PreprocessingContract.from_pretrained(finished).volume.size == (16, 16, 16)
    assert json.loads((finished / "run.json").read_text())["status"] == "finished"


def test_the_page_shows_curves_pictures_and_provenance(finished):
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "Reconstructed volumes after 4 steps" in page
    assert "data hash" in page


def test_everything_in_a_run_can_be_read_by_those_who_can_read_the_contract(finished):
    modes = {path.name: path.stat().st_mode for path in finished.iterdir() if path.is_file()}
    assert modes["model.safetensors"] == modes["contract.json"]


def test_every_checkpoint_holds_the_contract(finished):
    for checkpoint in (finished / "checkpoints").glob("checkpoint-*"):
        assert PreprocessingContract.from_pretrained(checkpoint) == PreprocessingContract.from_pretrained(finished)


def test_the_log_states_every_part_of_the_loss_padding_and_throughput(finished):
    line = read_log(finished / "log.jsonl")[0]
    parts = [line[f"loss/{kind}/{target}"] for kind in ("image", "volume") for target in ("intensity", "gradient")]
    assert line["loss"] == pytest.approx(sum(parts), rel=1e-5)
    assert 0 <= line["padded_tokens"] < 1
    assert line["hidden/image"] == 0.75
    assert line["samples_per_second"] > 0
    assert {"learning_rate", "grad_norm", "epoch", "step"} <= line.keys()


def test_pictures_and_probes_appear_when_they_are_due(finished):
    assert sorted(path.name for path in (finished / "pictures").iterdir()) == [
        "images-0000004.png",
        "volumes-0000004.png",
    ]
    assert len(logged(finished, "features/image/effective_rank")) == 2
    assert 0 <= logged(finished, "features/image/knn_accuracy")[0] <= 1
    assert logged(finished, "features/volume/spread")[0] > 0


def test_watching_more_closely_changes_no_number(finished, toy_folder, tmp_path, pretrain_recipe):
    blind = pretrain.run(toy_folder / "both.jsonl", tmp_path / "blind", pretrain_recipe(), silent=True)
    assert logged(blind, "loss") == logged(finished, "loss")


def test_a_finished_run_says_so_and_does_nothing(finished, toy_folder, capsys):
    recipe = load_recipe(finished / "recipe.yaml", PretrainRecipe)
    before = (finished / "run.json").read_text()
    pretrain.run(toy_folder / "both.jsonl", finished, recipe)
    assert "is finished: nothing to do" in " ".join(capsys.readouterr().err.split())
    assert (finished / "run.json").read_text() == before


def test_a_plain_folder_of_images_and_volumes_is_enough(toy_folder, tmp_path, pretrain_recipe):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in [*sorted(toy_folder.rglob("*.png"))[:5], *sorted(toy_folder.rglob("*.nii.gz"))[:4]]:
        shutil.copy(path, mixed / path.name)
    recipe = pretrain_recipe("contract.image_size=null", "contract.volume_size=null", "contract.volume_tokens=16")
    run = pretrain.run(mixed, tmp_path / "run", recipe, silent=True)
    contract = PreprocessingContract.from_pretrained(run)
    assert contract.image.size == (32, 32)
    assert contract.volume is not None
    assert logged(run, "loss/volume/intensity")


@pytest.mark.parametrize(("name", "kind", "other"), [("images", "image", "volume"), ("volumes", "volume", "image")])
def test_one_kind_alone_is_enough(name, kind, other, toy_folder, tmp_path, pretrain_recipe):
    recipe = pretrain_recipe(f"contract.{other}_size=null")
    run = pretrain.run(toy_folder / f"{name}.jsonl", tmp_path / "run", recipe, silent=True)
    assert logged(run, f"loss/{kind}/gradient")
    assert not logged(run, f"loss/{other}/gradient")
    assert getattr(PreprocessingContract.from_pretrained(run), other) is None


def test_alternate_epochs_train_volumes_then_images(toy_folder, tmp_path, pretrain_recipe):
    recipe = pretrain_recipe("mixing.order=alternate_epochs", "logging.log_every=1", "optimisation.steps=6")
    run = pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", recipe, silent=True)
    lines = [line for line in read_log(run / "log.jsonl") if "loss" in line]
    kinds = ["v" if "loss/volume/intensity" in line else "i" for line in lines]
    assert kinds == ["v", "v", "v", "i", "i", "v"]
    assert not any("loss/volume/intensity" in line and "loss/image/intensity" in line for line in lines)


def test_validation_and_test_splits_are_not_trained_on(toy):
    used = pretrain.training_part(toy)
    assert {record.split for record in used.records} == {"train"}
    assert "test" not in {record.split for record in pretrain.probed_part(toy).records}


def test_a_manifest_without_a_training_split_is_refused(toy):
    only_test = toy.split("test")
    with pytest.raises(ReadError, match="has no record to train on"):
        pretrain.training_part(only_test)


def test_leaving_out_the_only_kind_is_refused(toy_folder, tmp_path, pretrain_recipe):
    recipe = pretrain_recipe("mixing.images=0", "contract.volume_size=null")
    with pytest.raises(RecipeError, match="takes no images, and there is nothing else"):
        pretrain.run(toy_folder / "images.jsonl", tmp_path / "run", recipe, silent=True)


def test_alternating_with_one_kind_is_refused(toy_folder, tmp_path, pretrain_recipe):
    recipe = pretrain_recipe("mixing.order=alternate_epochs", "contract.volume_size=null")
    with pytest.raises(RecipeError, match="is alternate_epochs, and there are images only"):
        pretrain.run(toy_folder / "images.jsonl", tmp_path / "run", recipe, silent=True)


def test_a_size_for_a_kind_that_is_not_there_is_refused(toy_folder, tmp_path, pretrain_recipe):
    with pytest.raises(RecipeError, match=r"'contract.volume_size': is given, and there are no volumes"):
        pretrain.run(toy_folder / "images.jsonl", tmp_path / "run", pretrain_recipe(), silent=True)


def test_a_contract_file_is_used_as_it_is(toy, finished, pretrain_recipe):
    recipe = pretrain_recipe(
        "contract.image_size=null", "contract.volume_size=null", f"contract.file={finished / 'contract.json'}"
    )
    assert contract_for_run(recipe.contract, toy, recipe.model.patches) == PreprocessingContract.from_pretrained(
        finished
    )


def test_a_contract_file_that_does_not_fit_is_refused(toy, toy_folder, finished, tmp_path, pretrain_recipe):
    contract = PreprocessingContract.from_pretrained(finished)
    overrides = ("contract.image_size=null", "contract.volume_size=null", f"contract.file={tmp_path}")
    contract.model_copy(update={"volume": None}).save_pretrained(tmp_path)
    recipe = pretrain_recipe(*overrides)
    with pytest.raises(ContractError, match="knows no volumes, and the data hold some"):
        contract_for_run(recipe.contract, toy, recipe.model.patches)
    contract.save_pretrained(tmp_path)
    recipe = pretrain_recipe(*overrides, "model.patch_size=[12, 12]")
    with pytest.raises(ContractError, match=r"image size \(32, 32\) is not a multiple of the patch \(12, 12\)"):
        contract_for_run(recipe.contract, toy, recipe.model.patches)


def test_a_mask_that_hides_nothing_is_refused(toy_folder, tmp_path, pretrain_recipe):
    recipe = pretrain_recipe("masking.volume_ratio=0.0")
    with pytest.raises(RecipeError, match=r"'masking.volume_ratio': hides no volume token that holds data"):
        pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", recipe, silent=True)


def test_a_damaged_file_is_named_before_training(toy_folder, toy, tmp_path, pretrain_recipe):
    broken = toy.records[0].model_copy(update={"id": "broken", "paths": (str(tmp_path / "broken.png"),)})
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Manifest(toy.header, (*toy.records[1:], broken)).save(tmp_path / "m.jsonl")
    with pytest.raises(ReadError, match=r"broken"):
        pretrain.run(tmp_path / "m.jsonl", tmp_path / "run", pretrain_recipe(), silent=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanishes_while_training_is_named(workers, toy_folder, tmp_path, pretrain_recipe, monkeypatch):
    read = RecordDataset.prepared

    def vanishing(self, index):
        if index == 5:
            raise ReadError("scan.nii", "does not exist", "Restore it")
        return read(self, index)

    monkeypatch.setattr(RecordDataset, "prepared", vanishing)
    recipe = pretrain_recipe(f"hardware.workers={workers}")
    with pytest.raises(ReadError, match=r"scan\.nii: does not exist"):
        pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", recipe, silent=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"].startswith("stopped: scan.nii")


def test_both_kinds_reach_the_shared_layers_in_one_step(toy, pretrain_recipe):
    recipe = pretrain_recipe()
    contract = contract_for_run(recipe.contract, toy, recipe.model.patches)
    config = model_config(recipe, contract)
    dataset = RecordDataset(toy, contract, {"image": (8, 8), "volume": (8, 8, 8)})
    streams = {"image": Stream(range(18), 0, "image"), "volume": Stream(range(18, 30), 0, "volume")}
    batch = Collate(collate_pretraining)(
        [dataset[draw] for draw in MixedSchedule(streams, {"image": 4, "volume": 2}).batch(0)]
    )
    torch.manual_seed(0)
    model = Uni4EyeForPreTraining(config)
    shared = dict(model.uni4eye.encoder.named_parameters())

    def gradients(part):
        model.zero_grad()
        losses = model(**batch).losses
        sum(value for name, value in losses.items() if part in name).backward()
        return {name: parameter.grad.clone() for name, parameter in shared.items()}

    images, volumes, both = gradients("image"), gradients("volume"), gradients("")
    for name in shared:
        assert images[name].abs().max() > 0, name
        assert volumes[name].abs().max() > 0, name
        torch.testing.assert_close(images[name] + volumes[name], both[name], rtol=1e-4, atol=1e-7)


def test_accumulation_gives_the_learning_rate_of_the_whole_step(toy, tmp_path, pretrain_recipe, toy_folder):
    recipe = pretrain_recipe("optimisation.accumulate=2", "optimisation.warmup=0.0", "optimisation.steps=2")
    run = pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", recipe, silent=True)
    assert logged(run, "learning_rate")[0] <= 0.02 * 12 / 256


def test_a_planted_nan_stops_the_run_and_names_the_last_good_checkpoint(
    toy_folder, tmp_path, pretrain_recipe, monkeypatch
):
    forward = Uni4EyeForPreTraining.forward
    calls = []

    def poisoned(self, **batch):
        output = forward(self, **batch)
        calls.append(1)
        if len(calls) == 3:
            output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(Uni4EyeForPreTraining, "forward", poisoned)
    with pytest.raises(
        TrainingError, match=r"training diverged: loss is nan.*last good checkpoint is .*checkpoint-2\."
    ):
        pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", pretrain_recipe(), silent=True)
    assert last_complete(tmp_path / "run" / "checkpoints").name == "checkpoint-2"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"].startswith("stopped: step 4")


def test_a_first_loss_that_is_not_finite_stops_before_any_update(toy_folder, tmp_path, pretrain_recipe, monkeypatch):
    forward = Uni4EyeForPreTraining.forward

    def poisoned(self, **batch):
        output = forward(self, **batch)
        output.losses["volume/gradient"] = output.losses["volume/gradient"] * float("inf")
        return output

    monkeypatch.setattr(Uni4EyeForPreTraining, "forward", poisoned)
    message = r"step 0 .*not finite in the first forward \(volume/gradient\). No checkpoint had been written"
    with pytest.raises(TrainingError, match=message):
        pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", pretrain_recipe(), silent=True)


def test_a_first_forward_without_one_kind_is_a_bug(toy_folder, tmp_path, pretrain_recipe, monkeypatch):
    monkeypatch.setattr(
        pretrain, "collate_pretraining", lambda samples: collate_pretraining([s for s in samples if s.values.ndim == 3])
    )
    with pytest.raises(AssertionError, match=r"no loss for .*volume/intensity"):
        pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", pretrain_recipe(), silent=True)


def test_weights_that_are_not_finite_are_never_saved(toy_folder, tmp_path, pretrain_recipe, monkeypatch):
    class Spoil(health.FiniteLoss):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                with torch.no_grad():
                    model.uni4eye.cls_token.fill_(float("nan"))

    monkeypatch.setattr(pretrain, "FiniteLoss", Spoil)
    with pytest.raises(TrainingError, match=r"1 weights are not finite \(uni4eye.cls_token.*checkpoint-2"):
        pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", pretrain_recipe(), silent=True)
    assert last_complete(tmp_path / "run" / "checkpoints").name == "checkpoint-2"


def test_collapsed_features_stop_the_run(toy_folder, tmp_path, pretrain_recipe, monkeypatch):
    class Collapse(health.FiniteLoss):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            with torch.no_grad():
                model.uni4eye.encoder.norm.weight.zero_()
                model.uni4eye.encoder.norm.bias.fill_(1.0)

    monkeypatch.setattr(pretrain, "FiniteLoss", Collapse)
    with pytest.raises(TrainingError, match="gives nearly the same features for every image"):
        pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", pretrain_recipe("health.probe_every=1"), silent=True)


def test_features_that_are_not_finite_stop_the_run(toy_folder, tmp_path, pretrain_recipe, monkeypatch):
    class Spoil(health.FiniteLoss):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            with torch.no_grad():
                model.uni4eye.encoder.norm.weight.fill_(float("nan"))

    monkeypatch.setattr(pretrain, "FiniteLoss", Spoil)
    with pytest.raises(TrainingError, match="features of images are not finite"):
        pretrain.run(toy_folder / "both.jsonl", tmp_path / "run", pretrain_recipe("health.probe_every=1"), silent=True)


def test_bf16_trains_on_a_cpu_and_keeps_weights_in_fp32(toy_folder, tmp_path, pretrain_recipe, monkeypatch):
    # accelerate rebuilds model outputs from a dict in their first field, which their annotations do not allow for.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    run = pretrain.run(
        toy_folder / "both.jsonl", tmp_path / "run", pretrain_recipe("hardware.precision=bf16"), silent=True
    )
    assert Uni4EyeForPreTraining.from_pretrained(run).dtype == torch.float32
    exact = pretrain.run(toy_folder / "both.jsonl", tmp_path / "exact", pretrain_recipe(), silent=True)
    assert logged(run, "loss") != logged(exact, "loss")
    assert logged(run, "loss")[0] == pytest.approx(logged(exact, "loss")[0], rel=0.05)
