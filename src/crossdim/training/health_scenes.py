"""Is the pre-training of PiMAE well? Pictures of filled-in images and points, where points look, and a probe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossdim.datasets.manifest import Manifest
from crossdim.geometry.camera import project
from crossdim.masking import visible_first
from crossdim.models.pimae import PimaeForPreTraining, PimaeForPreTrainingOutput
from crossdim.outputs.pictures import save_figure
from crossdim.outputs.pictures.scene_reconstruction import (
    ImageReconstruction,
    PatchAttention,
    PointsReconstruction,
    SceneReconstruction,
    scene_reconstruction,
)
from crossdim.tokens.grid import pair, patchify, unpatchify
from crossdim.training.data import Batch, Collate, refuse_failures
from crossdim.training.health import Note, Watch, displayed, without_normalisation
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe import HealthSection
from crossdim.training.scenes import SceneDataset, collate_samples, places_by_composition
from crossdim.training.schedule import Draw, Kind


def _batch_of(dataset: SceneDataset, places: Sequence[int], device: torch.device) -> Batch:
    """Return scenes of one composition as one batch on a device, always the same one."""
    batch = Collate(collate_samples)([dataset[Draw(0, place)] for place in places])
    refuse_failures(batch)
    return {key: value.to(device) for key, value in batch.items()}


@torch.no_grad()
def encode_scenes(
    model: PimaeForPreTraining, dataset: SceneDataset, places: Sequence[int], batch_size: int = 16
) -> Float[np.ndarray, "samples dim"]:
    """Return the mean token of scenes of one composition, in full precision and without a mask.

    Args:
        model: Pre-training model.
        dataset: Without variation.
        places: Of the records in its manifest.
        batch_size: Scenes at a time.
    """
    encoder = model.pimae.eval()
    features: list[Tensor] = []
    for start in range(0, len(places), batch_size):
        batch = _batch_of(dataset, places[start : start + batch_size], model.device)
        found = encoder(batch.get("points"), batch.get("pixel_values")).pooler_output
        features.append(found.float().cpu())
    return torch.cat(features).numpy()


@torch.no_grad()
def reconstruct_scenes(
    model: PimaeForPreTraining, dataset: SceneDataset, places: Sequence[int]
) -> list[SceneReconstruction]:
    """Mask scenes of one composition and return what the model makes of them, and where one group of each looks.

    Args:
        model: Pre-training model.
        dataset: Without variation.
        places: Of the records in its manifest.
    """
    batch = _batch_of(dataset, places, model.device)
    output = model.eval()(**batch)
    images = _images(model, dataset, batch, output) if "pixel_values" in batch else [None] * len(places)
    points = _points(output) if "points" in batch else [None] * len(places)
    looks = _looks(model, batch, output) if {"points", "pixel_values"} <= set(batch) else [None] * len(places)
    return [
        SceneReconstruction(dataset.manifest.records[place].id, image, cloud, look)
        for place, image, cloud, look in zip(places, images, points, looks, strict=True)
    ]


def _images(
    model: PimaeForPreTraining, dataset: SceneDataset, batch: Batch, output: PimaeForPreTrainingOutput
) -> list[ImageReconstruction]:
    assert output.encoded is not None
    assert output.encoded.image_mask is not None
    assert output.image_prediction is not None
    values, patch = batch["pixel_values"].float(), pair(model.config.patch_size)
    target, prediction = patchify(values, patch), output.image_prediction.float()
    if model.config.norm_pix_loss:
        prediction = without_normalisation(prediction, target)
    grid = model.pimae.grid(values)
    mask = output.encoded.image_mask.mask[..., None].expand_as(target).to(target)
    hidden, filled = (unpatchify(tokens, grid, patch).cpu().numpy() for tokens in (mask, prediction))
    shown = dataset.scene.image
    return [
        ImageReconstruction(
            displayed(values[row].cpu().numpy(), shown), hidden[row, 0] > 0, displayed(filled[row], shown)
        )
        for row in range(len(values))
    ]


def _points(output: PimaeForPreTrainingOutput) -> list[PointsReconstruction]:
    encoded = output.encoded
    assert encoded is not None
    assert encoded.groups is not None
    assert encoded.points_mask is not None
    assert output.points_prediction is not None
    centers = encoded.groups.centers[:, :, None]
    groups = (encoded.groups.neighbourhoods + centers).float()
    order, visible = visible_first(encoded.points_mask)
    filled, rows = groups.clone(), torch.arange(len(groups), device=groups.device)[:, None]
    places = order[:, visible:]
    filled[rows, places] = output.points_prediction.float() + centers[rows, places].float()
    parts = (groups, encoded.points_mask, filled)
    return [PointsReconstruction(*row) for row in zip(*(part.cpu().numpy() for part in parts), strict=True)]


def _looks(model: PimaeForPreTraining, batch: Batch, output: PimaeForPreTrainingOutput) -> list[PatchAttention]:
    """Return where one group of each scene looks when nothing is hidden: the group nearest to the image's middle."""
    assert output.encoded is not None
    assert output.encoded.groups is not None
    groups, grid = output.encoded.groups, model.pimae.grid(batch["pixel_values"])
    shares = _shares(groups.centers.float(), batch)
    chosen = [0] * len(groups.centers)
    if shares is not None:
        away = ((shares - 0.5) ** 2).sum(dim=-1).nan_to_num(nan=float("inf"))
        chosen = away.argmin(dim=1).tolist()
    height, width = batch["pixel_values"].shape[2:]
    looks = []
    for row, group in enumerate(chosen):
        one = type(groups)(*(part[row : row + 1] for part in groups))
        query = torch.tensor([group], device=groups.centers.device)
        weights = model.pimae.point_attention(one, batch["pixel_values"][row : row + 1], query)
        place = None
        if shares is not None:
            u, v = shares[row, group].tolist()
            place = (u * width - 0.5, v * height - 0.5) if 0 <= u < 1 and 0 <= v < 1 else None
        looks.append(PatchAttention(group, weights[0, 0].float().cpu().numpy().reshape(grid), place))
    return looks


def _shares(centers: Float[Tensor, "batch groups 3"], batch: Batch) -> Float[Tensor, "batch groups 2"] | None:
    """Return where centres are in the frame, as shares of its width and height; NaN behind the camera."""
    if "projection" not in batch:
        return None
    columns, rows, _ = project(centers, batch["projection"])
    height, width = batch["frame_size"].to(columns).unbind(dim=1)
    return torch.stack([(columns + 0.5) / width[:, None], (rows + 0.5) / height[:, None]], dim=-1)


class SceneHealth(Watch):
    """Watches PiMAE.

    Args:
        folder: The run.
        recipe: How often, and how many.
        training: Training samples; pictures show some of them, without variation.
        labelled: Records to probe, from all of the manifest but the test split.
        note: Adds numbers to the next line of the log.
    """

    def __init__(
        self, folder: RunFolder, recipe: HealthSection, training: SceneDataset, labelled: Manifest, note: Note
    ) -> None:
        pictured, probed = (
            SceneDataset(manifest, training.contract, training.config, training.seed)
            for manifest in (training.manifest, labelled)
        )
        super().__init__(folder, recipe, pictured, probed, note)

    def places(self, manifest: Manifest) -> dict[Kind, list[int]]:
        """Return the places of the scenes of each composition.

        Args:
            manifest: Of the pictured or the probed records.
        """
        return places_by_composition(manifest)

    def features(self, model: Any, places: Sequence[int]) -> Float[np.ndarray, "samples dim"]:
        """Return the mean tokens of probed scenes of one composition.

        Args:
            model: Pre-training model.
            places: Of the records.
        """
        assert isinstance(self._probed, SceneDataset)
        return encode_scenes(model, self._probed, places)

    def draw(self, model: Any, kind: Kind, places: Sequence[int], path: Path) -> None:
        """Draw inputs, masks, reconstructions, and where a group of points looks.

        Args:
            model: Pre-training model.
            kind: Composition of the scenes.
            places: Of the pictured records.
            path: The picture's file.
        """
        assert isinstance(self._pictured, SceneDataset)
        save_figure(scene_reconstruction(reconstruct_scenes(model, self._pictured, places)), path, dpi=100)
