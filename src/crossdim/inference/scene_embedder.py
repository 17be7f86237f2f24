"""Scenes to features, through a pre-trained PiMAE: points and an image, or one of the two."""

from collections.abc import Sequence
from contextlib import nullcontext
from os import PathLike, fspath
from typing import overload

import numpy as np
import torch
from jaxtyping import Float

from crossdim.datasets.scenes import find_scenes
from crossdim.errors import ContractError
from crossdim.inference.predictor import Progress, Source
from crossdim.models.pimae import PimaeModel
from crossdim.samples import Scene
from crossdim.training.scenes import scene_part, thinned
from crossdim.transforms.augment import generator_for
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.scenes import prepare_scene


class SceneEmbedder:
    """A pre-trained PiMAE and the preprocessing it was trained with.

    Points are drawn from a cloud with a fixed seed, so the same file always gives the same feature.

    Attributes:
        model: The encoders, in evaluation mode.
        contract: Preprocessing; scenes that do not fit it are refused.
        name: What was loaded.

    Raises:
        ContractError: The contract does not know scenes.
    """

    def __init__(self, model: PimaeModel, contract: PreprocessingContract, name: str) -> None:
        self.model, self.contract, self.name = model, contract, name
        self._scene = scene_part(contract)

    @overload  # a str is a sequence of str too; the first signature is meant for it
    def embed(self, path: Source, *, progress: Progress | None = None) -> Float[np.ndarray, " dim"]: ...
    @overload
    def embed(self, path: Sequence[Source], *, progress: Progress | None = None) -> Float[np.ndarray, "scenes dim"]: ...
    def embed(
        self, path: Source | Sequence[Source], *, progress: Progress | None = None
    ) -> Float[np.ndarray, " dim"] | Float[np.ndarray, "scenes dim"]:
        """Return the feature of one scene ``(dim,)``, or of all scenes of a list ``(scenes, dim)``, in float32.

        Args:
            path: A scene folder, an image or points alone, ``manifest.jsonl#id``; or a list of these, of folders with
                several scenes and of manifests.
            progress: Called with (done, all) after each scene.

        Raises:
            ContractError: A scene does not fit the model's preprocessing, or there are several where one is meant.
            ReadError: A file cannot be read.
        """
        alone = isinstance(path, str | PathLike)
        paths = [path] if isinstance(path, str | PathLike) else list(path)
        found = [scene for each in paths for scene in find_scenes(each)]
        if alone and len(found) != 1:
            raise ContractError(fspath(paths[0]), f"holds {len(found)} scenes", "Give it in a list to embed them all")
        if not found:
            raise ContractError("list of scenes", "is empty", "Give at least one scene")
        rows = []
        for _, load in found:
            rows.append(self.feature(load()))
            if progress is not None:
                progress(len(rows), len(found))
        return rows[0] if alone else np.stack(rows)

    @torch.inference_mode()
    def feature(self, scene: Scene) -> Float[np.ndarray, " dim"]:
        """Return the feature of a scene: the mean of all its tokens, float32.

        Args:
            scene: As read; points or image may be missing, and the camera is not needed.

        Raises:
            ContractError: It does not fit the model's preprocessing.
        """
        drawn = prepare_scene(scene, self._scene, generator_for(0, 0, 0))
        prepared = thinned(drawn, self._scene, self.model.config.skip_points_near_origin)
        device = self.model.device
        points, pixels = (
            None if part is None else part[None].to(device) for part in (prepared.points, prepared.pixel_values)
        )
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            found = self.model(points, pixels).pooler_output
        return found[0].float().cpu().numpy()
