"""Where a detector begins: its config, its preprocessing, and what it takes over from a PiMAE or another detector."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from crossdim.errors import ContractError, RecipeError
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import PRESETS, Detr3dConfig
from crossdim.models.pimae import PimaeModel
from crossdim.models.pimae_config import PimaeConfig
from crossdim.training.adaptation import encoder_folder
from crossdim.training.contracts import scene_contract_for_run
from crossdim.training.detection_continuation import check_contract, continued_config, take_over
from crossdim.training.detection_data import DetectionParts
from crossdim.training.provenance import weights_hash
from crossdim.training.recipe_detect import OF_THE_ENCODERS, DetectRecipe
from crossdim.training.recipe_pimae import SceneContractSection
from crossdim.training.scenes import scene_part
from crossdim.transforms.contract import PointsContract, PreprocessingContract
from crossdim.transforms.scenes import Region, SceneContract

_LAYER = re.compile(r"\.(points_encoder|image_encoder|joint|decoder)\.layers\.(\d+)\.")
_BEFORE_THE_DECODER = ("detr3d.projection.", "detr3d.query_projection.")
_BEHIND_THE_DECODER = ("detr3d.decoder.norm.", "box_heads.")
_LAST = "detr3d.decoder.norm.weight"
"""A parameter that comes from another detector, and never from PiMAE."""
_AS_BEFORE = "for detection, as pre-trained: "
_OF_TOKENS = ("num_points", "num_groups", "group_size")
_OF_POINTS = ("drawn_points", "num_points", "region")
"""Keys of the contract that may be stated beside a pre-trained model's."""
_OF_PRETRAINING = ("image_size", "decoder_hidden_size", "id2label", *OF_THE_ENCODERS)
"""Keys of a preset that a pre-trained model decides."""


@dataclass(frozen=True)
class Beginning:
    """A detector before its first step.

    Attributes:
        config: Of the detector.
        contract: How scenes become tensors.
        pretrained: Folder of the pre-trained PiMAE or of the other detector; None for random weights.
        transfer: What is taken over of it.
    """

    config: Detr3dConfig
    contract: PreprocessingContract
    pretrained: Path | None
    transfer: str

    @property
    def facts(self) -> dict[str, str]:
        """What the run's numbers depend on besides data and recipe."""
        return {} if self.pretrained is None else {"encoder": weights_hash(self.pretrained)}

    def build(self) -> tuple[Detr3dForObjectDetection, frozenset[str]]:
        """Return the detector, and the names of the parameters that come from pre-training.

        Raises:
            ContractError: The pre-trained model does not fit.
        """
        model = Detr3dForObjectDetection(self.config)
        if self.pretrained is None or self.transfer == "none":
            return model, frozenset()
        if _type_of(self.pretrained) == Detr3dConfig.model_type:
            return model, take_over(model, Detr3dForObjectDetection.from_pretrained(self.pretrained))
        source = PimaeModel.from_pretrained(self.pretrained)
        official = self.transfer == "official"
        moved = model.transfer(source.config, source.state_dict(), official_transfer=official).moved
        return model, frozenset(moved.values())


def begin(recipe: DetectRecipe, parts: DetectionParts, start: Path | None) -> Beginning:
    """Return where a detector begins.

    Args:
        recipe: What to do.
        parts: The data.
        start: A pre-training run or a detector's, one of its checkpoints, or a converted PiMAE or 3DETR; None begins
            with random weights.

    Raises:
        RecipeError: The recipe states what the pre-trained model states already, or numbers contradict one another.
        ContractError: The data or the detector do not fit the pre-trained model, it is none, or has no contract.
        ReadError: There is no model, or a scene cannot be read.
    """
    if start is None:
        return _anew(recipe, parts)
    folder = encoder_folder(start)
    going_on = (found := _type_of(folder)) == Detr3dConfig.model_type
    if not going_on and found != PimaeConfig.model_type:
        remedy = "Give a run of crossdim pretrain pimae or finetune detect, or a converted PiMAE or 3DETR"
        raise ContractError(start, "is neither a pre-trained model of scenes nor a detector", remedy)
    stated, drawn = recipe.contract, recipe.contract.drawn_points
    pretrained = PreprocessingContract.from_pretrained(folder)
    scene = scene_part(pretrained)
    if going_on:
        _refuse_stated_twice(recipe, ())
        config = continued_config(Detr3dConfig.from_pretrained(folder), recipe, _names(parts))
        check_contract(start, scene, config)
        if scene.points is not None and "drawn_points" not in stated.model_fields_set:
            drawn = scene.points.drawn
    else:
        _refuse_stated_twice(recipe, OF_THE_ENCODERS)
        pimae = PimaeConfig.from_pretrained(folder)
        config = Detr3dConfig.for_pimae(pimae, **_beside_pretraining(recipe, pimae), **_names(parts))
        if config.image and scene.image is None:
            raise ContractError(start, "was pre-trained without images", "Set model.image=false")
    config.num_points = stated.num_points or config.num_points
    points = _points(config, drawn, stated.region or _region_of(scene))
    if not going_on:
        config.scene_range = points.region
    part = scene.model_copy(update={"points": points, "image": scene.image if config.image else None})
    source = f"{_AS_BEFORE}{pretrained.source.removeprefix(_AS_BEFORE)}"
    contract = PreprocessingContract(scene=part, source=source)
    return Beginning(config, contract, folder, recipe.transfer)


def _anew(recipe: DetectRecipe, parts: DetectionParts) -> Beginning:
    if recipe.transfer != "everything":
        reason = f"is {recipe.transfer}, and there is no pre-trained model to take anything from"
        raise RecipeError("'transfer'", reason, "Give one (--from), or leave it out")
    sizes = {**_stated(recipe), **_names(parts)}
    if recipe.contract.num_points is not None:
        sizes["num_points"] = recipe.contract.num_points
    preset = PRESETS[recipe.model.preset]
    sizes["num_queries"] = _queries(recipe, sizes.get("num_groups", preset.get("num_groups", Detr3dConfig.num_groups)))
    config = Detr3dConfig.preset(recipe.model.preset, **sizes)
    contract = scene_contract_for_run(recipe.contract, parts.train, config)
    scene = scene_part(contract)
    if config.image and scene.image is None:
        raise RecipeError("'model.image'", "is true, and no training scene has an image", "Leave it out")
    if scene.image is not None:
        config.image_size, config.num_channels = scene.image.size, scene.image.channels
    if scene.points is not None:
        config.num_points, config.scene_range = scene.points.kept, scene.points.region
    return Beginning(config, contract, None, recipe.transfer)


def _type_of(folder: Path) -> str | None:
    return PreTrainedConfig.get_config_dict(folder)[0].get("model_type")


def _refuse_stated_twice(recipe: DetectRecipe, sizes: Iterable[str]) -> None:
    for key in sizes:
        if getattr(recipe.model, key) is not None:
            reason = "is given, and the pre-trained model has its own"
            raise RecipeError(f"'model.{key}'", reason, "Leave it out")
    for key, field in SceneContractSection.model_fields.items():
        if key not in _OF_POINTS and getattr(recipe.contract, key) != field.default:
            reason = "is given, and the pre-trained model has its own"
            raise RecipeError(f"'contract.{key}'", reason, "Leave it out")
    if recipe.transfer == "official" and recipe.model.image:
        reason = "is official, which takes nothing over for images"
        raise RecipeError("'transfer'", reason, "Set model.image=false, or transfer=everything")


def _stated(recipe: DetectRecipe) -> dict[str, Any]:
    """Return the keys of the config that the recipe states."""
    sizes = recipe.model.model_dump(exclude={"preset"}) | recipe.loss.model_dump()
    return {name: value for name, value in sizes.items() if value is not None}


def _names(parts: DetectionParts) -> dict[str, Any]:
    names = dict(enumerate(parts.classes))
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}, "task": "object"}


def _beside_pretraining(recipe: DetectRecipe, pimae: PimaeConfig) -> dict[str, Any]:
    """Return what the recipe and its preset state of a detector whose encoders are pre-trained."""
    tokenizer = recipe.model.tokenizer or ("set_abstraction" if recipe.transfer == "official" else "groups")
    if tokenizer == "groups" and recipe.model.group_radius is not None:
        reason = "is given, and groups of a pre-trained model have none"
        raise RecipeError("'model.group_radius'", reason, "Leave it out, or set model.tokenizer=set_abstraction")
    own = _OF_PRETRAINING if tokenizer == "set_abstraction" else (*_OF_PRETRAINING, *_OF_TOKENS)
    preset = {name: value for name, value in PRESETS[recipe.model.preset].items() if name not in own}
    sizes = {**preset, **_stated(recipe), "tokenizer": tokenizer}
    tokens = Detr3dConfig.num_groups if tokenizer == "set_abstraction" else pimae.num_groups
    sizes["num_queries"] = _queries(recipe, sizes.get("num_groups", tokens))
    return sizes


def _queries(recipe: DetectRecipe, groups: int) -> int:
    """Return the number of queries that the recipe states, or the preset's, which are not more than tokens then."""
    preset = PRESETS[recipe.model.preset].get("num_queries", Detr3dConfig.num_queries)
    return recipe.model.num_queries or min(preset, groups)


def _region_of(scene: SceneContract) -> Region | None:
    return None if scene.points is None else scene.points.region


def _points(config: Detr3dConfig, drawn: int, region: Region | None) -> PointsContract:
    fewest = max(config.num_groups, config.group_size)
    if not fewest <= config.num_points <= drawn:
        raise RecipeError(
            "'contract.num_points'",
            f"is {config.num_points}, where {config.num_groups} groups of {config.group_size} need {fewest} points, "
            f"and {drawn} are drawn",
            "Set contract.num_points and contract.drawn_points",
        )
    return PointsContract(drawn=drawn, kept=config.num_points, fewest=fewest, region=region)


def learning_factor(name: str, config: Detr3dConfig, pretrained: Collection[str], decay: float) -> float:
    """Return the factor on the learning rate of a parameter: less the deeper a pre-trained layer lies, else 1.

    Args:
        name: Of the parameter, in the detector.
        config: Knows the number of layers.
        pretrained: Names of what comes from pre-training.
        decay: From each layer to the one below.
    """
    if name not in pretrained:
        return 1.0
    top = config.num_hidden_layers
    if _LAST in pretrained:
        top += config.decoder_num_hidden_layers + 1
    return decay ** (top + 1 - _depth(name, config))


def _depth(name: str, config: Detr3dConfig) -> int:
    """Return the number of the layer that a parameter belongs to: 0 for tokens, then encoders, decoder and heads."""
    encoders = config.num_hidden_layers
    if found := _LAYER.search(name):
        below = {"joint": config.points_num_hidden_layers, "decoder": encoders}
        return below.get(found.group(1), 0) + int(found.group(2)) + 1
    if name.startswith(_BEFORE_THE_DECODER):
        return encoders + 1
    return encoders + config.decoder_num_hidden_layers + 1 if name.startswith(_BEHIND_THE_DECODER) else 0
