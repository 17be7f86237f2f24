"""SUN RGB-D (Song et al., CVPR 2015), in the three ways it is handed around.

* ``votenet``: what VoteNet's scripts extract and PiMAE trains on: ``sunrgbd_pc_bbox_votes_50k_v1_train`` and ``…_val``
  with ``<id>_pc.npz`` and ``<id>_bbox.npy``; camera and picture from ``sunrgbd_trainval`` beside them.
* ``trainval``: where those scripts start: ``depth/<id>.mat`` (points), ``label/<id>.txt``, ``calib``, ``image``.
* ``raw``: the published frames: ``image``, ``depth_bfx`` (or ``depth``), ``intrinsics.txt``, ``extrinsics``.

The scene is SUN's "upright depth" (x right, y forward, z up). Boxes are of VoteNet's ten classes. Both label files hold
half sizes, and VoteNet's headings turn clockwise; here sizes are full and yaws turn anticlockwise.

Differs from the authors' code: intrinsics count pixels from 1 in all three, and lose one here (their code does the same
by hand); the picture is never stretched to 730x530; a VoteNet scene whose points do not lie in the picture of the same
number keeps its points and loses the picture.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from crossdim.datasets.manifest import Header, Manifest, Progress, Record, Skipped, SplitName, Task
from crossdim.datasets.scan import in_order, relative
from crossdim.datasets.scene_record import SceneBox, SceneCamera, SceneFiles, camera_of, camera_record
from crossdim.datasets.scene_scan import (
    AGAIN,
    box,
    collect,
    image_size,
    lines_of,
    load_array,
    numbers,
    split_lists,
)
from crossdim.errors import GeometryError, ReadError
from crossdim.geometry import camera as cameras
from crossdim.geometry.camera import LEVEL, project, projection_matrix, visible

CLASSES = ("bed", "table", "sofa", "chair", "toilet", "desk", "dresser", "night_stand", "bookshelf", "bathtub")
"""The ten classes of the published comparison, in VoteNet's order."""

Layout = Literal["votenet", "trainval", "raw"]
LAYOUTS: tuple[Layout, ...] = ("votenet", "trainval", "raw")

Labels = Literal["v1", "v2"]
"""The two editions of the boxes; the published comparison is on v1."""

FIRST_TRAINING_ID = 5051
"""Numbers from here to 10335 are the training part, those below are what papers validate and test on."""

_IN_VIEW = 0.9
"""Share of a scene's points that lie in its picture. They come from that picture's depth, so all but roundings do."""


@dataclass
class _Notes:
    """What is counted on the way."""

    other_classes: Counter[str] = field(default_factory=Counter)
    mismatched: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        lines = []
        if self.other_classes:
            names = ", ".join(name for name, _ in self.other_classes.most_common(5))
            count = self.other_classes.total()
            lines.append(f"{count} boxes of {len(self.other_classes)} classes beyond the ten are left out ({names})")
        if self.mismatched:
            lines.append(
                f"{len(self.mismatched)} scenes have points that do not lie in the picture of their number and go "
                f"without camera and picture; the first is {self.mismatched[0]}"
            )
        return lines


def from_sunrgbd(
    folder: str | os.PathLike[str],
    *,
    layout: Layout | None = None,
    labels: Labels = "v1",
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of SUN RGB-D.

    Parts are the published ones in the first two layouts: training is 5051 to 10335 (or the folder ``…_train``, or
    ``train_data_idx.txt``), validation the rest; the set's authors drew them so that no place is in both, and frames
    have no other name of their place than their number. Raw frames are in no part: draw them by patient, which is the
    recording (the frames of a folder ``sun3ddata/place/recording``) or else the frame. They have the task ``place``,
    the kind of room, and no boxes.

    Args:
        folder: The folder of the layout or one around it.
        layout: What to read; the first of ``votenet``, ``trainval``, ``raw`` that is there if left out.
        labels: Which boxes; raw frames have none.
        progress: Called after each frame.

    Raises:
        ReadError: If the layout is not there, or no frame of it can be used.
    """
    root = Path(os.path.abspath(folder))
    readers_of: dict[Layout, Callable[[Path, Labels, Progress | None], Manifest | None]] = {
        "votenet": _votenet,
        "trainval": _trainval,
        "raw": _raw,
    }
    for name in LAYOUTS if layout is None else (layout,):
        manifest = readers_of[name](root, labels, progress)
        if manifest is not None:
            return manifest
    wanted = "none of the layouts" if layout is None else f"not the layout '{layout}'"
    raise ReadError(root, f"holds {wanted} of SUN RGB-D", "Name the folder with sunrgbd_trainval or the raw frames")


def _manifest(
    root: Path, records: tuple[Record, ...], skipped: tuple[Skipped, ...], notes: Sequence[str], tasks: dict[str, Task]
) -> Manifest:
    header = Header(name="sunrgbd", root=str(root), tasks=tasks, source="SUN RGB-D (Song et al., CVPR 2015)")
    return Manifest(header, records, skipped, tuple(notes))


def _votenet(root: Path, labels: Labels, progress: Progress | None) -> Manifest | None:
    base = root.parent if root.name.startswith("sunrgbd_pc_bbox_votes") else root
    parts: tuple[SplitName, ...] = ("train", "val")
    folders = {part: base / f"sunrgbd_pc_bbox_votes_50k_{labels}_{part}" for part in parts}
    if root != base:
        folders = {part: place for part, place in folders.items() if place == root}
    scenes: dict[str, tuple[SplitName, Path]] = {}
    for part, place in folders.items():
        for file in sorted(place.glob("*_pc.npz")):
            scenes[f"{part}/{file.name.removesuffix('_pc.npz')}"] = (part, file)
    if not scenes:
        return None
    notes = _Notes()

    def record(name: str) -> Record:
        part, points = scenes[name]
        number = points.name.removesuffix("_pc.npz")
        camera, image = _picture(base / "sunrgbd_trainval", points.parent, number)
        if camera is not None and not _lie_in_view(points, camera):
            notes.mismatched.append(name)
            camera, image = None, None
        files = SceneFiles(
            points=relative(str(root), str(points)),
            image=relative(str(root), str(image)) if image is not None else None,
            camera=camera,
            boxes=_votenet_boxes(points.with_name(f"{number}_bbox.npy")),
        )
        return Record(id=name, patient_id=name, split=part, kind="scene", scene=files)

    records, skipped = collect(root, list(scenes), record, progress)
    without = sum(one.scene is not None and one.scene.camera is None for one in records) - len(notes.mismatched)
    missing = [f"{without} scenes have no camera and picture beside them"] if without else []
    described = [f"VoteNet's layout, boxes {labels}", *missing, *notes.lines()]
    return _manifest(root, records, skipped, described, {})


def _picture(trainval: Path, own: Path, number: str) -> tuple[SceneCamera | None, Path | None]:
    """Return camera and picture of a VoteNet scene, which lie in sunrgbd_trainval or in the scene's own folder."""
    for place in (own, trainval):
        image, calibration = place / "image" / f"{number}.jpg", place / "calib" / f"{number}.txt"
        if image.is_file() or calibration.is_file():
            return _camera(calibration, image_size(image)), image
    return None, None


def _camera(path: Path, size: tuple[int, int]) -> SceneCamera:
    lines = lines_of(path, "calibration")
    if len(lines) != 2:
        raise ReadError(path, f"has {len(lines)} lines and needs two: tilt and intrinsics", AGAIN)
    tilt, intrinsics = (
        numbers(path, line.split(), 9, what) for line, what in zip(lines, ("tilt", "intrinsics"), strict=True)
    )
    return _checked_camera(path, tilt, intrinsics, size)


def _checked_camera(path: Path, tilt: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> SceneCamera:
    try:
        return camera_record(cameras.from_sunrgbd(tilt, intrinsics, size))
    except GeometryError as error:
        raise ReadError(path, f"is no calibration: {error.reason}", AGAIN) from error


def _lie_in_view(points: Path, camera: SceneCamera) -> bool:
    from crossdim.readers.pointcloud import read_points

    known = camera_of(camera)
    places = project(read_points(str(points)).points[::50].astype(np.float64), projection_matrix(known))
    return bool(visible(*places, known.size).mean() >= _IN_VIEW)


def _votenet_boxes(path: Path) -> tuple[SceneBox, ...]:
    rows = load_array(path, "box file")
    if rows.size == 0:
        return ()
    if rows.ndim != 2 or rows.shape[1] != 8:
        raise ReadError(path, f"has the shape {rows.shape}, and boxes have 8 numbers each", AGAIN)
    found = []
    for row in rows.tolist():
        if row[7] not in range(len(CLASSES)):
            raise ReadError(path, f"has the class {row[7]:g}, and there are 0 to {len(CLASSES) - 1}", AGAIN)
        found.append(box(path, CLASSES[int(row[7])], row[:3], [2 * half for half in row[3:6]], -row[6]))
    return tuple(found)


def _trainval(root: Path, labels: Labels, progress: Progress | None) -> Manifest | None:
    base = root / "sunrgbd_trainval" if (root / "sunrgbd_trainval").is_dir() else root
    scans = sorted(file.stem for file in (base / "depth").glob("*.mat"))
    if not scans:
        return None
    edition = base / "label_v1" if labels == "v1" and (base / "label_v1").is_dir() else base / "label"
    listed = split_lists(base, {"train": [base / "train_data_idx.txt"], "val": [base / "val_data_idx.txt"]})
    part_of = {f"{int(number):06d}": part for number, part in listed.items()}
    notes = _Notes()

    def record(name: str) -> Record:
        image = base / "image" / f"{name}.jpg"
        files = SceneFiles(
            points=relative(str(root), str(base / "depth" / f"{name}.mat")),
            image=relative(str(root), str(image)),
            camera=_camera(base / "calib" / f"{name}.txt", image_size(image)),
            boxes=_text_boxes(edition / f"{name}.txt", notes.other_classes),
        )
        part: SplitName | None = part_of.get(name)
        if not part_of:
            part = "train" if int(name) >= FIRST_TRAINING_ID else "val"
        return Record(id=name, patient_id=name, split=part, kind="scene", scene=files)

    records, skipped = collect(root, [name for name in scans if name.isdigit()], record, progress)
    return _manifest(root, records, skipped, [f"points of every pixel, boxes of {edition.name}", *notes.lines()], {})


def _text_boxes(path: Path, other_classes: Counter[str]) -> tuple[SceneBox, ...]:
    """Return the boxes of a label file: class, 2D box, centre, half width, length and height, and a direction."""
    found = []
    for line in lines_of(path, "label file"):
        label, *words = line.split()
        values = numbers(path, words, 12, label)
        half_width, half_length, half_height = values[7:10]
        if label not in CLASSES:
            other_classes[label] += 1
            continue
        size = (2 * half_length, 2 * half_width, 2 * half_height)
        found.append(box(path, label, values[4:7].tolist(), size, float(np.arctan2(values[11], values[10]))))
    return tuple(found)


def _raw(root: Path, labels: Labels, progress: Progress | None) -> Manifest | None:
    frames = {}
    for place, folders, files in os.walk(root):
        if "intrinsics.txt" in files and {"depth_bfx", "depth"} & set(folders):
            frames[relative(str(root), place) if Path(place) != root else root.name] = Path(place)
            folders.clear()
    if not frames:
        return None
    kinds = {name: _room(place) for name, place in frames.items()}
    classes = tuple(in_order({kind for kind in kinds.values() if kind is not None}))

    def record(name: str) -> Record:
        kind = kinds[name] if len(classes) > 1 else None
        place = frames[name]
        image, depth = _only_file(place / "image"), _only_file(_depth_folder(place))
        size = image_size(image)
        if image_size(depth) != size:
            raise ReadError(depth, f"has another size than its picture ({size[0]} x {size[1]})", AGAIN)
        files = SceneFiles(
            image=relative(str(root), str(image)),
            depth=relative(str(root), str(depth)),
            depth_encoding="sunrgbd",
            camera=_raw_camera(place, size),
        )
        return Record(
            id=name,
            patient_id=_recording(name),
            kind="scene",
            labels={"place": classes.index(kind)} if kind is not None else {},
            scene=files,
        )

    records, skipped = collect(root, in_order(frames), record, progress)
    notes = ["raw frames: no boxes are read, and no parts are published beside them"]
    tasks = {"place": Task(kind="multiclass", classes=classes)} if len(classes) > 1 else {}
    return _manifest(root, records, skipped, notes, tasks)


def _room(frame: Path) -> str | None:
    file = frame / "scene.txt"
    return (" ".join(lines_of(file, "kind of room")).strip() or None) if file.is_file() else None


def _depth_folder(frame: Path) -> Path:
    """Return the folder of the depth picture, the one with filled gaps if it is there."""
    return frame / "depth_bfx" if (frame / "depth_bfx").is_dir() else frame / "depth"


def _only_file(folder: Path) -> Path:
    files = sorted(file for file in folder.glob("*") if file.is_file()) if folder.is_dir() else []
    if len(files) != 1:
        raise ReadError(folder, f"holds {len(files)} files, and a frame has one", AGAIN)
    return files[0]


def _raw_camera(frame: Path, size: tuple[int, int]) -> SceneCamera:
    """Return the camera of a raw frame; its extrinsics turn the camera's own axes upright, the last edition counts."""
    lens = frame / "intrinsics.txt"
    intrinsics = numbers(lens, " ".join(lines_of(lens, "intrinsics")).split(), 9, "intrinsics").reshape(3, 3)
    editions = sorted((frame / "extrinsics").glob("*.txt"))
    if not editions:
        raise ReadError(frame / "extrinsics", "holds no tilt of the camera", AGAIN)
    words = " ".join(lines_of(editions[-1], "tilt")).split()
    upright = numbers(editions[-1], words, 12, "extrinsics").reshape(3, 4)[:, :3]
    axes = LEVEL[:3, :3].T
    return _checked_camera(editions[-1], axes @ upright @ axes.T, intrinsics, size)


def _recording(name: str) -> str:
    """Return whose frame it is: in ``sun3ddata`` many frames are of one recording, whose folder they lie in."""
    parent = name.rpartition("/")[0]
    return parent if parent and "sun3ddata" in name.split("/") else name
