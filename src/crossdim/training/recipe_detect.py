"""The typed recipe of 3D detection: boxes in scenes, from random weights or from a pre-trained PiMAE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossdim.geometry.boxes import Symmetry
from crossdim.training.recipe import FinetuneLoggingSection
from crossdim.training.recipe_pimae import SceneContractSection
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
from crossdim.transforms.scene_augment import SceneAugmentation, SceneCrop

OF_THE_ENCODERS = (
    *("hidden_size", "num_attention_heads", "points_num_hidden_layers", "points_intermediate_size"),
    *("joint_num_hidden_layers", "joint_intermediate_size"),
    *("patch_size", "image_num_hidden_layers", "image_intermediate_size", "point_hidden_size"),
)
"""Keys of the model that a pre-trained one states already."""


class DetectorSection(Section):
    """The detector; a size left out is the pre-trained model's, or else the preset's.

    Attributes:
        preset: Named settings: of the benchmark ``sunrgbd`` or ``scannet``, or ``tiny``.
        tokenizer: What makes a token of some points: PiMAE's network for ``groups`` of neighbours, or 3DETR's
            ``set_abstraction``; None takes groups with a pre-trained model, and the other one where the transfer is the
            authors' or there is none.
        image: Look at the image of a scene too, where there is one.
        num_groups: Tokens of a cloud.
        group_size: Points of each.
        group_radius: Metres of a ball of the set abstraction.
        point_hidden_size: First width inside the network of ``groups``; the next ones are twice and four times as much.
        unit_m: Metres of the unit that the networks see coordinates in: 1 for rooms, 0.2 for things on a table; a
            pre-trained model's may be replaced. A query reaches half a unit each way.
        num_queries: Boxes that are looked for.
        query_features: What queries begin with beside their places: nothing (``none``, as 3DETR), or what the encoders
            say of the ``tokens`` at these places.
        angle_bins: Bins of a full turn; 1 for boxes that are all upright.
        hidden_size: Width of the encoders.
        num_attention_heads: Heads of the encoders.
        dropout: Of the point encoder and of the shared encoder; a pre-trained model's may be replaced.
        points_num_hidden_layers: Layers of the point encoder.
        points_intermediate_size: Width inside its MLPs.
        joint_num_hidden_layers: Layers of the shared encoder.
        joint_intermediate_size: Width inside its MLPs.
        patch_size: Patch of an image, (height, width).
        image_num_hidden_layers: Layers of the image encoder.
        image_intermediate_size: Width inside its MLPs.
        decoder_num_hidden_layers: Layers of the decoder.
        decoder_intermediate_size: Width inside its MLPs.
        decoder_dropout: Of the decoder.
        head_dropout: Of the heads.
        skip_points_near_origin: No token has its place near the origin, as in the authors' sampling.
    """

    preset: Literal["sunrgbd", "scannet", "tiny"] = "tiny"
    tokenizer: Literal["groups", "set_abstraction"] | None = None
    image: bool = False
    num_groups: Positive | None = None
    group_size: Positive | None = None
    group_radius: Rate | None = None
    point_hidden_size: Positive | None = None
    unit_m: Rate | None = None
    num_queries: Positive | None = None
    query_features: Literal["none", "tokens"] | None = None
    angle_bins: Positive | None = None
    hidden_size: Positive | None = None
    num_attention_heads: Positive | None = None
    dropout: Share | None = None
    points_num_hidden_layers: Positive | None = None
    points_intermediate_size: Positive | None = None
    joint_num_hidden_layers: Count | None = None
    joint_intermediate_size: Positive | None = None
    patch_size: PixelSize | None = None
    image_num_hidden_layers: Positive | None = None
    image_intermediate_size: Positive | None = None
    decoder_num_hidden_layers: Positive | None = None
    decoder_intermediate_size: Positive | None = None
    decoder_dropout: Share | None = None
    head_dropout: Share | None = None
    skip_points_near_origin: bool | None = None

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> "DetectorSection":
        if self.group_radius is not None and self.tokenizer == "groups":
            raise ValueError("group_radius has no effect with groups, which are the nearest points however far")
        if self.point_hidden_size is not None and self.tokenizer != "groups":
            raise ValueError("point_hidden_size has no effect unless tokenizer is groups")
        for key in ("patch_size", "image_num_hidden_layers", "image_intermediate_size"):
            if getattr(self, key) is not None and not self.image:
                raise ValueError(f"{key} has no effect while image is false")
        return self


class DetectionLossSection(Section):
    """What matters in matching boxes to queries, and in the loss; a number left out is the preset's.

    Attributes:
        class_cost: In matching, of the probability of the box's class.
        objectness_cost: In matching, of the probability of any object.
        center_cost: In matching, of the distance of centres.
        giou_cost: In matching, of the generalised IoU.
        no_object_weight: Of queries without a box among the cross entropy over classes.
        class_weight: Of this cross entropy in the loss.
        angle_class_weight: Of the cross entropy over bins of the angle.
        angle_residual_weight: Of the Huber loss on the rest of the angle.
        center_weight: Of the distance of centres.
        size_weight: Of the distance of sizes.
        giou_weight: Of one less the generalised IoU.
        giou: Exact, or as released.
    """

    class_cost: Weight | None = None
    objectness_cost: Weight | None = None
    center_cost: Weight | None = None
    giou_cost: Weight | None = None
    no_object_weight: Weight | None = None
    class_weight: Weight | None = None
    angle_class_weight: Weight | None = None
    angle_residual_weight: Weight | None = None
    center_weight: Weight | None = None
    size_weight: Weight | None = None
    giou_weight: Weight | None = None
    giou: Literal["exact", "released"] | None = None


class LabelsSection(Section):
    """What of the labels is learned.

    Attributes:
        classes: Names of the classes; None takes all that training boxes have.
        other_classes: A box of a class that is not among them is refused, or left out in training and evaluation.
        outside: A box that does not reach into the points of its scene, or whose centre lies outside of the region, is
            refused, or left out in training; evaluation keeps it, as one that cannot be found.
        symmetry: Boxes look the same after a ``half_turn`` or a ``quarter_turn`` about the vertical: of the yaws that
            describe one box, the nearest to 0 is learned. A quarter turn exchanges length and width.
        fraction: Share of the labelled training scenes that are used, drawn with the seed; what a smaller share holds,
            a larger one holds too.
        scenes: Number of the labelled training scenes that are used, instead of a share.
    """

    classes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] | None = None
    other_classes: Literal["refuse", "leave_out"] = "refuse"
    outside: Literal["refuse", "leave_out"] = "refuse"
    symmetry: Symmetry = "none"
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    scenes: Positive | None = None

    @model_validator(mode="after")
    def _one_choice(self) -> "LabelsSection":
        if self.scenes is not None and self.fraction != 1:
            raise ValueError("fraction and scenes exclude each other: both say how many scenes are used")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes names a class twice: {', '.join(self.classes)}")
        return self


class DetectionBatchSection(Section):
    """Samples per forward and process.

    Attributes:
        scenes: Scenes per batch; with an image or without, where both occur.
    """

    scenes: Positive = 8


class DetectionOptimisationSection(OptimisationSection):
    """AdamW with linear warm-up and half-cosine decay.

    Differs from the authors' code: weight decay falls on matrices alone (theirs on everything), the rate ends at 0
    (theirs at 1e-6), and layer decay is there.

    Attributes:
        layer_decay: Factor on the learning rate of what comes from pre-training, from each layer to the one below; what
            is new learns at the full rate. 1 treats all alike.
        average: Decay of the moving average of the weights, which is evaluated and kept instead of them; it is less in
            the first steps. 0 takes the weights themselves.
    """

    base_learning_rate: Rate = 0.0224
    weight_decay: Weight = 0.1
    betas: tuple[Share, Share] = (0.9, 0.999)
    max_grad_norm: Weight = 0.1
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    average: Share = 0.0


class DetectionSelectionSection(Section):
    """Which checkpoint is kept, and when to stop.

    Attributes:
        metric: On the validation split: the loss, or the mean average precision at an IoU of 0.25 or 0.5.
        evaluate_every_epochs: Passes over the training split between evaluations.
        patience: Evaluations without improvement before the run stops; None never stops early.
    """

    metric: Literal["loss", "ap25", "ap50"] = "ap25"
    evaluate_every_epochs: Rate = 1.0
    patience: Positive | None = None


class DetectionEvaluationSection(Section):
    """How the final detector is measured; the defaults are the protocol of VoteNet and 3DETR.

    Attributes:
        fewest_points: Points that have to lie in a box; 0 asks for none.
        oriented: Boxes that overlap as they are turned suppress one another, instead of the upright boxes around them.
        absent: A class that no scene holds is left out of means, or counts as 0 where it is predicted.
        tighten_m: Each box that is kept becomes the smallest one around the points in it and this near it (metres), for
            labels that end where what is seen ends; null leaves it, as the protocol does.
        bootstrap: Resamples of scenes behind the confidence intervals.
        pictures: Scenes of the page, with what was found in them.
    """

    fewest_points: Count = 5
    oriented: bool = False
    absent: Literal["left_out", "zero"] = "left_out"
    tighten_m: Annotated[float, Field(ge=0)] | None = None
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    pictures: Count = 3


class DetectRecipe(Section):
    """Supervised training of a detector of boxes in scenes.

    Attributes:
        kind: The word that tells the kinds of recipe apart.
        seed: Of the weights, the order, the choice of labelled scenes, drawn points and augmentation.
        transfer: What a pre-trained PiMAE gives: ``everything`` that has a place in the detector; ``official``: the
            layers of two encoders, as the authors' code; ``none``: its sizes and its preprocessing alone, for a
            comparison.
        model: The detector.
        loss: What it learns.
        labels: What of the labels it learns from.
        contract: How scenes become tensors. Beside a pre-trained model only the numbers of points and the region
            may be stated, which take the place of its own.
        augmentation: What is varied.
        crop: What is cut out.
        batch: Scenes per forward.
        optimisation: Learning rate and length.
        selection: Which checkpoint is kept, and when to stop.
        evaluation: How the final detector is measured.
        hardware: Where and how fast.
        logging: What is written.
    """

    kind: Literal["detect"] = "detect"
    seed: Count = 0
    transfer: Literal["everything", "official", "none"] = "everything"
    model: DetectorSection = DetectorSection()
    loss: DetectionLossSection = DetectionLossSection()
    labels: LabelsSection = LabelsSection()
    contract: SceneContractSection = SceneContractSection()
    augmentation: SceneAugmentation = SceneAugmentation()
    crop: SceneCrop = SceneCrop()
    batch: DetectionBatchSection = DetectionBatchSection()
    optimisation: DetectionOptimisationSection = DetectionOptimisationSection()
    selection: DetectionSelectionSection = DetectionSelectionSection()
    evaluation: DetectionEvaluationSection = DetectionEvaluationSection()
    hardware: HardwareSection = HardwareSection()
    logging: FinetuneLoggingSection = FinetuneLoggingSection()
