"""Is the pre-training well? Pictures, the features' rank and usefulness, and an alarm before the budget is spent.

Nothing here draws from the training's random numbers, so watching more or less often changes no result.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from crossdim.datasets.manifest import Manifest
from crossdim.metrics.reconstruction import effective_rank, knn_accuracy, leave_one_out_knn_accuracy
from crossdim.models.uni4eye import Uni4EyeForPreTraining
from crossdim.outputs.pictures import Reconstruction, reconstruction_2d, reconstruction_3d, save_figure
from crossdim.tokens.grid import patchify, unpatchify
from crossdim.training.alarm import alarm
from crossdim.training.data import (
    Batch,
    Collate,
    KeptRecords,
    RecordDataset,
    indices_by_kind,
    refuse_failures,
    spread_evenly,
)
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe import HealthSection
from crossdim.training.schedule import PLURALS, Draw, Kind
from crossdim.transforms.collate import collate_pretraining
from crossdim.transforms.image import ImageContract

Note = Callable[[dict[str, float]], None]

FEWEST_PROBED = 4
"""Fewer samples of a kind have no rank worth an alarm."""

_SLOWER = "Start again with a smaller optimisation.base_learning_rate or a longer optimisation.warmup"


class FiniteLoss(TrainerCallback):
    """Stops as soon as a logged loss or gradient norm is not finite; no checkpoint is written after that.

    Args:
        folder: Knows the last good checkpoint.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at every number of the line.

        Raises:
            TrainingError: One is not finite.
        """
        broken = [
            f"{name} is {value}"
            for name, value in (logs or {}).items()
            if name.split("/")[0] in ("loss", "grad_norm") and not isfinite(value)
        ]
        if broken:
            raise alarm(
                self._folder,
                state.global_step,
                f"training diverged: {', '.join(broken)}",
                "Start again with a smaller optimisation.base_learning_rate, or set optimisation.max_grad_norm to 1",
            )


@dataclass(frozen=True)
class Probe:
    """What the features of one kind are like.

    Attributes:
        spread: Standard deviation of the features relative to their size; 0 where every input gives the same.
        effective_rank: Over how many dimensions they spread.
        knn_accuracy: Accuracy of their nearest neighbours, where there are labels.
        chance: Accuracy of always saying the most frequent label.
    """

    spread: float
    effective_rank: float
    knn_accuracy: float | None = None
    chance: float | None = None


def probe_features(
    features: Float[np.ndarray, "samples dim"],
    labels: Int[np.ndarray, " samples"],
    held_out: Bool[np.ndarray, " samples"],
    neighbours: int,
) -> Probe:
    """Measure features; the held-out samples are classified by the others, or each by all others if none is held out.

    Args:
        features: One per sample, finite.
        labels: Class indices, -1 where unknown.
        held_out: True for samples of the validation split.
        neighbours: Of the nearest-neighbour probe.
    """
    centred = features - features.mean(axis=0)
    size = float(np.linalg.norm(features, axis=1).mean())
    spread = float(np.sqrt((centred**2).sum(axis=1).mean())) / max(size, 1e-12)
    rank = effective_rank(features)
    known = labels >= 0
    asked, voting = known & held_out, known & ~held_out
    if asked.any() and voting.any():
        accuracy = knn_accuracy(features[voting], labels[voting], features[asked], labels[asked], neighbours)
    elif known.sum() > neighbours:
        asked = known
        accuracy = leave_one_out_knn_accuracy(features[known], labels[known], neighbours)
    else:
        return Probe(spread, rank)
    counts = np.bincount(labels[asked])
    return Probe(spread, rank, accuracy, float(counts.max() / counts.sum()))


def _batch_of(dataset: RecordDataset, places: Sequence[int], device: torch.device) -> Batch:
    """Return records as one batch on a device, always the same one."""
    batch = Collate(collate_pretraining)([dataset[Draw(0, place)] for place in places])
    refuse_failures(batch)
    return {key: value.to(device) for key, value in batch.items()}


@torch.no_grad()
def encode(
    model: Uni4EyeForPreTraining, dataset: RecordDataset, places: Sequence[int], batch_size: int = 16
) -> Float[np.ndarray, "samples dim"]:
    """Return the mean patch token of records of one kind, in full precision and without a mask.

    Args:
        model: Pre-training model.
        dataset: Without variation.
        places: Of the records in its manifest.
        batch_size: Records at a time.
    """
    encoder = model.uni4eye.eval()
    features: list[Tensor] = []
    for start in range(0, len(places), batch_size):
        batch = _batch_of(dataset, places[start : start + batch_size], model.device)
        prefix = "" if "pixel_values" in batch else "voxel_"
        padding = batch[f"{prefix}padding_mask"]
        hidden = encoder(
            batch["pixel_values" if not prefix else "voxel_values"], padding_mask=padding
        ).last_hidden_state
        features.append(encoder.pool(hidden, padding, "mean").float().cpu())
    return torch.cat(features).numpy()


@torch.no_grad()
def reconstruct(model: Uni4EyeForPreTraining, dataset: RecordDataset, places: Sequence[int]) -> list[Reconstruction]:
    """Mask records of one kind and return what the model makes of them; images in [0, 1], volumes as prepared.

    Args:
        model: Pre-training model.
        dataset: Without variation.
        places: Of the records in its manifest.
    """
    batch = _batch_of(dataset, places, model.device)
    output = model.eval()(**batch)
    image = output.image is not None
    branch = output.image if image else output.volume
    values = batch["pixel_values" if image else "voxel_values"].float()
    patch, grid = model.uni4eye.patch_embed.patch_of(values), model.uni4eye.grid(values)

    def whole(tokens: Tensor) -> Float[np.ndarray, "batch channels *size"]:
        return unpatchify(tokens.float(), grid, patch).cpu().numpy()

    shown = dataset.contract.image if image else None
    target, prediction = patchify(values, patch), branch.prediction.float()
    if model.config.norm_pix_loss:
        prediction = without_normalisation(prediction, target)
    hidden = whole(branch.mask[..., None].expand_as(target)) > 0
    gradients: Sequence[tuple[Any, Any] | None] = [None] * len(places)
    if branch.gradient_prediction is not None:
        gradients = list(zip(whole(branch.gradient_target), whole(branch.gradient_prediction), strict=True))
    return [
        Reconstruction(
            name=dataset.manifest.records[place].id,
            values=displayed(values[row].cpu().numpy(), shown),
            hidden=hidden[row],
            reconstruction=displayed(whole(prediction)[row], shown),
            gradients=gradients[row],
            affine=dataset.prepared(place).affine_mm,
        )
        for row, place in enumerate(places)
    ]


def without_normalisation(
    prediction: Float[Tensor, "batch tokens values"], target: Float[Tensor, "batch tokens values"]
) -> Float[Tensor, "batch tokens values"]:
    """Return normalised predictions in the scale of the image, with each patch's own mean and deviation.

    Args:
        prediction: Of a model with ``norm_pix_loss``.
        target: Patches of the image.
    """
    mean, std = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True).add(1e-6).sqrt()
    return prediction * std + mean


def displayed(
    values: Float[np.ndarray, "channels *size"], contract: ImageContract | None
) -> Float[np.ndarray, "channels *size"]:
    """Undo an image's normalisation, so that its colours are right; a volume stays as it is.

    Args:
        values: As the model sees or predicts them.
        contract: Of images; None for volumes.
    """
    if contract is None:
        return values
    mean = np.array(contract.mean or (0.0,), dtype=np.float32).reshape(-1, 1, 1)
    std = np.array(contract.std or (1.0,), dtype=np.float32).reshape(-1, 1, 1)
    colours = (values * std + mean).clip(0, 1)
    return colours[::-1] if contract.channel_order == "bgr" else colours


class Watch(TrainerCallback, ABC):
    """Draws pictures and probes the features while pre-training; stops when the features collapse.

    Args:
        folder: The run.
        recipe: How often, and how many.
        pictured: Samples without variation; pictures show some of them.
        probed: Samples without variation, of all of the manifest but the test split.
        note: Adds numbers to the next line of the log.
    """

    def __init__(
        self,
        folder: RunFolder,
        recipe: HealthSection,
        pictured: KeptRecords[Any],
        probed: KeptRecords[Any],
        note: Note,
    ) -> None:
        self._folder, self._recipe, self._note = folder, recipe, note
        self._pictured, self._probed = pictured, probed

    @abstractmethod
    def places(self, manifest: Manifest) -> dict[Kind, list[int]]:
        """Return the places of the records of each kind.

        Args:
            manifest: Of the pictured or the probed records.
        """

    @abstractmethod
    def features(self, model: Any, places: Sequence[int]) -> Float[np.ndarray, "samples dim"]:
        """Return the features of probed records of one kind, in full precision and without a mask.

        Args:
            model: Pre-training model.
            places: Of the records.
        """

    @abstractmethod
    def draw(self, model: Any, kind: Kind, places: Sequence[int], path: Path) -> None:
        """Draw what the model makes of pictured records.

        Args:
            model: Pre-training model.
            kind: Of the records.
            places: Of the records.
            path: The picture's file.
        """

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """Draw and probe when it is time, and after the last step.

        Raises:
            TrainingError: The features collapsed.
        """
        assert model is not None
        last = state.global_step >= state.max_steps
        if _is_due(self._recipe.picture_every, state.global_step, last) and state.is_world_process_zero:
            for kind, places in self.places(self._pictured.manifest).items():
                path = self._folder.pictures / f"{PLURALS[kind]}-{state.global_step:07d}.png"
                self.draw(model, kind, spread_evenly(places, self._recipe.pictures), path)
        if _is_due(self._recipe.probe_every, state.global_step, last):
            self._probe(model, state.global_step)
            control.should_log = True

    def _probe(self, model: PreTrainedModel, step: int) -> None:
        manifest = self._probed.manifest
        for kind, places in self.places(manifest).items():
            chosen = spread_evenly(places, self._recipe.probe_samples)
            if len(chosen) < FEWEST_PROBED:
                continue
            features = self.features(model, chosen)
            if not np.isfinite(features).all():
                raise alarm(self._folder, step, f"features of {PLURALS[kind]} are not finite", _SLOWER)
            held_out = np.array([manifest.records[place].split == "val" for place in chosen])
            probe = probe_features(features, self._labels(chosen), held_out, self._recipe.neighbours)
            self._note({f"features/{kind}/{name}": value for name, value in vars(probe).items() if value is not None})
            if probe.spread < self._recipe.min_spread or probe.effective_rank < self._recipe.min_effective_rank:
                raise alarm(
                    self._folder,
                    step,
                    f"the encoder gives nearly the same features for every {kind} "
                    f"(spread {probe.spread:.2g}, effective rank {probe.effective_rank:.2f})",
                    _SLOWER,
                )

    def _labels(self, places: list[int]) -> Int[np.ndarray, " samples"]:
        """Return labels of the manifest's first task with one class per record, -1 where there is none."""
        manifest = self._probed.manifest
        tasks = [name for name, task in manifest.header.tasks.items() if task.kind != "multilabel"]
        found = [manifest.records[place].labels.get(tasks[0], -1) if tasks else -1 for place in places]
        return np.array([label if isinstance(label, int) else -1 for label in found])


class Health(Watch):
    """Watches Uni4Eye.

    Args:
        folder: The run.
        recipe: How often, and how many.
        training: Training samples; pictures show some of them, without variation.
        labelled: Records to probe, from all of the manifest but the test split.
        note: Adds numbers to the next line of the log.
    """

    def __init__(
        self, folder: RunFolder, recipe: HealthSection, training: RecordDataset, labelled: Manifest, note: Note
    ) -> None:
        super().__init__(folder, recipe, _plain(training, training.manifest), _plain(training, labelled), note)

    def places(self, manifest: Manifest) -> dict[Kind, list[int]]:
        """Return the places of the images and of the volumes.

        Args:
            manifest: Of the pictured or the probed records.
        """
        return indices_by_kind(manifest)

    def features(self, model: Any, places: Sequence[int]) -> Float[np.ndarray, "samples dim"]:
        """Return the mean patch tokens of probed records of one kind.

        Args:
            model: Pre-training model.
            places: Of the records.
        """
        assert isinstance(self._probed, RecordDataset)
        return encode(model, self._probed, places)

    def draw(self, model: Any, kind: Kind, places: Sequence[int], path: Path) -> None:
        """Draw inputs, masks and reconstructions.

        Args:
            model: Pre-training model.
            kind: ``image`` or ``volume``.
            places: Of the pictured records.
            path: The picture's file.
        """
        assert isinstance(self._pictured, RecordDataset)
        views = reconstruct(model, self._pictured, places)
        save_figure(reconstruction_2d(views) if kind == "image" else reconstruction_3d(views), path, dpi=100)


def _is_due(every: int, step: int, last: bool) -> bool:
    return every > 0 and (step % every == 0 or last)


def _plain(training: RecordDataset, manifest: Manifest) -> RecordDataset:
    """Return a manifest's samples without variation."""
    return RecordDataset(manifest, training.contract, training.patches, training.seed)
