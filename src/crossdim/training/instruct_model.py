"""Where instruction training starts, and what of the model learns."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import lcm
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from crossdim.datasets.manifest import Manifest
from crossdim.errors import ContractError, RecipeError
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.models.med2e3_config import Med2E3Config
from crossdim.training.adaptation import encoder_folder
from crossdim.training.contracts import check_fit, contract_for_run
from crossdim.training.data import Patches
from crossdim.training.language_models import context_of, language_model, question_tokenizer
from crossdim.training.provenance import weights_hash
from crossdim.training.recipe_instruct import (
    InstructRecipe,
    LanguageSection,
    LearningSection,
    LoraSection,
    ScoringSection,
    TowersSection,
)
from crossdim.training.sections import ContractSection
from crossdim.training.towers import Tower, question_encoder, vision2d_tower, vision3d_tower
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.text import REPORT_QUESTION, Med2E3Processor

ARCHITECTURE = ("fusion", "score_key", "question_feature")
"""Keys of the scoring section that decide which weights there are, besides ``slice_weights`` = ``learned``."""


@dataclass(frozen=True)
class Start:
    """A model before its training.

    Attributes:
        config: Of the model.
        processor: Contract, tokenizer, prompt.
        build: Makes the model.
        weights: Hashes of what is loaded, by part.
    """

    config: Med2E3Config
    processor: Med2E3Processor
    build: Callable[[], Med2E3ForConditionalGeneration]
    weights: dict[str, str] = field(default_factory=dict)


def start_from(folder: Path, recipe: InstructRecipe, training: Manifest) -> Start:
    """Go on from a model that was trained or converted before, such as stage 1.

    Args:
        folder: A run, a checkpoint or a converted model.
        recipe: Its scoring and prompt apply; towers, language model and contract are the checkpoint's.
        training: How it asks for reports.

    Raises:
        RecipeError: The recipe states what the checkpoint states already, or needs a part that it lacks.
        ContractError: Its scoring cannot go together with the checkpoint's.
        ReadError: The folder holds no model.
    """
    for key in ("model", "language", "contract"):
        if getattr(recipe, key) is not None:
            raise RecipeError(f"'{key}'", "is given, and the model to go on from has its own", "Leave it out")
    folder = encoder_folder(folder)
    config = Med2E3Config.from_pretrained(folder)
    scoring, built = _stated(recipe.scoring), _built(config)
    for key, value in scoring.items():
        fixed = key in ARCHITECTURE or (key == "slice_weights" and "learned" in (value, config.slice_weights))
        if fixed and getattr(config, key) != value:
            raise RecipeError(
                f"'scoring.{key}'",
                f"is {value}, and the model to go on from was built with {getattr(config, key)}",
                "Leave it out, or start anew",
            )
        setattr(config, key, value)
    config.check_options()
    if lacking := sorted(_built(config) - built):
        raise RecipeError(
            "'scoring.slice_weights'",
            f"is {config.slice_weights}, which needs a {lacking[0]}, and the model to go on from has none",
            "Leave it out, or start anew",
        )
    saved = Med2E3Processor.from_pretrained(folder)
    room = _room(recipe, context_of(config.language_config))
    processor = replace(
        saved,
        prompt=recipe.prompt.style,
        choices=recipe.prompt.choices,
        max_length=room,
        report_question=report_question(training) or saved.report_question,
    )
    return Start(
        config,
        processor,
        lambda: Med2E3ForConditionalGeneration.from_pretrained(folder, config=config),
        {"start": weights_hash(folder)},
    )


def _built(config: Med2E3Config) -> set[str]:
    """Return the parts that a model of this config has, of those that depend on how slices are weighted."""
    needed = {
        "3D tower": config.uses_volumes,
        "2D tower": config.uses_slices,
        "question encoder": config.reads_question,
    }
    return {part for part, need in needed.items() if need}


def report_question(training: Manifest) -> str:
    """Return how data ask for reports most often, nothing if they hold none.

    Args:
        training: The training split.
    """
    turns = (turn for record in training.records for dialogue in record.dialogues for turn in dialogue.turns)
    asked = Counter(turn.question for turn in turns if turn.form == "report")
    return max(sorted(asked), key=lambda question: asked[question], default="")


def _room(recipe: InstructRecipe, positions: int) -> int:
    """Return the most tokens of a dialogue."""
    asked = recipe.prompt.max_length
    if asked is not None and asked > positions:
        raise RecipeError(
            "'prompt.max_length'",
            f"is {asked}, and the language model has {positions} positions",
            "Give a smaller one, or a larger language.context",
        )
    return asked or positions


def _stated(section: ScoringSection) -> dict[str, Any]:
    renamed = {"temperature": "score_temperature", "top_k": "score_top_k"}
    return {renamed.get(key, key): value for key, value in section if value is not None}


def _of_images(scoring: dict[str, Any]) -> dict[str, Any]:
    """Return how images are scored where there are no volumes: each is its only slice, and nothing sees a volume.

    Args:
        scoring: As the recipe states it.

    Raises:
        RecipeError: It asks for what only volumes have.
    """
    alone = {"fusion": "2d_only", "slice_weights": "uniform"}
    for key, only in alone.items():
        if scoring.get(key, only) != only:
            raise RecipeError(
                f"'scoring.{key}'",
                f"is {scoring[key]}, and the data hold images alone, which have neither depth nor slices to weigh",
                "Leave it out",
            )
    return scoring | alone


def start_anew(recipe: InstructRecipe, training: Manifest) -> Start:
    """Put towers, question encoder and language model together.

    Args:
        recipe: Which ones.
        training: For the contract, and for a tokenizer from scratch.

    Raises:
        RecipeError: A part is not to be found.
        ContractError: The data do not fit the contract or the towers.
    """
    sections, scoring = recipe.model or TowersSection(), _stated(recipe.scoring)
    tower3d, tower2d = vision3d_tower(sections.vision3d), vision2d_tower(sections.vision2d)
    contract = _contract(recipe, training, tower3d, tower2d)
    if contract.volume is None:
        scoring = _of_images(scoring)
    spoken, tokenizer = language_model(recipe.language or LanguageSection(), training)
    asking, own_tokenizer = question_encoder(sections.question, len(tokenizer))
    placeholder = max(len(tokenizer), int(spoken.config.vocab_size))
    fusion, weights = scoring.get("fusion", "both"), scoring.get("slice_weights", "tgis")
    asks = scoring.get("question_feature") != "llm_mean" and fusion != "3d_only"
    config = Med2E3Config(
        vision3d_config=tower3d.config(contract) if contract.volume is not None else None,
        vision2d_config=tower2d.config(contract),
        # The published towers are read before their final norm; small ones from scratch have nothing to keep to.
        vision3d_norm=True if sections.vision3d.source == "tiny" else None,
        vision2d_norm=True if sections.vision2d.source == "tiny" else None,
        language_config=spoken.config,
        question_config=asking.config(contract) if asks and weights not in ("uniform", "max", "learned") else None,
        volume_token_id=placeholder,
        image_token_id=placeholder + 1,
        initializer_range=spoken.config.initializer_range,  # maps into the language model's width
        **scoring,
    )
    if config.uses_question and config.question_feature != "llm_mean" and own_tokenizer is None:
        own_tokenizer = question_tokenizer(tokenizer)
    room = _room(recipe, context_of(spoken.config))
    processor = Med2E3Processor(
        contract=contract,
        tokenizer=tokenizer,
        question_tokenizer=own_tokenizer,
        prompt=recipe.prompt.style,
        choices=recipe.prompt.choices,
        volume_tokens=config.volume_tokens(contract.volume.size) if contract.volume is not None else 0,
        image_tokens=config.image_tokens(contract.image.size)
        if contract.image is not None and config.uses_slices
        else 0,
        volume_token_id=config.volume_token_id,
        image_token_id=config.image_token_id,
        max_length=room,
        question_max_length=min(512, context_of(spoken.config)),
        report_question=report_question(training) or REPORT_QUESTION,
    )
    parts = {"vision3d": tower3d.model, "vision2d": tower2d.model, "question_encoder": asking.model}
    hashes = {"vision3d": tower3d.sha256, "vision2d": tower2d.sha256, "question_encoder": asking.sha256}
    return Start(
        config,
        processor,
        lambda: _put_together(config, parts | {"language_model": spoken}),
        {name: sha256 for name, sha256 in hashes.items() if sha256 is not None},
    )


def _put_together(config: Med2E3Config, parts: dict[str, PreTrainedModel | None]) -> Med2E3ForConditionalGeneration:
    model = Med2E3ForConditionalGeneration(config)
    for name, part in parts.items():
        if part is not None and getattr(model, name, None) is not None:
            getattr(model, name).load_state_dict(part.state_dict())
    return model


def _contract(recipe: InstructRecipe, training: Manifest, tower3d: Tower, tower2d: Tower) -> PreprocessingContract:
    """Return the recipe's contract, or what a tower was trained with, or a proposal that the patches divide."""
    shown = Manifest(training.header, tuple(record for record in training.records if record.kind != "text"))
    if not len(shown):
        raise RecipeError(
            f"manifest '{training.header.name}'",
            "has no volume and no image to ask about",
            "Add some records with files",
        )
    depth, height, width = (2 * length for length in tower3d.patch)  # two by two by two become one token
    rows, columns = tower2d.patch
    patches: Patches = {"image": tower2d.patch, "volume": (depth, lcm(height, rows), lcm(width, columns))}
    known = tower3d.contract or tower2d.contract
    if known is not None and recipe.contract is None:
        check_fit(known, {record.kind for record in shown.records}, patches, known.source)
        contract = known
    else:
        contract = contract_for_run(recipe.contract or ContractSection(), shown, patches, normalised=False)
    if contract.volume is not None and contract.volume.channels != 1:
        raise ContractError(
            f"volumes of {contract.volume.channels} channels",
            "do not fit Med-2E3, whose slices are grey",
            "Prepare the manifest with one series each",
        )
    return contract


def freeze(model: Med2E3ForConditionalGeneration, learning: LearningSection) -> None:
    """Freeze what does not learn.

    Args:
        model: All of it.
        learning: The recipe's section.
    """
    model.freeze(
        vision3d=learning.vision3d == "frozen",
        vision2d=learning.vision2d == "frozen",
        language_model=learning.language_model != "full",
        question_encoder=learning.question_encoder == "frozen",
    )


def rate_of(learning: LearningSection, name: str) -> float:
    """Return the factor on the learning rate of a parameter.

    Args:
        learning: The recipe's section.
        name: In the model, or in a model around it.
    """
    parts = set(name.split("."))
    if "language_model" in parts:
        return learning.language_rate
    return learning.tower_rate if parts & {"vision3d", "vision2d", "question_encoder"} else 1.0


def with_updates(model: Med2E3ForConditionalGeneration, recipe: InstructRecipe) -> nn.Module:
    """Return the model, with low-rank updates of its language model if that is how it learns.

    Args:
        model: What does not learn is frozen.
        recipe: What learns.

    Raises:
        RecipeError: A linear map that is to be updated is not there.
    """
    return _with_lora(model, recipe.lora) if recipe.learning.language_model == "lora" else model


def _with_lora(model: Med2E3ForConditionalGeneration, section: LoraSection) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    linear = [name for name, module in model.language_model.named_modules() if isinstance(module, nn.Linear)]
    head = model.language_model.get_output_embeddings()
    names = sorted({name.rpartition(".")[2] for name in linear if model.language_model.get_submodule(name) is not head})
    unknown = sorted(set(section.targets) - set(names))
    if unknown:
        raise RecipeError(
            f"'lora.targets' {unknown[0]}",
            "is no linear map of this language model",
            f"Use some of: {', '.join(names)}",
        )
    whole = [
        name
        for name, child in model.named_children()
        if name != "language_model" and any(value.requires_grad for value in child.parameters())
    ]
    config = LoraConfig(
        r=section.rank,
        lora_alpha=cast("int", section.alpha),  # a factor; peft's annotation is narrower than its use
        lora_dropout=section.dropout,
        target_modules=rf"language_model\..*\.(?:{'|'.join(section.targets or names)})",
        modules_to_save=whole,
    )
    return get_peft_model(model, config)


def merged(model: nn.Module) -> Med2E3ForConditionalGeneration:
    """Return the plain model; low-rank updates are added into its weights.

    Args:
        model: What :func:`with_updates` returned.
    """
    if isinstance(model, Med2E3ForConditionalGeneration):
        return model
    plain = cast("Any", model).merge_and_unload()
    assert isinstance(plain, Med2E3ForConditionalGeneration)
    return plain
