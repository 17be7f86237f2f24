"""ScanNet (Dai et al., CVPR 2017): meshes of rooms; points and boxes, without pictures.

Two layouts are read: the published ``scans/<scene>/`` (``<scene>_vh_clean_2.ply``, the segments of its vertices, the
objects that segments make, and ``<scene>.txt`` with ``axisAlignment``), and what VoteNet's scripts export of it
(``<scene>_vert.npy`` and ``<scene>_bbox.npy``, already aligned).

The scene is the file's own frame. In the published layout boxes are found in the aligned room, with edges along its
walls, and turned back into the mesh's frame; so their yaws are all the same there. Boxes are of the eighteen classes of
the published comparison; their sizes are full in both layouts.
"""

import csv
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from crossdim.datasets.manifest import Header, Manifest, Progress, Record, SplitName
from crossdim.datasets.scan import relative
from crossdim.datasets.scene_record import SceneBox, SceneFiles
from crossdim.datasets.scene_scan import AGAIN, box, collect, lines_of, load_array, needed, numbers, split_lists
from crossdim.errors import CrossdimError, ReadError
from crossdim.geometry.camera import RIGID_TOLERANCE

CLASSES = {
    3: "cabinet",
    4: "bed",
    5: "chair",
    6: "sofa",
    7: "table",
    8: "door",
    9: "window",
    10: "bookshelf",
    11: "picture",
    12: "counter",
    14: "desk",
    16: "curtain",
    24: "refrigerator",
    28: "shower curtain",
    33: "toilet",
    34: "sink",
    36: "bathtub",
    39: "garbage bin",
}
"""The eighteen classes of the published comparison, by their NYU40 numbers."""

_LISTS: dict[SplitName, str] = {
    "train": "scannetv2_train.txt",
    "val": "scannetv2_val.txt",
    "test": "scannetv2_test.txt",
}
_LIST_PLACES = ("", "meta_data", "splits")
_TABLE = "scannetv2-labels.combined.tsv"
_EXPORTED = ("", "scannet_train_detection_data")


@dataclass(frozen=True)
class _Found:
    name: str
    points: Path
    published: bool


def from_scannet(folder: str | os.PathLike[str], *, progress: Progress | None = None) -> Manifest:
    """Return the manifest of ScanNet's scenes; the aligned export is taken where both layouts are there.

    Parts are those of ``scannetv2_train.txt`` and so on, if they are in the folder, its ``meta_data`` or ``splits``;
    else draw them by patient. A patient is a room: ``scene0000_00`` and ``scene0000_01`` are two scans of one.

    Args:
        folder: With ``scans`` or the exported arrays.
        progress: Called after each scene.

    Raises:
        ReadError: If no scene can be used, or one is in two lists.
    """
    root = Path(os.path.abspath(folder))
    scenes = _scenes(root)
    if not scenes:
        raise ReadError(root, "holds neither scans/<scene>/ nor <scene>_vert.npy", "Name ScanNet's folder")
    places = [root / place for place in _LIST_PLACES]
    part_of = split_lists(root, {part: [folder / file for folder in places] for part, file in _LISTS.items()})
    numbers_of = _class_numbers(places) if any(scene.published for scene in scenes.values()) else {}

    def record(name: str) -> Record:
        scene = scenes[name]
        boxes = _published_boxes(scene, numbers_of) if scene.published else _exported_boxes(scene)
        files = SceneFiles(points=relative(str(root), str(needed(scene.points, "mesh"))), boxes=boxes)
        room = re.sub(r"_\d+$", "", name)
        return Record(id=name, patient_id=room, split=part_of.get(name), kind="scene", scene=files)

    records, skipped = collect(root, sorted(scenes), record, progress)
    notes = ["scans of one room have one patient id"]
    if part_of and (alone := sum(one.split is None for one in records)):
        notes.append(f"{alone} scenes are in none of the lists and in no part")
    header = Header(name="scannet", root=str(root), source="ScanNet (Dai et al., CVPR 2017)")
    return Manifest(header, records, skipped, tuple(notes))


def _scenes(root: Path) -> dict[str, _Found]:
    found = {}
    base = root / "scans" if (root / "scans").is_dir() else root
    for scan in sorted(base.glob("scene*")):
        if scan.is_dir():
            found[scan.name] = _Found(scan.name, scan / f"{scan.name}_vh_clean_2.ply", published=True)
    for place in _EXPORTED:
        for file in sorted((root / place).glob("*_vert.npy")):
            name = file.name.removesuffix("_vert.npy")
            found[name] = _Found(name, file, published=False)
    return found


def _exported_boxes(scene: _Found) -> tuple[SceneBox, ...] | None:
    path = scene.points.with_name(f"{scene.name}_bbox.npy")
    if not path.is_file():
        return None
    rows = load_array(path, "box file")
    if rows.size and (rows.ndim != 2 or rows.shape[1] != 7):
        raise ReadError(path, f"has the shape {rows.shape}, and boxes have 7 numbers each", AGAIN)
    found = []
    for row in rows.reshape(-1, 7).tolist():
        if row[6] not in CLASSES:
            raise ReadError(path, f"has the class {row[6]:g}, which is none of the eighteen", AGAIN)
        found.append(box(path, CLASSES[int(row[6])], row[:3], row[3:6], 0.0))
    return tuple(found)


def _published_boxes(scene: _Found, numbers_of: Mapping[str, int]) -> tuple[SceneBox, ...] | None:
    """Return the boxes around a scene's objects; None for scenes of the test part, which has no objects published."""
    from crossdim.readers.pointcloud import read_points

    folder = scene.points.parent
    aggregation = folder / f"{scene.name}.aggregation.json"
    if not aggregation.is_file():
        return None
    if not numbers_of:
        raise ReadError(folder, f"has objects, and there is no {_TABLE} that says their classes", "Put it beside scans")
    objects, of_vertex = _objects(aggregation), _segments(folder / f"{scene.name}_vh_clean_2.0.010000.segs.json")
    points = read_points(str(needed(scene.points, "mesh"))).points.astype(np.float64)
    if len(points) != len(of_vertex):
        reason = f"has {len(points)} vertices, and its segments are of {len(of_vertex)}"
        raise ReadError(scene.points, reason, AGAIN)
    alignment = _alignment(folder / f"{scene.name}.txt")
    aligned = points @ alignment[:3, :3].T + alignment[:3, 3]
    yaw = -float(np.arctan2(alignment[1, 0], alignment[0, 0]))
    found = []
    for label, segments in objects:
        number = numbers_of.get(label)
        inside = aligned[np.isin(of_vertex, segments)]
        if number not in CLASSES or len(inside) == 0:
            continue
        low, high = inside.min(axis=0), inside.max(axis=0)
        center = np.linalg.solve(alignment[:3, :3], (low + high) / 2 - alignment[:3, 3])
        found.append(box(aggregation, CLASSES[number], center.tolist(), (high - low).tolist(), yaw))
    return tuple(found)


def _alignment(path: Path) -> Float[np.ndarray, "4 4"]:
    """Return what turns the mesh along its walls: a rotation about z and a shift; nothing where none is given."""
    for line in lines_of(path, "description of the scene"):
        name, _, text = line.partition("=")
        if name.strip() != "axisAlignment":
            continue
        matrix = numbers(path, text.split(), 16, "axisAlignment").reshape(4, 4)
        upright = np.abs(matrix[2, :3] - (0, 0, 1)).max() < RIGID_TOLERANCE
        if not upright or np.abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max() > RIGID_TOLERANCE:
            raise ReadError(path, "has an axisAlignment that is no rotation about z", AGAIN)
        return matrix
    return np.eye(4)


def _objects(path: Path) -> list[tuple[str, list[int]]]:
    try:
        groups = _json(path, "aggregation")["segGroups"]
        return [(str(group["label"]), [int(one) for one in group["segments"]]) for group in groups]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CrossdimError):
            raise
        raise ReadError(path, f"does not list objects and their segments ({error})", AGAIN) from error


def _segments(path: Path) -> Int[np.ndarray, " vertices"]:
    try:
        return np.array(_json(path, "segmentation")["segIndices"], dtype=np.int64).reshape(-1)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CrossdimError):
            raise
        raise ReadError(path, f"does not list the segment of every vertex ({error})", AGAIN) from error


def _json(path: Path, what: str) -> Any:
    try:
        return json.loads(needed(path, what).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReadError(path, f"is damaged ({error})", AGAIN) from error


def _class_numbers(places: list[Path]) -> dict[str, int]:
    """Return the NYU40 number of each name that annotators gave; nothing where the table is not there."""
    for place in places:
        path = place / _TABLE
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))
            if not rows or not {"raw_category", "nyu40id"} <= rows[0].keys():
                raise ReadError(path, "has no columns raw_category and nyu40id", AGAIN)
            return {row["raw_category"]: int(row["nyu40id"]) for row in rows if (row["nyu40id"] or "").isdigit()}
    return {}
