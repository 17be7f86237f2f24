"""From one feature to class probabilities: multi-class, multi-label and ordinal.

Ordinal classes use the cumulative-link form with one shared direction and ordered thresholds (Cao, Mirjalili and
Raschka, "Rank consistent ordinal regression", 2020): logit ``k`` is the log-odds of a label above ``k``.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

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
