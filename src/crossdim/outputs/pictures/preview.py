"""What a file looks like: an image, or the three mid-planes of each channel of a volume."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossdim.geometry.affine import ASSUMED_AFFINE, orientation_code, spacing_mm
from crossdim.outputs.pictures.house import (
    QUIET,
    SMALL,
    TEXT,
    as_rgb,
    display_range,
    head,
    new_figure,
    number,
    on_picture,
    picture_axes,
    thinned,
)
from crossdim.outputs.pictures.planes import Plane, mid_planes
from crossdim.samples import Image, Origin, Volume

MAX_CHANNELS = 4
NARROWEST = 0.2
"""A plane gets at least this share of the widest one's place, so that a single slice stays visible from the side."""

AXIS_NAMES = {"axial": "middle of depth", "coronal": "middle of height", "sagittal": "middle of width"}
"""Of the planes of a volume whose place in the patient is unknown."""


def preview(sample: Image | Volume) -> Figure:
    """Draw what a reader returned.

    Args:
        sample: An image, or a volume (one row of pictures per channel, four at most).
    """
    return _preview_image(sample) if isinstance(sample, Image) else _preview_volume(sample)


def _preview_image(image: Image) -> Figure:
    channels, height, width = image.pixels.shape
    row_mm, column_mm = image.spacing_mm or (1.0, 1.0)
    shape = height * row_mm / (width * column_mm)
    picture_width = 6.0 if shape < 1 else max(2.5, 6.0 / shape)
    figure = new_figure(picture_width, min(9.0, picture_width * shape) + 0.75)
    head(figure, _title(image.origin))
    axes = figure.add_subplot()
    display = channels >= 3 and image.unit in ("uint8", "uint16", "unit")
    shown = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}.get(image.unit, (0.0, 1.0)) if display else None
    shown = shown or display_range(image.pixels)
    axes.imshow(as_rgb(image.pixels, shown), aspect=row_mm / column_mm, interpolation="antialiased")
    _true_aspect(axes, shape)
    picture_axes(axes)
    size = f"{height} × {width} pixels, {channels} channel{'s' if channels > 1 else ''}"
    spacing = f", {number(row_mm)} × {number(column_mm)} mm" if image.spacing_mm else ""
    _caption(figure, f"{size}{spacing}\n{_intensities(image.pixels, image.unit, shown)}")
    return figure


def _preview_volume(volume: Volume) -> Figure:
    placed = not np.array_equal(volume.affine, ASSUMED_AFFINE)
    planes = mid_planes(volume.voxels[:MAX_CHANNELS], volume.affine)
    widest, highest = (max(plane.size_mm[axis] for plane in planes) for axis in (1, 0))
    widths = [max(plane.size_mm[1], NARROWEST * widest) for plane in planes]
    channels, *size = volume.voxels.shape
    rows = min(channels, MAX_CHANNELS)
    inches_per_mm = min(9.0 / sum(widths), 3.6 / highest)
    height = max(0.8, highest * inches_per_mm)
    figure = new_figure(max(4.5, sum(widths) * inches_per_mm + 0.4), rows * height + 1.0)
    head(figure, _title(volume.origin))
    grid = figure.subplots(rows, 3, squeeze=False, gridspec_kw={"width_ratios": widths})
    for channel in range(rows):
        shown = display_range(volume.voxels[channel])
        for axes, plane in zip(grid[channel], planes, strict=True):
            _draw_plane(axes, plane, channel, shown, placed)
            if channel == 0:
                axes.set_title(plane.name if placed else AXIS_NAMES[plane.name], size=TEXT, color=QUIET)
        if channels > 1:
            name = volume.channel_names[channel] if volume.channel_names else f"channel {channel + 1}"
            grid[channel][0].set_ylabel(name, size=TEXT, color=QUIET, parse_math=False)
    spacing = " × ".join(number(value) for value in spacing_mm(volume.affine))
    more = f", {rows} of {channels} channels shown" if channels > rows else ""
    place = f"{spacing} mm, {orientation_code(volume.affine)}" if placed else "spacing and orientation unknown"
    _caption(
        figure,
        f"{' × '.join(map(str, size))} voxels (depth × height × width){more}; {place}\n"
        f"{_intensities(volume.voxels, volume.unit, display_range(volume.voxels) if channels == 1 else None)}",
    )
    return figure


def _draw_plane(axes: Axes, plane: Plane, channel: int, shown: tuple[float, float], placed: bool) -> None:
    values = thinned(plane.values[channel])
    low, high = shown
    axes.imshow(
        values.astype(np.float64),
        cmap="gray",
        vmin=low,
        vmax=high,
        aspect=plane.size_mm[0] / values.shape[0] / (plane.size_mm[1] / values.shape[1]),
        interpolation="antialiased",
    )
    picture_axes(axes)
    axes.set_anchor("N")
    if placed:
        write_letters(axes, plane)


def write_letters(axes: Axes, plane: Plane) -> None:
    """Say at the four edges of a plane where they are in the patient.

    Args:
        axes: The picture.
        plane: What it shows.
    """
    left, right, top, bottom = plane.letters
    on_picture(axes, 0.02, 0.5, left, ("left", "center"))
    on_picture(axes, 0.98, 0.5, right, ("right", "center"))
    on_picture(axes, 0.5, 0.98, top, ("center", "top"))
    on_picture(axes, 0.5, 0.02, bottom, ("center", "bottom"))


def _true_aspect(axes: Axes, shape: float) -> None:
    """Keep the proportions of an image whose rows or columns were thinned."""
    axes.set_aspect("auto")
    axes.set_box_aspect(shape)


def _title(origin: Origin) -> str:
    name = Path(origin.path).name or origin.path
    title = f"{name} #{origin.select}" if origin.select else name
    return title if len(title) <= 60 else f"{title[:28]} … {title[-28:]}"


def _intensities(values: np.ndarray, unit: str, shown: tuple[float, float] | None) -> str:
    finite = values[np.isfinite(values)] if np.issubdtype(values.dtype, np.inexact) else values
    if finite.size == 0:
        return "no finite intensity"
    text = f"intensities {number(float(finite.min()))} to {number(float(finite.max()))} ({unit})"
    return (
        f"{text}, shown {number(shown[0])} to {number(shown[1])}" if shown else f"{text}, each channel in its own range"
    )


def _caption(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.01, ha="left", size=SMALL, color=QUIET, parse_math=False)
