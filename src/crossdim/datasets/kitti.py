"""KITTI's 3D object detection set (Geiger et al., CVPR 2012): laser scans with the left colour picture.

The scene is the laser scanner's frame (x forward, y left, z up), which the points are stored in; boxes come from the
rectified reference camera's frame (x right, y down, z forward). A box's own x is its length, along which it drives.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from crossdim.datasets.manifest import Header, Manifest, Progress, Record, SplitName
from crossdim.datasets.scan import relative
from crossdim.datasets.scene_record import SceneBox, SceneCamera, SceneFiles, camera_record
from crossdim.datasets.scene_scan import AGAIN, box, collect, image_size, lines_of, numbers, split_lists
from crossdim.errors import GeometryError, ReadError, nearest
from crossdim.geometry import camera as cameras

CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
"""What a box may be; ``DontCare`` marks regions of the picture and has no box."""

_CALIBRATION = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
_FIELDS = 15
_DRIVES = ("mapping", "devkit/mapping", "devkit_object/mapping")


def from_kitti(
    folder: str | os.PathLike[str],
    *,
    lists: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of KITTI's labelled frames, or of its unlabelled ones where they are named.

    Parts are those of published lists (``train.txt``, ``val.txt``, ``test.txt`` with a frame a line). Without them no
    part is set: draw them by patient. A patient is a drive where the devkit's ``mapping`` is in the folder, so that
    pictures taken one after another stay together, and else a frame.

    Args:
        folder: With ``velodyne``, ``image_2``, ``calib`` and ``label_2`` in it or in its ``training``. Without
            ``label_2`` nothing is known of the objects.
        lists: Folder of the lists; ``ImageSets`` in the folder if left out.
        progress: Called after each frame.

    Raises:
        ReadError: If no frame can be used, or a frame is in two lists.
    """
    root = Path(os.path.abspath(folder))
    frames = root if (root / "velodyne").is_dir() else root / "training"
    if not (frames / "velodyne").is_dir():
        raise ReadError(root, "has no folder velodyne, nor training/velodyne", "Name the folder of KITTI's object set")
    labelled = (frames / "label_2").is_dir()
    listed = Path(lists) if lists is not None else root / "ImageSets"
    names: dict[SplitName, str] = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
    part_of = split_lists(root, {part: [listed / name] for part, name in names.items()})
    if lists is not None and not part_of:
        raise ReadError(listed, "has none of train.txt, val.txt and test.txt", "Name the folder of the lists")
    drives = _drives(root)
    dropped: dict[str, int] = {}

    def record(name: str) -> Record:
        image = frames / "image_2" / f"{name}.png"
        calibration = _calibration(frames / "calib" / f"{name}.txt")
        size = image_size(image)
        boxes = None
        if labelled:
            boxes, dropped[name] = _boxes(frames / "label_2" / f"{name}.txt", calibration)
        files = SceneFiles(
            points=relative(str(root), str(frames / "velodyne" / f"{name}.bin")),
            image=relative(str(root), str(image)),
            camera=_camera(frames / "calib" / f"{name}.txt", calibration, size),
            boxes=boxes,
        )
        return Record(id=name, patient_id=drives.get(name, name), split=part_of.get(name), kind="scene", scene=files)

    scans = sorted(path.stem for path in (frames / "velodyne").glob("*.bin"))
    records, skipped = collect(frames, scans, record, progress)
    notes = [
        "frames of one drive have one patient id" if drives else "no mapping of the devkit: every frame is a patient",
        *([f"{sum(dropped.values())} regions marked DontCare are not objects and left out"] if labelled else []),
    ]
    if part_of and (alone := sum(one.split is None for one in records)):
        notes.append(f"{alone} frames are in none of the lists and in no part")
    header = Header(name="kitti", root=str(root), source="KITTI 3D object detection (Geiger et al., CVPR 2012)")
    return Manifest(header, records, skipped, tuple(notes))


def _calibration(path: Path) -> dict[str, Float[np.ndarray, "rows columns"]]:
    lines = (line.partition(":") for line in lines_of(path, "calibration"))
    found = {name.strip(): text.split() for name, _, text in lines}
    absent = sorted(_CALIBRATION.keys() - found.keys())
    if absent:
        raise ReadError(path, f"has no line {absent[0]}", AGAIN)
    return {
        name: numbers(path, found[name], shape[0] * shape[1], name).reshape(shape)
        for name, shape in _CALIBRATION.items()
    }


def _camera(
    path: Path, calibration: dict[str, Float[np.ndarray, "rows columns"]], size: tuple[int, int]
) -> SceneCamera:
    try:
        return camera_record(
            cameras.from_kitti(calibration["P2"], calibration["R0_rect"], calibration["Tr_velo_to_cam"], size)
        )
    except GeometryError as error:
        raise ReadError(path, f"is no calibration: {error.reason}", AGAIN) from error


def _boxes(path: Path, calibration: dict[str, Float[np.ndarray, "rows columns"]]) -> tuple[tuple[SceneBox, ...], int]:
    """Return the objects of a frame in the laser scanner's frame, and how many regions are none."""
    turn = calibration["R0_rect"] @ calibration["Tr_velo_to_cam"][:, :3]
    shift = calibration["R0_rect"] @ calibration["Tr_velo_to_cam"][:, 3]
    boxes, dropped = [], 0
    for line in lines_of(path, "label file"):
        label, *words = line.split()
        if label == "DontCare":
            dropped += 1
            continue
        if label not in CLASSES:
            raise ReadError(path, f"has the class '{label}', which KITTI has not", nearest(label, CLASSES))
        height, width, length, x, bottom, z, around = numbers(path, words[: _FIELDS - 1], _FIELDS - 1, label)[7:]
        center = np.linalg.solve(turn, np.array([x, bottom - height / 2, z]) - shift)
        ahead = np.linalg.solve(turn, np.array([np.cos(around), 0.0, -np.sin(around)]))
        boxes.append(box(path, label, center.tolist(), (length, width, height), float(np.arctan2(ahead[1], ahead[0]))))
    return tuple(boxes), dropped


def _drives(root: Path) -> dict[str, str]:
    """Return the drive of each frame from the devkit's mapping; nothing where it is not there."""
    for place in _DRIVES:
        order, drives = root / place / "train_rand.txt", root / place / "train_mapping.txt"
        if order.is_file() and drives.is_file():
            rows = [words for line in lines_of(drives, "mapping") if len(words := line.split()) == 3]
            picks = [word.strip() for line in lines_of(order, "order of the mapping") for word in line.split(",")]
            if not all(word.isdigit() and 1 <= int(word) <= len(rows) for word in picks):
                raise ReadError(order, f"is no order of the {len(rows)} rows of {drives.name}", AGAIN)
            return {f"{frame:06d}": rows[int(word) - 1][1] for frame, word in enumerate(picks)}
    return {}
