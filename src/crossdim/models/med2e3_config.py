"""Parts, sizes and options of Med-2E3."""

from math import prod
from typing import Any, ClassVar, Literal, no_type_check

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from crossdim.encoders.pretrained import VOLUME_TOWERS, adapter_of, slice_grid
from crossdim.errors import ContractError, nearest
from crossdim.fusion.connectors import pooled_grid
from crossdim.fusion.slice_scoring import ScoreKey, SliceWeights
from crossdim.tokens.grid import Grid, grid_of

PARTS = ("vision3d_config", "vision2d_config", "language_config", "question_config")
"""Keys that hold the config of a part."""

_HUGGING_FACE_KEYS = frozenset(
    {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype", "use_cache"}
)

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "released": {
        "vision3d_config": {"model_type": "vision_transformer_3d"},
        "vision2d_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 256,
            "patch_size": 16,
        },
        "language_config": {
            "model_type": "phi3",
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
        },
        "question_config": {"model_type": "bert"},
    },
    "tiny": {
        "vision3d_config": {
            "model_type": "vision_transformer_3d",
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "volume_size": (32, 32, 32),
            "volume_patch_size": (4, 8, 8),
        },
        "vision2d_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
        "language_config": {
            "model_type": "llama",
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
        },
        "question_config": {
            "model_type": "bert",
            "vocab_size": 512,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
        },
    },
}
"""Sizes of all parts: as published (4.4 billion parameters), and small enough to train in minutes on a CPU."""


@no_type_check
@strict
class Med2E3Config(PreTrainedConfig):
    """Four parts and how they are joined; the defaults of the options are the released model's.

    Attributes:
        vision3d_config: The encoder of volumes: ``vision_transformer_3d`` (M3D-CLIP's) or ``uni4eye``.
        vision2d_config: The encoder of slices: SigLIP, SigLIP 2, CLIP, DINOv2, DINOv3 or Uni4Eye.
        language_config: Any causal language model of transformers.
        question_config: The BERT that reads the question for the slice scores; unused with ``llm_mean``.
        fusion: What the language model sees: 3D tokens and the weighted 2D tokens, or one of them.
        slice_weights: How slices are weighted, see :data:`crossdim.fusion.slice_scoring.SliceWeights`.
        score_key: Tokens whose mean speaks for a slice, for ``tgis``, ``learned`` and ``top_k``.
        score_top_k: Slices that ``top_k`` keeps.
        question_feature: BERT's pooler and a linear map (released), the same with an MLP (second version of the
            paper), or the mean of the question's embeddings in the language model (first version).
        score_temperature: Divides the relevance before the softmax; 1 in the paper.
        score_dropout: Dropout on the scores while training; what is left is not renormalised.
        pool_size: 3D tokens that become one, ``(depth, rows, columns)``.
        vision3d_layer: Hidden state of the 3D encoder that is used; -1 is the last layer's output.
        vision3d_norm: Whether the encoder's final norm follows; left out, only for Uni4Eye.
        vision2d_layer: Likewise for the slices.
        vision2d_norm: Likewise for the slices.
        vision2d_mean: Subtracted from the slices, one number or one for each channel; None as released.
        vision2d_std: Divides the slices, likewise.
        slice_loss_weight: Weight of the loss on the true slices, where they are known.
        slice_chunk: Slices that the 2D encoder takes at once where it is not trained; 0 for all. Bounds the memory.
        volume_token_id: Stands in ``input_ids`` for each token of a volume; need not be in the vocabulary.
        image_token_id: Stands for each token of an image.
        initializer_range: Standard deviation of new weights.
    """

    model_type = "med2e3"
    sub_configs = dict.fromkeys(PARTS, AutoConfig)
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "losses"]

    vision3d_config: Any = None
    vision2d_config: Any = None
    language_config: Any = None
    question_config: Any = None
    fusion: Literal["both", "3d_only", "2d_only"] = "both"
    slice_weights: SliceWeights = "tgis"
    score_key: ScoreKey = "both"
    score_top_k: int = 3
    question_feature: Literal["linear", "mlp", "llm_mean"] = "linear"
    score_temperature: float | int = 5.0
    score_dropout: float | int = 0.1
    pool_size: tuple[int, ...] | list[int] = (2, 2, 2)
    vision3d_layer: int = -1
    vision3d_norm: bool | None = None
    vision2d_layer: int = -1
    vision2d_norm: bool | None = None
    vision2d_mean: float | int | tuple[float, ...] | list[float] | None = None
    vision2d_std: float | int | tuple[float, ...] | list[float] | None = None
    slice_loss_weight: float | int = 0.0
    slice_chunk: int = 64
    volume_token_id: int = -201
    image_token_id: int = -200
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        known = set(type(self).__dataclass_fields__)
        for key in kwargs:
            if not key.startswith("_") and key not in _HUGGING_FACE_KEYS and not hasattr(type(self), key):
                raise ContractError(f"Med2E3Config({key}=...)", "no such key", nearest(key, known))
        for name in PARTS:
            setattr(self, name, _part(name, getattr(self, name)))
        self.pool_size = tuple(self.pool_size)
        for name in ("score_temperature", "score_dropout", "slice_loss_weight", "vision2d_mean", "vision2d_std"):
            value = getattr(self, name)
            setattr(self, name, float(value) if isinstance(value, int) else value)
        for name, config in (("vision3d_norm", self.vision3d_config), ("vision2d_norm", self.vision2d_config)):
            if getattr(self, name) is None:
                setattr(self, name, config is not None and config.model_type == "uni4eye")
        self.check_options()
        super().__post_init__(**kwargs)

    def check_options(self) -> None:
        """Refuse options that are out of range or cannot go together; call it after setting one.

        Raises:
            ContractError: One is.
        """
        numbers = {
            "score_temperature": (self.score_temperature, self.score_temperature > 0, "above 0"),
            "score_top_k": (self.score_top_k, self.score_top_k > 0, "at least 1"),
            "score_dropout": (self.score_dropout, 0 <= self.score_dropout < 1, "from 0 to below 1"),
            "slice_loss_weight": (self.slice_loss_weight, self.slice_loss_weight >= 0, "0 or more"),
            "slice_chunk": (self.slice_chunk, self.slice_chunk >= 0, "0 (all) or more"),
            "pool_size": (self.pool_size, len(self.pool_size) == 3 and min(self.pool_size) > 0, "three, at least 1"),
        }
        for key, (value, right, allowed) in numbers.items():
            if not right:
                raise ContractError(f"{key} {value}", f"is not {allowed}", f"Give {key} {allowed}")
        if self.volume_token_id == self.image_token_id:
            raise ContractError(
                f"volume_token_id {self.volume_token_id}", "is the image_token_id as well", "Give two different ids"
            )
        if self.slice_loss_weight and not self.learns_scores:
            raise ContractError(
                f"slice_loss_weight {self.slice_loss_weight}",
                f"has no scores to act on with fusion '{self.fusion}' and slice_weights '{self.slice_weights}'",
                "Set it to 0, or weight slices by tgis, learned or top_k",
            )

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the language model, whose cache generation fills."""
        return self.language_config.num_hidden_layers

    @property
    def uses_slices(self) -> bool:
        """Whether there is a 2D encoder."""
        return self.fusion != "3d_only"

    @property
    def learns_scores(self) -> bool:
        """Whether slice scores depend on weights."""
        return self.uses_slices and self.slice_weights not in ("uniform", "max")

    @property
    def uses_question(self) -> bool:
        """Whether slice scores depend on the question."""
        return self.learns_scores and self.slice_weights != "learned"

    @property
    def reads_question(self) -> bool:
        """Whether there is a question encoder."""
        return self.uses_question and self.question_feature != "llm_mean"

    @property
    def key(self) -> ScoreKey:
        """Tokens that speak for a slice, as ``slice_weights`` and ``score_key`` together say."""
        if self.slice_weights == "tgis_2d_only":
            return "2d"
        return "3d" if self.slice_weights == "tgis_3d_only" else self.score_key

    @property
    def uses_volumes(self) -> bool:
        """Whether there is a 3D encoder: for the language model, or for the scores only."""
        return self.fusion != "2d_only" or (self.learns_scores and self.key != "2d")

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return the language model's config: what generation asks for its vocabulary and cache.

        Args:
            decoder: As in transformers; of no effect here.
            encoder: As in transformers; of no effect here.
        """
        return self if self.language_config is None else self.language_config.get_text_config()

    def check_parts(self) -> None:
        """Refuse to build a model that lacks a part which its options need.

        Raises:
            ContractError: A part is missing.
        """
        needed = {
            "language_config": True,
            "vision3d_config": self.uses_volumes,
            "vision2d_config": self.uses_slices,
            "question_config": self.reads_question,
        }
        for name, need in needed.items():
            if need and getattr(self, name) is None:
                raise ContractError(
                    f"Med2E3Config without {name}",
                    f"fusion '{self.fusion}', slice_weights '{self.slice_weights}' and question_feature "
                    f"'{self.question_feature}' need one",
                    f"Give {name}, a config or a dict with its model_type",
                )

    def pooled_grid(self, size: tuple[int, ...]) -> Grid:
        """Return the grid of the 3D tokens after pooling.

        Args:
            size: ``(depth, height, width)`` of a volume.
        """
        adapter_of(self.vision3d_config, "volumes")
        return pooled_grid(grid_of(tuple(size), tuple(self.vision3d_config.volume_patch_size)), tuple(self.pool_size))

    def image_tokens(self, size: tuple[int, ...]) -> int:
        """Return how many tokens of the language model one image takes.

        Args:
            size: ``(height, width)``.
        """
        return prod(slice_grid(self.vision2d_config, (size[0], size[1])))

    def volume_tokens(self, size: tuple[int, ...]) -> int:
        """Return how many tokens of the language model one volume takes.

        Args:
            size: ``(depth, height, width)``.
        """
        of_volume = 0 if self.fusion == "2d_only" else prod(self.pooled_grid(size))
        return of_volume + (self.image_tokens(size[1:]) if self.uses_slices else 0)

    def slice_count(self, size: tuple[int, ...]) -> int:
        """Return how many slices are scored.

        Args:
            size: ``(depth, height, width)``.
        """
        return size[0]

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "Med2E3Config":
        """Return named sizes of all parts: ``released`` or ``tiny``.

        Args:
            name: Name of the sizes.
            **overrides: Any other key of the config.

        Raises:
            ContractError: The name is unknown.
        """
        if name not in PRESETS:
            raise ContractError(f"preset '{name}'", "no such sizes", nearest(name, PRESETS))
        return cls(**{**PRESETS[name], **overrides})


def _part(name: str, config: Any) -> PreTrainedConfig | None:
    if config is None or isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, dict):
        raise ContractError(f"{name} {config!r}", "is not a config", "Give a config, or a dict with its model_type")
    keys = dict(config)
    family = keys.pop("model_type", None)
    try:
        return AutoConfig.for_model(family, **keys)
    except ValueError as error:
        ours = family in VOLUME_TOWERS
        remedy = "Import crossdim.models.auto first" if ours else "Give a model_type that transformers knows"
        raise ContractError(f"{name} of type '{family}'", "no such model", remedy) from error
