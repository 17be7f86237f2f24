"""Which fine-tuning it is: by name, by the recipe, or by what the data are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crossdim.datasets.manifest import Manifest
from crossdim.errors import RecipeError, nearest
from crossdim.training import detect, finetune
from crossdim.training.detection_data import boxes_known
from crossdim.training.recipe import FinetuneRecipe
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import kind_of_recipe, load_recipe

Aim = Literal["classify", "detect"]

_KINDS: dict[str, Aim] = {"finetune": "classify", "detect": "detect"}
"""Kinds of recipe, and what they train for."""


def finetune_on(
    manifest: Path,
    out: Path,
    start: Path | None = None,
    *,
    aim: str = "",
    task: str | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    silent: bool = False,
) -> Path:
    """Train a classifier on labels, or a detector on boxes.

    Args:
        manifest: Labelled records with a training split.
        out: The run's folder.
        start: A pre-training run or a converted model; None starts from random weights.
        aim: ``classify`` or ``detect``; empty takes the recipe's, or else the one that the data are for.
        task: Task of the manifest, for a classifier.
        recipe: A YAML file or the name of a shipped recipe; None for the defaults.
        overrides: ``section.key=value`` each.
        silent: Print nothing.

    Returns:
        The run's folder.

    Raises:
        RecipeError: There is no such aim, or recipe and labels are not for it or do not fit.
        ContractError: The data do not fit the model's preprocessing.
        ReadError: Files cannot be used.
        TrainingError: The training diverged.
    """
    if aim and aim not in _KINDS.values():
        raise RecipeError(f"'{aim}'", "is nothing to fine-tune for", nearest(aim, _KINDS.values()))
    stated = None if recipe is None else _KINDS.get(kind_of_recipe(recipe) or "")
    by_task: Aim | None = None if task is None else "classify"
    if (aim or stated or by_task or aim_for(manifest)) == "detect":
        if task is not None:
            raise RecipeError("'task'", "is given, and a detector learns from boxes", "Leave it out, or say classify")
        return detect.run(manifest, out, load_recipe(recipe, DetectRecipe, overrides), start, silent=silent)
    settings = [*overrides, *([f"task={json.dumps(task)}"] if task else ())]
    return finetune.run(manifest, out, load_recipe(recipe, FinetuneRecipe, settings), start, silent=silent)


def aim_for(manifest: Path) -> Aim:
    """Return what data are for: ``detect`` where there is a scene with boxes among the training records.

    Args:
        manifest: Of labelled records.

    Raises:
        ReadError: It does not exist, or is no manifest.
    """
    training = Manifest.load(manifest).split("train")
    return "detect" if any(map(boxes_known, training.records)) else "classify"
