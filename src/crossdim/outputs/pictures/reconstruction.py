"""What masked image modelling makes of its input: input, masked, reconstruction, gradient map and its prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure, SubFigure

from crossdim.geometry.affine import ASSUMED_AFFINE
from crossdim.outputs.pictures.house import (
    INK,
    QUIET,
    SMALL,
    TEXT,
    Range,
    as_rgb,
    display_range,
    head,
    new_figure,
    picture_axes,
    shortened,
)
from crossdim.outputs.pictures.planes import mid_planes
from crossdim.outputs.pictures.preview import write_letters

HIDDEN_COLOUR = (0.72, 0.76, 0.81)
COLUMN_INCHES = 1.7
COLUMNS = ("input", "masked", "reconstruction", "gradient", "predicted gradient")


@dataclass(frozen=True)
class Reconstruction:
    """One sample as the model saw and completed it; arrays are ``(channels, height, width)`` or
    ``(channels, depth, height, width)``.

    Colours are right where the values are in [0, 1]; other scales are shown from their lowest to their highest values.

    Attributes:
        name: Of the sample.
        values: What the model was to reconstruct.
        hidden: True where a patch was hidden; one channel or as many as ``values``.
        reconstruction: In the scale of ``values``; shown where hidden.
        gradients: Gradient map and its prediction, where the model has a gradient decoder.
        affine: For volumes: index to patient millimetres, None if unknown.
    """

    name: str
    values: Float[np.ndarray, "channels *size"]
    hidden: Bool[np.ndarray, "maskchannels *size"]
    reconstruction: Float[np.ndarray, "channels *size"]
    gradients: tuple[Float[np.ndarray, "maps *size"], Float[np.ndarray, "maps *size"]] | None
    affine: Float[np.ndarray, "4 4"] | None = None


def reconstruction_2d(samples: Sequence[Reconstruction]) -> Figure:
    """Draw reconstructed images, one row each.

    Args:
        samples: At least one; all with or all without gradients.
    """
    columns = _columns(samples[0])
    height, width = samples[0].values.shape[-2:]
    row_inches = COLUMN_INCHES * height / width
    figure = new_figure(COLUMN_INCHES * len(columns) + 0.3, row_inches * len(samples) + 0.9)
    head(figure, "Reconstructed images")
    grid = figure.subplots(len(samples), len(columns), squeeze=False)
    for row, sample in zip(grid, samples, strict=True):
        for axes, shown in zip(row, _pictures(sample), strict=True):
            axes.imshow(shown, interpolation="nearest")
            picture_axes(axes)
        row[0].set_ylabel(shortened(sample.name), size=SMALL, color=QUIET, parse_math=False)
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, size=TEXT, color=INK)
    _caption(figure, samples)
    return figure


def reconstruction_3d(samples: Sequence[Reconstruction]) -> Figure:
    """Draw reconstructed volumes by their three mid-planes; of several channels the first.

    Args:
        samples: At least one.
    """
    columns = _columns(samples[0])
    cuts = [mid_planes(sample.values, _affine(sample)) for sample in samples]
    widest = max(plane.size_mm[1] for planes in cuts for plane in planes)
    heights = [sum(COLUMN_INCHES * plane.size_mm[0] / widest for plane in planes) + 0.55 for planes in cuts]
    figure = new_figure(COLUMN_INCHES * len(columns) + 0.3, sum(heights) + 0.7)
    head(figure, "Reconstructed volumes")
    parts = figure.subfigures(len(samples), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, sample in zip(parts, samples, strict=True):
        _draw_volume(part, sample)
    _caption(figure, samples)
    return figure


def _draw_volume(part: SubFigure, sample: Reconstruction) -> None:
    affine = _affine(sample)
    columns = _columns(sample)
    planes = mid_planes(sample.values, affine)
    part.suptitle(shortened(sample.name, 70), x=0.01, ha="left", size=SMALL, color=QUIET, parse_math=False)
    ratios = [plane.size_mm[0] for plane in planes]
    grid = part.subplots(3, len(columns), squeeze=False, gridspec_kw={"height_ratios": ratios})
    layers = _layers(sample)
    cuts = {name: mid_planes(values, affine) for name, values in layers.items()}
    ranges = _ranges(sample)
    for index, plane in enumerate(planes):
        cut = {name: planes_of[index].values for name, planes_of in cuts.items()}
        for axes, shown in zip(grid[index], _painted(cut, ranges), strict=True):
            axes.imshow(shown, interpolation="nearest", aspect=plane.pixel_mm[0] / plane.pixel_mm[1])
            picture_axes(axes)
        grid[index][0].set_ylabel(plane.name, size=SMALL, color=QUIET)
        if sample.affine is not None:
            write_letters(grid[index][0], plane)
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, size=TEXT, color=INK)


def _pictures(sample: Reconstruction) -> list[np.ndarray]:
    return _painted(_layers(sample), _ranges(sample))


def _layers(sample: Reconstruction) -> dict[str, np.ndarray]:
    """Return what is shown of a sample, by name; every layer has the sample's size."""
    hidden = np.asarray(sample.hidden.any(axis=0, keepdims=True))
    layers = {
        "values": sample.values,
        "hidden": hidden,
        "reconstruction": np.where(hidden, sample.reconstruction, sample.values),
    }
    if sample.gradients is not None:
        target, prediction = sample.gradients
        layers |= {"gradient": target, "predicted": np.where(hidden, prediction, target)}
    return layers


def _painted(layers: dict[str, np.ndarray], ranges: tuple[Range, Range]) -> list[np.ndarray]:
    """Return the pictures of one row as colours: layers are ``(channels, rows, columns)``."""
    intensities, gradients = ranges
    picture = as_rgb(layers["values"], intensities)
    masked = np.where(layers["hidden"][0][..., None], HIDDEN_COLOUR, picture)
    row = [picture, masked, as_rgb(layers["reconstruction"], intensities)]
    return row + [as_rgb(layers[name][:1], gradients) for name in ("gradient", "predicted") if name in layers]


def _ranges(sample: Reconstruction) -> tuple[Range, Range]:
    """Return the range of the intensities, and that of both gradient maps."""
    values = sample.values
    in_unit_range = len(values) >= 3 and values.min() >= -1e-3 and values.max() <= 1 + 1e-3
    intensities = (0.0, 1.0) if in_unit_range else display_range(values)
    gradients = (0.0, 1.0) if sample.gradients is None else (0.0, max(display_range(sample.gradients[0])[1], 1e-6))
    return intensities, gradients


def _columns(sample: Reconstruction) -> tuple[str, ...]:
    return COLUMNS if sample.gradients is not None else COLUMNS[:3]


def _affine(sample: Reconstruction) -> Float[np.ndarray, "4 4"]:
    return ASSUMED_AFFINE if sample.affine is None else sample.affine


def _caption(figure: Figure, samples: Sequence[Reconstruction]) -> None:
    share = np.mean([sample.hidden.any(axis=0).mean() for sample in samples])
    text = f"{share:.0%} hidden (grey). Predictions are shown where hidden, the sample itself elsewhere."
    figure.supxlabel(text, x=0.01, ha="left", size=SMALL, color=QUIET)
