"""Object Segmentation Database (Richtsfeld et al., IROS 2012): things on a table, with a label for every pixel.

Read from a folder with ``index.json``, which holds camera, pose and boxes of each scene, and the pictures
``<part>/<name>_rgb.jpg``, ``<name>_depth.png`` and ``<name>_label.png``. The table is z = 0. Boxes have no classes:
they hold what is seen of each object, down to the table.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from crossdim.datasets.manifest import Header, Manifest, Progress, Record, SplitName, Task
from crossdim.datasets.scan import SPLIT_WORDS, relative
from crossdim.datasets.scene_record import SceneFiles, camera_record
from crossdim.datasets.scene_scan import AGAIN, box, collect, image_size, needed
from crossdim.datasets.splits import carve_validation
from crossdim.errors import CrossdimError, ReadError, nearest
from crossdim.geometry.camera import RIGID_TOLERANCE, check_camera
from crossdim.samples import Camera

OBJECT = "object"
"""The only class."""

_PARTS: dict[str, SplitName] = {**SPLIT_WORDS, "learn": "train"}


def from_osd(
    folder: str | os.PathLike[str], *, validation: float = 0.1, seed: int = 0, progress: Progress | None = None
) -> Manifest:
    """Return the manifest of OSD: depth, picture, camera and boxes; the task ``category`` is the kind of arrangement.

    ``learn`` is the training part and ``test`` the test part, as in the index. Every scene is an arrangement of its
    own, and so a patient. ``extra["segmentation"]`` is the picture of the objects' numbers.

    Args:
        folder: With ``index.json``.
        validation: Share of the training part that becomes validation, stratified by category; 0 for none.
        seed: Seed of that choice.
        progress: Called after each scene.

    Raises:
        ReadError: If the index is absent or damaged, or no scene can be used.
    """
    root = Path(os.path.abspath(folder))
    entries = _index(root / "index.json")
    categories = tuple(sorted({str(entry["category"]) for entry in entries.values() if "category" in entry}))

    def record(name: str) -> Record:
        entry = entries[name]
        try:
            return _record(root, entry, categories)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CrossdimError):
                raise
            reason = f"scene '{name}' lacks a field or has one of another kind ({error})"
            raise ReadError(root / "index.json", reason, AGAIN) from error

    records, skipped = collect(root, list(entries), record, progress)
    tasks = {"category": Task(kind="multiclass", classes=categories)} if len(categories) > 1 else {}
    source = "Object Segmentation Database (Richtsfeld et al., IROS 2012)"
    manifest = Manifest(Header(name="osd", root=str(root), tasks=tasks, source=source), records, skipped)
    if validation == 0:
        return manifest
    return carve_validation(manifest, validation, seed, stratify="category" if tasks else None)


def _record(root: Path, entry: Mapping[str, Any], categories: tuple[str, ...]) -> Record:
    name, folder = entry["name"], entry["split"]
    if folder not in _PARTS:
        raise ReadError(root / "index.json", f"scene '{name}' is in the part '{folder}'", nearest(folder, _PARTS))
    image, depth, labels = (root / folder / f"{name}_{what}" for what in ("rgb.jpg", "depth.png", "label.png"))
    size = image_size(image)
    if image_size(needed(depth, "depth picture")) != size:
        raise ReadError(depth, "has another size than the picture, which it lies on", AGAIN)
    lens = entry["intrinsics"]
    intrinsics = np.array([[lens["fx"], 0, lens["cx"]], [0, lens["fy"], lens["cy"]], [0, 0, 1]], dtype=np.float64)
    pose = _camera_from_world(root / "index.json", name, entry["world_from_camera"])
    camera = Camera(intrinsics, size, pose)
    check_camera(camera, f"{root / 'index.json'}, scene '{name}'")
    objects = entry["objects"]
    return Record(
        id=name,
        patient_id=name,
        split=_PARTS[folder],
        kind="scene",
        labels={"category": categories.index(entry["category"])} if len(categories) > 1 else {},
        extra={"segmentation": relative(str(root), str(labels))} if labels.is_file() else {},
        scene=SceneFiles(
            image=relative(str(root), str(image)),
            depth=relative(str(root), str(depth)),
            depth_unit_m=float(entry["depth_scale"]),
            camera=camera_record(camera),
            boxes=tuple(
                box(root / "index.json", OBJECT, _three(thing["center"]), _three(thing["size"]), float(thing["yaw"]))
                for thing in objects
            ),
        ),
    )


def _camera_from_world(path: Path, name: str, pose: Mapping[str, Any]) -> Float[np.ndarray, "4 4"]:
    """Return the inverse of a pose whose rotation is rounded: the nearest rotation is taken."""
    rounded, place = np.array(pose["R"], dtype=np.float64), np.array(pose["t"], dtype=np.float64)
    if rounded.shape != (3, 3) or place.shape != (3,) or not np.isfinite(rounded).all():
        raise ReadError(path, f"the pose of scene '{name}' is not a 3x3 rotation and a place", AGAIN)
    left, stretch, right = np.linalg.svd(rounded)
    if np.abs(stretch - 1).max() > RIGID_TOLERANCE or np.linalg.det(rounded) < 0:
        raise ReadError(
            path, f"the pose of scene '{name}' does not turn the camera, but stretches or mirrors it", AGAIN
        )
    turn = (left @ right).T
    return np.block([[turn, -(turn @ place)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = values
    return float(x), float(y), float(z)


def _index(path: Path) -> dict[str, Mapping[str, Any]]:
    needed(path, "index")
    try:
        return {entry["name"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, KeyError) as error:
        raise ReadError(path, f"is not a list of scenes with names ({error})", AGAIN) from error
