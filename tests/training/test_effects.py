"""No dead option: every key of a recipe changes something that reaches the training."""

import pytest
import torch

from crossdim.training import finetune, pretrain
from crossdim.training.health import Watch
from crossdim.training.recipe import FinetuneRecipe, PretrainRecipe
from crossdim.training.recipe_files import flatten
from crossdim.training.schedule import Draw
from crossdim.training.selection import EarlyStopping
from crossdim.transforms.collate import Sample
from crossdim.transforms.contract import PreprocessingContract

PRETRAIN = (
    "seed=1", "model.hidden_size=16", "model.num_hidden_layers=3", "model.num_attention_heads=4",
    "model.intermediate_size=32", "model.patch_size=[16, 8]", "model.volume_patch_size=[4, 8, 8]",
    "model.volume_stem=inflated", "model.image_positions=none", "model.volume_positions=none",
    "model.drop_path_rate=0.1", "model.pooling=mean", "decoder.hidden_size=16", "decoder.num_hidden_layers=2",
    "decoder.num_attention_heads=4", "decoder.intermediate_size=32", "decoder.shared_norm=true",
    "masking.image_ratio=0.5", "masking.volume_ratio=0.5", "masking.volume_block=[1, 2, 2]",
    "loss.intensity_weight=2", "loss.gradient_weight=0", "loss.normalise_patches=true", "loss.gradient_target=uint8",
    "loss.edge_scale=1", "contract.image_size=[16, 16]", "contract.volume_size=[8, 16, 16]",
    "contract.image_size=null contract.image_tokens=4", "contract.volume_size=null contract.volume_tokens=2",
    "augmentation.crop_scale=[0.9, 1]", "augmentation.crop_ratio=[1, 1]", "augmentation.flip_depth=1",
    "augmentation.flip_height=1", "augmentation.flip_width=0", "augmentation.rotation_deg=90",
    "augmentation.tilt_deg=[45, 45]", "augmentation.brightness=0.5", "augmentation.contrast=0.9",
    "augmentation.gamma=3", "augmentation.noise_std=0.5", "mixing.order=alternate_epochs", "mixing.images=3",
    "mixing.volumes=1", "optimisation.base_learning_rate=0.5", "optimisation.weight_decay=0.5",
    "optimisation.betas=[0.8, 0.9]", "optimisation.warmup=0.5", "optimisation.steps=null optimisation.epochs=2",
    "optimisation.steps=9", "optimisation.accumulate=2", "optimisation.max_grad_norm=1", "hardware.device=cpu",
    "hardware.precision=bf16", "hardware.workers=2", "hardware.cache_gib=0", "hardware.activation_checkpointing=true",
    "logging.log_every=3", "logging.save_every=3", "logging.keep_checkpoints=3", "logging.report_to=[tensorboard]",
    "health.picture_every=1", "health.pictures=1", "health.probe_every=1", "health.probe_samples=9",
    "health.neighbours=2", "health.min_spread=0.5", "health.min_effective_rank=9",
)  # fmt: skip
FINETUNE = (
    "seed=1", "task=nodule", "shots=2", "head.pooling=mean", "head.class_weights=balanced", "head.label_smoothing=0.1",
    "head.drop_path_rate=0.1", "adaptation.mode=full adaptation.layer_decay=0.5",
    "adaptation.mode=partial adaptation.frozen_layers=1", "adaptation.mode=lora", "adaptation.mode=linear",
    "augmentation.brightness=0.5", "labels_depend_on=[] augmentation.flip_width=1", "batch.images=2",
    "task=nodule batch.volumes=2", "optimisation.base_learning_rate=0.5", "optimisation.betas=[0.5, 0.5]",
    "selection.metric=loss", "selection.evaluate_every_epochs=2", "selection.patience=3", "logging.log_every=3",
    "logging.report_to=[tensorboard]", "hardware.cache_gib=0",
)  # fmt: skip
SCENE_PARTS = ("points", "pixel_values", "projection", "boxes")
LORA = ("adaptation.rank=2", "adaptation.alpha=1", "adaptation.dropout=0.5", "adaptation.targets=[fc1]")


class Ready(BaseException):
    """Raised in the place of training, with the trainer."""


@pytest.fixture
def stopped(monkeypatch):
    def stop(trainer, announcer):
        raise Ready(trainer)

    for room in (pretrain, finetune):
        monkeypatch.setattr(room, "run_trainer", stop)


def consequences(trainer) -> dict:
    """Return what a recipe leads to, right before the first step."""
    plan = trainer.plan
    found = {f"config.{key}": value for key, value in trainer.network.config.to_dict().items()}
    found |= {f"arguments.{key}": value for key, value in trainer.args.to_dict().items() if key != "output_dir"}
    found |= {
        "rates": (plan.learning_rate, plan.weight_decay, plan.layer_decay),
        "batches": [plan.schedule.batch(place) for place in range(4)],
        "length": len(plan.schedule),
        "learning": {name for name, value in trainer.network.named_parameters() if value.requires_grad},
        "weights": float(sum(value.detach().double().abs().sum() for value in trainer.network.parameters())),
        "lora": str(getattr(trainer.network, "peft_config", None)),
        "contract": plan.contract,
        "dataset": type(plan.dataset).__name__,
    }
    if hasattr(plan.dataset, "manifest"):
        cached = plan.dataset.prepared(0) is plan.dataset.prepared(0)
        samples = [plan.dataset[Draw(0, place)] for place in (0, len(plan.dataset) - 1)]
        found |= {"cached": cached, "samples": [content(sample) for sample in samples]}
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, Watch):
            found["health"] = callback._recipe
        if isinstance(callback, EarlyStopping):
            found["patience"] = vars(callback)
    return found


def content(sample) -> list[bytes]:
    """Return the numbers of a sample, of a file or of a scene."""
    parts = (sample.values,) if isinstance(sample, Sample) else (*map(vars(sample.scene).get, SCENE_PARTS),)
    return [part.numpy().tobytes() for part in parts if part is not None]


def outcome(run, *arguments) -> dict:
    with pytest.raises(Ready) as reached:
        run(*arguments, silent=True)
    return consequences(reached.value.args[0])


def test_every_key_of_a_pretraining_recipe_has_an_effect(stopped, toy_folder, tmp_path, pretrain_recipe):
    data, out = toy_folder / "both.jsonl", tmp_path / "run"
    base = outcome(pretrain.run, data, out, pretrain_recipe())
    without = [
        override for override in PRETRAIN
        if outcome(pretrain.run, data, out, pretrain_recipe(*splitted(override))) == base
    ]  # fmt: skip
    # On a machine without a GPU the device is the CPU anyway.
    assert without == ([] if torch.cuda.is_available() else ["hardware.device=cpu"])


def test_the_preset_has_an_effect_where_sizes_are_left_out(stopped, toy_folder, tmp_path, pretrain_recipe):
    data, out, free = toy_folder / "both.jsonl", tmp_path / "run", "model.intermediate_size=null"
    assert outcome(pretrain.run, data, out, pretrain_recipe(free)) != outcome(
        pretrain.run, data, out, pretrain_recipe(free, "model.preset=small")
    )


def test_the_list_of_pretraining_keys_is_complete():
    tried = {part.partition("=")[0] for override in PRETRAIN for part in override.split() if "=" in part}
    # A contract file replaces the proposal (tests/training/test_pretrain.py); the kind is a mark.
    assert set(flatten(PretrainRecipe().model_dump())) - tried == {"kind", "model.preset", "contract.file"}


def test_the_list_of_finetuning_keys_is_complete():
    tried = {part.partition("=")[0] for override in (*FINETUNE, *LORA) for part in override.split() if "=" in part}
    shared = {f"{section}.{key}" for section in ("augmentation", "optimisation", "hardware") for key in
              flatten(PretrainRecipe().model_dump()[section])}  # fmt: skip
    elsewhere = {"kind", "bootstrap", "model", "contract"}  # test_finetune.py
    assert set(flatten(FinetuneRecipe().model_dump())) - tried - shared == elsewhere


def splitted(override: str) -> list[str]:
    """Split at the spaces between overrides, not at those inside lists."""
    parts: list[str] = []
    for word in override.split(" "):
        if "=" in word:
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    return parts


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory):
    """Return a folder with random weights of an encoder and its contract."""
    from crossdim.models.uni4eye import Uni4EyeConfig, Uni4EyeForPreTraining
    from crossdim.transforms.contract import ImageContract, VolumeContract

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = Uni4EyeConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        volume_size=16, volume_patch_size=8, decoder_hidden_size=8, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    Uni4EyeForPreTraining(config).save_pretrained(folder)
    contract = PreprocessingContract(
        image=ImageContract(size=(32, 32)), volume=VolumeContract(size=(16, 16, 16)), source="test"
    )
    contract.save_pretrained(folder)
    return folder


def test_every_key_of_a_finetuning_recipe_has_an_effect(stopped, toy_folder, tmp_path, finetune_recipe, small_encoder):
    data, out = toy_folder / "both.jsonl", tmp_path / "run"

    def result(*overrides):
        recipe = finetune_recipe(*(() if any("task=" in each for each in overrides) else ("task=sign",)), *overrides)
        return outcome(finetune.run, data, out, recipe, small_encoder)

    base = {"task=nodule": result("task=nodule"), "": result()}
    for override in FINETUNE:
        start = "task=nodule" if override.startswith("task=nodule ") else ""
        assert result(*splitted(override)) != base[start], override
    lora = result("adaptation.mode=lora")
    for override in LORA:
        assert result("adaptation.mode=lora", override) != lora, override
