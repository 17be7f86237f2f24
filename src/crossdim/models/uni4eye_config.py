"""Sizes and options of the Uni4Eye models, and the named sizes."""

from typing import Any, Literal, no_type_check

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from crossdim.encoders.transformer import TransformerShape
from crossdim.errors import ContractError, nearest
from crossdim.tokens.grid import pair, triple

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    | {"decoder_hidden_size": 128, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4}
    | {"decoder_intermediate_size": 512},
    "small": {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    }
    | {"decoder_hidden_size": 256, "decoder_num_hidden_layers": 4, "decoder_num_attention_heads": 8}
    | {"decoder_intermediate_size": 1024},
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
"""DeiT/MAE encoder sizes; base and large keep the paper's decoder (512 wide, 8 layers, 16 heads)."""

_HUGGING_FACE_KEYS = frozenset(
    {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype", "use_cache"}
)


@no_type_check
@strict
class Uni4EyeConfig(PreTrainedConfig):
    """Sizes and options of every Uni4Eye model; sizes are ``(height, width)`` or ``(depth, height, width)``.

    Attributes:
        hidden_size: Width of the encoder.
        num_hidden_layers: Layers of the encoder.
        num_attention_heads: Heads of the encoder.
        intermediate_size: Width inside the encoder's MLPs.
        qkv_bias: Whether qkv projections have a bias.
        layer_norm_eps: Epsilon of every LayerNorm.
        drop_path_rate: Stochastic depth of the last encoder layer.
        image_size: Image size of the position table; other sizes work too.
        num_channels: Channels of an image.
        patch_size: Patch of an image.
        volume_size: Volume size of the position table; other sizes work too.
        num_volume_channels: Channels of a volume.
        volume_patch_size: Patch of a volume; may be anisotropic.
        volume_stem: ``separate`` weights for volumes, or ``inflated`` from the image stem.
        image_positions: ``sincos``, a stored ``table``, or ``none``.
        volume_positions: Likewise for volumes.
        decoder_hidden_size: Width of both decoders.
        decoder_num_hidden_layers: Layers of each decoder.
        decoder_num_attention_heads: Heads of each decoder.
        decoder_intermediate_size: Width inside the decoders' MLPs.
        mask_ratio: Share of hidden image tokens.
        volume_mask_ratio: Share of hidden volume tokens.
        volume_masking: Hide volume tokens one by one (``random``) or in blocks of neighbours (``block``).
        volume_mask_block: Tokens per block along each axis.
        shared_decoder_norm: One final norm for both decoders, as released.
        norm_pix_loss: Normalise each target patch of the intensity branch.
        gradient_decoder: Whether there is a second decoder.
        gradient_target: Recipe of the image gradient map.
        edge_scale: Factor on the gradient maps; 1/48 maps a unit step to at most 1.
        intensity_weight: λ1 of the paper's loss.
        gradient_weight: λ2 of the paper's loss.
        pooling: Feature for classification: the class token, or the mean of the patch tokens.
        task: Name of what the classes answer ("grade"), for people and files.
        problem: What the classes are to one another.
        label_smoothing: Share of the target spread over all classes.
        class_weights: Weight of each class in the loss.
    """

    model_type = "uni4eye"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    drop_path_rate: float | int = 0.0
    image_size: tuple[int, ...] | list[int] | int = (224, 224)
    num_channels: int = 3
    patch_size: tuple[int, ...] | list[int] | int = (16, 16)
    volume_size: tuple[int, ...] | list[int] | int = (96, 96, 96)
    num_volume_channels: int = 1
    volume_patch_size: tuple[int, ...] | list[int] | int = (16, 16, 16)
    volume_stem: Literal["separate", "inflated"] = "separate"
    image_positions: Literal["sincos", "table", "none"] = "sincos"
    volume_positions: Literal["sincos", "table", "none"] = "sincos"
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    mask_ratio: float | int = 0.75
    volume_mask_ratio: float | int = 0.75
    volume_masking: Literal["random", "block"] = "random"
    volume_mask_block: tuple[int, ...] | list[int] | int = (2, 2, 2)
    shared_decoder_norm: bool = False
    norm_pix_loss: bool = False
    gradient_decoder: bool = True
    gradient_target: Literal["float", "uint8", "uint8_chw"] = "float"
    edge_scale: float | int = 1 / 48
    intensity_weight: float | int = 1.0
    gradient_weight: float | int = 1.0
    pooling: Literal["cls", "mean"] = "cls"
    task: str = ""
    problem: Literal["multiclass", "multilabel", "ordinal"] = "multiclass"
    label_smoothing: float | int = 0.0
    class_weights: tuple[float, ...] | list[float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        known = set(type(self).__dataclass_fields__)
        for key in kwargs:
            if not key.startswith("_") and key not in _HUGGING_FACE_KEYS and not hasattr(type(self), key):
                raise ContractError(f"Uni4EyeConfig({key}=...)", "no such key", nearest(key, known))
        self.image_size, self.patch_size = pair(self.image_size), pair(self.patch_size)
        self.volume_size, self.volume_patch_size = triple(self.volume_size), triple(self.volume_patch_size)
        self.volume_mask_block = triple(self.volume_mask_block)
        super().__post_init__(**kwargs)

    def encoder_shape(self) -> TransformerShape:
        """Return the sizes of the encoder."""
        return TransformerShape(
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.qkv_bias,
            self.layer_norm_eps,
            float(self.drop_path_rate),
        )

    def decoder_shape(self) -> TransformerShape:
        """Return the sizes of each decoder."""
        return TransformerShape(
            self.decoder_hidden_size,
            self.decoder_num_hidden_layers,
            self.decoder_num_attention_heads,
            self.decoder_intermediate_size,
            self.qkv_bias,
            self.layer_norm_eps,
        )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "Uni4EyeConfig":
        """Return a named size: ``tiny``, ``small``, ``base`` or ``large``.

        Args:
            name: Name of the size.
            **overrides: Any other key of the config.

        Raises:
            ContractError: The name is unknown.
        """
        if name not in PRESETS:
            raise ContractError(f"preset '{name}'", "no such size", nearest(name, PRESETS))
        return cls(**{**PRESETS[name], **overrides})
