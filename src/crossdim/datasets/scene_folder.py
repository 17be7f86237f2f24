"""Scenes in plain folders: what one records oneself.

A **scene folder** holds one scene: ``points.*`` or ``depth.*``, ``image.*``, ``camera.json``, and ``boxes.json`` where
the objects are known. A **folder of frames** holds many pictures by one camera: ``rgb/`` (or ``image/``, ``color/``),
``depth/`` or ``points/``, whose files have the same stems, ``camera.json`` beside them, and ``boxes/<stem>.json`` where
the objects of a frame are known. Both may lie at any depth below the folder that is given.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from crossdim.datasets.manifest import Header, Manifest, Progress, Record, Skipped
from crossdim.datasets.scan import in_order, patient_rule, relative
from crossdim.datasets.scene_record import SceneFiles, box_records, camera_record
from crossdim.datasets.scene_scan import collect, image_size
from crossdim.errors import ReadError, RecipeError
from crossdim.readers.limits import Limits
from crossdim.readers.scene_folder import CAMERA_FILE, IMAGE_FOLDERS, frame_names, open_scene, scene_layout


def from_scene_folder(
    folder: str | os.PathLike[str],
    *,
    patient: str = "folder",
    name: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of every scene folder and every frame in a folder; no part is set.

    Args:
        folder: A scene folder, a folder of frames, or one with any of them below it.
        patient: What stays together when parts are drawn. ``folder``: the frames of a folder, which show one place;
            ``file``: nothing, each frame stands alone; or a regular expression with one group, searched in the path of
            the scene or frame, such as ``(kitchen[0-9]+)``.
        name: Of the data set; the folder's if left out.
        progress: Called after each scene and frame.

    Raises:
        ReadError: If there is no folder, or no scene in it that can be used.
        RecipeError: If ``patient`` is none of these.
    """
    root = os.path.abspath(folder)
    if not os.path.isdir(root):
        raise ReadError(root, "is not a folder", "Name a folder of scenes or frames")
    if patient == "dicom":
        raise RecipeError("patient 'dicom'", "is for DICOM files", "Use folder, file, or an expression with one group")
    rule = patient_rule(patient) if patient not in ("file", "folder") else None
    found = {_name(root, place, frame): (place, frame) for place, frame in _scenes(root)}
    without = [Skipped(place, f"has no {CAMERA_FILE}") for place in _folders(root) if _lacks_a_camera(place)]
    if not found:
        reason = f"{without[0].path} has no {CAMERA_FILE}" if without else f"no folder has a {CAMERA_FILE}"
        remedy = f"Put a {CAMERA_FILE} beside depth or points: crossdim prepare scenes --help"
        raise ReadError(root, f"holds no scene: {reason}", remedy)

    def record(one: str) -> Record:
        place, frame = found[one]
        whose = one
        if rule is not None:
            whose = rule(root, root, os.path.join(root, one)) or ""
        elif patient == "folder" and frame is not None:
            whose = _name(root, place, None)
        if not whose:
            raise ReadError(os.path.join(root, one), f"does not match '{patient}'", "Mend the expression")
        return Record(id=one, patient_id=whose, kind="scene", scene=_files(root, place, frame))

    records, skipped = collect(Path(root), in_order(found), record, progress)
    header = Header(name=name or os.path.basename(root), root=root, source="scene folders")
    return Manifest(header, records, (*without, *skipped))


def holds_scenes(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is a scene folder or a folder of frames, or holds any below it.

    Args:
        folder: Any folder.
    """
    return next(_scenes(os.path.abspath(folder)), None) is not None


def _folders(root: str) -> Iterator[str]:
    """Yield a folder and those below it, but not those that are parts of a scene or of frames."""
    for place, folders, _ in os.walk(root):
        folders[:] = [] if scene_layout(place) is not None else sorted(f for f in folders if not f.startswith("."))
        yield place


def _scenes(root: str) -> Iterator[tuple[str, str | None]]:
    """Yield each scene folder, and each frame's folder and name."""
    for place in _folders(root):
        layout = scene_layout(place)
        if layout == "scene":
            yield place, None
        elif layout == "frames":
            yield from ((place, frame) for frame in frame_names(place))


def _name(root: str, place: str, frame: str | None) -> str:
    parts = [relative(root, place)] if place != root else []
    return "/".join([*parts, frame] if frame is not None else parts) or os.path.basename(root)


def _lacks_a_camera(place: str) -> bool:
    """Tell whether a folder would be a scene or frames if it had a camera."""
    if os.path.isfile(os.path.join(place, CAMERA_FILE)):
        return False
    entries = list(os.scandir(place))
    files = {PurePath(entry.name).stem.lower() for entry in entries if entry.is_file()}
    folders = {entry.name.lower() for entry in entries if entry.is_dir()}
    readings = {"depth", "points"}
    return bool(files & readings) or bool(folders & readings and folders & set(IMAGE_FOLDERS))


def _files(root: str, place: str, frame: str | None) -> SceneFiles:
    opened = open_scene(place, frame, Limits())
    if opened.contradictions:
        raise opened.contradictions[0]
    sources = opened.sources
    if sources.image is not None and sources.camera is not None:
        size = image_size(Path(sources.image))
        if size != sources.camera.size:
            shown = " x ".join(map(str, size)), " x ".join(map(str, sources.camera.size))
            reason = f"has {shown[0]} pixels (height x width), and its camera {shown[1]}"
            raise ReadError(sources.image, reason, f"Give this picture's camera in {CAMERA_FILE}")
    points, image, depth = (
        relative(root, path) if path is not None else None for path in (sources.points, sources.image, sources.depth)
    )
    return SceneFiles(
        points=points,
        image=image,
        depth=depth,
        depth_unit_m=sources.depth_unit_m,
        depth_encoding=sources.depth_encoding,
        camera=camera_record(sources.camera) if sources.camera is not None else None,
        boxes=box_records(sources.boxes) if sources.boxes is not None else None,
    )
