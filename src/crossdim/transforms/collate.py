"""Prepared samples to batches: tensors named as the models' arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.resample import Extent

Batch = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Sample:
    """What one file contributes to a batch.

    Attributes:
        values: ``(channels, *size)``.
        padding: ``(tokens,)``, True where a patch holds padding only.
        noise: ``(tokens,)`` mask scores, uniform in [0, 1).
        label: Class index, or 0/1 for each class, or None.
    """

    values: Float[Tensor, "channels *size"]
    padding: Bool[Tensor, " tokens"]
    noise: Float[Tensor, " tokens"]
    label: Shaped[Tensor, "..."] | None = None

    @classmethod
    def of(
        cls, prepared: Prepared, patch: tuple[int, ...], generator: torch.Generator, label: Tensor | None = None
    ) -> "Sample":
        """Return the sample of a prepared file, with noise for its mask.

        Args:
            prepared: As the contract made it, varied or not.
            patch: The model's patch along the same axes.
            generator: The sample's own, so that runs replay.
            label: Class index, or 0/1 for each class.
        """
        padding = padding_mask(prepared.valid, prepared.size, patch)
        return cls(prepared.tensor, padding, torch.rand(padding.shape, generator=generator), label)


def padding_mask(valid: tuple[Extent, ...], size: tuple[int, ...], patch: tuple[int, ...]) -> Bool[Tensor, " tokens"]:
    """Return True for every patch that lies in padding altogether, in raster order (last axis fastest).

    Args:
        valid: (start, stop) of the data along each axis.
        size: Spatial size.
        patch: Patch along the same axes.

    Raises:
        ContractError: The size is not a multiple of the patch.
    """
    if len(size) != len(patch) or any(length % part for length, part in zip(size, patch, strict=True)):
        raise ContractError(
            f"size {size}", f"is not a multiple of the patch {patch}", "Choose the contract's size accordingly"
        )
    holds = torch.ones((), dtype=torch.bool)
    for (start, stop), length, part in zip(valid, size, patch, strict=True):
        edges = torch.arange(0, length, part)
        holds = holds[..., None] & (edges < stop) & (edges + part > start) & (stop > start)
    return ~holds.flatten()


def collate_pretraining(samples: Sequence[Sample]) -> Batch:
    """Stack samples into the arguments of ``Uni4EyeForPreTraining.forward``.

    Args:
        samples: Images and volumes in any order; a kind without samples is left out of the batch.
    """
    batch: Batch = {}
    for axes, values, prefix in ((2, "pixel_values", ""), (3, "voxel_values", "voxel_")):
        same = [sample for sample in samples if sample.values.dim() == axes + 1]
        if same:
            batch[values] = torch.stack([sample.values for sample in same])
            batch[f"{prefix}noise"] = torch.stack([sample.noise for sample in same])
            batch[f"{prefix}padding_mask"] = torch.stack([sample.padding for sample in same])
    return batch


def collate_classification(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one kind into the arguments of ``Uni4EyeForImageClassification.forward``.

    Args:
        samples: All images or all volumes, with labels or all without; a batch without padding has no padding mask.
    """
    batch: Batch = {"pixel_values": torch.stack([sample.values for sample in samples])}
    padding = torch.stack([sample.padding for sample in samples])
    if bool(padding.any()):
        batch["padding_mask"] = padding
    labels = [sample.label for sample in samples if sample.label is not None]
    if labels:
        batch["labels"] = torch.stack(labels)
    return batch


def padded_share(batch: Mapping[str, Tensor]) -> float:
    """Return the share of a batch's tokens that hold padding only, 0 to 1.

    Args:
        batch: From one of the collate functions.
    """
    masks = [batch[name] for name in ("padding_mask", "voxel_padding_mask") if name in batch]
    tokens = sum(mask.numel() for mask in masks)
    return sum(int(mask.sum()) for mask in masks) / tokens if tokens else 0.0
