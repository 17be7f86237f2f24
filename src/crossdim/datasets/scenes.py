"""Scenes: from records of a manifest, and from whatever a user has.

``find_scenes`` takes a manifest (``scenes.jsonl``), one of its records (``scenes.jsonl#id``), a scene folder, a folder
of scene folders, a folder of frames, or a single file of points or pixels.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial

from crossdim import readers
from crossdim.datasets.manifest import Manifest, Record
from crossdim.datasets.scene_folder import from_scene_folder
from crossdim.datasets.scene_record import SceneFiles, boxes_of, camera_of
from crossdim.errors import ReadError, RecipeError, nearest
from crossdim.readers.limits import Limits
from crossdim.readers.scene import SceneSources, read_scene
from crossdim.readers.scene_folder import OpenedScene, scene_layout
from crossdim.readers.selector import split_selector
from crossdim.samples import Image, Origin, PointCloud, Scene

FoundScene = tuple[str, Callable[[], Scene]]
"""The name of a scene, and what reads it."""


def load_scene(manifest: Manifest, record: Record) -> Scene:
    """Read a scene of a manifest.

    Args:
        manifest: The manifest that the record is of.
        record: A record of kind ``scene``, or an image or a volume file that turns out to be points or a picture.

    Raises:
        ReadError: If a file is absent, damaged, or neither points nor a picture.
        GeometryError: If camera and picture do not fit one another.
        RecipeError: If the record has no files, or several channels.
    """
    if record.scene is None:
        if len(record.paths) != 1:
            reason = f"is of kind '{record.kind}' with {len(record.paths)} files, and a scene is needed"
            raise RecipeError(f"record '{record.id}'", reason, "Prepare the scenes with `crossdim prepare scenes`")
        return scene_of_file(manifest.absolute(record.paths[0]))
    return read_scene(_sources(manifest, record.scene, Origin(record.id)))


def sources_of(path: str) -> list[str | OpenedScene]:
    """Return what the records of a manifest are read from, for looking at it: scenes, and files of all else.

    Args:
        path: A manifest, or ``manifest.jsonl#id``.

    Raises:
        ReadError: If there is no such file.
        RecipeError: If the manifest is not what it should be, or has no such record.
    """
    source, _ = split_selector(path)
    sources: list[str | OpenedScene] = []
    manifest, records = _chosen(path)
    for record in records:
        if record.scene is None:
            sources += [manifest.absolute(file) for file in record.paths]
        else:
            parts = _sources(manifest, record.scene, Origin(source, record.id))
            sources.append(OpenedScene(parts, (), (), "", Limits()))
    return sources


def _chosen(path: str) -> tuple[Manifest, Sequence[Record]]:
    """Return a manifest, and all of its records or the one that is named behind ``#``."""
    source, selector = split_selector(path)
    manifest = Manifest.load(source)
    chosen = [record for record in manifest.records if selector in (None, record.id)]
    if selector is not None and not chosen:
        remedy = nearest(selector, (record.id for record in manifest.records))
        raise RecipeError(source, f"has no record '{selector}'", remedy)
    return manifest, chosen


def _sources(manifest: Manifest, files: SceneFiles, origin: Origin) -> SceneSources:
    points, image, depth = (
        manifest.absolute(path) if path is not None else None for path in (files.points, files.image, files.depth)
    )
    return SceneSources(
        origin,
        points=points,
        depth=depth,
        image=image,
        camera=camera_of(files.camera) if files.camera is not None else None,
        boxes=boxes_of(files.boxes) if files.boxes is not None else None,
        depth_unit_m=files.depth_unit_m,
        depth_encoding=files.depth_encoding,
    )


def scene_of_file(path: str) -> Scene:
    """Read one file, or one scene folder, as a scene that has what the file holds.

    Args:
        path: As ``readers.read`` takes it.

    Raises:
        ReadError: If it cannot be read, or holds a volume.
    """
    noun = readers.read(path)
    if isinstance(noun, Scene):
        return noun
    if isinstance(noun, PointCloud):
        return Scene(noun.origin, points=noun, warnings=noun.warnings)
    if isinstance(noun, Image):
        return Scene(noun.origin, image=noun, warnings=noun.warnings)
    raise ReadError(path, "is a volume, and a scene is needed", "Give points, a picture, a scene folder or a manifest")


def find_scenes(path: str | os.PathLike[str]) -> list[FoundScene]:
    """Return the name of every scene at a path, and what reads it; nothing is read yet.

    Args:
        path: A manifest, ``manifest.jsonl#id``, a scene folder, a folder of either, or a file of points or pixels.

    Raises:
        ReadError: If there is nothing there, no scene, or one that is damaged.
        RecipeError: If the manifest is not what it should be, or has no such record.
    """
    source, selector = split_selector(os.fspath(path))
    if os.path.isdir(source) and selector is None and scene_layout(source) != "scene":
        manifest = from_scene_folder(source)
        if manifest.skipped:
            first = manifest.skipped[0]
            raise ReadError(first.path, first.reason, "Mend or remove it, or prepare a manifest, which leaves it out")
        return [(record.id, partial(load_scene, manifest, record)) for record in manifest.records]
    if source.endswith((".jsonl", ".json")):
        manifest, chosen = _chosen(os.fspath(path))
        return [(record.id, partial(load_scene, manifest, record)) for record in chosen]
    scene_or_file = os.path.basename(os.path.abspath(path))
    return [(scene_or_file, partial(scene_of_file, os.fspath(path)))]
