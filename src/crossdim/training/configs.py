"""From a recipe and a contract to the model's config."""

from typing import Any

from crossdim.models.uni4eye_config import Uni4EyeConfig, pair, triple
from crossdim.training.data import Patches
from crossdim.training.recipe import PretrainRecipe
from crossdim.training.sections import ModelSection
from crossdim.transforms.contract import PreprocessingContract


def patches_of(config: Uni4EyeConfig) -> Patches:
    """Return the patch of each kind.

    Args:
        config: Of the model.
    """
    return {"image": pair(config.patch_size), "volume": triple(config.volume_patch_size)}


def model_sizes(model: ModelSection, contract: PreprocessingContract) -> dict[str, Any]:
    """Return the config keys that the recipe's model section and the contract state.

    Args:
        model: The recipe's section.
        contract: Sizes and channels.
    """
    sizes = {name: value for name, value in model.model_dump(exclude={"preset"}).items() if value is not None}
    if contract.image is not None:
        sizes |= {"image_size": contract.image.size, "num_channels": contract.image.channels}
    else:
        sizes |= {"image_size": model.patch_size}
    if contract.volume is not None:
        sizes |= {"volume_size": contract.volume.size, "num_volume_channels": contract.volume.channels}
    else:
        sizes |= {"volume_size": model.volume_patch_size}
    return sizes


def model_config(recipe: PretrainRecipe, contract: PreprocessingContract) -> Uni4EyeConfig:
    """Translate a recipe into the model's config.

    Args:
        recipe: What to do.
        contract: Sizes and channels.
    """
    decoder = recipe.decoder.model_dump(exclude={"shared_norm"})
    block = recipe.masking.volume_block
    return Uni4EyeConfig.preset(
        recipe.model.preset,
        **model_sizes(recipe.model, contract),
        **{f"decoder_{name}": value for name, value in decoder.items() if value is not None},
        shared_decoder_norm=recipe.decoder.shared_norm,
        mask_ratio=recipe.masking.image_ratio,
        volume_mask_ratio=recipe.masking.volume_ratio,
        **({} if block is None else {"volume_masking": "block", "volume_mask_block": block}),
        norm_pix_loss=recipe.loss.normalise_patches,
        gradient_decoder=recipe.loss.gradient_weight > 0,
        gradient_target=recipe.loss.gradient_target,
        edge_scale=recipe.loss.edge_scale,
        intensity_weight=recipe.loss.intensity_weight,
        gradient_weight=recipe.loss.gradient_weight,
    )
