"""From one feature to class probabilities: multi-class, multi-label and ordinal.

Ordinal classes use the cumulative-link form with one shared direction and ordered thresholds (Cao, Mirjalili and
Raschka, "Rank consistent ordinal regression", 2020): logit ``k`` is the log-odds of a label above ``k``.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from crossdim.errors import ContractError

Problem = Literal["multiclass", "multilabel", "ordinal"]


class ClassificationHead(nn.Module):
    """One linear layer, after a LayerNorm where the feature is a mean of tokens.

    ``(batch, dim)`` → ``(batch, classes)`` logits; ``classes - 1`` of them for ordinal problems.

    Args:
        dim: Width of the feature.
        classes: Number of classes.
        problem: What the classes are to one another.
        norm_eps: Epsilon of the LayerNorm, or None for none.
    """

    def __init__(self, dim: int, classes: int, problem: Problem, norm_eps: float | None) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(dim, eps=norm_eps)
        self.linear = nn.Linear(dim, 1 if problem == "ordinal" else classes)
        thresholds = torch.linspace(1, -1, classes - 1) if problem == "ordinal" else None
        self.thresholds = None if thresholds is None else nn.Parameter(thresholds)

    def forward(self, feature: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch logits"]:
        """Score the classes.

        Args:
            feature: Class token or mean of tokens.
        """
        scores = self.linear(self.norm(feature))
        return scores if self.thresholds is None else scores + self.thresholds


def classification_loss(
    logits: Float[Tensor, "batch logits"],
    labels: Int[Tensor, "batch"] | Float[Tensor, "batch classes"],
    problem: Problem,
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, "classes"] | None = None,
) -> Float[Tensor, ""]:
    """Return the loss in float32: cross entropy, or binary cross entropy per label or per threshold.

    Args:
        logits: Head output.
        labels: Class indices; 0/1 per class for multi-label problems.
        problem: What the classes are to one another.
        label_smoothing: Share of the target spread over all classes (towards 1/2 for binary targets).
        class_weights: Weight of each class; for multi-label problems, of its positive examples.
    """
    logits = logits.float()
    class_weights = None if class_weights is None else class_weights.to(logits.device)
    if problem == "multiclass":
        return F.cross_entropy(logits, labels.long(), weight=class_weights, label_smoothing=label_smoothing)
    if problem == "multilabel":
        target = labels.float() * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=class_weights)
    above = labels.long()[:, None] > torch.arange(logits.shape[1], device=logits.device)
    target = above.float() * (1 - label_smoothing) + label_smoothing / 2
    per_sample = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
    weights = torch.ones_like(per_sample) if class_weights is None else class_weights[labels.long()]
    return (per_sample * weights).sum() / weights.sum()


def probabilities(logits: Float[Tensor, "batch logits"], problem: Problem) -> Float[Tensor, "batch classes"]:
    """Return class probabilities in float32: they sum to one, except for multi-label problems.

    Args:
        logits: Head output.
        problem: What the classes are to one another.
    """
    logits = logits.float()
    if problem == "multiclass":
        return logits.softmax(dim=-1)
    if problem == "multilabel":
        return logits.sigmoid()
    # Thresholds that cross while training would give negative differences; the running minimum keeps them ordered.
    above = logits.sigmoid().cummin(dim=1).values
    edges = torch.cat([torch.ones_like(above[:, :1]), above, torch.zeros_like(above[:, :1])], dim=1)
    return edges[:, :-1] - edges[:, 1:]


class Classifies:
    """What every classifier does with the feature of a sample; a base beside the model's own."""

    config: Any
    classifier: ClassificationHead
    class_weights: Tensor | None

    def make_classifier(self, dim: int, norm_eps: float | None) -> None:
        """Add the head and the weights of the classes, as the config says.

        Args:
            dim: Width of the feature.
            norm_eps: Epsilon of a LayerNorm before the linear layer, or None for none.

        Raises:
            ContractError: There is not one weight for each class.
        """
        classes = len(self.config.id2label or ())
        self.classifier = ClassificationHead(dim, classes, self.config.problem, norm_eps)
        weights = self.config.class_weights
        if weights is not None and len(weights) != classes:
            raise ContractError(
                f"class_weights of length {len(weights)}",
                f"do not match the {classes} classes",
                "Give one weight per class",
            )
        self.class_weights = None if weights is None else torch.tensor(weights, device="cpu")

    def classify(
        self,
        feature: Float[Tensor, "batch dim"],
        labels: Int[Tensor, "batch"] | Float[Tensor, "batch classes"] | None,
    ) -> ImageClassifierOutput:
        """Score the classes, and the scores if labels are given.

        Args:
            feature: Of the samples.
            labels: Class indices, or 0/1 per class for multi-label problems.
        """
        logits, config = self.classifier(feature), self.config
        if labels is None:
            return ImageClassifierOutput(logits=logits)
        loss = classification_loss(logits, labels, config.problem, config.label_smoothing, self.class_weights)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def probabilities(self, logits: Float[Tensor, "batch logits"]) -> Float[Tensor, "batch classes"]:
        """Return class probabilities for this model's kind of problem.

        Args:
            logits: Output of the model.
        """
        return probabilities(logits, self.config.problem)
