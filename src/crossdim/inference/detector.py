"""Scenes to boxes, through a trained 3DETR: what is where, how large, how turned, and how sure the detector is."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike, fspath
from typing import overload

import numpy as np
import torch
from jaxtyping import Float

from crossdim.datasets.scenes import find_scenes
from crossdim.errors import ContractError
from crossdim.inference.predictor import Progress, Source
from crossdim.metrics.detection_protocol import Protocol, RawBoxes, detections
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.samples import Boxes3D, Scene
from crossdim.training.detection_continuation import class_names
from crossdim.training.detection_data import prepare_for_detection
from crossdim.training.detection_evaluation import raw_boxes
from crossdim.training.scenes import scene_part, thinned
from crossdim.transforms.augment import generator_for
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.scenes import draw_points


class Detector:
    """A trained detector and the preprocessing it was trained with.

    Points are drawn from a cloud with a fixed seed, so the same file always gives the same boxes: those that the
    evaluation at the end of the training counts.

    Attributes:
        model: The detector, in evaluation mode.
        contract: Preprocessing; scenes that do not fit it are refused.
        name: What was loaded.

    Raises:
        ContractError: The contract does not know scenes.
    """

    def __init__(self, model: Detr3dForObjectDetection, contract: PreprocessingContract, name: str) -> None:
        self.model, self.contract, self.name = model, contract, name
        self._scene = scene_part(contract)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return class_names(self.model.config)

    @overload  # a str is a sequence of str too; the first signature is meant for it
    def detect(  # type: ignore[overload-overlap]
        self,
        path: Source,
        threshold: float = 0.5,
        *,
        oriented: bool = False,
        tighten_m: float | None = None,
        progress: Progress | None = None,
    ) -> Scene: ...
    @overload
    def detect(
        self,
        path: Sequence[Source],
        threshold: float = 0.5,
        *,
        oriented: bool = False,
        tighten_m: float | None = None,
        progress: Progress | None = None,
    ) -> list[Scene]: ...
    def detect(
        self,
        path: Source | Sequence[Source],
        threshold: float = 0.5,
        *,
        oriented: bool = False,
        tighten_m: float | None = None,
        progress: Progress | None = None,
    ) -> Scene | list[Scene]:
        """Return a scene with the boxes found in it, or all scenes of a list.

        Args:
            path: A scene folder, a file of points, ``manifest.jsonl#id``; or a list of these, of folders with several
                scenes and of manifests.
            threshold: Least score of a box, 0 to 1.
            oriented: Whether boxes suppress one another by how they overlap as they are turned; otherwise by how the
                upright boxes around them do, as in evaluation.
            tighten_m: Boxes become the smallest ones around the points in them and this near them (metres), for a
                detector whose labels end where what is seen ends; None leaves them.
            progress: Called with (done, all) after each scene.

        Raises:
            ContractError: A scene has no points or does not fit the detector's preprocessing, the threshold is no
                score, or there are several scenes where one is meant.
            ReadError: A file cannot be read.
        """
        alone = isinstance(path, str | PathLike)
        paths = [path] if isinstance(path, str | PathLike) else list(path)
        found = [scene for each in paths for scene in find_scenes(each)]
        if alone and len(found) != 1:
            raise ContractError(fspath(paths[0]), f"holds {len(found)} scenes", "Give it in a list to look at them all")
        if not found:
            raise ContractError("list of scenes", "is empty", "Give at least one scene")
        scenes = []
        for _, load in found:
            scene = load()
            scenes.append(replace(scene, boxes=self.boxes(scene, threshold, oriented=oriented, tighten_m=tighten_m)))
            if progress is not None:
                progress(len(scenes), len(found))
        return scenes[0] if alone else scenes

    def boxes(
        self, scene: Scene, threshold: float = 0.5, *, oriented: bool = False, tighten_m: float | None = None
    ) -> Boxes3D:
        """Return the boxes found in a scene, in its own frame, the most certain first.

        Args:
            scene: As read; it needs points. Image and camera may be missing; labelled boxes are not looked at.
            threshold: Least score of a box, 0 to 1.
            oriented: Whether boxes suppress one another by how they overlap as they are turned; otherwise by how the
                upright boxes around them do, as in evaluation.
            tighten_m: Boxes become the smallest ones around the points in them and this near them (metres), for a
                detector whose labels end where what is seen ends; None leaves them.

        Raises:
            ContractError: It does not fit the detector's preprocessing, or the threshold is no score.
        """
        if not 0 <= threshold <= 1:
            raise ContractError(f"threshold {threshold:g}", "is no score", "Give a number from 0 to 1")
        # As in evaluation, but a box counts for its most probable class alone.
        protocol = Protocol(oriented=oriented, emission="best_class", tighten_m=tighten_m)
        found = detections(*self.look(scene), protocol)
        order = np.argsort(-found.scores, kind="stable")
        order = order[found.scores[order] >= threshold]
        boxes, classes = found.boxes[order].astype(np.float64), self.classes
        labels = tuple(classes[number] for number in found.classes[order])
        return Boxes3D(boxes[:, :3], boxes[:, 3:6], boxes[:, 6], labels, found.scores[order].astype(np.float64))

    @torch.inference_mode()
    def look(self, scene: Scene) -> tuple[RawBoxes, Float[np.ndarray, "points 3"]]:
        """Return everything that the detector says of a scene, and the points that boxes are counted by.

        Args:
            scene: As read.

        Raises:
            ContractError: It has no points or does not fit the detector's preprocessing.
        """
        drawn = draw_points(prepare_for_detection(scene, self._scene), self._scene, generator_for(0, 0, 0))
        seen = thinned(drawn, self._scene, self.model.config.skip_points_near_origin)
        assert drawn.points is not None
        assert seen.points is not None
        device = self.model.device
        pixels = None if seen.pixel_values is None else seen.pixel_values[None].to(device)
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            output = self.model(seen.points[None].to(device), pixel_values=pixels)
        (raw,) = raw_boxes(output.predictions)
        return raw, drawn.points.numpy()
