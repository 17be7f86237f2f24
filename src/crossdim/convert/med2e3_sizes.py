"""Sizes of Med-2E3 in the authors' words → our config, for the released model and its scoring variants."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import AutoConfig, BertConfig, PreTrainedConfig, SiglipVisionConfig

from crossdim.encoders.vision3d import VisionTransformer3DConfig
from crossdim.errors import RecipeError, nearest
from crossdim.models.med2e3_config import Med2E3Config

RELEASED = 15
"""The scoring connector of both training scripts and of the released weights."""

CONNECTOR = re.compile(r"spatial_pooling_score(\d+)_mlp2x_gelu")
"""Name of a scoring connector in the authors' configs."""


@dataclass(frozen=True)
class Variant:
    """How one of the authors' connectors scores slices.

    Attributes:
        slice_weights: What guides the scores.
        key: What a slice is compared by.
        text: Which feature the question has; None where it has no say.
        temperature: Divides the relevance.
    """

    slice_weights: Literal["tgis", "tgis_2d_only", "tgis_3d_only", "learned"]
    key: Literal["both", "3d", "2d", "global_3d"]
    text: Literal["linear", "llm_mean"] | None
    temperature: float


VARIANTS = {
    6: Variant("tgis", "both", "llm_mean", 1.0),
    9: Variant("learned", "both", None, 1.0),
    10: Variant("tgis_3d_only", "3d", "linear", 5.0),
    11: Variant("tgis_2d_only", "2d", "linear", 5.0),
    12: Variant("tgis", "global_3d", "llm_mean", 1.0),
    13: Variant("learned", "3d", None, 1.0),
    14: Variant("learned", "2d", None, 1.0),
    RELEASED: Variant("tgis", "both", "linear", 5.0),
}
"""The authors' scoring connectors by number; 6 is the formula of the paper's first version."""

_FUSIONS: dict[Any, Literal["both", "3d_only", "2d_only"]] = {4: "both", 6: "both", 0: "3d_only", 7: "2d_only"}


@dataclass(frozen=True)
class Parts:
    """Configs of the parts.

    Attributes:
        vision3d: 3D encoder.
        vision2d: Slice encoder.
        language: Language model.
        question: BERT.
    """

    vision3d: VisionTransformer3DConfig
    vision2d: PreTrainedConfig
    language: PreTrainedConfig
    question: PreTrainedConfig


def variant_of(number: int) -> Variant:
    """Return how a connector scores.

    Args:
        number: Of the authors' connector.

    Raises:
        RecipeError: It is not one that can be converted.
    """
    if number not in VARIANTS:
        known = ", ".join(map(str, sorted(VARIANTS)))
        raise RecipeError(f"scoring connector {number}", "cannot be converted", f"Convert one of: {known}")
    return VARIANTS[number]


def assemble(parts: Parts, number: int = RELEASED, experiment: int = 4) -> Med2E3Config:
    """Return our config for the authors' parts.

    Args:
        parts: Their configs.
        number: Scoring connector.
        experiment: The authors' ``exp_id``: which features reach the language model.

    Raises:
        RecipeError: The connector or the experiment is not one that can be converted.
    """
    variant = variant_of(number)
    if experiment not in _FUSIONS:
        known = ", ".join(map(str, _FUSIONS))
        raise RecipeError(f"exp_id {experiment}", "cannot be converted", f"Convert one of: {known}")
    return Med2E3Config(
        vision3d_config=parts.vision3d,
        vision2d_config=parts.vision2d,
        language_config=parts.language,
        question_config=parts.question if variant.text == "linear" else None,
        fusion=_FUSIONS[experiment],
        slice_weights=variant.slice_weights,
        score_key=variant.key,
        question_feature=variant.text or "linear",
        score_temperature=variant.temperature,
        volume_token_id=-201,
        image_token_id=-200,
    )


def official_config(official: Mapping[str, Any], number: int | None = None) -> Med2E3Config:
    """Return our config for sizes under the names of the authors' code.

    Args:
        official: ``llm``, ``siglip``, ``bert``, ``m3d`` and what holds for the whole model.
        number: Scoring connector; None reads it from ``vision3d_connector_type``.

    Raises:
        RecipeError: A size is missing or not supported.
    """
    reader = _Reader(official)
    if number is None:
        name = str(reader.get("vision3d_connector_type"))
        match = CONNECTOR.fullmatch(name)
        if match is None:
            remedy = "Convert one named spatial_pooling_scoreN_mlp2x_gelu"
            raise RecipeError(f"vision3d_connector_type '{name}'", "cannot be converted", remedy)
        number = int(match[1])
    epsilons = official.get("layer_norm_eps", {})
    parts = Parts(
        vision3d=m3d_config(reader.part("m3d"), float(epsilons.get("3-D encoder", 1e-5))),
        vision2d=siglip_config(reader.part("siglip"), float(epsilons.get("SigLIP", 1e-6))),
        language=_language(official, reader),
        question=BertConfig(**reader.part("bert"), layer_norm_eps=float(epsilons.get("BERT", 1e-12))),
    )
    return assemble(parts, number, int(official.get("exp_id", 4)))


class _Reader:
    def __init__(self, official: Mapping[str, Any]) -> None:
        self.official = official

    def get(self, key: str) -> Any:
        if key not in self.official:
            raise RecipeError(f"config key '{key}'", "is missing", f"Add it. {nearest(key, self.official)}")
        return self.official[key]

    def part(self, key: str) -> dict[str, Any]:
        found = self.get(key)
        if not isinstance(found, Mapping):
            raise RecipeError(f"config key '{key}'", "is not a section", "Give the sizes of that part")
        return dict(found)


def m3d_config(sizes: Mapping[str, Any], epsilon: float = 1e-5) -> VisionTransformer3DConfig:
    """Return our config of M3D-CLIP's vision transformer.

    Args:
        sizes: Under the names of M3D-CLIP's config.
        epsilon: Of every LayerNorm.

    Raises:
        RecipeError: A size is missing, or patches are not embedded by one matrix.
    """
    reader = _Reader(sizes)
    embedding = sizes.get("pos_embed", "perceptron")
    if embedding != "perceptron":
        raise RecipeError(f"pos_embed '{embedding}'", "is not known", "Convert a model with pos_embed 'perceptron'")
    return VisionTransformer3DConfig(
        hidden_size=reader.get("hidden_size"),
        num_hidden_layers=reader.get("num_layers"),
        num_attention_heads=reader.get("num_heads"),
        intermediate_size=reader.get("mlp_dim"),
        layer_norm_eps=epsilon,
        volume_size=tuple(reader.get("img_size")),
        volume_patch_size=tuple(reader.get("patch_size")),
        num_channels=int(sizes.get("in_channels", 1)),
    )


def siglip_config(sizes: Mapping[str, Any], epsilon: float = 1e-6) -> SiglipVisionConfig:
    """Return the config of SigLIP's vision tower.

    Args:
        sizes: Under transformers' names.
        epsilon: Of every LayerNorm, if the sizes do not say.
    """
    return SiglipVisionConfig(**{"layer_norm_eps": epsilon, **sizes})


def _language(official: Mapping[str, Any], reader: _Reader) -> PreTrainedConfig:
    kind, sizes = reader.get("llm_hf_type"), reader.part("llm")
    known = ("phi3", "llama")
    if kind not in known:
        raise RecipeError(f"llm_hf_type '{kind}'", "cannot be converted", nearest(str(kind), known))
    sizes.setdefault("rms_norm_eps", official.get("llm_rms_norm_eps", 1e-5 if kind == "phi3" else 1e-6))
    sizes.setdefault("rope_theta", official.get("llm_rope_theta", 10000.0))
    return AutoConfig.for_model(kind, **sizes)
