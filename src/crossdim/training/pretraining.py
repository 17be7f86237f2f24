"""Which pre-training it is: by name, by the recipe, or by what the data are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scene_folder import holds_scenes
from crossdim.errors import RecipeError, nearest
from crossdim.training import pretrain, pretrain_scenes
from crossdim.training.recipe import PretrainRecipe
from crossdim.training.recipe_files import kind_of_recipe, load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe

System = Literal["uni4eye", "pimae"]

_KINDS: dict[str, System] = {"pretrain": "uni4eye", "pimae": "pimae"}
"""Kinds of recipe, and what they train."""


def pretrain_on(
    data: Path,
    out: Path,
    *,
    system: str = "",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    silent: bool = False,
) -> Path:
    """Pre-train on images and volumes, or on scenes.

    Args:
        data: A folder or a manifest.
        out: The run's folder.
        system: ``uni4eye`` or ``pimae``; empty takes the recipe's, or else the one that the data are for.
        recipe: A YAML file or the name of a shipped recipe; None for the defaults.
        overrides: ``section.key=value`` each.
        silent: Print nothing.

    Returns:
        The run's folder.

    Raises:
        RecipeError: There is no such system, or the recipe is for the other one or is wrong.
        ReadError: There is nothing to train on.
        ContractError: Files do not fit one another or the model.
        TrainingError: The training diverged or its features collapsed.
    """
    if system and system not in _KINDS.values():
        raise RecipeError(f"'{system}'", "cannot be pre-trained", nearest(system, _KINDS.values()))
    stated = None if recipe is None else _KINDS.get(kind_of_recipe(recipe) or "")
    if (system or stated or system_for(data)) == "pimae":
        return pretrain_scenes.run(data, out, load_recipe(recipe, PimaeRecipe, overrides), silent=silent)
    return pretrain.run(data, out, load_recipe(recipe, PretrainRecipe, overrides), silent=silent)


def system_for(data: Path) -> System:
    """Return what data are for: ``pimae`` where there is a scene among them.

    Args:
        data: A folder or a manifest.

    Raises:
        ReadError: It does not exist, or is no manifest.
    """
    if data.is_dir():
        return "pimae" if holds_scenes(data) else "uni4eye"
    scenes = any(record.kind == "scene" for record in Manifest.load(data).records)
    return "pimae" if scenes else "uni4eye"
