"""From a recipe and a contract to the model's config."""

from typing import Any

from crossdim.models.pimae_config import PimaeConfig
from crossdim.models.uni4eye_config import Uni4EyeConfig, pair, triple
from crossdim.training.data import Patches
from crossdim.training.recipe import PretrainRecipe
from crossdim.training.recipe_pimae import PimaeRecipe
from crossdim.training.sections import ModelSection
from crossdim.transforms.contract import PreprocessingContract


def patches_of(config: Uni4EyeConfig | PimaeConfig) -> Patches:
    """Return the patch of each kind that a model knows.

    Args:
        config: Of the model.
    """
    if isinstance(config, PimaeConfig):
        return {"image": pair(config.patch_size)}
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


_DECODER_KEYS = {
    "joint_num_hidden_layers": "joint_decoder_num_hidden_layers",
    "image_num_hidden_layers": "image_decoder_num_hidden_layers",
    "points_num_hidden_layers": "points_decoder_num_hidden_layers",
    "points_drop_path_rate": "points_decoder_drop_path_rate",
}
"""Keys of the recipe's decoder section that the config spells otherwise; the others have ``decoder_`` in front."""


def pimae_config(recipe: PimaeRecipe, contract: PreprocessingContract | None = None) -> PimaeConfig:
    """Translate a recipe into the config of PiMAE.

    Args:
        recipe: What to do.
        contract: Sizes and channels; None leaves the preset's, for a contract that has yet to be made.
    """
    sizes = recipe.model.model_dump(exclude={"preset"})
    sizes |= {_DECODER_KEYS.get(name, f"decoder_{name}"): value for name, value in recipe.decoder.model_dump().items()}
    scene = None if contract is None else contract.scene
    if scene is not None and scene.image is not None:
        sizes |= {"image_size": scene.image.size, "num_channels": scene.image.channels}
    if scene is not None and scene.points is not None:
        sizes |= {"num_points": scene.points.kept}
    loss = recipe.loss.model_dump(exclude={"normalise_patches"})
    return PimaeConfig.preset(
        recipe.model.preset,
        **{name: value for name, value in sizes.items() if value is not None},
        image_mask_ratio=recipe.masking.image_ratio,
        points_mask_ratio=recipe.masking.points_ratio,
        points_masking=recipe.masking.points,
        mask_alignment=recipe.masking.alignment,
        norm_pix_loss=recipe.loss.normalise_patches,
        **loss,
    )
