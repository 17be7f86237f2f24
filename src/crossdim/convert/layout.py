"""Whose checkpoint is it? The layouts of Uni4Eye and MAE, told apart by the names and shapes of their weights."""

import re
from dataclasses import dataclass

from crossdim.convert.keys import our_name, why_unused
from crossdim.convert.reading import Checkpoint
from crossdim.errors import ReadError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What the names of a checkpoint say about the model.

    Attributes:
        name: In words.
        uni4eye: Whether it is of Uni4Eye or Uni4Eye++, and not of MAE.
        decoder: Whether there is a decoder.
        gradient_decoder: Whether there is a second one.
        dynamic_head: Whether there is the controller of Uni4Eye++.
        volume_stem: Whether there is a stem for volumes.
        two: Ending of names that belong to images: ``2`` where names tell the modality.
    """

    name: str
    uni4eye: bool
    decoder: bool
    gradient_decoder: bool
    dynamic_head: bool
    volume_stem: bool
    two: str


def recognise(checkpoint: Checkpoint) -> Layout:
    """Return the layout of a checkpoint.

    Args:
        checkpoint: Only its names and shapes are looked at.

    Raises:
        ReadError: It is no Uni4Eye or MAE: a stem, token or layer of them is missing, or a layer has more to it.
    """
    names = checkpoint.shapes
    two = "2" if "patch_embed.proj2.weight" in names else ""
    decoder, second, dynamic = "decoder_embed.weight" in names, "mask_token1" in names, "controller.weight" in names
    for name in (f"patch_embed.proj{two}.weight", f"pos_embed{two}", "cls_token", "blocks.0.attn.qkv.weight"):
        if name not in names:
            found = ", ".join(list(names)[:4])
            reason = f"is no checkpoint of Uni4Eye or MAE: no '{name}' (it begins with {found})"
            raise ReadError(checkpoint.path, reason, "Give a checkpoint of Uni4Eye, Uni4Eye++ or facebookresearch/mae")
    for name in names:
        if our_name(name, shared_norm=second) is None:
            why_unused(name)
    if second:
        title = "Uni4Eye, dual-branch"
    elif dynamic:
        title = "Uni4Eye++, images and volumes" if two else "Uni4Eye++ as released, images only"
    elif two:
        title = "Uni4Eye, encoder" if not decoder else "Uni4Eye, one decoder"
    else:
        fine_tuned = "fc_norm.weight" in names or "head.weight" in names
        title = "MAE, pre-training" if decoder else "MAE, fine-tuned" if fine_tuned else "MAE, encoder"
    return Layout(title, bool(two) or dynamic, decoder, second, dynamic, "patch_embed.proj3.weight" in names, two)


def depth(checkpoint: Checkpoint, stack: str) -> int:
    """Return the number of layers of a stack.

    Args:
        checkpoint: Only its names are looked at.
        stack: ``blocks`` or ``decoder_blocks``.

    Raises:
        ReadError: A layer is missing in between.
    """
    numbers = {int(match[1]) for name in checkpoint.shapes if (match := re.match(rf"{stack}\.(\d+)\.", name))}
    if numbers != set(range(len(numbers))):
        missing = min(set(range(max(numbers))) - numbers)
        raise ReadError(checkpoint.path, f"lacks layer {missing} of '{stack}'", "Download or copy it again")
    return len(numbers)
