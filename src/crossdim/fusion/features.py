"""What is known of volumes and images before a question is asked, in two stages that can be kept."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from crossdim.errors import ContractError


@dataclass(frozen=True, eq=False)
class TowerFeatures:
    """What the encoders say about volumes and images; nothing here depends on the question.

    Attributes:
        tokens_3d: ``(volumes, pooled tokens, dim)`` of the 3D encoder, depth-major.
        tokens_2d: ``(volumes, slices, tokens, dim)`` of the 2D encoder.
        rows: Rows of pooled 3D tokens along the slice axis; 0 without a 3D encoder.
        images: ``(images, tokens, dim)`` of the 2D encoder.
        padded: ``(volumes, slices)``, True where a slice is padding; None where none is.
    """

    tokens_3d: Tensor | None = None
    tokens_2d: Tensor | None = None
    rows: int = 0
    images: Tensor | None = None
    padded: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> "TowerFeatures":
        """Return the features on another device or of another dtype, as :meth:`torch.Tensor.to` does."""
        moved: dict[str, Any] = {name: value.to(*args, **kwargs) for name, value in _tensors(self).items()}
        if self.padded is not None:
            moved["padded"] = moved["padded"].bool()
        return replace(self, **moved)

    @staticmethod
    def cat(features: "list[TowerFeatures]") -> "TowerFeatures":
        """Return the volumes and images of several features as one batch.

        Args:
            features: Of volumes of one size, from one model.
        """
        names = {name for each in features for name in _tensors(each)}
        parts = {name: [t for each in features if (t := getattr(each, name)) is not None] for name in names}
        rows = max(each.rows for each in features)
        return TowerFeatures(rows=rows, **{name: torch.cat(tensors) for name, tensors in parts.items()})


@dataclass(frozen=True, eq=False)
class VisualFeatures:
    """Features in the language model's width, before the question weights the slices.

    Attributes:
        z_3d: ``(volumes, tokens, dim)``.
        hidden_2d: ``(volumes, slices, tokens, dim)``, before the 2D connector's second map.
        rows: Rows of 3D tokens along the slice axis.
        images: ``(images, tokens, dim)``.
        padded: ``(volumes, slices)``, True where a slice is padding; None where none is.
    """

    z_3d: Tensor | None = None
    hidden_2d: Tensor | None = None
    rows: int = 0
    images: Tensor | None = None
    padded: Tensor | None = None

    @property
    def volumes(self) -> int:
        """Number of volumes."""
        some = self.z_3d if self.z_3d is not None else self.hidden_2d
        return 0 if some is None else len(some)


def _tensors(features: TowerFeatures) -> dict[str, Tensor]:
    values = {field.name: getattr(features, field.name) for field in fields(features)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def check_index(volume_index: Tensor, volumes: int, question: Tensor | None, asks: bool) -> None:
    """Refuse placeholders that show nothing, or that lack the question that guides their scores.

    Args:
        volume_index: Which volume each placeholder shows.
        volumes: Number of volumes.
        question: Text feature of each placeholder.
        asks: Whether scores depend on the question.

    Raises:
        ContractError: An index is out of range, or questions are missing.
    """
    if len(volume_index) and not 0 <= int(volume_index.min()) <= int(volume_index.max()) < volumes:
        raise ContractError(
            f"volume_index {volume_index.tolist()}", f"names more than the {volumes} volumes", "Count volumes from 0"
        )
    if asks and question is None:
        raise ContractError(
            "question", "this model scores slices by the question, and there is none", "Give question_ids"
        )
    if asks and question is not None and len(question) != len(volume_index):
        raise ContractError(
            f"{len(question)} questions",
            f"guide {len(volume_index)} volume placeholders",
            "Give one question for each placeholder",
        )
