"""Names of the authors' weights and ours, and the report of what became of each.

One table serves every release of Uni4Eye and MAE, because later ones only add to the names of earlier ones: ``2`` and
``3`` at the end of a name are the modality, a further ``1`` is the second (gradient) decoder.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from crossdim.errors import ReadError

Shape = tuple[int, ...]
Change = Callable[[Tensor], tuple[Tensor, str]]
"""What must be done to a tensor, and what to call it in the report."""


@dataclass(frozen=True)
class KeyReport:
    """What became of every key.

    Attributes:
        used: Key in the checkpoint → key in our model.
        unused: Key in the checkpoint → why our model has no place for it.
        missing: Keys of our model that the checkpoint does not fill.
        reshaped: Key in the checkpoint → what was done to its tensor.
    """

    used: dict[str, str]
    unused: dict[str, str]
    missing: tuple[str, ...]
    reshaped: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return asdict(self)


_LAYER = r"((?:norm1|norm2|mlp\.fc1|mlp\.fc2)\.(?:weight|bias))"
_ATTENTION = r"attn\.((?:qkv|proj)\.(?:weight|bias))"
_END = r"\.(weight|bias)"
_RENAMES = (
    (r"cls_token", r"uni4eye.cls_token"),
    (rf"patch_embed\.proj2?{_END}", r"uni4eye.patch_embed.image.\1"),
    (rf"patch_embed\.proj3{_END}", r"uni4eye.patch_embed.volume.\1"),
    (r"pos_embed2?", r"uni4eye.positions.image_table"),
    (r"pos_embed3", r"uni4eye.positions.volume_table"),
    (rf"blocks\.(\d+)\.{_LAYER}", r"uni4eye.encoder.layers.\1.\2"),
    (rf"blocks\.(\d+)\.{_ATTENTION}", r"uni4eye.encoder.layers.\1.attention.\2"),
    (rf"norm{_END}", r"uni4eye.encoder.norm.\1"),
    (r"decoder_pos_embed2?", r"decoder_positions.image_table"),
    (r"decoder_pos_embed3", r"decoder_positions.volume_table"),
    (rf"decoder_norm{_END}", r"decoder_norm.{norm}.\1"),
    (r"mask_token", r"intensity_decoder.mask_token"),
    (rf"decoder_embed{_END}", r"intensity_decoder.embed.\1"),
    (rf"decoder_blocks\.(\d+)\.{_LAYER}", r"intensity_decoder.layers.\1.\2"),
    (rf"decoder_blocks\.(\d+)\.{_ATTENTION}", r"intensity_decoder.layers.\1.attention.\2"),
    (rf"decoder_pred2?{_END}", r"intensity_decoder.image_head.\1"),
    (rf"decoder_pred3{_END}", r"intensity_decoder.volume_head.\1"),
    (r"mask_token1", r"gradient_decoder.mask_token"),
    (rf"decoder_embed1{_END}", r"gradient_decoder.embed.\1"),
    (rf"decoder_blocks1\.(\d+)\.{_LAYER}", r"gradient_decoder.layers.\1.\2"),
    (rf"decoder_blocks1\.(\d+)\.{_ATTENTION}", r"gradient_decoder.layers.\1.attention.\2"),
    (rf"decoder_pred21{_END}", r"gradient_decoder.image_head.\1"),
    (rf"decoder_pred31{_END}", r"gradient_decoder.volume_head.\1"),
)
_UNUSED = (
    (r"decoder_pos_embed[23]1", "allocated but never read by the released forward pass"),
    (r"controller\..*", "the dynamic head of Uni4Eye++, which is not available yet"),
    (r"mlp\..*", "dead weight: no forward pass of the release uses it"),
    (r"(head|head_drist)\..*", "the classifier of a fine-tuning, whose classes the file does not name"),
    (r"fc_norm\..*", "the norm after mean pooling of a fine-tuning; here a new classifier brings its own"),
)
_BLOCK = re.compile(r"(?:decoder_)?blocks1?\.")


def our_name(name: str, shared_norm: bool) -> str | None:
    """Return our name for a weight of the authors, as ``Uni4EyeForPreTraining`` has it; None if there is none.

    Args:
        name: Key in the authors' state dict.
        shared_norm: Whether both decoders share one final norm.
    """
    for pattern, ours in _RENAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(ours).replace("{norm}", "shared" if shared_norm else "intensity")
    return None


def why_unused(name: str) -> str:
    """Return why a weight of the authors has no place here.

    Args:
        name: Key without a name of ours.

    Raises:
        ReadError: The key belongs to a layer, so that leaving it out would change what the layer computes.
    """
    if _BLOCK.match(name):
        raise ReadError(
            f"key '{name}'", "belongs to a layer of another design than MAE's", "Give a checkpoint of Uni4Eye or MAE"
        )
    return next((why for pattern, why in _UNUSED if re.fullmatch(pattern, name)), "Uni4Eye has nothing of this name")


def fill(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Shape],
    changes: Mapping[str, Change],
    leave: Mapping[str, str],
    shared_norm: bool,
) -> tuple[dict[str, Tensor], KeyReport]:
    """Give every weight of the authors its place in our model.

    Args:
        weights: The authors' state dict; only what is used is read.
        expected: Shape of every tensor of our model.
        changes: What is done to a tensor on the way, by our name.
        leave: Keys to leave out, and why.
        shared_norm: Whether both decoders share one final norm.

    Raises:
        ReadError: A tensor has not the shape that the sizes ask for.
    """
    state: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    unused = {name: why for name, why in leave.items() if name in weights}
    reshaped: dict[str, str] = {}
    for name in weights:
        ours = None if name in unused else our_name(name, shared_norm)
        if name in unused:
            continue
        if ours is None:
            unused[name] = why_unused(name)
        elif ours not in expected:
            unused[name] = "the converted model has no such part"
        else:
            tensor = weights[name]
            if ours in changes:
                tensor, reshaped[name] = changes[ours](tensor)
            if tuple(tensor.shape) != expected[ours]:
                reason = f"has shape {tuple(tensor.shape)} where the sizes ask for {expected[ours]}"
                raise ReadError(f"key '{name}'", reason, "Give the sizes this checkpoint was trained with")
            state[ours], used[name] = tensor, ours
    missing = tuple(name for name in expected if name not in state)
    return state, KeyReport(used, unused, missing, reshaped)
