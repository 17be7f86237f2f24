"""What of a classifier learns: its head, some layers, everything, or low-rank updates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers.modeling_outputs import ImageClassifierOutput

from crossdim.errors import ReadError, RecipeError
from crossdim.heads.classification import ClassificationHead, classification_loss
from crossdim.models.pimae import PimaeForImageClassification, PimaeImageModel
from crossdim.models.pimae_config import PimaeConfig
from crossdim.models.uni4eye import Uni4EyeForImageClassification, Uni4EyeModel
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.training.checkpoints import last_complete
from crossdim.training.data import Batch, Collate, RecordDataset, indices_by_kind, refuse_failures
from crossdim.training.recipe import (
    Adaptation,
    FullAdaptation,
    LinearAdaptation,
    LoraAdaptation,
    PartialAdaptation,
)
from crossdim.training.schedule import Draw
from crossdim.transforms.collate import collate_classification

Classifier = Uni4EyeForImageClassification | PimaeForImageClassification


def encoder_folder(path: Path) -> Path:
    """Return the folder that holds an encoder's weights: the one given, or a run's last complete checkpoint.

    Args:
        path: A run, a checkpoint or a converted model.

    Raises:
        ReadError: There is none.
    """
    if (path / "config.json").is_file():
        return path
    checkpoint = last_complete(path / "checkpoints")
    if checkpoint is None:
        raise ReadError(path, "holds no model", "Give the folder of a run, a checkpoint or a converted model")
    if not (checkpoint / "config.json").is_file():
        # Checkpoints of a linear probe or of low-rank updates hold only what learns.
        raise ReadError(path, "is a fine-tuning run that has not finished", "Finish it with the command that began it")
    return checkpoint


def build_classifier(config: Uni4EyeConfig | PimaeConfig, encoder: Path | None) -> Classifier:
    """Return a classifier with a new head.

    Args:
        config: Of the classifier.
        encoder: Folder with the encoder's weights; None draws new ones. Of PiMAE the image branch is taken.
    """
    if isinstance(config, PimaeConfig):
        images = PimaeForImageClassification(config)
        if encoder is not None:
            images.pimae.load_state_dict(PimaeImageModel.from_pretrained(encoder, config=config).state_dict())
        return images
    model = Uni4EyeForImageClassification(config)
    if encoder is not None:
        model.uni4eye.load_state_dict(Uni4EyeModel.from_pretrained(encoder, config=config).state_dict())
    return model


def adapt(model: Classifier, adaptation: Adaptation) -> nn.Module:
    """Freeze what does not learn, and add what does.

    Args:
        model: The classifier.
        adaptation: The recipe's section.

    Raises:
        RecipeError: More layers are to be frozen than there are.
    """
    encoder = encoder_of(model)
    if isinstance(adaptation, LinearAdaptation):
        encoder.requires_grad_(False)
    elif isinstance(adaptation, PartialAdaptation):
        images_only = isinstance(encoder, PimaeImageModel)
        layers = (encoder.image_encoder if images_only else encoder.encoder).layers
        if adaptation.frozen_layers > len(layers):
            raise RecipeError(
                "'adaptation.frozen_layers'",
                f"is {adaptation.frozen_layers}, and the encoder has {len(layers)} layers",
                "Freeze fewer, or use mode: linear",
            )
        encoder.patch_embed.requires_grad_(False)
        (encoder.image_embedding if images_only else encoder.cls_token).requires_grad_(False)
        layers[: adaptation.frozen_layers].requires_grad_(False)
    elif isinstance(adaptation, LoraAdaptation):
        return _with_lora(model, adaptation)
    return model


def encoder_of(model: Classifier) -> Any:
    """Return the encoder of a classifier.

    Args:
        model: The classifier.
    """
    return model.pimae if isinstance(model, PimaeForImageClassification) else model.uni4eye


def _with_lora(model: Classifier, adaptation: LoraAdaptation) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=adaptation.rank,
        lora_alpha=cast("int", adaptation.alpha),  # a factor; peft's annotation is narrower than its use
        lora_dropout=adaptation.dropout,
        target_modules=rf".*encoder\.layers\.\d+\.(?:attention|mlp)\.(?:{'|'.join(adaptation.targets)})",
        modules_to_save=["classifier"],
    )
    return get_peft_model(model, config)


def merged(model: nn.Module) -> Classifier:
    """Return the plain classifier; low-rank updates are added into its weights.

    Args:
        model: What :func:`adapt` returned.
    """
    if isinstance(model, Classifier):
        return model
    plain = cast("Any", model).merge_and_unload()
    assert isinstance(plain, Classifier)
    return plain


def layer_decay_of(adaptation: Adaptation) -> float:
    """Return the factor on the learning rate from each layer to the one below."""
    return adaptation.layer_decay if isinstance(adaptation, FullAdaptation | PartialAdaptation) else 1.0


class LinearProbe(nn.Module):
    """A classifier's head on features that were computed before; trains in seconds.

    Args:
        classifier: Its head is trained in place.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.config = classifier.config
        self.classifier: ClassificationHead = classifier.classifier
        self.class_weights = classifier.class_weights

    def forward(
        self,
        features: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"] | None = None,
    ) -> ImageClassifierOutput:
        """Classify features.

        Args:
            features: The encoder's.
            labels: Class indices, or 0/1 per class for multi-label problems.
        """
        logits = self.classifier(features)
        if labels is None:
            return ImageClassifierOutput(logits=logits)
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        config = self.config
        loss = classification_loss(logits, labels, config.problem, config.label_smoothing, weights)
        return ImageClassifierOutput(loss=loss, logits=logits)


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Features and labels of every record, computed once; indexed like the records.

    Args:
        features: One for each record.
        labels: One for each record.
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        """Return the features and the label of a draw."""
        return {"features": self.features[draw.place], "labels": self.labels[draw.place]}


def stack_features(samples: list[dict[str, Tensor]]) -> Batch:
    """Stack samples into the arguments of :meth:`LinearProbe.forward`.

    Args:
        samples: From a :class:`FeatureDataset`.
    """
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


@torch.no_grad()
def encode_records(
    model: Classifier,
    dataset: RecordDataset,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = 16,
) -> FeatureDataset:
    """Compute the feature that the classifier's head sees, for every record.

    Args:
        model: Its encoder is used as it is.
        dataset: With labels, without augmentation.
        device: Where to compute.
        progress: Called with (done, all) after each batch.
        batch_size: Records at a time.
    """
    cast("nn.Module", model).to(device).eval()
    collate = Collate(collate_classification)
    features: dict[int, Tensor] = {}
    labels: dict[int, Tensor] = {}
    for places in indices_by_kind(dataset.manifest).values():
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            batch = collate([dataset[Draw(0, place)] for place in part])
            refuse_failures(batch)
            padding = batch["padding_mask"].to(device) if "padding_mask" in batch else None
            found = encoder_of(model)(batch["pixel_values"].to(device), padding_mask=padding).pooler_output
            features |= dict(zip(part, found.float().cpu(), strict=True))
            labels |= dict(zip(part, batch["labels"], strict=True))
            if progress is not None:
                progress(len(features), len(dataset))
    order = range(len(dataset))
    return FeatureDataset(
        torch.stack([features[place] for place in order]), torch.stack([labels[place] for place in order])
    )
