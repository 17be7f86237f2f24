"""The preprocessing contract of a run: the recipe's file, or what is proposed from a look at the data.

A proposal rests on a few records of each kind, evenly spread, so the same data always give the same contract.
"""

from collections.abc import Set

from crossdim.datasets.manifest import Manifest, Record
from crossdim.errors import ContractError, RecipeError
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.models.pimae_config import PimaeConfig
from crossdim.models.uni4eye_config import pair, triple
from crossdim.readers import read_channels
from crossdim.training.data import Patches, indices_by_kind, spread_evenly
from crossdim.training.recipe_pimae import AlignedContractSection, SceneContractSection
from crossdim.training.scenes import places_by_composition, scene_part
from crossdim.training.schedule import Kind
from crossdim.training.sections import ContractSection
from crossdim.transforms.contract import (
    ImageContract,
    PointsContract,
    PreprocessingContract,
    SceneContract,
    VolumeContract,
)
from crossdim.transforms.presets import STATISTICS, contract_for

SceneConfig = PimaeConfig | Detr3dConfig
"""Of a model of scenes."""

LOOKED_AT = 16
"""Records of each kind that a proposal is based on."""


def contract_for_run(
    section: ContractSection, manifest: Manifest, patches: Patches, normalised: bool = True
) -> PreprocessingContract:
    """Return the contract of a run from scratch.

    Args:
        section: The recipe's section.
        manifest: Records to train on.
        patches: Of the model; they divide the sizes.
        normalised: Whether a proposal brings values to about mean 0 and deviation 1, or leaves them in [0, 1].

    Raises:
        RecipeError: A size is given for a kind that is not there.
        ContractError: A size is not a multiple of the patch, or the contract lacks a kind that is there.
        ReadError: A record that was looked at cannot be read.
    """
    places = indices_by_kind(manifest)
    if section.file is not None:
        contract = PreprocessingContract.from_pretrained(section.file)
        check_fit(contract, set(places), patches, section.file)
        return contract
    for kind, size in (("image", section.image_size), ("volume", section.volume_size)):
        if size is not None and kind not in places:
            raise RecipeError(f"'contract.{kind}_size'", f"is given, and there are no {kind}s", "Leave it out")
    chosen = [place for found in places.values() for place in spread_evenly(found, LOOKED_AT)]
    return contract_for(
        (read_channels(manifest.resolve(manifest.records[place])) for place in chosen),
        patch=pair(patches["image"]),
        volume_patch=triple(patches["volume"]),
        normalised=normalised,
        tokens=section.image_tokens,
        volume_tokens=section.volume_tokens,
        image_size=section.image_size,
        volume_size=section.volume_size,
    )


def check_fit(contract: PreprocessingContract, kinds: Set[str], patches: Patches, name: str) -> None:
    """Refuse a contract that does not fit a model's patches or the kinds there are.

    Args:
        contract: To be checked.
        kinds: Of the records.
        patches: Of the model.
        name: Where the contract comes from, for errors.

    Raises:
        ContractError: It does not fit.
    """
    parts: tuple[tuple[Kind, ImageContract | VolumeContract | None], ...]
    parts = (("image", contract.image), ("volume", contract.volume))
    for kind, part in parts:
        if kind in kinds and part is None:
            raise ContractError(
                name, f"knows no {kind}s, and the data hold some", f"Leave the {kind}s out, or train on both kinds"
            )
        step = patches.get(kind)
        if part is not None and any(length % width for length, width in zip(part.size, step or (), strict=True)):
            raise ContractError(
                name, f"{kind} size {part.size} is not a multiple of the patch {step}", "Change one of the two"
            )


def scene_contract_for_run(
    section: SceneContractSection, manifest: Manifest, config: SceneConfig
) -> PreprocessingContract:
    """Return the contract of a run on scenes.

    Args:
        section: The recipe's section.
        manifest: Records to train on.
        config: Of the model: patch, points and groups.

    Raises:
        RecipeError: A key is given for a part that no scene has, or the numbers of points contradict one another.
        ContractError: A size is not a multiple of the patch, or the contract does not fit the data or the model.
        ReadError: A scene that was looked at cannot be read.
    """
    kinds = set(places_by_composition(manifest))
    if section.file is not None:
        contract = PreprocessingContract.from_pretrained(section.file)
        _check_scene_fit(contract, kinds, config, section.file)
        return contract
    with_images, with_points = kinds & {"scene", "image"}, kinds & {"scene", "points"}
    for key, there in (("image_size", with_images), ("num_points", with_points), ("region", with_points)):
        if getattr(section, key) is not None and not there:
            raise RecipeError(f"'contract.{key}'", "is given, and the data have none of these", "Leave it out")
    frame = section.frame if isinstance(section, AlignedContractSection) else "camera"
    if frame != "camera" and "scene" not in kinds:
        raise RecipeError("'contract.frame'", "is given, and no scene has points and an image", "Leave it out")
    image = _scene_image(section, manifest, config) if with_images else None
    points = _scene_points(section, config) if with_points else None
    return PreprocessingContract(
        scene=SceneContract(image=image, points=points, frame=frame),
        source=f"proposed from {len(manifest)} records of '{manifest.header.name}'",
    )


def _scene_image(section: SceneContractSection, manifest: Manifest, config: SceneConfig) -> ImageContract:
    places = [place for kind, found in places_by_composition(manifest).items() if kind != "points" for place in found]
    looked_at = spread_evenly(places, LOOKED_AT)
    found = contract_for(
        (read_channels(_image_of(manifest, manifest.records[place])) for place in looked_at),
        patch=pair(config.patch_size),
        normalised=section.statistics == "data",
        tokens=section.image_tokens,
        image_size=section.image_size,
    ).image
    assert found is not None
    changes: dict[str, object] = {"fit": "resize"}
    known = STATISTICS["imagenet"]
    if section.statistics == "imagenet" and known is not None:
        changes |= {"mean": known[0][: found.channels], "std": known[1][: found.channels]}
    return found.model_copy(update=changes)


def _image_of(manifest: Manifest, record: Record) -> tuple[str, ...]:
    if record.scene is None or record.scene.image is None:
        return manifest.resolve(record)
    return (manifest.absolute(record.scene.image),)


def _scene_points(section: SceneContractSection, config: SceneConfig) -> PointsContract:
    kept, fewest = section.num_points or config.num_points, max(config.num_groups, config.group_size)
    if kept > section.drawn_points:
        raise RecipeError(
            "'contract.drawn_points'",
            f"is {section.drawn_points}, and the model sees {kept} points",
            "Draw more, or set contract.num_points",
        )
    if kept < fewest:
        raise RecipeError(
            "'contract.num_points'",
            f"is {kept}, and {config.num_groups} groups of {config.group_size} need {fewest} points",
            "Keep more points, or set model.num_groups and model.group_size",
        )
    return PointsContract(drawn=section.drawn_points, kept=kept, fewest=fewest, region=section.region)


def _check_scene_fit(contract: PreprocessingContract, kinds: Set[str], config: SceneConfig, name: str) -> None:
    scene = scene_part(contract)
    for part, there, words in (
        (scene.image, kinds & {"scene", "image"}, "images"),
        (scene.points, kinds & {"scene", "points"}, "points"),
    ):
        if there and part is None:
            raise ContractError(name, f"knows no {words}, and the data hold some", "Give another contract")
    patch = pair(config.patch_size)
    if scene.image is not None and any(length % width for length, width in zip(scene.image.size, patch, strict=True)):
        raise ContractError(
            name, f"image size {scene.image.size} is not a multiple of the patch {patch}", "Change one of the two"
        )
    fewest = max(config.num_groups, config.group_size)
    if scene.points is not None and scene.points.fewest < fewest:
        raise ContractError(
            name,
            f"allows clouds of {scene.points.fewest} points, and the model needs {fewest}",
            "Set fewest in it, or model.num_groups and model.group_size",
        )
