"""Points and boxes on paper: seen from above, obliquely, and through a camera."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke

from crossdim.geometry.boxes import EDGES, corners
from crossdim.geometry.camera import projection_matrix
from crossdim.outputs.pictures.house import PALETTE, SMALL
from crossdim.samples import Boxes3D, Camera

MOST_POINTS = 20_000
"""More points than this are thinned before they are drawn."""

NEAREST_M = 0.05
"""Edges of boxes are cut off this far in front of the camera."""

ABOVE, OBLIQUE = (0.0, 90.0), (-35.0, 32.0)
"""Directions of view: degrees to the right of the scene's y axis, and downwards."""

MOST_SHIFT = 5
"""Half lines that a label moves at most to make room for another one."""

Limits = tuple[tuple[float, float], tuple[float, float]]


def seen_from(points: Float[np.ndarray, "*n 3"], view: tuple[float, float]) -> Float[np.ndarray, "*n 3"]:
    """Return points as (right, up, towards the viewer) of a parallel projection.

    Args:
        points: In scene metres.
        view: ``ABOVE``, ``OBLIQUE`` or any such pair.
    """
    turn, down = np.deg2rad(view[0]), np.deg2rad(view[1])
    right = np.array([np.cos(turn), -np.sin(turn), 0.0])
    forward = np.array([np.sin(turn), np.cos(turn), 0.0])
    up = np.array([*(forward[:2] * np.sin(down)), np.cos(down)])
    towards = np.array([*(-forward[:2] * np.cos(down)), np.sin(down)])
    return points @ np.stack([right, up, towards], axis=-1)


def thin(count: int, most: int = MOST_POINTS) -> Int[np.ndarray, " kept"]:
    """Return which of many points are drawn: always the same, and not every nth, which would make patterns.

    Args:
        count: How many there are.
        most: How many are drawn.
    """
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def height_colours(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Return a colour for the height of each point.

    Args:
        points: In scene metres.
    """
    height = points[:, 2]
    low, high = np.percentile(height, (1, 99)) if len(height) else (0.0, 1.0)
    return np.asarray(colormaps["viridis"](((height - low) / max(high - low, 1e-6)).clip(0, 1))[:, :3])


def draw_points(
    axes: Axes,
    points: Float[np.ndarray, "n 3"],
    colours: Float[np.ndarray, "n 3"] | str,
    view: tuple[float, float],
    size: float = 1.0,
) -> None:
    """Draw points, those behind first.

    Args:
        axes: Where.
        points: In scene metres.
        colours: One for each, or one for all.
        view: From where they are seen.
        size: Diameter in typographic points.
    """
    kept = thin(len(points))
    flat = seen_from(points[kept], view)
    order = np.argsort(flat[:, 2], kind="stable")
    shown = colours if isinstance(colours, str) else colours[kept][order]
    axes.scatter(flat[order, 0], flat[order, 1], s=size**2, c=shown, linewidths=0, rasterized=True)


def limits_of(points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"], view: tuple[float, float]) -> Limits:
    """Return what is shown: nearly all of the points (stray ones aside) and all of the others, with a margin.

    Args:
        points: In scene metres.
        others: Corners of boxes, places of cameras.
        view: From where they are seen.
    """
    flat = seen_from(points, view)[:, :2]
    ends = [np.percentile(flat, (0.5, 99.5), axis=0)] if len(flat) else []
    ends += [seen_from(others, view)[:, :2]] if len(others) else []
    everything = np.concatenate(ends) if ends else np.array([[-1.0, -1.0], [1.0, 1.0]])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.06 * max(*(high - low), 0.1)
    (left, bottom), (right, top) = low - margin, high + margin
    return (float(left), float(right)), (float(bottom), float(top))


def box_corners(boxes: Boxes3D) -> Float[np.ndarray, "boxes 8 3"]:
    """Return the corners of boxes.

    Args:
        boxes: Of a scene; there may be none.
    """
    return np.asarray(corners(boxes.centers_m, boxes.sizes_m, boxes.yaws_rad)).reshape(-1, 8, 3)


def projected_edges(
    box: Float[np.ndarray, "8 3"], camera: Camera, nearest: float = NEAREST_M
) -> Float[np.ndarray, "edges 2 2"]:
    """Return the edges of a box as (column, row) of both ends; what lies behind the camera is cut off.

    Args:
        box: Its corners.
        camera: Of the picture.
        nearest: Metres in front of the camera where edges begin.
    """
    scaled = np.c_[box, np.ones(8)] @ projection_matrix(camera).T
    kept = []
    for first, second in EDGES:
        a, b = scaled[first], scaled[second]
        if max(a[2], b[2]) <= nearest:
            continue
        if a[2] < nearest:
            a = a + (b - a) * (nearest - a[2]) / (b[2] - a[2])
        elif b[2] < nearest:
            b = b + (a - b) * (nearest - b[2]) / (a[2] - b[2])
        kept.append([a[:2] / a[2], b[:2] / b[2]])
    return np.array(kept).reshape(-1, 2, 2)


def draw_edges(axes: Axes, edges: Float[np.ndarray, "edges 2 2"], colour: str, dashed: bool = False) -> None:
    """Draw the edges of a box, legible on anything.

    Args:
        axes: Where.
        edges: Both ends of each.
        colour: Of the box.
        dashed: Thinner, and with gaps: to compare with.
    """
    width = 0.9 if dashed else 1.3
    outline = [withStroke(linewidth=2 * width, foreground="#ffffffb0")]
    style = (0, (3, 2)) if dashed else "solid"
    axes.add_collection(
        LineCollection(list(edges), colors=colour, linewidths=width, linestyles=style, path_effects=outline)
    )


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each class.

    Args:
        labels: Classes of boxes; each may come often.
    """
    return {label: PALETTE[number % len(PALETTE)] for number, label in enumerate(sorted(set(labels)))}


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour of the palette, 0 to 255.

    Args:
        colour: ``#rrggbb``.
    """
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def write_labels(axes: Axes, places: Float[np.ndarray, "n 2"], texts: Sequence[str], colours: Sequence[str]) -> None:
    """Write a label at each place, moved up or down where it would cover another one, or left out among too many.

    Args:
        axes: A picture with its final limits and size.
        places: In the data's units.
        texts: What to write.
        colours: Of the labels' ground.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    box = axes.get_window_extent()
    line, letter = 1.6 * SMALL * figure.dpi / 72, 0.62 * SMALL * figure.dpi / 72
    taken: list[tuple[float, float, float]] = []
    for number in np.argsort(-places[:, 1], kind="stable"):
        half = (len(texts[number]) * letter + 4) / 2
        x, y = (float(value) for value in axes.transData.transform(places[number]))
        x = min(max(x, box.x0 + half), max(box.x0 + half, box.x1 - half))
        y = min(max(y, box.y0 + line / 2), box.y1 - line / 2)
        tried = [y + step * line / 2 for step in sorted(range(-MOST_SHIFT, MOST_SHIFT + 1), key=abs)]
        inside = [up for up in tried if box.y0 <= up - line / 2 and up + line / 2 <= box.y1]
        free = [up for up in inside if not any(abs(up - v) < line and abs(x - u) < half + w for u, v, w in taken)]
        if not free:
            continue
        y = free[0]
        taken.append((x, y, half))
        across, up = axes.transData.inverted().transform((x, y))
        ground = {"boxstyle": "round,pad=0.15", "facecolor": colours[number], "edgecolor": "none", "alpha": 0.85}
        written = axes.text(
            across,
            up,
            texts[number],
            ha="center",
            va="center",
            size=SMALL,
            color="white",
            parse_math=False,
            bbox=ground,
        )
        written.set_in_layout(False)
