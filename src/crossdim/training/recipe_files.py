"""Recipes as files: shipped names, YAML, dotted overrides, and errors that name the key.

Numbers are read as YAML 1.2 reads them (``1e-3`` is a number), and a key given twice is refused.
"""

import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from crossdim.errors import RecipeError, nearest
from crossdim.training.recipe import FinetuneRecipe, PretrainRecipe
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_instruct import InstructRecipe
from crossdim.training.recipe_pimae import PimaeRecipe

Recipe = TypeVar("Recipe", PretrainRecipe, FinetuneRecipe, InstructRecipe, PimaeRecipe, DetectRecipe)


class _Loader(yaml.SafeLoader):
    """A safe loader that knows exponents without a dot and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys are all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def shipped_recipes() -> dict[str, str]:
    """Return the recipes that come with the package: name → text."""
    folder = resources.files("crossdim") / "recipes"
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml")
    }


def load_recipe(source: str | Path | None, kind: type[Recipe], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: A YAML file, the name of a shipped recipe, or None for the defaults.
        kind: :class:`PretrainRecipe`, :class:`PimaeRecipe`, :class:`FinetuneRecipe`, :class:`DetectRecipe` or
            :class:`InstructRecipe`.
        overrides: ``section.key=value`` each, the value in YAML; applied in order on top of the file.

    Raises:
        RecipeError: The file or name is unknown, is no YAML mapping, or a key is unknown or ill-typed.
    """
    name, tree = _read(source) if source is not None else ("recipe", {})
    overridden = {override.partition("=")[0].strip() for override in overrides}
    for key, other in (("optimisation.steps", "epochs"), ("optimisation.epochs", "steps")):
        if key in overridden and isinstance(tree.get("optimisation"), dict):
            tree["optimisation"].pop(other, None)  # the file's length gives way to the one asked for
    for override in overrides:
        _apply(tree, override)
    expected = kind.model_fields["kind"].default
    found = tree.setdefault("kind", expected)
    if found != expected:
        raise RecipeError(name, f"is of kind '{found}' where '{expected}' is needed", "Give a recipe of that kind")
    # JSON is pydantic's mode for data from files: lists become tuples, but no text becomes a number.
    text = json.dumps(tree, default=str)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise _explain(name, kind, tree, error.errors()) from error


def kind_of_recipe(source: str | Path) -> str | None:
    """Return the kind that a recipe states, None where it states none.

    Args:
        source: A YAML file, or the name of a shipped recipe.

    Raises:
        RecipeError: The file or name is unknown, or is no YAML mapping.
    """
    kind = _read(source)[1].get("kind")
    return None if kind is None else str(kind)


def recipe_text(recipe: BaseModel) -> str:
    """Return a recipe as YAML with every key, so that it means the same under other defaults."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(old: BaseModel, new: BaseModel, ignored: Iterable[str] = ()) -> list[str]:
    """Return the dotted keys in which two recipes differ, each with both values.

    Args:
        old: One recipe.
        new: The other.
        ignored: Dotted keys that may differ.
    """
    left, right = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    keys = sorted((left.keys() | right.keys()) - set(ignored))
    return [f"{key}: {left.get(key)!r} → {right.get(key)!r}" for key in keys if left.get(key) != right.get(key)]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read(source: str | Path) -> tuple[str, dict[str, Any]]:
    path, shipped = Path(source), shipped_recipes()
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif str(source) in shipped:
        text = shipped[str(source)]
    else:
        raise RecipeError(f"recipe '{source}'", "neither a file nor a shipped recipe", nearest(str(source), shipped))
    return str(source), _parse(str(source), text)


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise RecipeError(name, f"is not valid YAML ({problem})", "Mend the line it names") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RecipeError(name, "holds no 'key: value' lines", "Start from a shipped recipe")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise RecipeError(f"override '{override}'", "is not of the form section.key=value", "Write it so")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"override '{override}'", "has a value that is not valid YAML", "Quote it") from error
    for place, step in enumerate(steps[:-1]):
        # A section left empty in the file (``model:``) is None until something is put into it.
        tree[step] = {} if tree.get(step) is None else tree[step]
        if not isinstance(tree[step], dict):
            raise RecipeError(
                f"override '{override}'",
                f"'{'.'.join(steps[: place + 1])}' holds a value, not a section",
                "Override the value itself",
            )
        tree = tree[step]
    tree[steps[-1]] = value


def _explain(name: str, kind: type[BaseModel], tree: dict[str, Any], details: list[ErrorDetails]) -> RecipeError:
    """Turn pydantic's first complaint into one line; further ones are counted."""
    first = details[0]
    keys, section = _walk(kind, tree, first["loc"])
    subject = f"{name}: '{'.'.join(keys)}'" if keys else name
    more = f" ({len(details) - 1} more like this)" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        return RecipeError(subject, f"is unknown{more}", nearest(keys[-1], section.model_fields))
    if first["type"] == "union_tag_invalid":
        allowed = first["ctx"]["expected_tags"].replace("'", "").split(", ")
        return RecipeError(
            f"{name}: '{'.'.join(keys)}.mode'", f"is '{first['ctx']['tag']}'", nearest(first["ctx"]["tag"], allowed)
        )
    if first["type"] == "union_tag_not_found":
        return RecipeError(f"{name}: '{'.'.join(keys)}.mode'", "is missing", "State the mode")
    if first["type"] == "value_error":
        return RecipeError(subject, first["msg"].removeprefix("Value error, ") + more, "Change one of the keys")
    message = first["msg"][0].lower() + first["msg"][1:]
    value = "a section" if isinstance(first["input"], dict) else repr(first["input"])
    return RecipeError(subject, f"is {value}; {message}{more}", "Give a value of the stated kind")


def _walk(kind: type[BaseModel], tree: Any, location: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel]]:
    """Return the keys of a location without pydantic's own words, and the section that holds the last key."""
    keys: list[str] = []
    section: type[BaseModel] = kind
    for step in location:
        if not isinstance(tree, dict) or step not in tree:
            continue
        if keys:
            section = _section_of(section.model_fields[keys[-1]].annotation, tree) or section
        keys.append(str(step))
        tree = tree[step]
    return keys, section


def _section_of(annotation: Any, tree: Any) -> type[BaseModel] | None:
    """Return the section type an annotation stands for; among several, the one with the mode the file names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [part for part in (_section_of(option, tree) for option in get_args(annotation)) if part]
    mode = tree.get("mode") if isinstance(tree, dict) else None
    named = [part for part in found if "mode" in part.model_fields and part.model_fields["mode"].default == mode]
    return next(iter(named or found), None)
