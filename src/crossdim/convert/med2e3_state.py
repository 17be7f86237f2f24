"""State dicts of Med-2E3 and of its scoring variants → ours (``med2e3/model``, ``med2e3/variantN``)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdim.convert.keys import KeyReport, Shape
from crossdim.convert.med2e3_keys import place, shapes_of
from crossdim.convert.med2e3_sizes import official_config
from crossdim.models import auto
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.models.med2e3_config import Med2E3Config

assert auto  # towers are made by transformers' Auto classes, which learn of ours here


def convert_model(
    weights: Mapping[str, Tensor], official: Mapping[str, Any], variant: int | None = None
) -> tuple[Med2E3Config, dict[str, Tensor], KeyReport]:
    """Convert a state dict of the whole model, or of a part of it.

    Args:
        weights: State dict with the authors' names; of a variant, at least its ``vision3d_connector.*``.
        official: Sizes under the names of the authors' code (``llm``, ``siglip``, ``bert``, ``m3d``, ...).
        variant: Number of the scoring connector; None reads it from the sizes.

    Returns:
        Config and state dict of :class:`~crossdim.models.med2e3.Med2E3ForConditionalGeneration`, and the report of all
        keys.

    Raises:
        RecipeError: A size is missing or not supported.
        ReadError: A tensor does not have the shape that the sizes ask for.
    """
    config = official_config(official, variant)
    expected = expected_shapes(Med2E3ForConditionalGeneration, config)
    placed = place(shapes_of(weights), expected, twins(config))
    return config, {ours: weights[name] for ours, name in placed.sources.items()}, placed.keys


def expected_shapes(model: type[PreTrainedModel], config: Any) -> dict[str, Shape]:
    """Return the shape of every tensor of a model, without making them.

    Args:
        model: Which of our models.
        config: Its sizes.
    """
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in model(config).state_dict().items()}


def twins(config: Med2E3Config) -> dict[str, str]:
    """Return which of our keys is the twin of another one and need not be in a checkpoint.

    Args:
        config: Of the whole model.
    """
    language: Any = config.language_config
    if not language.tie_word_embeddings:
        return {}
    return {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}
