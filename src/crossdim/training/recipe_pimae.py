"""The typed recipe of PiMAE: masked pre-training on points and images of the same scenes."""

from typing import Literal

from pydantic import model_validator

from crossdim.training.recipe import HealthSection, LoggingSection
from crossdim.training.sections import (
    Count,
    HardwareSection,
    OptimisationSection,
    PixelSize,
    Positive,
    Rate,
    Section,
    Share,
    Weight,
)
from crossdim.transforms.scene_augment import SceneAugmentation
from crossdim.transforms.scenes import Region


class SceneModelSection(Section):
    """Size of the encoders; a size left out is the preset's.

    Attributes:
        preset: Named size.
        hidden_size: Width of all encoders.
        num_attention_heads: Heads of all encoders.
        dropout: Of the point encoder and of the joint encoder.
        patch_size: Patch of an image, (height, width).
        image_num_hidden_layers: Layers of the image encoder.
        image_intermediate_size: Width inside its MLPs.
        num_groups: Groups that a cloud is divided into, one token each.
        group_size: Points of a group.
        point_hidden_size: First width inside the network that makes a token of a group; the next ones are twice and
            four times as much.
        unit_m: Metres of the unit that the networks see coordinates in: 1 for rooms, 0.2 for things on a table.
        points_num_hidden_layers: Layers of the point encoder.
        points_intermediate_size: Width inside its MLPs.
        joint_num_hidden_layers: Layers of the encoder of both.
        joint_intermediate_size: Width inside its MLPs.
        skip_points_near_origin: No group has its centre near the origin, as in the authors' sampling.
    """

    preset: Literal["paper", "tiny"] = "tiny"
    hidden_size: Positive | None = None
    num_attention_heads: Positive | None = None
    dropout: Share | None = None
    patch_size: PixelSize | None = None
    image_num_hidden_layers: Positive | None = None
    image_intermediate_size: Positive | None = None
    num_groups: Positive | None = None
    group_size: Positive | None = None
    point_hidden_size: Positive | None = None
    unit_m: Rate | None = None
    points_num_hidden_layers: Positive | None = None
    points_intermediate_size: Positive | None = None
    joint_num_hidden_layers: Positive | None = None
    joint_intermediate_size: Positive | None = None
    skip_points_near_origin: bool = False


class SceneDecoderSection(Section):
    """Size of the decoders; a size left out is the preset's.

    Attributes:
        hidden_size: Width of all decoders.
        num_attention_heads: Heads of all decoders.
        intermediate_size: Width inside their MLPs.
        joint_num_hidden_layers: Layers of the decoder of both.
        image_num_hidden_layers: Layers of the image decoder.
        points_num_hidden_layers: Layers of the point decoder.
        points_drop_path_rate: Stochastic depth of the point decoder's last layer.
    """

    hidden_size: Positive | None = None
    num_attention_heads: Positive | None = None
    intermediate_size: Positive | None = None
    joint_num_hidden_layers: Positive | None = None
    image_num_hidden_layers: Positive | None = None
    points_num_hidden_layers: Positive | None = None
    points_drop_path_rate: Share | None = None


class SceneMaskingSection(Section):
    """What is hidden (PiMAE, section on aligned masking).

    Attributes:
        image_ratio: Share of hidden patches.
        points_ratio: Share of hidden groups.
        points: Hide groups at random, or those nearest to a random one.
        alignment: ``complement``: patches that hidden groups fall on stay visible (the paper's); ``uniform``: they are
            hidden as well; ``independent``: each kind has a random mask of its own (what the authors' code does).
    """

    image_ratio: Share = 0.6
    points_ratio: Share = 0.6
    points: Literal["random", "block"] = "random"
    alignment: Literal["independent", "uniform", "complement"] = "complement"


class SceneLossSection(Section):
    """What is reconstructed: points, pixels, and what the image decoder says of the hidden points.

    Attributes:
        points_weight: Factor on the Chamfer distance of hidden groups.
        image_weight: Factor on the error of hidden patches.
        cross_modal_weight: Factor on the cross-modal error.
        cross_modal_target: What hidden points tell of the image: its decoder's features, its pixels, or nothing.
        cross_modal_sampling: Features are sampled from the small map, or from the map scaled up to the image first.
        cross_modal_axes: ``uv``: at the point's place; ``vu``: with the axes swapped, as the authors released it.
        pixel_convention: How a projected point becomes a place: ``centre``, or the authors' rounding (``released``).
        chamfer: Squared distances (``l2``), or distances (``l1``).
        normalise_patches: Normalise each target patch (MAE's norm_pix_loss).
    """

    points_weight: Weight = 1.0
    image_weight: Weight = 1.0
    cross_modal_weight: Weight = 1.0
    cross_modal_target: Literal["features", "pixels", "none"] = "features"
    cross_modal_sampling: Literal["direct", "upsampled"] = "direct"
    cross_modal_axes: Literal["uv", "vu"] = "uv"
    pixel_convention: Literal["centre", "released"] = "centre"
    chamfer: Literal["l2", "l1"] = "l2"
    normalise_patches: bool = False

    @model_validator(mode="after")
    def _something_to_learn(self) -> "SceneLossSection":
        if self.cross_modal_weight == 0 and self.cross_modal_target != "none":
            raise ValueError("cross_modal_weight is zero: set cross_modal_target to none instead")
        crosses = self.cross_modal_target != "none"
        if not crosses:
            for key in ("cross_modal_weight", "cross_modal_sampling", "cross_modal_axes"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} has no effect while cross_modal_target is none")
        if not (crosses or self.points_weight or self.image_weight):
            raise ValueError("all weights are zero: nothing would be learned")
        return self


class SceneContractSection(Section):
    """How scenes become tensors; what is left out is proposed from the data.

    Attributes:
        file: A ``contract.json`` (or a folder that holds one) to use as it is; excludes the other keys.
        image_size: (height, width) that images are stretched to; None proposes it from their usual proportions.
        image_tokens: Most patches of a proposed image size.
        statistics: Mean and deviation that images are normalised with: of the ``data``, or ImageNet's.
        drawn_points: Points drawn from a cloud at random.
        num_points: Points that the model sees, spread over the drawn ones; None takes the preset's.
        region: Lowest and highest (x, y, z) of the part of every scene that is looked at, in metres of its frame, such
            as what is on a table; None takes all points.
    """

    file: str | None = None
    image_size: PixelSize | None = None
    image_tokens: Positive = 352
    statistics: Literal["data", "imagenet"] = "data"
    drawn_points: Positive = 20000
    num_points: Positive | None = None
    region: Region | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "SceneContractSection":
        def stated(key: str) -> bool:
            return bool(getattr(self, key) != type(self).model_fields[key].default)

        others = [key for key in type(self).model_fields if key != "file" and stated(key)]
        if self.file is not None and others:
            raise ValueError(f"file and {others[0]} exclude each other: file states everything")
        if self.image_size is not None and stated("image_tokens"):
            raise ValueError("image_size and image_tokens exclude each other: image_size states the size")
        if self.num_points is not None and self.num_points > self.drawn_points:
            raise ValueError(f"num_points is {self.num_points}, and only {self.drawn_points} are drawn (drawn_points)")
        return self


class AlignedContractSection(SceneContractSection):
    """The same, for a model that lays points on images.

    Attributes:
        frame: Points are placed in the frame of their own ``camera``, or (``released``) of one of 530 x 730 pixels
            whatever the camera, as the authors' code does, which is right for cameras of that size only.
    """

    frame: Literal["camera", "released"] = "camera"


class SceneBatchSection(Section):
    """Samples per forward and process; a batch holds scenes of one composition.

    Attributes:
        scenes: Scenes with points, image and camera per batch.
        images: Images without points per batch.
        points: Clouds without an image per batch.
    """

    scenes: Positive = 16
    images: Positive = 16
    points: Positive = 16


class SceneOptimisationSection(OptimisationSection):
    """AdamW with linear warm-up and half-cosine decay.

    Differs from the authors' code: theirs holds the rate for a whole epoch, one epoch late, counts the cosine from the
    first epoch (so that it drops at the end of the warm-up), and ends at 1e-6.
    """

    betas: tuple[Share, Share] = (0.9, 0.999)
    warmup: Share = 0.0375
    epochs: Rate | None = 400.0


class PimaeRecipe(Section):
    """Masked pre-training on points and images of the same scenes.

    Attributes:
        kind: The word that tells the kinds of recipe apart.
        seed: Of weights, order, drawn points, augmentation and masks.
        model: Encoders.
        decoder: Decoders.
        masking: What is hidden.
        loss: What is reconstructed.
        contract: How files become tensors.
        augmentation: What is varied.
        batch: Samples per forward.
        optimisation: Learning rate and length.
        hardware: Where and how fast.
        logging: What is written.
        health: What is watched.
    """

    kind: Literal["pimae"] = "pimae"
    seed: Count = 0
    model: SceneModelSection = SceneModelSection()
    decoder: SceneDecoderSection = SceneDecoderSection()
    masking: SceneMaskingSection = SceneMaskingSection()
    loss: SceneLossSection = SceneLossSection()
    contract: AlignedContractSection = AlignedContractSection()
    augmentation: SceneAugmentation = SceneAugmentation()
    batch: SceneBatchSection = SceneBatchSection()
    optimisation: SceneOptimisationSection = SceneOptimisationSection()
    hardware: HardwareSection = HardwareSection()
    logging: LoggingSection = LoggingSection()
    health: HealthSection = HealthSection()
