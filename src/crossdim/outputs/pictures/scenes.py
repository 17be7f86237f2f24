"""What a scene looks like: its picture with the boxes in it, and its points from above and obliquely."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossdim.geometry.boxes import EDGES
from crossdim.geometry.camera import project, projection_matrix, visible
from crossdim.outputs.pictures.house import (
    INK,
    QUIET,
    SMALL,
    TEXT,
    Range,
    as_rgb,
    chart_axes,
    display_range,
    head,
    new_figure,
    picture_axes,
)
from crossdim.outputs.pictures.space import (
    ABOVE,
    OBLIQUE,
    box_corners,
    colours_of,
    draw_edges,
    draw_points,
    height_colours,
    limits_of,
    projected_edges,
    seen_from,
    write_labels,
)
from crossdim.samples import Boxes3D, Camera, Image, PointCloud, Scene

WIDE = 1.9
"""A picture this many times as wide as high has a row of its own."""

PANEL_INCHES = 3.5
CAMERA_SHARE = 0.08
"""Length of the drawn camera as a share of what is shown."""

_SHOWN_AT = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "unit": (0.0, 1.0)}
_NO_BOXES = Boxes3D(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), ())


def scene_picture(scene: Scene | PointCloud, labelled: Boxes3D | None = None) -> Figure:
    """Draw a scene: the picture with boxes laid over it, the points from above with the camera, and obliquely.

    What is not there is left out: a cloud without a picture has its two views, a picture without points stands alone.
    Points take their own colours, else those of the picture where the camera sees them, else one for their height.

    Args:
        scene: What a reader returned.
        labelled: Boxes to compare with, which are drawn dashed below the scene's own.
    """
    if isinstance(scene, PointCloud):
        scene = Scene(scene.origin, points=scene)
    boxes = _NO_BOXES if scene.boxes is None else scene.boxes
    others = _NO_BOXES if labelled is None else labelled
    figure, panels = _frame(scene, boxes)
    head(figure, _title(scene))
    if "image" in panels and scene.image is not None:
        _draw_image(panels["image"], scene.image)
        _draw_boxes_in_image(panels["image"], scene.camera, boxes, others)
    if "above" in panels:
        _draw_space(panels["above"], scene, boxes, others, ABOVE)
        chart_axes(panels["above"], "x (m)", "y (m)")
        panels["above"].set_title("from above", size=TEXT, color=QUIET)
        _draw_space(panels["oblique"], scene, boxes, others, _oblique(scene.camera))
        picture_axes(panels["oblique"])
        panels["oblique"].set_title("obliquely", size=TEXT, color=QUIET)
    figure.supxlabel(_caption(scene), x=0.01, ha="left", size=SMALL, color=QUIET, parse_math=False)
    figure.draw_without_rendering()
    _write_names(panels, scene, boxes)
    return figure


def _frame(scene: Scene, boxes: Boxes3D) -> tuple[Figure, dict[str, Axes]]:
    """Return the figure and its panels: those for which there is something to show."""
    spatial = scene.points is not None or len(boxes) > 0
    views = 2 * PANEL_INCHES + 0.6
    if scene.image is None:
        return _panels(new_figure(views, PANEL_INCHES + 0.9), "AO", [1.0, 1.0], [1.0])
    height, width = scene.image.pixels.shape[1:]
    if not spatial:
        across = 6.0 * min(1.0, max(0.4, width / height))
        return _panels(new_figure(across, min(9.0, across * height / width) + 0.8), "I", [1.0], [1.0])
    if width > WIDE * height:
        high = views * height / width
        return _panels(new_figure(views, high + PANEL_INCHES + 1.1), "II;AO", [1.0, 1.0], [high, PANEL_INCHES])
    across = PANEL_INCHES * width / height
    return _panels(new_figure(across + views, PANEL_INCHES + 0.9), "IAO", [across, PANEL_INCHES, PANEL_INCHES], [1.0])


def _panels(figure: Figure, letters: str, widths: list[float], heights: list[float]) -> tuple[Figure, dict[str, Axes]]:
    names = {"I": "image", "A": "above", "O": "oblique"}
    drawn = figure.subplot_mosaic(letters, width_ratios=widths, height_ratios=heights)
    return figure, {names[letter]: axes for letter, axes in drawn.items()}


def _draw_image(axes: Axes, image: Image) -> None:
    _, height, width = image.pixels.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(as_rgb(image.pixels, _shown_range(image)), extent=extent, interpolation="antialiased")
    axes.autoscale(False)
    picture_axes(axes)


def _shown_range(image: Image) -> Range:
    """Return the intensities that are shown as black and white."""
    colour = len(image.pixels) >= 3 and image.unit in _SHOWN_AT
    return _SHOWN_AT[image.unit] if colour else display_range(image.pixels)


def _draw_boxes_in_image(axes: Axes, camera: Camera | None, boxes: Boxes3D, labelled: Boxes3D) -> None:
    if camera is None:
        return
    for box in box_corners(labelled):
        draw_edges(axes, projected_edges(box, camera), INK, dashed=True)
    tints = colours_of(boxes.labels)
    for box, label in zip(box_corners(boxes), boxes.labels, strict=True):
        draw_edges(axes, projected_edges(box, camera), tints[label])


def _draw_space(axes: Axes, scene: Scene, boxes: Boxes3D, labelled: Boxes3D, view: tuple[float, float]) -> None:
    """Draw points, boxes and camera in a parallel projection."""
    points, colours = coloured_points(scene)
    draw_points(axes, points, colours, view, size=1.2)
    corners, compared, tints = box_corners(boxes), box_corners(labelled), colours_of(boxes.labels)
    others = np.concatenate([corners, compared]).reshape(-1, 3)
    if scene.camera is not None:
        others = np.concatenate([others, _eye(scene.camera)[None]])
    limits = limits_of(points, others, view)
    for box in compared:
        draw_edges(axes, _flat_edges(box, view), INK, dashed=True)
    for box, label in zip(corners, boxes.labels, strict=True):
        draw_edges(axes, _flat_edges(box, view), tints[label])
    if scene.camera is not None:
        _draw_camera(axes, scene.camera, view, CAMERA_SHARE * max(high - low for low, high in limits))
    axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")


def _flat_edges(box: Float[np.ndarray, "8 3"], view: tuple[float, float]) -> Float[np.ndarray, "edges 2 2"]:
    flat = seen_from(box, view)[:, :2]
    return np.array([[flat[first], flat[second]] for first, second in EDGES])


def _draw_camera(axes: Axes, camera: Camera, view: tuple[float, float], length: float) -> None:
    """Draw a camera as the pyramid of what it sees."""
    height, width = camera.size
    ends = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    rays = np.c_[ends, np.ones(4)] @ np.linalg.inv(camera.intrinsics).T * length
    turn, shift = camera.camera_from_scene[:3, :3], camera.camera_from_scene[:3, 3]
    corners = seen_from((rays - shift) @ turn, view)[:, :2]
    eye = seen_from(_eye(camera)[None], view)[0, :2]
    for number, corner in enumerate(corners):
        for end in (eye, corners[(number + 1) % 4]):
            axes.plot(*np.stack([corner, end], axis=1), color=INK, linewidth=1.0, solid_capstyle="round")
    axes.plot(*eye, marker="o", markersize=3.5, color=INK)


def _oblique(camera: Camera | None) -> tuple[float, float]:
    """Return a direction of view that is a little to the left of where the camera looks, and downwards."""
    x, y = (0.0, 1.0) if camera is None else camera.camera_from_scene[2, :2]
    return float(np.rad2deg(np.arctan2(x, y))) + OBLIQUE[0], OBLIQUE[1]


def _eye(camera: Camera) -> Float[np.ndarray, "3"]:
    """Return where a camera is in the scene."""
    return -camera.camera_from_scene[:3, :3].T @ camera.camera_from_scene[:3, 3]


def coloured_points(scene: Scene) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Return the finite points and their colours, 0 to 1: their own, the picture's, else one for their height.

    Args:
        scene: Points, picture and camera may be missing.
    """
    if scene.points is None:
        return np.zeros((0, 3)), np.zeros((0, 3))
    finite = np.isfinite(scene.points.points).all(axis=1)
    points = scene.points.points[finite].astype(np.float64)
    if scene.points.colors is not None:
        return points, scene.points.colors[finite] / 255
    colours = height_colours(points)
    image, camera = scene.image, scene.camera
    if image is not None and camera is not None and image.pixels.shape[1:] == camera.size:
        columns, rows, depths = project(points, projection_matrix(camera))
        seen = visible(columns, rows, depths, camera.size)
        pixels = image.pixels[:3, np.rint(rows[seen]).astype(int), np.rint(columns[seen]).astype(int)]
        low, high = _shown_range(image)
        colours[seen] = np.nan_to_num((pixels.T.astype(np.float64) - low) / (high - low)).clip(0, 1)
    return points, colours


def _write_names(panels: dict[str, Axes], scene: Scene, boxes: Boxes3D) -> None:
    """Write the class of each box, with its score if it has one, in the picture or else in the view from above."""
    tints = colours_of(boxes.labels)
    colours = [tints[label] for label in boxes.labels]
    scores = [""] * len(boxes) if boxes.scores is None else [f" {score:.0%}" for score in boxes.scores]
    names = [f"{label}{score}" for label, score in zip(boxes.labels, scores, strict=True)]
    if "above" in panels:
        write_labels(panels["above"], boxes.centers_m[:, :2], names, colours)
    if "image" in panels and scene.camera is not None and len(boxes):
        tops = boxes.centers_m + boxes.sizes_m * np.array([0, 0, 0.5])
        columns, rows, depths = project(tops, projection_matrix(scene.camera))
        inside = visible(columns, rows, depths, scene.camera.size)
        height, width = scene.camera.size
        near = (depths > 0) & (np.abs(columns / width - 0.5) < 1) & (np.abs(rows / height - 0.5) < 1)
        kept = np.flatnonzero(inside | near)
        places = np.stack([columns, rows], axis=1)[kept]
        write_labels(panels["image"], places, [names[n] for n in kept], [colours[n] for n in kept])


def _title(scene: Scene) -> str:
    path = Path(scene.origin.path)
    name = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
    title = f"{name} #{scene.origin.select}" if scene.origin.select else name
    return title if len(title) <= 60 else f"{title[:28]} … {title[-28:]}"


def _caption(scene: Scene) -> str:
    facts = []
    if scene.image is not None:
        facts.append(f"{scene.image.pixels.shape[1]} × {scene.image.pixels.shape[2]} pixels")
    if scene.points is not None:
        points = scene.points.points
        facts.append(f"{len(points):,} points".replace(",", "\N{NARROW NO-BREAK SPACE}"))
        finite = points[np.isfinite(points).all(axis=1)]
        if len(finite):
            extent = " × ".join(f"{length:.2f}" for length in finite.max(axis=0) - finite.min(axis=0))
            facts.append(f"{extent} m")
    if scene.boxes is not None:
        facts.append(f"{len(scene.boxes)} box{'' if len(scene.boxes) == 1 else 'es'}")
    if scene.camera is None:
        facts.append("no camera")
    return ", ".join(facts)
