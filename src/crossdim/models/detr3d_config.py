"""Sizes and options of the 3D detector, the named settings, and what the models put out."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, no_type_check

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput

from crossdim.encoders.transformer import TransformerShape
from crossdim.errors import ContractError, nearest
from crossdim.heads.detection3d import BoxPredictions, SceneExtent
from crossdim.heads.matching import Assignment, BoxTargets, DetectionWeights
from crossdim.tokens.grid import pair
from crossdim.tokens.points import check_point_sizes

IMAGE_NORM_EPS = 1e-6
"""Of the image encoder."""

POINTS_NORM_EPS = 1e-5
"""Of the point encoder, the shared encoder and the decoder."""

SUNRGBD = ("bed", "table", "sofa", "chair", "toilet", "desk", "dresser", "night_stand", "bookshelf", "bathtub")
"""Classes of the SUN RGB-D benchmark, in the authors' order."""

SCANNET = (
    *("cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter", "desk"),
    *("curtain", "refrigerator", "showercurtrain", "toilet", "sink", "bathtub", "garbagebin"),
)
"""Classes of the ScanNet benchmark, in the authors' order and spelling."""

PRESETS: dict[str, dict[str, Any]] = {
    "sunrgbd": {"id2label": dict(enumerate(SUNRGBD))},
    "scannet": {"id2label": dict(enumerate(SCANNET)), "angle_bins": 1, "num_queries": 256, "num_points": 40000}
    | {"objectness_cost": 0.0, "center_cost": 0.0, "giou_cost": 2.0}
    | {"no_object_weight": 0.25, "giou_weight": 1.0},
    "tiny": {"hidden_size": 96, "num_points": 2048, "num_groups": 128, "group_size": 16, "num_queries": 32}
    | {"points_num_hidden_layers": 2, "points_intermediate_size": 96}
    | {"joint_num_hidden_layers": 2, "joint_intermediate_size": 96}
    | {"image_size": (128, 176), "image_num_hidden_layers": 2, "image_intermediate_size": 384}
    | {"decoder_hidden_size": 96, "decoder_num_hidden_layers": 3, "decoder_intermediate_size": 96},
}

_HUGGING_FACE_KEYS = frozenset(
    {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype", "use_cache"}
)

_OF_PIMAE = (
    *("hidden_size", "num_attention_heads", "points_num_attention_heads", "joint_num_attention_heads", "dropout"),
    *("image_size", "patch_size", "num_channels", "image_num_hidden_layers", "image_intermediate_size"),
    *("points_num_hidden_layers", "points_intermediate_size", "skip_points_near_origin"),
    *("point_hidden_size", "unit_m"),
    *("joint_num_hidden_layers", "joint_intermediate_size"),
)
_TOKENS = ("num_points", "num_groups", "group_size")


@no_type_check
@strict
class Detr3dConfig(PreTrainedConfig):
    """Sizes and options of the detector; sizes of images are ``(height, width)``. Defaults are PiMAE's for SUN RGB-D.

    Attributes:
        hidden_size: Width of the encoders.
        num_attention_heads: Heads of the encoders.
        points_num_attention_heads: Heads of the point encoder, if it has others.
        joint_num_attention_heads: Heads of the shared encoder, if it has others.
        dropout: Dropout of the point encoder and the shared encoder.
        tokenizer: What makes a token of some points: 3DETR's ``set_abstraction`` of a ball, which has to be learned
            anew, or PiMAE's network for ``groups`` of neighbours, which comes from pre-training with its position codes
            and the embedding that tells points from patches.
        num_points: Points that a cloud is prepared for; the model takes any number.
        num_groups: Balls or groups of a cloud, each a token.
        group_size: Points of a ball or group.
        group_radius: Metres of a ball; groups have none.
        point_hidden_size: First width inside the network that makes a token of a group; the next ones are twice and
            four times as much. Set abstraction has its own.
        unit_m: Metres of the unit that the networks see coordinates in: half a unit is how far a query reaches each
            way. What the model takes and puts out is in metres.
        skip_points_near_origin: Whether points within about 3 cm of the origin cannot become centres, as released.
        points_num_hidden_layers: Layers of the encoder that sees points alone.
        points_intermediate_size: Width inside its MLPs.
        joint_num_hidden_layers: Layers of the encoder behind it, which sees the image too if there is one.
        joint_intermediate_size: Width inside its MLPs.
        image: Whether an image of the scene may be given, with PiMAE's image branch for it.
        image_size: Size that images are prepared for; the model takes any multiple of the patch.
        patch_size: Patch of an image.
        num_channels: Channels of an image.
        image_num_hidden_layers: Layers of the image encoder.
        image_intermediate_size: Width inside its MLPs.
        num_queries: Boxes that are looked for; at most one for each token.
        query_features: What queries begin with beside their places: ``none`` (3DETR), or what the encoders say of the
            ``tokens`` at these places, with which a detector learns in far fewer steps.
        scene_range: Lowest and highest corner, in metres, of what places and sizes are shares of; None takes the
            corners of each scene's points. Where a contract cuts out a region, that region; a detector that goes on
            from another one keeps its own.
        decoder_hidden_size: Width of the decoder.
        decoder_num_hidden_layers: Layers of the decoder.
        decoder_num_attention_heads: Heads of the decoder.
        decoder_intermediate_size: Width inside its MLPs.
        decoder_dropout: Dropout of the decoder.
        head_dropout: Dropout of the heads.
        angle_bins: Bins of a full turn; one for boxes that are all upright (ScanNet).
        class_cost: In matching, of the probability of the box's class.
        objectness_cost: In matching, of the probability of any object.
        center_cost: In matching, of the distance of centres.
        giou_cost: In matching, of the generalised IoU.
        no_object_weight: Of queries without a box among the cross entropy over classes.
        class_weight: Of this cross entropy in the loss.
        angle_class_weight: Of the cross entropy over bins in the loss.
        angle_residual_weight: Of the Huber loss on the rest of the angle.
        center_weight: Of the distance of centres in the loss.
        size_weight: Of the distance of sizes in the loss.
        giou_weight: Of one less the generalised IoU in the loss.
        giou: The generalised IoU: exact, or as released.
        task: Name of what the classes answer ("object"), for people and files.
    """

    model_type = "detr3d"

    hidden_size: int = 256
    num_attention_heads: int = 4
    points_num_attention_heads: int | None = None
    joint_num_attention_heads: int | None = None
    dropout: float | int = 0.1
    tokenizer: Literal["set_abstraction", "groups"] = "set_abstraction"
    num_points: int = 20000
    num_groups: int = 2048
    group_size: int = 64
    group_radius: float | int = 0.2
    point_hidden_size: int = 128
    unit_m: float | int = 1.0
    skip_points_near_origin: bool = False
    points_num_hidden_layers: int = 3
    points_intermediate_size: int = 128
    joint_num_hidden_layers: int = 3
    joint_intermediate_size: int = 128
    image: bool = False
    image_size: tuple[int, ...] | list[int] | int = (256, 352)
    patch_size: tuple[int, ...] | list[int] | int = (16, 16)
    num_channels: int = 3
    image_num_hidden_layers: int = 3
    image_intermediate_size: int = 1024
    num_queries: int = 128
    query_features: Literal["none", "tokens"] = "none"
    scene_range: tuple[tuple[float | int, ...], ...] | list[list[float | int]] | None = None
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 4
    decoder_intermediate_size: int = 256
    decoder_dropout: float | int = 0.1
    head_dropout: float | int = 0.3
    angle_bins: int = 12
    class_cost: float | int = 1.0
    objectness_cost: float | int = 5.0
    center_cost: float | int = 5.0
    giou_cost: float | int = 3.0
    no_object_weight: float | int = 0.1
    class_weight: float | int = 1.0
    angle_class_weight: float | int = 0.1
    angle_residual_weight: float | int = 0.5
    center_weight: float | int = 5.0
    size_weight: float | int = 1.0
    giou_weight: float | int = 0.0
    giou: Literal["exact", "released"] = "exact"
    task: str = ""

    def __post_init__(self, **kwargs: Any) -> None:
        known = set(type(self).__dataclass_fields__)
        for key in kwargs:
            known_elsewhere = hasattr(type(self), key) and key != "num_hidden_layers"
            if not key.startswith("_") and key not in _HUGGING_FACE_KEYS and not known_elsewhere:
                raise ContractError(f"Detr3dConfig({key}=...)", "no such key", nearest(key, known))
        self.image_size, self.patch_size = pair(self.image_size), pair(self.patch_size)
        check_point_sizes(self.unit_m, self.point_hidden_size)
        _check_range(self.scene_range)
        if not 1 <= self.num_queries <= self.num_groups:
            raise ContractError(
                f"num_queries {self.num_queries}",
                f"is not between 1 and {self.num_groups}, the tokens of a scene: boxes are sought at their places",
                "Use fewer queries or more groups",
            )
        if self.decoder_hidden_size % 2 or (self.image and self.hidden_size % 4):
            raise ContractError(
                f"widths {self.hidden_size} and {self.decoder_hidden_size}",
                "the sines and cosines of positions need multiples of four, and of two in the decoder",
                "Round them",
            )
        if self.image and not self.joint_num_hidden_layers:
            raise ContractError(
                "image=True", "no layer sees points and image together", "Use joint_num_hidden_layers of 1 or more"
            )
        if self.angle_bins < 1:
            raise ContractError(f"angle_bins {self.angle_bins}", "is too few", "Use 12, or 1 for upright boxes")
        super().__post_init__(**kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the encoders that points go through."""
        return self.points_num_hidden_layers + self.joint_num_hidden_layers

    @property
    def tells_modalities(self) -> bool:
        """Whether tokens say that they are points, beside a class token, as in PiMAE."""
        return self.tokenizer == "groups" or self.image

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

    def image_shape(self) -> TransformerShape:
        """Return the sizes of the image encoder."""
        return TransformerShape(
            self.hidden_size,
            self.image_num_hidden_layers,
            self.num_attention_heads,
            self.image_intermediate_size,
            layer_norm_eps=IMAGE_NORM_EPS,
        )

    def decoder_shape(self) -> TransformerShape:
        """Return the sizes of the decoder."""
        return TransformerShape(
            self.decoder_hidden_size,
            self.decoder_num_hidden_layers,
            self.decoder_num_attention_heads,
            self.decoder_intermediate_size,
            layer_norm_eps=POINTS_NORM_EPS,
            activation="relu",
            dropout=float(self.decoder_dropout),
        )

    def weights(self) -> DetectionWeights:
        """Return what matters in matching and in the loss."""
        return DetectionWeights(**{name: getattr(self, name) for name in DetectionWeights.__dataclass_fields__})

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "Detr3dConfig":
        """Return named settings: ``sunrgbd``, ``scannet`` or ``tiny``.

        Args:
            name: Name of the settings.
            **overrides: Any other key of the config.

        Raises:
            ContractError: The name is unknown.
        """
        if name not in PRESETS:
            raise ContractError(f"preset '{name}'", "no such settings", nearest(name, PRESETS))
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def for_pimae(cls, pimae: PreTrainedConfig, **overrides: Any) -> "Detr3dConfig":
        """Return sizes that a pre-trained PiMAE fits, with its own tokens and as many of them unless told otherwise.

        Args:
            pimae: Config of the pre-trained model.
            **overrides: Any key of the config, such as ``image=True``, ``num_groups`` or ``id2label``.
        """
        sizes = {name: getattr(pimae, name) for name in _OF_PIMAE} | {"tokenizer": "groups"}
        sizes |= {"decoder_hidden_size": pimae.hidden_size, "decoder_num_attention_heads": pimae.num_attention_heads}
        own_tokens = overrides.get("tokenizer") == "set_abstraction"
        sizes |= {name: getattr(cls if own_tokens else pimae, name) for name in _TOKENS}
        sizes["num_queries"] = min(128, overrides.get("num_groups", sizes["num_groups"]))
        return cls(**{**sizes, **overrides})


def _check_range(corners: Sequence[Sequence[float | int]] | None) -> None:
    """Refuse corners that places cannot be shares of."""
    if corners is None:
        return
    fits = [len(corner) for corner in corners] == [3, 3]
    if not fits or not all(-inf < low < high < inf for low, high in zip(*corners, strict=True)):
        reason = "is not the lowest and then the highest (x, y, z) of a part of a scene"
        raise ContractError(f"scene_range {corners}", reason, "Give two corners in metres, or None for the points' own")


@dataclass
class Detr3dModelOutput(ModelOutput):
    """What encoders and decoder put out.

    Attributes:
        last_hidden_state: ``(batch, queries, width)`` behind the last layer of the decoder.
        hidden_states: ``(layers, batch, queries, width)`` behind every one.
        query_places: ``(batch, queries, 3)`` metres.
        query_positions: ``(batch, queries, width)``, what the decoder is told of these places.
        extent: Of the scenes.
        token_places: ``(batch, tokens, 3)`` metres.
        token_index: ``(batch, tokens)``, points of the cloud at these places.
        tokens: ``(batch, tokens, dim)`` before the encoders.
        encoded: ``(batch, tokens, dim)`` behind the encoders.
        memory: ``(batch, tokens, width)``, what the decoder looks at.
        image_hidden_state: ``(batch, patches, dim)`` of the image encoder; None without an image.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: Tensor | None = None
    query_places: Tensor | None = None
    query_positions: Tensor | None = None
    extent: SceneExtent | None = None
    token_places: Tensor | None = None
    token_index: Tensor | None = None
    tokens: Tensor | None = None
    encoded: Tensor | None = None
    memory: Tensor | None = None
    image_hidden_state: Tensor | None = None


@dataclass
class Detr3dForObjectDetectionOutput(ModelOutput):
    """Boxes, and with labels the loss and everything behind it.

    Attributes:
        loss: Weighted sum of all parts of all layers.
        losses: The parts of the last layer without weights: ``classes``, ``angle_class``, ``angle_residual``,
            ``center``, ``size``, ``giou`` (where it has a weight), and ``cardinality``, which is no part of the loss.
        layer_losses: The same of every layer, ``(layers,)`` each.
        predictions: Behind the last layer.
        layer_predictions: Behind every layer.
        targets: The labels as the losses take them.
        assignment: Which query answers for which box, in every layer.
        model: Of encoders and decoder.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    layer_losses: dict[str, Tensor] | None = None
    predictions: BoxPredictions | None = None
    layer_predictions: BoxPredictions | None = None
    targets: BoxTargets | None = None
    assignment: Assignment | None = None
    model: Detr3dModelOutput | None = None
