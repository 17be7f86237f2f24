"""Typed recipes: what a pre-training or fine-tuning run does, as data.

Every key has a type and a default, and every key has an effect or is refused. How a recipe becomes a file and back
is in :mod:`crossdim.training.recipe_files`. The defaults follow MAE's published recipes where Uni4Eye's say nothing.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossdim.training.sections import (
    ContractSection,
    Count,
    HardwareSection,
    ModelSection,
    OptimisationSection,
    Positive,
    Rate,
    Section,
    Share,
    VoxelSize,
    Weight,
)
from crossdim.transforms.augment import Augmentation, LabelDependence


class DecoderSection(Section):
    """Size of both decoders; a size left out is the preset's.

    Attributes:
        hidden_size: Width.
        num_hidden_layers: Layers.
        num_attention_heads: Heads.
        intermediate_size: Width inside the MLPs.
        shared_norm: One final norm for both decoders, as the authors released it.
    """

    hidden_size: Positive | None = None
    num_hidden_layers: Positive | None = None
    num_attention_heads: Positive | None = None
    intermediate_size: Positive | None = None
    shared_norm: bool = False


class MaskingSection(Section):
    """What is hidden.

    Attributes:
        image_ratio: Share of hidden image tokens.
        volume_ratio: Share of hidden volume tokens.
        volume_block: Hide volume tokens in blocks of this many along (depth, height, width); None hides single tokens.
    """

    image_ratio: Share = 0.75
    volume_ratio: Share = 0.75
    volume_block: VoxelSize | None = None


class LossSection(Section):
    """What is reconstructed (Uni4Eye, section 2.3: L = λ1 L_intensity + λ2 L_gradient).

    Attributes:
        intensity_weight: λ1.
        gradient_weight: λ2; zero builds no gradient decoder.
        normalise_patches: Normalise each target patch of the intensity branch (MAE's norm_pix_loss).
        gradient_target: Float gradient map, or the authors' 8-bit one.
        edge_scale: Factor on the gradient maps.
    """

    intensity_weight: Weight = 1.0
    gradient_weight: Weight = 1.0
    normalise_patches: bool = False
    gradient_target: Literal["float", "uint8"] = "float"
    edge_scale: Rate = 1 / 48

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossSection":
        if self.intensity_weight == 0 and self.gradient_weight == 0:
            raise ValueError("intensity_weight and gradient_weight are both zero: nothing would be learned")
        if self.gradient_weight == 0 and (self.gradient_target != "float" or self.edge_scale != 1 / 48):
            raise ValueError("gradient_target and edge_scale have no effect while gradient_weight is zero")
        return self


class PretrainAugmentation(Augmentation):
    """What is varied, with the values of MAE and of the authors' run: crops of 0.2 to 1, mirrored left to right."""

    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.2, 1.0)
    crop_ratio: tuple[Rate, Rate] = (0.75, 4 / 3)
    flip_width: Annotated[float, Field(ge=0, le=1)] = 0.5


class MixingSection(Section):
    """How images and volumes share the steps.

    Attributes:
        order: ``mixed``: every forward holds both kinds; ``alternate_epochs``: whole epochs of volumes (even) and of
            images (odd), as in the authors' run.
        images: Images per forward and process; 0 leaves images out.
        volumes: Volumes per forward and process; 0 leaves volumes out.
    """

    order: Literal["mixed", "alternate_epochs"] = "mixed"
    images: Count = 32
    volumes: Count = 4

    @model_validator(mode="after")
    def _something_to_see(self) -> "MixingSection":
        if self.images == 0 and self.volumes == 0:
            raise ValueError("images and volumes are both zero: every step would be empty")
        return self


class FinetuneOptimisationSection(OptimisationSection):
    """AdamW with linear warm-up and half-cosine decay, with fine-tuning's usual values."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    epochs: Rate | None = 50.0


class LoggingSection(Section):
    """What is written while training.

    Attributes:
        log_every: Steps between lines of ``log.jsonl``.
        save_every: Steps between checkpoints; one is written at the end too.
        keep_checkpoints: Checkpoints kept, at least 2: the newest may be half-written when the machine stops.
        report_to: The Trainer's trackers (``tensorboard``, ``wandb``, ...); ``auto``: tensorboard if installed.
    """

    log_every: Positive = 10
    save_every: Positive = 200
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    report_to: Literal["auto", "none"] | tuple[str, ...] = "auto"


class HealthSection(Section):
    """What is watched while pre-training.

    Attributes:
        picture_every: Steps between reconstruction pictures; 0 draws none.
        pictures: Samples of each kind in a picture.
        probe_every: Steps between probes of the features (rank, spread, nearest-neighbour accuracy); 0 probes never.
        probe_samples: Samples of each kind in a probe, spread evenly over the manifest.
        neighbours: Neighbours of the nearest-neighbour probe.
        min_spread: Alarm when the features' standard deviation, relative to their size, falls below this.
        min_effective_rank: Alarm when the features' effective rank falls below this.
    """

    picture_every: Count = 500
    pictures: Positive = 4
    probe_every: Count = 500
    probe_samples: Annotated[int, Field(ge=4)] = 256
    neighbours: Positive = 5
    min_spread: Weight = 1e-4
    min_effective_rank: Weight = 1.05


class PretrainRecipe(Section):
    """Masked pre-training on images, volumes, or both.

    Attributes:
        kind: The word that tells the two kinds of recipe apart.
        seed: Of weights, order, augmentation and masks.
        model: Encoder.
        decoder: Decoders.
        masking: What is hidden.
        loss: What is reconstructed.
        contract: How files become tensors.
        augmentation: What is varied.
        mixing: How images and volumes share the steps.
        optimisation: Learning rate and length.
        hardware: Where and how fast.
        logging: What is written.
        health: What is watched.
    """

    kind: Literal["pretrain"] = "pretrain"
    seed: Count = 0
    model: ModelSection = ModelSection()
    decoder: DecoderSection = DecoderSection()
    masking: MaskingSection = MaskingSection()
    loss: LossSection = LossSection()
    contract: ContractSection = ContractSection()
    augmentation: PretrainAugmentation = PretrainAugmentation()
    mixing: MixingSection = MixingSection()
    optimisation: OptimisationSection = OptimisationSection()
    hardware: HardwareSection = HardwareSection()
    logging: LoggingSection = LoggingSection()
    health: HealthSection = HealthSection()


class LinearAdaptation(Section):
    """Linear probe: the encoder is frozen, only the classifier learns."""

    mode: Literal["linear"] = "linear"


class FullAdaptation(Section):
    """Everything learns, early layers more slowly (MAE, appendix A.2; BEiT).

    Attributes:
        mode: The word that tells the four apart.
        layer_decay: Factor on the learning rate from each layer to the one below; 1 treats all alike.
    """

    mode: Literal["full"] = "full"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75


class PartialAdaptation(Section):
    """The stem and the first layers are frozen.

    Attributes:
        mode: The word that tells the four apart.
        frozen_layers: Encoder layers that are frozen, counted from the stem.
        layer_decay: Factor on the learning rate from each layer to the one below; 1 treats all alike.
    """

    mode: Literal["partial"] = "partial"
    frozen_layers: Count = 6
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75


class LoraAdaptation(Section):
    """Low-rank updates of frozen weights, and the classifier (Hu et al., "LoRA", ICLR 2022).

    Attributes:
        mode: The word that tells the four apart.
        rank: Rank of the updates.
        alpha: The update is scaled by alpha / rank.
        dropout: Dropout in front of the update.
        targets: Linear maps of each layer that are updated.
    """

    mode: Literal["lora"] = "lora"
    rank: Positive = 8
    alpha: Rate = 16.0
    dropout: Share = 0.0
    targets: Annotated[tuple[Literal["qkv", "proj", "fc1", "fc2"], ...], Field(min_length=1)] = ("qkv", "proj")


Adaptation = Annotated[
    LinearAdaptation | FullAdaptation | PartialAdaptation | LoraAdaptation, Field(discriminator="mode")
]


class HeadSection(Section):
    """The classifier and its loss; the kind of problem is the task's, in the manifest.

    Attributes:
        pooling: Feature: the class token, or the mean of the patch tokens; None keeps the encoder's.
        class_weights: ``balanced`` weighs classes by their inverse frequency in the training split.
        label_smoothing: Share of the target spread over all classes.
        drop_path_rate: Stochastic depth of the encoder's last layer while fine-tuning; None keeps the encoder's.
    """

    pooling: Literal["cls", "mean"] | None = None
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Share = 0.0
    drop_path_rate: Share | None = None


class BatchSection(Section):
    """Samples per forward and process; a batch holds one kind.

    Attributes:
        images: Images per batch.
        volumes: Volumes per batch.
    """

    images: Positive = 32
    volumes: Positive = 16


Metric = Literal["loss", "auc", "accuracy", "balanced_accuracy", "f1", "quadratic_kappa"]


class SelectionSection(Section):
    """Which checkpoint is kept, and when to stop.

    Attributes:
        metric: Metric on the validation split.
        evaluate_every_epochs: Passes over the training split between evaluations.
        patience: Evaluations without improvement before the run stops; None never stops early.
    """

    metric: Metric = "auc"
    evaluate_every_epochs: Rate = 1.0
    patience: Positive | None = 10


class FinetuneLoggingSection(Section):
    """What is written while fine-tuning; checkpoints are written at every evaluation.

    Attributes:
        log_every: Steps between lines of ``log.jsonl``.
        report_to: The Trainer's trackers (``tensorboard``, ``wandb``, ...); ``auto``: tensorboard if installed.
    """

    log_every: Positive = 10
    report_to: Literal["auto", "none"] | tuple[str, ...] = "auto"


class FinetuneRecipe(Section):
    """Supervised training of a classifier, from a pre-trained encoder or from scratch.

    Attributes:
        kind: The word that tells the two kinds of recipe apart.
        seed: Of the classifier's weights, order and augmentation.
        task: Task of the manifest; may be left out where there is one.
        shots: Labelled training records of each class, drawn with the seed; None takes all there are.
        model: Encoder, when training from scratch; otherwise the checkpoint's.
        contract: How files become tensors, when training from scratch; otherwise the checkpoint's.
        adaptation: What learns.
        head: The classifier and its loss.
        labels_depend_on: What a label may depend on; a variation that would make it false is refused.
        augmentation: What is varied.
        batch: Samples per forward.
        optimisation: Learning rate and length.
        selection: Which checkpoint is kept, and when to stop.
        bootstrap: Resamplings by patient behind the confidence intervals of the final evaluation.
        hardware: Where and how fast.
        logging: What is written.
    """

    kind: Literal["finetune"] = "finetune"
    seed: Count = 0
    task: str | None = None
    shots: Positive | None = None
    model: ModelSection | None = None
    contract: ContractSection | None = None
    adaptation: Adaptation = FullAdaptation()
    head: HeadSection = HeadSection()
    labels_depend_on: tuple[LabelDependence, ...] = ("side",)
    augmentation: Augmentation = Augmentation()
    batch: BatchSection = BatchSection()
    optimisation: FinetuneOptimisationSection = FinetuneOptimisationSection()
    selection: SelectionSection = SelectionSection()
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    hardware: HardwareSection = HardwareSection()
    logging: FinetuneLoggingSection = FinetuneLoggingSection()

    @model_validator(mode="after")
    def _labels_stay_true(self) -> "FinetuneRecipe":
        safe = self.augmentation.safe_for(set(self.labels_depend_on))
        wrong = [key for key, value in self.augmentation if value != getattr(safe, key)]
        if wrong:
            raise ValueError(
                f"augmentation.{wrong[0]} would make labels false that depend on {', '.join(self.labels_depend_on)}; "
                "leave it out, or shorten labels_depend_on"
            )
        return self
