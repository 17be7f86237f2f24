"""What masked pre-training makes of scenes: pictures and points as they are, as the model saw them, and filled in.

Beside them stands where one group of points looks in the picture: its share of the shared encoder's attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossdim.outputs.pictures.house import (
    INK,
    PALETTE,
    QUIET,
    SMALL,
    TEXT,
    as_rgb,
    display_range,
    head,
    new_figure,
    picture_axes,
    shortened,
)
from crossdim.outputs.pictures.reconstruction import HIDDEN_COLOUR
from crossdim.outputs.pictures.space import OBLIQUE, draw_points, height_colours, limits_of

COLUMN_INCHES = 2.3
FILLED_COLOUR = PALETTE[1]
"""Of points that the model filled in, and of the group whose attention is shown."""

STEPS = ("as it is", "what the model saw", "filled in")


@dataclass(frozen=True)
class ImageReconstruction:
    """A picture as the model saw and completed it.

    Attributes:
        values: What it was to reconstruct; shown as colours where it lies in [0, 1].
        hidden: True where a patch was hidden.
        reconstruction: In the scale of ``values``; shown where hidden.
    """

    values: Float[np.ndarray, "channels height width"]
    hidden: Bool[np.ndarray, "height width"]
    reconstruction: Float[np.ndarray, "channels height width"]


@dataclass(frozen=True)
class PointsReconstruction:
    """Groups of points as the model saw and completed them, in the scene's metres.

    Attributes:
        groups: The points of each group.
        hidden: True where a group was hidden.
        reconstruction: The predicted points of each group; shown where hidden.
    """

    groups: Float[np.ndarray, "groups size 3"]
    hidden: Bool[np.ndarray, " groups"]
    reconstruction: Float[np.ndarray, "groups size 3"]


@dataclass(frozen=True)
class PatchAttention:
    """Which patches of the picture one group of points attends to.

    Attributes:
        group: Its number.
        weights: Attention to each patch, 0 to 1; NaN where the patch was hidden.
        place: (column, row) where the group's centre lies in the picture, in pixels of its values; None if outside.
    """

    group: int
    weights: Float[np.ndarray, "rows columns"]
    place: tuple[float, float] | None = None


@dataclass(frozen=True)
class SceneReconstruction:
    """One scene.

    Attributes:
        name: Of the scene.
        image: Where there is a picture.
        points: Where there are points.
        attention: From a group of the points to the patches of the picture, where there are both.
    """

    name: str
    image: ImageReconstruction | None = None
    points: PointsReconstruction | None = None
    attention: PatchAttention | None = None


def scene_reconstruction(scenes: Sequence[SceneReconstruction]) -> Figure:
    """Draw reconstructed scenes: a row for the picture and a row for the points of each, what is not there left out.

    Args:
        scenes: At least one; each with a picture or points.
    """
    columns = 4 if any(scene.attention is not None for scene in scenes) else 3
    parts = [(scene, part) for scene in scenes for part in (scene.image, scene.points) if part is not None]
    heights = [_row_inches(part) for _, part in parts]
    figure = new_figure(COLUMN_INCHES * columns + 0.3, sum(heights) + 0.25 * len(parts) + 0.7)
    head(figure, "Reconstructed scenes")
    grid = figure.subplots(len(parts), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, (scene, part) in zip(grid.tolist(), parts, strict=True):
        for axes in row:
            picture_axes(axes)
        if isinstance(part, ImageReconstruction):
            _draw_image(row, part, scene.attention)
        else:
            _draw_points(row, part, scene.attention)
        if part is (scene.image or scene.points):
            row[0].set_ylabel(shortened(scene.name), size=SMALL, color=QUIET, parse_math=False)
    for axes, title in zip(grid[0], STEPS, strict=False):
        axes.set_title(title, size=TEXT, color=INK)
    figure.supxlabel(_caption(scenes), x=0.01, ha="left", size=SMALL, color=QUIET)
    return figure


def _row_inches(part: ImageReconstruction | PointsReconstruction) -> float:
    if isinstance(part, PointsReconstruction):
        (left, right), (bottom, top) = limits_of(part.groups.reshape(-1, 3), np.zeros((0, 3)), OBLIQUE)
        return COLUMN_INCHES * min(1.3, max(0.4, (top - bottom) / (right - left)))
    height, width = part.values.shape[1:]
    return COLUMN_INCHES * height / width


def _draw_image(row: Sequence[Axes], image: ImageReconstruction, attention: PatchAttention | None) -> None:
    values = image.values
    unit = len(values) >= 3 and values.min() >= -1e-3 and values.max() <= 1 + 1e-3
    shown = (0.0, 1.0) if unit else display_range(values)
    picture = as_rgb(values, shown)
    hidden = image.hidden[..., None]
    filled = np.where(hidden, as_rgb(image.reconstruction, shown), picture)
    for axes, pixels in zip(row, (picture, np.where(hidden, HIDDEN_COLOUR, picture), filled), strict=False):
        axes.imshow(pixels, interpolation="nearest")
    if attention is None:
        for axes in row[3:]:
            axes.set_axis_off()
        return
    height, width = values.shape[1:]
    grey = picture.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    axes = row[3]
    axes.imshow(0.35 + 0.6 * grey, interpolation="nearest")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    weights = np.ma.masked_invalid(attention.weights)
    share = (weights / max(float(weights.max()), 1e-12)).filled(0.0)
    axes.imshow(weights, cmap="magma", vmin=0, alpha=0.1 + 0.75 * share, extent=extent, interpolation="nearest")
    if attention.place is not None:
        axes.plot(
            *attention.place, "o", markersize=7, markerfacecolor="none", markeredgecolor="white", markeredgewidth=3
        )
        axes.plot(
            *attention.place,
            "o",
            markersize=7,
            markerfacecolor="none",
            markeredgecolor=FILLED_COLOUR,
            markeredgewidth=1.5,
        )
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_title(f"attention of group {attention.group}", size=TEXT, color=INK)


def _draw_points(row: Sequence[Axes], points: PointsReconstruction, attention: PatchAttention | None) -> None:
    whole = points.groups.reshape(-1, 3)
    colours = height_colours(whole).reshape(points.groups.shape)
    visible, filled = ~points.hidden, points.reconstruction[points.hidden].reshape(-1, 3)
    (left, right), (bottom, top) = limits_of(whole, np.zeros((0, 3)), OBLIQUE)
    for axes in row:
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    seen, tints = points.groups[visible].reshape(-1, 3), colours[visible].reshape(-1, 3)
    draw_points(row[0], whole, colours.reshape(-1, 3), OBLIQUE, size=1.3)
    draw_points(row[1], seen, tints, OBLIQUE, size=1.3)
    draw_points(row[2], seen, tints, OBLIQUE, size=1.3)
    draw_points(row[2], filled, FILLED_COLOUR, OBLIQUE, size=1.3)
    if attention is not None:
        draw_points(row[3], whole, QUIET, OBLIQUE, size=0.8)
        draw_points(row[3], points.groups[attention.group], FILLED_COLOUR, OBLIQUE, size=2.6)
        row[3].set_title(f"group {attention.group}", size=TEXT, color=INK)
    else:
        for axes in row[3:]:
            axes.set_axis_off()


def _caption(scenes: Sequence[SceneReconstruction]) -> str:
    pictures = [scene.image.hidden.mean() for scene in scenes if scene.image is not None]
    groups = [scene.points.hidden.mean() for scene in scenes if scene.points is not None]
    facts = []
    if pictures:
        facts.append(f"{np.mean(pictures):.0%} of the picture hidden (grey)")
    if groups:
        facts.append(f"{np.mean(groups):.0%} of the groups of points hidden (filled in: orange)")
    brightest = " The brighter, the more attention." if any(scene.attention is not None for scene in scenes) else ""
    return f"{', '.join(facts)}. Predictions are shown where hidden.{brightest}"
