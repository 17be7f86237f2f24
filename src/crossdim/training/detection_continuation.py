"""A detector that begins with another one, trained here or converted: all its weights, its sizes, its preprocessing.

Where the classes differ, the rows of classes that have the same name come along, and the one of no object always does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from crossdim.errors import ContractError, RecipeError
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.training.recipe_detect import OF_THE_ENCODERS, DetectRecipe
from crossdim.transforms.scenes import SceneContract

_OF_THE_WEIGHTS = (
    *OF_THE_ENCODERS,
    *("tokenizer", "image", "query_features", "angle_bins"),
    *("decoder_num_hidden_layers", "decoder_intermediate_size"),
)
"""Keys of the model that trained weights have decided."""

_CLASS_ROWS = ("box_heads.heads.classes.linear.weight", "box_heads.heads.classes.linear.bias")
"""Weights with a row for each class, and a last one for no object."""


def continued_config(theirs: Detr3dConfig, recipe: DetectRecipe, names: Mapping[str, Any]) -> Detr3dConfig:
    """Return the config of a detector that goes on: the other's, with other classes and what the recipe may state.

    The preset of the recipe says nothing then.

    Args:
        theirs: Of the detector it begins with.
        recipe: What to do.
        names: The classes, as keys of the config.

    Raises:
        RecipeError: The recipe contradicts the weights, or says what is taken from a PiMAE.
        ContractError: There are more queries than tokens.
    """
    if recipe.transfer == "official":
        reason = "is official, which says what is taken from a PiMAE, and training begins with a detector"
        raise RecipeError("'transfer'", reason, "Leave it out")
    stated = recipe.model.model_dump(exclude={"preset"}) | recipe.loss.model_dump()
    stated = {name: value for name, value in stated.items() if value is not None}
    for key in _OF_THE_WEIGHTS:
        found = getattr(theirs, key)
        if stated.get(key, found) != found:
            by_name = key in ("image", "query_features")  # which a packaged recipe states, so it cannot be left out
            remedy = f"Set model.{key}={str(found).lower()}" if by_name else "Leave it out"
            reason = f"is {stated[key]}, and the detector that training begins with has {found}"
            raise RecipeError(f"'model.{key}'", reason, remedy)
    if theirs.tokenizer == "groups" and recipe.model.group_radius is not None:
        reason = "is given, and the groups of the detector that training begins with have none"
        raise RecipeError("'model.group_radius'", reason, "Leave it out")
    sizes = {**theirs.to_dict(), **stated, **names}
    sizes["num_queries"] = recipe.model.num_queries or min(theirs.num_queries, sizes["num_groups"])
    config = Detr3dConfig.from_dict(sizes)
    assert isinstance(config, Detr3dConfig)
    return config


def check_contract(start: Path, scene: SceneContract, config: Detr3dConfig) -> None:
    """Refuse preprocessing that lacks a part which a detector looks at.

    Args:
        start: The detector that training begins with.
        scene: Its preprocessing.
        config: Knows whether it looks at images.

    Raises:
        ContractError: A part is lacking.
    """
    for name, part, needed in (("points", scene.points, True), ("images", scene.image, config.image)):
        if needed and part is None:
            reason = f"has a contract.json that knows no {name}, and the detector looks at them"
            raise ContractError(
                start, reason, "Put the contract.json there that training or conversion wrote beside it"
            )


@torch.no_grad()
def take_over(model: Detr3dForObjectDetection, source: Detr3dForObjectDetection) -> frozenset[str]:
    """Fill a detector with the weights of another one of its sizes; return the names of those that came whole.

    Args:
        model: The new detector; its classes may be others.
        source: The trained one.
    """
    ours, theirs = model.state_dict(), source.state_dict()
    names, known = class_names(model.config), class_names(source.config)
    rows = {place: known.index(name) for place, name in enumerate(names) if name in known} | {len(names): len(known)}
    for name, tensor in ours.items():
        if name in _CLASS_ROWS:
            tensor[list(rows)] = theirs[name][list(rows.values())]
        else:
            tensor.copy_(theirs[name])
    return frozenset(ours).difference(_CLASS_ROWS if len(rows) <= len(names) else ())


def class_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the names of a detector's classes, in the order of their numbers.

    Args:
        config: Of the detector.
    """
    return tuple(str(name) for _, name in sorted(dict(config.id2label or {}).items()))
