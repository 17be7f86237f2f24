"""No dead option: every key of an instruction recipe changes something that reaches the training, or is refused."""

from pathlib import Path

import pytest

from crossdim.errors import RecipeError
from crossdim.training import instruct
from crossdim.training.recipe_files import flatten
from crossdim.training.recipe_instruct import InstructRecipe, LanguageSection, TowersSection
from crossdim.training.schedule import Draw
from crossdim.training.selection import EarlyStopping
from tests.training.dialogue_toys import FROZEN, instruct_recipe, write_dialogues
from tests.training.test_effects import Ready, splitted

KEYS = (
    "seed=1", "scoring.fusion=2d_only", "scoring.slice_weights=uniform", "scoring.slice_weights=learned",
    "scoring.score_key=2d", "scoring.question_feature=mlp", "scoring.temperature=2", "scoring.score_dropout=0.5",
    "scoring.slice_loss_weight=0.5", "scoring.slice_weights=top_k", "scoring.slice_weights=top_k scoring.top_k=2",
    "learning.language_model=frozen", "learning.language_model=lora", "learning.vision3d=frozen",
    "learning.vision2d=frozen", "learning.question_encoder=frozen", "learning.language_rate=0.1",
    "learning.tower_rate=0.1", "prompt.style=vicuna", "prompt.choices=letters",
    "prompt.max_length=40", "contract.volume_size=[16, 16, 16]", "augmentation.flip_depth=1",
    "batch.volumes=2", "batch.texts=3 batch.volumes=1", "batch.questions_per_volume=1",
    "optimisation.base_learning_rate=0.5", "optimisation.weight_decay=0.5", "optimisation.betas=[0.8, 0.9]",
    "optimisation.warmup=0.5", "optimisation.steps=9", "optimisation.accumulate=2", "optimisation.max_grad_norm=0",
    "selection.evaluate_every_epochs=2", "selection.patience=3", "hardware.precision=bf16", "hardware.workers=2",
    "hardware.activation_checkpointing=true", "logging.log_every=3", "logging.report_to=[tensorboard]",
    "language.hidden_size=32", "language.num_hidden_layers=3", "language.num_attention_heads=4",
    "language.intermediate_size=16", "language.vocab_size=300", "language.context=512",
    *(
        f"model.{part}.{size}"
        for part in ("vision3d", "vision2d", "question")
        for size in ("hidden_size=32", "num_hidden_layers=3", "num_attention_heads=4", "intermediate_size=16")
    ),
    "model.vision3d.patch_size=[2, 8, 8]", "model.vision2d.patch_size=4",
)  # fmt: skip
LORA = ("lora.rank=2", "lora.alpha=1", "lora.dropout=0.5", "lora.targets=[q_proj]")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dialogues(tmp_path_factory.mktemp("dialogues"))


@pytest.fixture
def stopped(monkeypatch):
    def stop(trainer, announcer):
        raise Ready(trainer)

    monkeypatch.setattr(instruct, "run_trainer", stop)


def outcome(data: Path, out: Path, *overrides: str) -> dict:
    """Return what a recipe leads to, right before the first step."""
    with pytest.raises(Ready) as reached:
        instruct.run(data, out, instruct_recipe(*overrides), silent=True)
    trainer = reached.value.args[0]
    plan, dataset = trainer.plan, trainer.plan.dataset
    batch = plan.collate([dataset[Draw(0, place)] for place in range(3)])
    found = {f"arguments.{key}": value for key, value in trainer.args.to_dict().items() if key != "output_dir"}
    found |= {
        "config": trainer.network.config.to_dict(),
        "rates": [(group["lr"], group["weight_decay"]) for group in trainer.create_optimizer().param_groups],
        "batches": [plan.schedule.batch(place) for place in range(4)],
        "length": len(plan.schedule),
        "learning": {name for name, value in trainer.network.named_parameters() if value.requires_grad},
        "weights": float(sum(value.detach().double().abs().sum() for value in trainer.network.parameters())),
        "lora": str(getattr(trainer.network, "peft_config", None)),
        "room": plan.contract.max_length,
        "batch": {name: str(value.tolist()) for name, value in batch.items() if hasattr(value, "tolist")},
        "patience": [vars(one) for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStopping)],
    }
    return found


def test_every_key_has_an_effect(stopped, data, tmp_path):
    base = outcome(data, tmp_path / "run")
    without = [override for override in KEYS if outcome(data, tmp_path / "run", *splitted(override)) == base]
    assert without == []


def test_every_key_of_low_rank_updates_has_an_effect(stopped, data, tmp_path):
    base = outcome(data, tmp_path / "run", "learning.language_model=lora")
    for override in LORA:
        assert outcome(data, tmp_path / "run", "learning.language_model=lora", override) != base, override


def test_the_place_of_kept_features_is_the_recipes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(instruct, "conclude_dialogues", lambda *arguments: None)
    recipe = instruct_recipe(*FROZEN, f"features.folder={tmp_path / 'here'}", "optimisation.steps=1")
    instruct.run(data, tmp_path / "run", recipe, silent=True)
    assert list((tmp_path / "here").glob("*.safetensors"))


def test_the_list_of_keys_is_complete():
    tried = {part.partition("=")[0] for override in (*KEYS, *LORA) for part in override.split() if "=" in part}
    everything = InstructRecipe(model=TowersSection(), language=LanguageSection())
    keys = set(flatten(everything.model_dump()))
    shared = {key for key in keys if key.startswith(("augmentation.", "optimisation.", "hardware."))}
    # In test_towers.py, test_language_models.py, test_frozen_features.py and test_instruct.py.
    elsewhere = {
        "kind", "bootstrap", "contract", "falsifying", "batch.images", "prompt.too_long", "features.keep",
        "features.folder", "features.limit_gib", "language.source", "model.vision3d.source", "model.vision2d.source",
        "model.question.source",
    }  # fmt: skip
    assert keys - tried - shared == elsewhere


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.rank=4"], "lora has no effect unless learning.language_model is lora"),
        (["prompt.style=caption", "prompt.choices=letters"], "choices has no effect with style caption"),
        (["learning.language_model=frozen", "learning.language_rate=2"], "language_rate has no effect"),
        ([*FROZEN, "learning.tower_rate=2"], "tower_rate has no effect while towers and question encoder are frozen"),
        (["falsifying=skip"], "falsifying has no effect while augmentation varies nothing"),
        (["scoring.top_k=2"], "top_k has no effect unless slice_weights is top_k"),
        (["language.source=smollm2", "language.vocab_size=500"], "hidden_size has no effect unless source is scratch"),
        (["model.vision2d.source=somewhere"], "hidden_size has no effect unless source is tiny or siglip-large"),
    ],
)
def test_a_key_without_an_effect_is_refused(overrides, message):
    with pytest.raises(RecipeError, match=message):
        instruct_recipe(*overrides)
