"""Folders that are scenes, and folders of frames.

A scene's folder holds ``camera.json`` and, where there are any, ``image.*``, ``points.*`` or ``depth.*``, and
``boxes.json``. A folder of frames holds ``camera.json``, pictures in ``rgb``, ``image``, ``images`` or ``color``, and
files with the same names (but for the ending) in ``depth`` or ``points``, and perhaps ``boxes/name.json``; ``#name``
chooses a frame.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from crossdim.errors import GeometryError, ReadError, nearest
from crossdim.readers.formats import Format, ending_format
from crossdim.readers.limits import Limits
from crossdim.readers.pointcloud import POINT_FORMATS
from crossdim.readers.scene import SceneSources, assemble, read_scene
from crossdim.readers.scene_json import DEPTH_UNIT_M, depth_unit_m, parse_boxes, parse_camera, read_json
from crossdim.samples import Origin, Scene

CAMERA_FILE = "camera.json"
BOXES_FILE = "boxes.json"
IMAGE_FOLDERS = ("rgb", "image", "images", "color")

_IMAGE_FORMATS: tuple[Format, ...] = ("picture", "tiff")
_DEPTH_FORMATS: tuple[Format, ...] = ("picture", "tiff", "npy")


@dataclass(frozen=True)
class OpenedScene:
    """A scene whose parts were found, and not read.

    Attributes:
        sources: Where the parts are.
        contradictions: Why ``read`` refuses it, as far as its camera shows.
        choices: Frames that can stand behind ``#``.
        needs_choice: Why one of them has to be named; empty if none has to.
        limits: What is allowed.
    """

    sources: SceneSources
    contradictions: tuple[GeometryError, ...]
    choices: tuple[str, ...]
    needs_choice: str
    limits: Limits

    @property
    def kind(self) -> Literal["scene"]:
        """The word for what it is read as."""
        return "scene"

    @property
    def path(self) -> str:
        """The folder."""
        return self.sources.origin.path

    def read(self) -> Scene:
        """Read the parts, and check that they fit one another.

        Raises:
            ReadError: If a frame has to be named, or a part is damaged.
            GeometryError: If the parts contradict one another.
        """
        if self.needs_choice:
            raise ReadError(self.path, self.needs_choice, f"Choose one, such as '{self.path}#{self.choices[0]}'")
        if self.contradictions:
            raise self.contradictions[0]
        return read_scene(self.sources, limits=self.limits)

    def look(self) -> tuple[Scene, tuple[GeometryError, ...]]:
        """Read the parts, and tell what contradicts what instead of refusing it.

        Raises:
            ReadError: If a part is damaged.
            GeometryError: If a depth picture has no camera, or one of another size.
        """
        if self.contradictions and self.sources.depth is not None:
            raise self.contradictions[0]
        scene, contradictions = assemble(self.sources, self.limits)
        return scene, self.contradictions + contradictions


def scene_layout(folder: str) -> Literal["scene", "frames"] | None:
    """Tell whether a folder is a scene, a folder of frames, or neither.

    Args:
        folder: The folder.
    """
    if not os.path.isfile(os.path.join(folder, CAMERA_FILE)):
        return None
    if any(_parts(folder).values()):
        return "scene"
    return "frames" if _frames(folder) else None


def frame_names(folder: str) -> tuple[str, ...]:
    """Return the names of the frames of a folder of frames, sorted.

    Args:
        folder: The folder.
    """
    return tuple(_frames(folder))


def open_scene(folder: str, select: str | None, limits: Limits) -> OpenedScene:
    """Find the parts of a scene or of a frame, and read its camera and boxes.

    Args:
        folder: A scene's folder, or a folder of frames.
        select: Name of a frame.
        limits: What is allowed.

    Raises:
        ReadError: If the frame is not there, a part is there twice, or camera or boxes are damaged.
    """
    whole = scene_layout(folder) == "scene"
    frames = {} if whole else _frames(folder)
    if select is not None and select not in frames:
        remedy = nearest(select, frames) if frames else "Leave out what follows the '#'"
        raise ReadError(f"{folder}#{select}", "names no frame of the folder", remedy)
    needs_choice = f"holds {len(frames)} frames" if select is None and len(frames) > 1 else ""
    parts = _parts(folder) if whole else frames[select or next(iter(frames))]
    one = {part: _the_one(folder, part, paths) for part, paths in parts.items()}
    camera_path = os.path.join(folder, CAMERA_FILE)
    boxes_path = os.path.join(folder, BOXES_FILE if whole else f"boxes/{select or next(iter(frames))}.json")
    described = read_json(camera_path, limits)
    camera, contradictions = None, tuple[GeometryError, ...]()
    try:
        camera = parse_camera(described, camera_path)
    except GeometryError as error:
        contradictions = (error,)
    sources = SceneSources(
        origin=Origin(folder, select),
        points=one["points"],
        depth=one["depth"],
        image=one["image"],
        camera=camera,
        boxes=parse_boxes(read_json(boxes_path, limits), boxes_path) if os.path.isfile(boxes_path) else None,
        depth_unit_m=DEPTH_UNIT_M if contradictions else depth_unit_m(described, camera_path),
    )
    return OpenedScene(sources, contradictions, tuple(frames), needs_choice, limits)


def _parts(folder: str) -> dict[str, list[str]]:
    """Return the files of each part of a scene's folder."""
    wanted: dict[str, Sequence[Format]] = {
        "image": _IMAGE_FORMATS,
        "depth": _DEPTH_FORMATS,
        "points": POINT_FORMATS,
    }
    files = _files(folder)
    return {
        part: [path for path in files if PurePath(path).stem.lower() == part and ending_format(path) in formats]
        for part, formats in wanted.items()
    }


def _frames(folder: str) -> dict[str, dict[str, list[str]]]:
    """Return the files of each part of each frame; a frame has a depth picture or points."""
    names = {entry.name.lower(): entry.path for entry in os.scandir(folder) if entry.is_dir()}
    images = [path for name in IMAGE_FOLDERS if name in names for path in _files(names[name])]
    found: dict[str, dict[str, list[str]]] = {}
    for part, formats in (("depth", _DEPTH_FORMATS), ("points", POINT_FORMATS)):
        for path in _files(names[part]) if part in names else ():
            if ending_format(path) in formats:
                frame = found.setdefault(PurePath(path).stem, {"image": [], "depth": [], "points": []})
                frame[part].append(path)
    for path in images:
        if ending_format(path) in _IMAGE_FORMATS and PurePath(path).stem in found:
            found[PurePath(path).stem]["image"].append(path)
    return dict(sorted(found.items()))


def _files(folder: str) -> list[str]:
    return sorted(entry.path for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))


def _the_one(folder: str, part: str, paths: Sequence[str]) -> str | None:
    if len(paths) > 1:
        names = ", ".join(os.path.relpath(path, folder) for path in paths)
        raise ReadError(folder, f"has several files for its {part} ({names})", "Keep one of them")
    return paths[0] if paths else None
