"""The house style: colours, sizes, and how a figure becomes a file."""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from crossdim.errors import RecipeError
from crossdim.outputs.files import write_atomic

INK, QUIET, FAINT = "#1f2328", "#656d76", "#e4e7eb"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#6B6B6B")
"""Okabe and Ito's colours, which colour-blind people can tell apart, without the yellow that vanishes on white."""

TITLE, TEXT, SMALL = 11.0, 9.0, 8.0
DPI = 150
FORMATS = ("png", "svg", "pdf", "jpg")
MAX_PIXELS = 1600
"""Longer sides of a picture are thinned to about this before they are drawn."""

SAMPLED_VALUES = 1_000_000
DISPLAY_PERCENTILES = (0.5, 99.5)

Range = tuple[float, float]


def shortened(name: str, length: int = 24) -> str:
    """Return a name with its middle left out where it is long.

    Args:
        name: What is written beside a picture.
        length: Characters that it may have.
    """
    half = length // 2
    return name if len(name) <= length else f"{name[: half - 1]}…{name[-half:]}"


def figure_bytes(figure: Figure, kind: str = "png", dpi: int = DPI) -> bytes:
    """Return a figure as the content of a file.

    Args:
        figure: What was drawn.
        kind: ``png``, ``svg``, ``pdf`` or ``jpg``.
        dpi: Dots per inch, for pixels.
    """
    stream = BytesIO()
    figure.savefig(stream, format=kind, dpi=dpi, facecolor="white")
    return stream.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = DPI) -> None:
    """Write a figure; the suffix says in which format.

    Args:
        figure: What was drawn.
        path: Ends in .png, .svg, .pdf or .jpg.
        dpi: Dots per inch, for pixels.

    Raises:
        RecipeError: If the suffix is another one, or nothing can be written there.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    kind = "jpg" if kind == "jpeg" else kind
    if kind not in FORMATS:
        raise RecipeError(path, f"'{Path(path).suffix}' is no format for pictures", f"Use one of: {', '.join(FORMATS)}")
    write_atomic(path, figure_bytes(figure, kind, dpi))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure.

    Args:
        width: Inches.
        height: Inches.
    """
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def head(figure: Figure, title: str) -> None:
    """Write the title over the figure.

    Args:
        figure: Where.
        title: What it shows; taken literally, dollar signs included.
    """
    figure.suptitle(title, x=0.01, ha="left", size=TITLE, weight="bold", color=INK, parse_math=False)


def chart_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Give a chart its frame: two spines, a faint grid, labels.

    Args:
        axes: The chart.
        x_label: Under it.
        y_label: Beside it.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(labelsize=SMALL, colors=QUIET, labelcolor=INK)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, size=TEXT, color=INK, parse_math=False)
    axes.set_ylabel(y_label, size=TEXT, color=INK, parse_math=False)


def picture_axes(axes: Axes) -> None:
    """Take ticks and frame away from a picture.

    Args:
        axes: The picture.
    """
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def on_picture(axes: Axes, x: float, y: float, text: str, anchor: tuple[str, str]) -> None:
    """Write on a picture, legible on light and dark.

    Args:
        axes: The picture.
        x: From 0 (left) to 1.
        y: From 0 (bottom) to 1.
        text: What.
        anchor: Horizontal and vertical alignment.
    """
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        ha=anchor[0],
        va=anchor[1],
        size=TEXT,
        weight="bold",
        color="white",
        path_effects=[withStroke(linewidth=2, foreground="#000000b0")],
        parse_math=False,
    )


def legend(axes: Axes, handles: Sequence[Artist], labels: Sequence[str], outside: bool = False) -> None:
    """Add a legend whose labels are taken literally.

    Args:
        axes: The chart.
        handles: Its lines.
        labels: One for each.
        outside: Right of the chart instead of in it.
    """
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if outside else {"loc": "best"}
    drawn = axes.legend(handles, list(labels), frameon=False, fontsize=SMALL, **place)
    for text in drawn.get_texts():
        text.set_parse_math(False)
        text.set_color(INK)


def display_range(values: Shaped[np.ndarray, "..."]) -> Range:
    """Return the intensities that are shown as black and white: the 0.5th and 99.5th percentile of the finite values.

    Args:
        values: Intensities.
    """
    flat = values.reshape(-1)
    sample = flat[:: max(1, flat.size // SAMPLED_VALUES)].astype(np.float64)
    finite = sample[np.isfinite(sample)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, DISPLAY_PERCENTILES))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def thinned(plane: Shaped[np.ndarray, "height width *channels"]) -> Shaped[np.ndarray, "rows columns *channels"]:
    """Leave out rows and columns of a plane that is larger than a picture shows.

    Args:
        plane: Rows and columns first.
    """
    rows, columns = (max(1, size // MAX_PIXELS) for size in plane.shape[:2])
    return plane[::rows, ::columns]


def as_rgb(pixels: Shaped[np.ndarray, "channels height width"], shown: Range) -> Shaped[np.ndarray, "height width 3"]:
    """Return an image as red, green and blue in [0, 1]; one or two channels become grey (the first of them).

    Args:
        pixels: Intensities.
        shown: Those that become 0 and 1.
    """
    channels = pixels[:3] if len(pixels) >= 3 else np.repeat(pixels[:1], 3, axis=0)
    plane = thinned(np.moveaxis(channels, 0, -1)).astype(np.float64)
    return np.nan_to_num((plane - shown[0]) / (shown[1] - shown[0])).clip(0, 1)


def number(value: float) -> str:
    """Return a number with four digits (all of those before the point), and a real minus sign.

    Args:
        value: Any.
    """
    text = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")
