"""Sizes and options of the PiMAE models, the named sizes, and what the models put out."""

from dataclasses import dataclass
from typing import Any, Literal, no_type_check

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput

from crossdim.encoders.transformer import TransformerShape
from crossdim.errors import ContractError, nearest
from crossdim.heads.point_reconstruction import ImagePlaces
from crossdim.masking import Mask
from crossdim.tokens.grid import pair
from crossdim.tokens.points import PointGroups, check_point_sizes

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "tiny": {"hidden_size": 96, "image_size": (128, 176), "image_num_hidden_layers": 2, "image_intermediate_size": 384}
    | {"num_points": 1024, "num_groups": 64, "group_size": 16}
    | {"points_num_hidden_layers": 2, "points_intermediate_size": 96}
    | {"joint_num_hidden_layers": 2, "joint_intermediate_size": 96}
    | {"decoder_hidden_size": 64, "decoder_num_attention_heads": 4, "decoder_intermediate_size": 256}
    | {"image_decoder_num_hidden_layers": 1, "points_decoder_num_hidden_layers": 1},
}

IMAGE_NORM_EPS = 1e-6
"""Of the image encoder, the shared decoder and the image decoder."""

POINTS_NORM_EPS = 1e-5
"""Of the point encoder, the shared encoder and the point decoder."""

_HUGGING_FACE_KEYS = frozenset(
    {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype", "use_cache"}
)


@no_type_check
@strict
class PimaeConfig(PreTrainedConfig):
    """Sizes and options of every PiMAE model; sizes of images are ``(height, width)``.

    Attributes:
        hidden_size: Width of the three encoders.
        num_attention_heads: Heads of the three encoders.
        points_num_attention_heads: Heads of the point encoder, if it has others.
        joint_num_attention_heads: Heads of the shared encoder, if it has others.
        dropout: Dropout of the point encoder and the shared encoder.
        image_size: Size that images are prepared for; the model takes any multiple of the patch.
        patch_size: Patch of an image.
        num_channels: Channels of an image.
        image_num_hidden_layers: Layers of the image encoder.
        image_intermediate_size: Width inside its MLPs.
        image_drop_path_rate: Stochastic depth of its last layer, for fine-tuning.
        num_points: Points that a cloud is prepared for; the model takes any number.
        num_groups: Groups of a cloud, each a token.
        group_size: Points of a group.
        points_num_hidden_layers: Layers of the point encoder.
        points_intermediate_size: Width inside its MLPs.
        joint_num_hidden_layers: Layers of the shared encoder.
        joint_intermediate_size: Width inside its MLPs.
        decoder_hidden_size: Width of the three decoders.
        decoder_num_attention_heads: Heads of the three decoders.
        image_decoder_num_attention_heads: Heads of the image decoder, if it has others.
        points_decoder_num_attention_heads: Heads of the point decoder, if it has others.
        decoder_intermediate_size: Width inside the decoders' MLPs.
        image_decoder_intermediate_size: Width inside the image decoder's MLPs, if it is another.
        points_decoder_intermediate_size: Width inside the point decoder's MLPs, if it is another.
        joint_decoder_num_hidden_layers: Layers of the shared decoder.
        image_decoder_num_hidden_layers: Layers of the image decoder.
        points_decoder_num_hidden_layers: Layers of the point decoder.
        points_decoder_drop_path_rate: Stochastic depth of the point decoder's last layer.
        image_mask_ratio: Share of hidden patches.
        points_mask_ratio: Share of hidden groups.
        points_masking: Hide groups one by one (``random``) or one block of neighbours.
        mask_alignment: What hidden groups mean for the patches they fall into: nothing (``independent``, what the
            released code does by default), hidden too (``uniform``), or shown (``complement``, the paper's).
        embed_hidden_points: While training, embed the hidden groups too, as released: nothing but the statistics of
            batch normalisation sees them.
        cross_modal_target: What is predicted of the image where hidden points project: the image decoder's
            ``features``, the ``pixels``, or ``none``.
        cross_modal_sampling: Sample features from the map as it is, or from an enlarged one as released.
        cross_modal_axes: Sampling grid (across, down), or swapped as released.
        pixel_convention: ``centre``: pixels are areas, and only points in the image count. ``released``: places are
            rounded, and all points count, those outside with zeros as their target.
        point_hidden_size: First width inside the network that makes a token of a group; the next ones are twice and
            four times as much.
        unit_m: Metres of the unit that the networks see coordinates in; what the model takes and puts out is in metres.
        skip_points_near_origin: Whether points within about 3 cm of the origin cannot become centres, as released.
        chamfer: Squared distances, or distances.
        norm_pix_loss: Normalise each target patch.
        points_weight: Weight of the Chamfer distance in the loss.
        image_weight: Weight of the patches' mean squared error.
        cross_modal_weight: Weight of the cross-modal mean squared error.
        classifier_layers: Layers that a classifier of images uses: the image encoder, or the shared one behind it too.
        pooling: Feature for classification: the mean of the tokens, or (with ``joint`` layers) the class token.
        task: Name of what the classes answer ("room"), for people and files.
        problem: What the classes are to one another.
        label_smoothing: Share of the target spread over all classes.
        class_weights: Weight of each class in the loss.
    """

    model_type = "pimae"

    hidden_size: int = 256
    num_attention_heads: int = 4
    points_num_attention_heads: int | None = None
    joint_num_attention_heads: int | None = None
    dropout: float | int = 0.1
    image_size: tuple[int, ...] | list[int] | int = (256, 352)
    patch_size: tuple[int, ...] | list[int] | int = (16, 16)
    num_channels: int = 3
    image_num_hidden_layers: int = 3
    image_intermediate_size: int = 1024
    image_drop_path_rate: float | int = 0.0
    num_points: int = 2048
    num_groups: int = 128
    group_size: int = 32
    point_hidden_size: int = 128
    unit_m: float | int = 1.0
    points_num_hidden_layers: int = 3
    points_intermediate_size: int = 128
    joint_num_hidden_layers: int = 3
    joint_intermediate_size: int = 128
    decoder_hidden_size: int = 192
    decoder_num_attention_heads: int = 3
    image_decoder_num_attention_heads: int | None = None
    points_decoder_num_attention_heads: int | None = None
    decoder_intermediate_size: int = 768
    image_decoder_intermediate_size: int | None = None
    points_decoder_intermediate_size: int | None = None
    joint_decoder_num_hidden_layers: int = 1
    image_decoder_num_hidden_layers: int = 2
    points_decoder_num_hidden_layers: int = 2
    points_decoder_drop_path_rate: float | int = 0.1
    image_mask_ratio: float | int = 0.6
    points_mask_ratio: float | int = 0.6
    points_masking: Literal["random", "block"] = "random"
    mask_alignment: Literal["independent", "uniform", "complement"] = "complement"
    embed_hidden_points: bool = False
    cross_modal_target: Literal["features", "pixels", "none"] = "features"
    cross_modal_sampling: Literal["direct", "upsampled"] = "direct"
    cross_modal_axes: Literal["uv", "vu"] = "uv"
    pixel_convention: Literal["centre", "released"] = "centre"
    skip_points_near_origin: bool = False
    chamfer: Literal["l2", "l1"] = "l2"
    norm_pix_loss: bool = False
    points_weight: float | int = 1.0
    image_weight: float | int = 1.0
    cross_modal_weight: float | int = 1.0
    classifier_layers: Literal["image", "joint"] = "image"
    pooling: Literal["mean", "cls"] = "mean"
    task: str = ""
    problem: Literal["multiclass", "multilabel", "ordinal"] = "multiclass"
    label_smoothing: float | int = 0.0
    class_weights: tuple[float, ...] | list[float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        known = set(type(self).__dataclass_fields__)
        for key in kwargs:
            known_elsewhere = hasattr(type(self), key) and key != "num_hidden_layers"
            if not key.startswith("_") and key not in _HUGGING_FACE_KEYS and not known_elsewhere:
                raise ContractError(f"PimaeConfig({key}=...)", "no such key", nearest(key, known))
        self.image_size, self.patch_size = pair(self.image_size), pair(self.patch_size)
        check_point_sizes(self.unit_m, self.point_hidden_size)
        if not 1 <= int(self.points_mask_ratio * self.num_groups) < self.num_groups:
            raise ContractError(
                f"points_mask_ratio {self.points_mask_ratio}",
                f"hides none or all of {self.num_groups} groups of points",
                "Use a share of hidden groups such as 0.6",
            )
        if self.hidden_size % 4 or self.decoder_hidden_size % 4:
            raise ContractError(
                f"widths {self.hidden_size} and {self.decoder_hidden_size}",
                "the sines and cosines of two axes need multiples of four",
                "Round them",
            )
        if self.pooling == "cls" and self.classifier_layers == "image":
            raise ContractError(
                "pooling 'cls'",
                "the image encoder has no class token",
                "Use pooling='mean' or classifier_layers='joint'",
            )
        super().__post_init__(**kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Layers between the patches and the feature of an image classifier."""
        return self.image_num_hidden_layers + (self.classifier_layers == "joint") * self.joint_num_hidden_layers

    def image_shape(self) -> TransformerShape:
        """Return the sizes of the image encoder."""
        return TransformerShape(
            self.hidden_size,
            self.image_num_hidden_layers,
            self.num_attention_heads,
            self.image_intermediate_size,
            layer_norm_eps=IMAGE_NORM_EPS,
            drop_path_rate=float(self.image_drop_path_rate),
        )

    def points_shape(self) -> TransformerShape:
        """Return the sizes of the point encoder."""
        return self._detr_shape(
            self.points_num_hidden_layers, self.points_intermediate_size, self.points_num_attention_heads
        )

    def joint_shape(self) -> TransformerShape:
        """Return the sizes of the shared encoder."""
        return self._detr_shape(
            self.joint_num_hidden_layers, self.joint_intermediate_size, self.joint_num_attention_heads
        )

    def _detr_shape(self, layers: int, intermediate: int, heads: int | None) -> TransformerShape:
        return TransformerShape(
            self.hidden_size,
            layers,
            heads or self.num_attention_heads,
            intermediate,
            layer_norm_eps=POINTS_NORM_EPS,
            activation="relu",
            dropout=float(self.dropout),
        )

    def joint_decoder_shape(self) -> TransformerShape:
        """Return the sizes of the shared decoder."""
        return self._decoder_shape(self.joint_decoder_num_hidden_layers, None, None)

    def image_decoder_shape(self) -> TransformerShape:
        """Return the sizes of the image decoder."""
        return self._decoder_shape(
            self.image_decoder_num_hidden_layers,
            self.image_decoder_num_attention_heads,
            self.image_decoder_intermediate_size,
        )

    def points_decoder_shape(self) -> TransformerShape:
        """Return the sizes of the point decoder."""
        return self._decoder_shape(
            self.points_decoder_num_hidden_layers,
            self.points_decoder_num_attention_heads,
            self.points_decoder_intermediate_size,
            qkv_bias=False,
            layer_norm_eps=POINTS_NORM_EPS,
            drop_path_rate=float(self.points_decoder_drop_path_rate),
        )

    def _decoder_shape(
        self, layers: int, heads: int | None, intermediate: int | None, **options: Any
    ) -> TransformerShape:
        return TransformerShape(
            self.decoder_hidden_size,
            layers,
            heads or self.decoder_num_attention_heads,
            intermediate or self.decoder_intermediate_size,
            **{"layer_norm_eps": IMAGE_NORM_EPS, **options},
        )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "PimaeConfig":
        """Return a named size: ``paper`` or ``tiny``.

        Args:
            name: Name of the size.
            **overrides: Any other key of the config.

        Raises:
            ContractError: The name is unknown.
        """
        if name not in PRESETS:
            raise ContractError(f"preset '{name}'", "no such size", nearest(name, PRESETS))
        return cls(**{**PRESETS[name], **overrides})


@dataclass
class PimaeModelOutput(ModelOutput):
    """What the three encoders put out; a modality that is missing has None.

    Attributes:
        last_hidden_state: ``(batch, 1 + patches + groups, dim)`` of the shared encoder: class token, image, points;
            only the visible ones under a mask.
        pooler_output: ``(batch, dim)`` mean of these without the class token.
        image_hidden_state: ``(batch, patches, dim)`` of the image encoder.
        points_hidden_state: ``(batch, groups, dim)`` of the point encoder; visible groups in the groups' own order.
        groups: The cloud as groups of points.
        points_mask: ``(batch, groups)``, True where hidden; None without a mask.
        image_mask: Which patches are visible; None without a mask.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    image_hidden_state: Tensor | None = None
    points_hidden_state: Tensor | None = None
    groups: PointGroups | None = None
    points_mask: Tensor | None = None
    image_mask: Mask | None = None


@dataclass
class PimaeForPreTrainingOutput(ModelOutput):
    """Loss and everything behind it; what needs a missing modality is None. M groups of S points are hidden.

    Attributes:
        loss: Weighted sum of all parts.
        losses: The parts without weights: ``points``, ``image``, ``cross_modal``.
        encoded: Of the encoders, with groups and masks.
        hit: ``(batch, patches)``, True where a hidden centre projects into the patch; None for independent masks.
        joint_decoded: ``(batch, patches + groups, width)`` of the shared decoder; visible groups before hidden ones.
        image_features: ``(batch, patches, width)`` of the image decoder.
        image_prediction: ``(batch, patches, values)``.
        image_target: The same of the image, normalised if the config says so.
        points_features: ``(batch, M, width)`` of the point decoder.
        points_prediction: ``(batch, M, S, 3)`` metres relative to the centre.
        points_target: ``(batch, M, S, 3)``.
        places: Where the ``M * S`` hidden points lie in the image.
        cross_modal_prediction: ``(batch, M * S, values)``.
        cross_modal_target: ``(batch, M * S, values)``, without gradient.
        cross_modal_counts: ``(batch, M * S)``, 1 where a point counts.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    encoded: PimaeModelOutput | None = None
    hit: Tensor | None = None
    joint_decoded: Tensor | None = None
    image_features: Tensor | None = None
    image_prediction: Tensor | None = None
    image_target: Tensor | None = None
    points_features: Tensor | None = None
    points_prediction: Tensor | None = None
    points_target: Tensor | None = None
    places: ImagePlaces | None = None
    cross_modal_prediction: Tensor | None = None
    cross_modal_target: Tensor | None = None
    cross_modal_counts: Tensor | None = None
