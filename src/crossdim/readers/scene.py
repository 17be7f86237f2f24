"""Points, a picture, its camera and boxes, read as one scene and checked against one another."""

import os
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from crossdim.errors import GeometryError, ReadError
from crossdim.geometry.camera import check_camera, project, projection_matrix, unproject, visible
from crossdim.readers.depth import DepthEncoding, read_depth
from crossdim.readers.formats import detect
from crossdim.readers.grids import open_grid
from crossdim.readers.limits import Limits
from crossdim.readers.pointcloud import read_points
from crossdim.readers.scene_json import DEPTH_UNIT_M, parse_boxes, parse_camera
from crossdim.readers.selector import split_selector
from crossdim.samples import Boxes3D, Camera, Image, Origin, PointCloud, Scene

__all__ = ["SceneSources", "assemble", "depth_cloud", "in_view", "parse_boxes", "parse_camera", "read_scene"]


@dataclass(frozen=True)
class SceneSources:
    """Where the parts of a scene are.

    Attributes:
        origin: What the scene is called in errors and afterwards.
        points: File of points in the scene's frame, as ``read_points`` takes it; instead of ``depth``.
        depth: Depth picture, whose readings become the points through the camera.
        image: The picture that the camera took.
        camera: None where it is not known.
        boxes: None where nothing is known.
        depth_unit_m: Metres that a step of ``depth`` is.
        depth_encoding: How a pixel of ``depth`` holds a reading.
    """

    origin: Origin
    points: str | None = None
    depth: str | None = None
    image: str | None = None
    camera: Camera | None = None
    boxes: Boxes3D | None = None
    depth_unit_m: float = DEPTH_UNIT_M
    depth_encoding: DepthEncoding = "plain"


def read_scene(sources: SceneSources, *, limits: Limits | None = None) -> Scene:
    """Read the parts of a scene, and check that they fit one another.

    Args:
        sources: Where they are.
        limits: What is allowed, for each.

    Raises:
        ReadError: If a part is absent or damaged, or there is nothing to read.
        GeometryError: If camera, image and depth do not fit, or no point is in view.
    """
    scene, contradictions = assemble(sources, limits or Limits())
    if contradictions:
        raise contradictions[0]
    return scene


def assemble(sources: SceneSources, limits: Limits) -> tuple[Scene, tuple[GeometryError, ...]]:
    """Read the parts of a scene, and tell what contradicts what instead of refusing it.

    Args:
        sources: Where they are.
        limits: What is allowed, for each.

    Raises:
        ReadError: If a part is absent or damaged, or there is nothing to read.
        GeometryError: If a depth picture has no camera, or one of another size.
    """
    subject = sources.origin.path if sources.origin.select is None else f"{sources.origin.path}#{sources.origin.select}"
    camera = sources.camera
    if camera is not None:
        check_camera(camera, subject)
    image = _picture(sources.image, limits) if sources.image is not None else None
    points = _points(sources, image, subject, limits)
    if image is None and points is None:
        raise ReadError(subject, "has neither points nor depth nor an image", "Name at least one of them")
    contradictions = []
    if camera is not None and image is not None and image.pixels.shape[1:] != camera.size:
        contradictions.append(_other_size(sources.image or "", image.pixels.shape[1:], camera))
    if camera is not None and points is not None and (unseen := _nothing_in_view(points.points, camera, subject)):
        contradictions.append(unseen)
    remarks = [(part.origin.path, word) for part in (points, image) if part is not None for word in part.warnings]
    warnings = tuple(f"{os.path.basename(path)}: {word}" for path, word in remarks)
    scene = Scene(sources.origin, points, image, camera, sources.boxes, warnings)
    return scene, tuple(contradictions)


def in_view(points: Float32[np.ndarray, "points 3"], camera: Camera) -> int:
    """Return how many points lie in front of the camera and inside its image.

    Args:
        points: In the scene.
        camera: Of the image.
    """
    columns, rows, depths = project(points, projection_matrix(camera).astype(np.float32))
    return int(np.count_nonzero(visible(columns, rows, depths, camera.size)))


def _picture(path: str, limits: Limits) -> Image:
    source, select = split_selector(path)
    picture = open_grid(source, select, detect(source, limits), limits).read()
    if not isinstance(picture, Image):
        raise ReadError(path, "is a volume, and a scene's image is a picture", "Give a PNG or JPEG")
    return picture


def _points(sources: SceneSources, image: Image | None, subject: str, limits: Limits) -> PointCloud | None:
    if sources.points is not None and sources.depth is not None:
        raise ReadError(subject, "has points and a depth picture", "Give one of them")
    if sources.points is not None:
        return read_points(sources.points, limits=limits)
    if sources.depth is None:
        return None
    if sources.camera is None:
        reason = "has a depth picture without a camera, which cannot become points"
        raise GeometryError(subject, reason, "Give the camera's intrinsics, or points")
    depth_m = read_depth(sources.depth, unit_m=sources.depth_unit_m, encoding=sources.depth_encoding, limits=limits)
    if depth_m.shape != sources.camera.size:
        raise _other_size(sources.depth, depth_m.shape, sources.camera)
    return depth_cloud(sources.depth, depth_m, sources.camera, image, limits)


def depth_cloud(
    path: str, depth_m: Float32[np.ndarray, "height width"], camera: Camera, image: Image | None, limits: Limits
) -> PointCloud:
    """Return the points of a depth picture's readings, with the colours of an image of the same size.

    Args:
        path: The depth picture, for the origin.
        depth_m: Metres along the view; NaN where there is no reading.
        camera: Of the depth picture.
        image: Taken by the same camera.
        limits: More points than it allows are thinned evenly.
    """
    points = unproject(depth_m, camera)
    reading = np.flatnonzero(np.isfinite(points).all(axis=-1))
    step = max(1, -(-len(reading) // limits.max_points))
    kept = reading[::step]
    remarks = (
        (f"one in {step} of its {len(reading)} readings is a point ({len(kept)}), as Limits(max_points=...) says",)
        if step > 1
        else ()
    )
    colors = None
    if image is not None and image.pixels.shape == (3, *depth_m.shape) and image.pixels.dtype == np.uint8:
        colors = np.ascontiguousarray(image.pixels.reshape(3, -1)[:, kept].T)
    return PointCloud(np.ascontiguousarray(points.reshape(-1, 3)[kept]), Origin(path), colors, warnings=remarks)


def _other_size(path: str, size: tuple[int, ...], camera: Camera) -> GeometryError:
    height, width = camera.size
    reason = f"has {size[0]} x {size[1]} pixels (height x width), and its camera is of {height} x {width}"
    return GeometryError(path, reason, "Give the camera of this very picture, with intrinsics in its pixels")


def _nothing_in_view(points: Float32[np.ndarray, "points 3"], camera: Camera, subject: str) -> GeometryError | None:
    """Return an error that says where the points are instead, if none is in view."""
    if in_view(points, camera):
        return None
    columns, rows, depths = project(points, projection_matrix(camera).astype(np.float32))
    front = depths > 0
    if front.any():
        spans = [f"{name} {values[front].min():.0f} to {values[front].max():.0f}"
                 for name, values in (("columns", columns), ("rows", rows))]  # fmt: skip
        height, width = camera.size
        where = f"{int(front.sum())} in front of it project to {' and '.join(spans)} of {width} x {height} pixels"
    else:
        where = "all are behind it"
    return GeometryError(
        subject,
        f"none of its {len(points)} points is in view of its camera: {where}",
        "Check camera_from_scene (from scene metres to x right, y down, z forward) and the unit of the points",
    )
