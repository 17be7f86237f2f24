"""The preprocessing contract of a run: the recipe's file, or what is proposed from a look at the data.

A proposal rests on a few records of each kind, evenly spread, so the same data always give the same contract.
"""

from collections.abc import Set

from crossdim.datasets.manifest import Manifest
from crossdim.errors import ContractError, RecipeError
from crossdim.models.uni4eye_config import pair, triple
from crossdim.readers import read_channels
from crossdim.training.data import Patches, indices_by_kind, spread_evenly
from crossdim.training.schedule import Kind
from crossdim.training.sections import ContractSection
from crossdim.transforms.contract import ImageContract, PreprocessingContract, VolumeContract
from crossdim.transforms.presets import contract_for

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
        step = patches[kind]
        if kind in kinds and part is None:
            raise ContractError(
                name, f"knows no {kind}s, and the data hold some", f"Leave the {kind}s out, or train on both kinds"
            )
        if part is not None and any(length % width for length, width in zip(part.size, step, strict=True)):
            raise ContractError(
                name, f"{kind} size {part.size} is not a multiple of the patch {step}", "Change one of the two"
            )
