"""What drawn scenes of every kind share: how a camera is tilted, the files of a scene, and their manifest."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator

from crossdim.datasets.manifest import Header, Labels, Manifest, Progress, Record
from crossdim.datasets.scene_record import SceneFiles, box_records, camera_record
from crossdim.datasets.splits import Fractions, split_by_patient
from crossdim.errors import RecipeError
from crossdim.geometry.camera import LEVEL
from crossdim.samples import Boxes3D, Camera

DEPTH_UNIT_M = 0.001


@runtime_checkable
class DrawnScene(Protocol):
    """A scene that can be written."""

    @property
    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """Red, green and blue."""

    @property
    def depth_m(self) -> Float[np.ndarray, "height width"]:
        """What the sensor reads; NaN where it reads nothing."""

    @property
    def camera(self) -> Camera:
        """Of both pictures."""

    @property
    def boxes(self) -> Boxes3D:
        """Of what can be seen."""


def make_scenes(
    folder: str | os.PathLike[str],
    count: int,
    draw: Callable[[Generator, str], DrawnScene],
    header: Header,
    *,
    prefix: str,
    seed: int,
    fractions: Fractions,
    progress: Progress | None,
) -> Manifest:
    """Draw scenes and write them as scene folders, with their manifest.

    Args:
        folder: Gets ``{prefix}0000/{image.png,depth.png,camera.json,boxes.json}`` and ``manifest.jsonl``.
        count: Number of scenes; the classes of the header's task are taken in turn.
        draw: Draws one scene of a class.
        header: Of the manifest, with one task.
        prefix: Begins the folder of each scene, such as ``rooms/r``; the scene's name is its last part.
        seed: Seed of the scenes and of the split; scene n depends on it and on n alone.
        fractions: Shares of train, val and test.
        progress: Called after each scene.

    Raises:
        RecipeError: If there are fewer scenes than classes.
    """
    ((task, kinds),) = ((name, task.classes) for name, task in header.tasks.items())
    if count < len(kinds):
        what = header.name.removeprefix("synthetic ")
        raise RecipeError(
            f"count {count}", f"is fewer than the {len(kinds)} kinds of {what}", f"Take {len(kinds)} or more"
        )
    root = Path(folder)
    records = []
    for index in range(count):
        kind = index % len(kinds)
        place = f"{prefix}{index:04d}"
        files = write_scene(draw(np.random.default_rng([seed, index]), kinds[kind]), root, place)
        name = place.rpartition("/")[2]
        labels: Labels = {task: kind}
        records.append(Record(id=name, patient_id=name, kind="scene", scene=files, labels=labels))
        if progress:
            progress(index + 1, count)
    manifest = split_by_patient(Manifest(header, tuple(records)), fractions, seed, stratify=task)
    manifest.save(root / "manifest.jsonl")
    return manifest


def write_scene(scene: DrawnScene, root: Path, folder: str) -> SceneFiles:
    """Write a scene as a scene folder; returns it as a record holds it.

    Args:
        scene: What was drawn.
        root: Of the manifest.
        folder: Of the scene, below the root.
    """
    from PIL import Image

    place = root / folder
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(place / "image.png", compress_level=3)
    units = np.nan_to_num(scene.depth_m / DEPTH_UNIT_M).round().clip(0, 65535).astype(np.uint16)
    Image.fromarray(units).save(place / "depth.png", compress_level=3)
    camera, boxes = camera_record(scene.camera), box_records(scene.boxes)
    _write_json(place / "camera.json", camera.model_dump() | {"depth_unit_m": DEPTH_UNIT_M})
    _write_json(place / "boxes.json", [box.model_dump() for box in boxes])
    return SceneFiles(
        image=f"{folder}/image.png",
        depth=f"{folder}/depth.png",
        depth_unit_m=DEPTH_UNIT_M,
        camera=camera,
        boxes=boxes,
    )


def tilted(down: float, roll: float) -> Float[np.ndarray, "4 4"]:
    """Return ``camera_from_scene`` of a camera at the origin that looks along +y, and down.

    Args:
        down: Angle of the view below the horizon, in radians.
        roll: About the view, in radians.
    """
    tilt = np.array([[1, 0, 0], [0, np.cos(down), -np.sin(down)], [0, np.sin(down), np.cos(down)]])
    lean = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = lean @ tilt @ LEVEL[:3, :3]
    return pose


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
