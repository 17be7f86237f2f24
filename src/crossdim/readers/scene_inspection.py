"""What points and scenes hold, and what makes it doubtful that they are what they are taken for."""

from collections import Counter

import numpy as np
from jaxtyping import Float32

from crossdim.geometry.boxes import as_array, contains
from crossdim.readers.inspection import Inspection, SceneFacts
from crossdim.readers.pointcloud import OpenedPoints
from crossdim.readers.scene import in_view
from crossdim.readers.scene_folder import OpenedScene
from crossdim.samples import Boxes3D, Camera, PointCloud, Scene

_LOOKED_AT = 2**20
"""Points that duplicates and distances are looked for among: those that stand next to one another in the file."""

_ASKED = 1000
_TOO_FAR_M, _TOO_SPARSE_M = 100.0, 0.5
_TOO_SMALL_M = 0.01
_DOUBLED = 0.01
_BRIGHTEST = 255


def inspect_points(opened: OpenedPoints, *, intensity: bool) -> Inspection:
    """Return what a file of points is.

    Args:
        opened: With a header that was checked.
        intensity: Whether to read the points too.

    Raises:
        ReadError: If points are to be read, and are damaged.
    """
    table = opened.table
    cloud = opened.read() if intensity else None
    facts = point_facts(cloud, table.count) if cloud is not None else SceneFacts(points=table.count)
    problems = table.warnings if cloud is None else (*cloud.warnings, *point_problems(cloud, facts))
    if cloud is not None and table.select is None and table.path.lower().endswith(".bin"):
        problems = (*problems, *_other_columns(cloud))
    return Inspection(
        path=table.path if table.select is None else f"{table.path}#{table.select}",
        kind="points",
        format=table.format,
        shape=(table.count, len(table.columns)),
        spacing_mm=None,
        orientation=None,
        dtype="float32",
        intensity_min=None,
        intensity_max=None,
        unit=None,
        problems=tuple(problems),
        choices=(),
        needs_choice=False,
        scene=facts,
    )


def inspect_scene(opened: OpenedScene, *, intensity: bool) -> Inspection:
    """Return what a scene is; of a folder of frames, what the first one is.

    Args:
        opened: With camera and boxes read.
        intensity: Whether to read picture and points too.

    Raises:
        ReadError: If a part is to be read, and is damaged.
        GeometryError: If a depth picture has no camera, or one of another size.
    """
    sources = opened.sources
    if intensity:
        scene, contradictions = opened.look()
    else:
        scene = Scene(sources.origin, camera=sources.camera, boxes=sources.boxes)
        contradictions = opened.contradictions
    facts = _scene_facts(scene)
    problems = [*scene.warnings, *(error.reason for error in contradictions)]
    if scene.points is not None:
        problems += point_problems(scene.points, facts)
        problems += _empty_boxes(scene.points, scene.boxes) if scene.boxes is not None else []
    if sources.camera is None and not contradictions:
        problems.append("has no camera, so that points and image cannot be laid on one another")
    if opened.needs_choice:
        problems.insert(0, opened.needs_choice)
    image, points = scene.image, scene.points
    parts = [name for name in ("image", "depth", "points") if getattr(sources, name) is not None]
    return Inspection(
        path=sources.origin.path if sources.origin.select is None else f"{sources.origin.path}#{sources.origin.select}",
        kind="scene",
        format=" + ".join([*parts, *["boxes"] * (sources.boxes is not None)]),
        shape=image.pixels.shape if image is not None else points.points.shape if points is not None else (),
        spacing_mm=None,
        orientation=None,
        dtype=str(image.pixels.dtype) if image is not None else "float32",
        intensity_min=None,
        intensity_max=None,
        unit=None,
        problems=tuple(problems),
        choices=opened.choices,
        needs_choice=bool(opened.needs_choice),
        contradicts=bool(contradictions),
        scene=facts,
    )


def point_facts(cloud: PointCloud, count: int) -> SceneFacts:
    """Return where points are, how dense they are, and what is known of each.

    Args:
        cloud: As read.
        count: How many there are in the file.
    """
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    return SceneFacts(
        points=count,
        low_m=(float(low[0]), float(low[1]), float(low[2])),
        high_m=(float(high[0]), float(high[1]), float(high[2])),
        spacing_m=_spacing(cloud.points),
        colors=cloud.colors is not None,
        attributes=tuple(cloud.attributes),
    )


def point_problems(cloud: PointCloud, facts: SceneFacts) -> list[str]:
    """Return what makes it doubtful that points are metres of a scene.

    Args:
        cloud: As read.
        facts: Of these points.
    """
    problems = []
    extent = float(max(np.subtract(facts.high_m or 0, facts.low_m or 0)))
    sparse = facts.spacing_m is not None and facts.spacing_m > _TOO_SPARSE_M
    if extent > _TOO_FAR_M and sparse:
        spacing = f"{facts.spacing_m:.3g}"
        problems.append(
            f"extends over {extent:.4g} m with a point every {spacing} m: if these are millimetres, divide them by 1000"
        )
    elif extent < _TOO_SMALL_M:
        problems.append(f"extends over {extent * 1000:.3g} mm only: check the unit, which is taken for metres")
    doubled = _doubled(cloud.points)
    if doubled > _DOUBLED:
        problems.append(f"{doubled:.1%} of its points stand where another one stands")
    return problems


def _other_columns(cloud: PointCloud) -> list[str]:
    """Return a doubt that a .bin has KITTI's columns if what stands for the intensity can be none."""
    intensity = cloud.attributes["intensity"]
    low, high = float(np.nanmin(intensity)), float(np.nanmax(intensity))
    whole = np.array_equal(intensity, np.rint(intensity), equal_nan=True)
    if np.isnan(low) or (low >= 0 and (high <= 1 or (high <= _BRIGHTEST and whole))):
        return []
    doubt = f"every fourth number is taken for an intensity, and they reach from {low:.3g} to {high:.3g}"
    return [f"{doubt}: if a point has more or fewer than four numbers, say so, such as with '#6'"]


def _empty_boxes(cloud: PointCloud, boxes: Boxes3D) -> list[str]:
    """Return how many boxes hold none of the points (of an even selection, if there are many)."""
    if not len(boxes):
        return []
    some = cloud.points[:: -(-len(cloud.points) // _LOOKED_AT)].astype(np.float64)
    empty = sum(not contains(some, box[None]).any() for box in as_array(boxes))
    return [f"{empty} of its {len(boxes)} boxes hold no point"] if empty else []


def _scene_facts(scene: Scene) -> SceneFacts:
    found = point_facts(scene.points, len(scene.points.points)) if scene.points is not None else SceneFacts()
    height, width = scene.image.pixels.shape[1:] if scene.image is not None else (0, 0)
    camera, seen = scene.camera, None
    if camera is not None and scene.points is not None:
        seen = in_view(scene.points.points, camera) / len(scene.points.points)
    return SceneFacts(
        **{
            **vars(found),
            "image": (height, width) if scene.image is not None else None,
            "camera": camera.size if camera is not None else None,
            "view_deg": _view_deg(camera) if camera is not None else None,
            "in_view": seen,
            "boxes": _classes(scene.boxes) if scene.boxes is not None else None,
        }
    )


def _classes(boxes: Boxes3D) -> dict[str, int]:
    return dict(sorted(Counter(boxes.labels).items()))


def _view_deg(camera: Camera) -> tuple[float, float]:
    """Return the angles between the left and the right edge, and between the upper and the lower one."""
    height, width = camera.size
    k = camera.intrinsics
    left, right = (-0.5 - k[0, 2]) / k[0, 0], (width - 0.5 - k[0, 2]) / k[0, 0]
    top, bottom = (-0.5 - k[1, 2]) / k[1, 1], (height - 0.5 - k[1, 2]) / k[1, 1]
    across, down = np.degrees(np.arctan([right, bottom]) - np.arctan([left, top]))
    return float(across), float(down)


def _spacing(points: Float32[np.ndarray, "points 3"]) -> float | None:
    """Return the median distance to the nearest other point, of some points among their neighbours in the file."""
    from scipy.spatial import cKDTree

    looked_at = points[:_LOOKED_AT]
    if len(looked_at) < 2:
        return None
    tree = cKDTree(looked_at, balanced_tree=False, compact_nodes=False)
    asked = looked_at[:: max(1, len(looked_at) // _ASKED)]
    distances, _ = tree.query(asked, k=2)
    return float(np.median(distances[:, 1]))


def _doubled(points: Float32[np.ndarray, "points 3"]) -> float:
    """Return the share of points that stand exactly where an earlier one stands."""
    looked_at = np.ascontiguousarray(points[:_LOOKED_AT]) + np.float32(0)
    bits = looked_at.view(np.uint32).astype(np.uint64)
    keys = (bits[:, 0] << 32 | bits[:, 1]) * np.uint64(0x9E3779B97F4A7C15) ^ bits[:, 2] * np.uint64(0xC2B2AE3D27D4EB4F)
    return 1 - len(np.unique(keys)) / len(keys)
