"""Names of Med-2E3's weights in the authors' code and ours, and the report of what became of each.

Nothing is reshaped: patches are flattened in the same order, and the towers, BERT and the language model are the same
classes of transformers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from crossdim.convert.keys import KeyReport, Shape
from crossdim.errors import ReadError

_VIT = r"vision3d_model\.vision3d_encoder\.vision_encoder\."
_END = r"\.(weight|bias)"
_RENAMES = (
    (r"llm\.(.+)", r"language_model.\1"),
    (r"vision2d_model\.vision2d_encoder\.(?:vision_model\.)?(.+)", r"vision2d.\1"),
    (rf"vision2d_connector\._connector\.0{_END}", r"connector2d.fc1.\1"),
    (rf"vision2d_connector\._connector\.2{_END}", r"connector2d.fc2.\1"),
    (rf"{_VIT}cls_token", r"vision3d.cls_token"),
    (rf"{_VIT}patch_embedding\.position_embeddings", r"vision3d.position_embeddings"),
    (rf"{_VIT}patch_embedding\.patch_embeddings\.1{_END}", r"vision3d.patch_embed.\1"),
    (rf"{_VIT}blocks\.(\d+)\.(norm[12]){_END}", r"vision3d.encoder.layers.\1.\2.\3"),
    (rf"{_VIT}blocks\.(\d+)\.attn\.qkv{_END}", r"vision3d.encoder.layers.\1.attention.qkv.\2"),
    (rf"{_VIT}blocks\.(\d+)\.attn\.out_proj{_END}", r"vision3d.encoder.layers.\1.attention.proj.\2"),
    (rf"{_VIT}blocks\.(\d+)\.mlp\.linear([12]){_END}", r"vision3d.encoder.layers.\1.mlp.fc\2.\3"),
    (rf"{_VIT}norm{_END}", r"vision3d.encoder.norm.\1"),
    (r"vision3d_model\.vision3d_encoder\.language_encoder\.(.+)", r"question_encoder.\1"),
    (rf"vision3d_connector\._connector\.0{_END}", r"connector3d.fc1.\1"),
    (rf"vision3d_connector\._connector\.2{_END}", r"connector3d.fc2.\1"),
    (rf"vision3d_connector\.text_mlp{_END}", r"question_projection.\1"),
    (rf"vision3d_connector\.scoring_module{_END}", r"scorer.linear.\1"),
)
_UNUSED = (
    (r".*\.mm_(vision|language)_proj\..*", "M3D-CLIP's projection for contrastive training; Med-2E3 never reads it"),
    (r".*\.logit_scale", "M3D-CLIP's temperature of contrastive training; Med-2E3 never reads it"),
    (r".*\.position_ids", "a list of 0, 1, 2, … that older exports store"),
    (r".*\.rotary_emb\.inv_freq", "computed from the config"),
    (r".*\.language_encoder\..*", "the question encoder, which this model does not have"),
    (r".*\.text_mlp\..*", "the projection of BERT's feature, which this way of scoring does not use"),
    (r".*\.norm_cross_attn\..*", "newer MONAI layers hold it; a layer without cross-attention never reads it"),
)


@dataclass(frozen=True)
class Placed:
    """Where every tensor comes from, before one of them is read.

    Attributes:
        sources: Key of our model → key of the authors.
        keys: What became of every key.
    """

    sources: dict[str, str]
    keys: KeyReport


def our_name(name: str) -> str | None:
    """Return our name for a weight of the authors; None if there is none.

    Args:
        name: Key of the whole model, with the name of its part.
    """
    for pattern, ours in _RENAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(ours)
    return None


def why_unused(name: str) -> str:
    """Return why a weight of the authors has no place here.

    Args:
        name: Key of the whole model.
    """
    return next(
        (why for pattern, why in _UNUSED if re.fullmatch(pattern, name)), "the converted model has no such part"
    )


def place(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], tied: Mapping[str, str] | None = None) -> Placed:
    """Give every weight of the authors its place in our model, by names and shapes alone.

    Args:
        shapes: Of the authors' weights.
        expected: Of ours.
        tied: Key of ours that is another one's twin → that other one; it may be missing.

    Raises:
        ReadError: A tensor has not the shape that the sizes ask for, or two have one place.
    """
    sources: dict[str, str] = {}
    used: dict[str, str] = {}
    unused: dict[str, str] = {}
    for name, shape in shapes.items():
        ours = our_name(name)
        if ours is None or ours not in expected or re.fullmatch(r".*\.position_ids", name):
            unused[name] = why_unused(name)
            continue
        if shape != expected[ours]:
            reason = f"has shape {shape} where the sizes ask for {expected[ours]}"
            raise ReadError(f"key '{name}'", reason, "Give the sizes this checkpoint was trained with")
        if ours in sources:
            raise ReadError(f"key '{name}'", f"has the place of '{sources[ours]}'", "Leave one of them out")
        sources[ours], used[name] = name, ours
    twins = {name for name, other in (tied or {}).items() if other in sources}
    missing = tuple(name for name in expected if name not in sources and name not in twins)
    return Placed(sources, KeyReport(used, unused, missing, {}))


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return the shape of every tensor.

    Args:
        weights: A state dict.
    """
    found = getattr(weights, "shapes", None)
    return dict(found) if isinstance(found, dict) else {name: tuple(value.shape) for name, value in weights.items()}
