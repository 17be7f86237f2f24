"""Turns the authors' checkpoints into ours, with a report of every key; nothing in a file is ever run.

The other way, ``plain_vit`` turns an image encoder of ours into a plain vision transformer with timm's names.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crossdim.errors import RecipeError, nearest

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from crossdim.convert.keys import KeyReport

AVAILABLE = ("uni4eye/dual", "med2e3/model", "med2e3/variantN", "pimae/pretrain", "pimae/detector")
"""Systems that :func:`convert_state_dict` knows; ``N`` is the number of a scoring connector (6 or 9 to 15)."""

PLANNED = ("uni4eye/pp", "uni4eye/entropy")
"""Systems that it will know."""


def convert_state_dict(
    system: str, state_dict: "Mapping[str, Tensor]", config: Mapping[str, Any]
) -> "tuple[PreTrainedConfig, dict[str, Tensor], KeyReport]":
    """Convert weights with the authors' names into weights of ours.

    Args:
        system: Which of the published models, one of :data:`AVAILABLE`.
        state_dict: Weights under the names of the authors' code.
        config: Sizes under the names of the authors' code.

    Returns:
        Our config, our state dict, and the report of every key.

    Raises:
        RecipeError: The system is unknown or not available yet, or a size is missing or not supported.
        ReadError: A tensor does not have the shape that the sizes ask for.
    """
    if system == "uni4eye/dual":
        from crossdim.convert.dual import convert_dual

        return convert_dual(state_dict, config)
    if system == "pimae/pretrain":
        from crossdim.convert.pimae import convert_pretrain

        return convert_pretrain(state_dict, config)
    if system == "pimae/detector":
        from crossdim.convert.detr3d import convert_detector

        return convert_detector(state_dict, config)
    variant = re.fullmatch(r"med2e3/(?:model|variant(\d{1,4}))", system)
    if variant:
        from crossdim.convert.med2e3_state import convert_model

        return convert_model(state_dict, config, int(variant[1]) if variant[1] else None)
    if system in PLANNED:
        remedy = f"Available now: {', '.join(AVAILABLE)}"
        raise RecipeError(f"system '{system}'", "cannot be converted yet", remedy)
    raise RecipeError(f"system '{system}'", "is unknown", nearest(system, (*AVAILABLE, *PLANNED)))
