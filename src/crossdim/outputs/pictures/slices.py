"""Which slices mattered: their scores over slice numbers, above the slices that scored best."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from jaxtyping import Num, Shaped
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crossdim.errors import RecipeError
from crossdim.outputs.pictures.house import (
    INK,
    PALETTE,
    QUIET,
    SMALL,
    TEXT,
    chart_axes,
    display_range,
    head,
    legend,
    new_figure,
    on_picture,
    picture_axes,
    thinned,
)

WIDTH, CURVE_HEIGHT = 9.0, 2.5
LINE, TRUTH = PALETTE[0], PALETTE[2]
LONGEST_TITLE = 85
FEW_SLICES = 48
"""Up to so many slices, each one has a dot on the curve."""

Planes = Sequence[Num[np.ndarray, "_ _"]] | Num[np.ndarray, "depth rows columns"]


class Look(NamedTuple):
    """How the slices are shown.

    Attributes:
        pixel_mm: Height and width of a pixel.
        letters: Where left, right, top and bottom of a slice are in the patient, if that is known.
        shown: Intensities that become black and white; None for those of the slices that are shown.
    """

    pixel_mm: tuple[float, float] = (1.0, 1.0)
    letters: tuple[str, str, str, str] | None = None
    shown: tuple[float, float] | None = None


def slice_scores_figure(
    planes: Planes,
    scores: Sequence[float] | Num[np.ndarray, " slices"],
    file_numbers: Sequence[int | None],
    best: int = 5,
    title: str = "Slice scores",
    truth: tuple[int, int] | None = None,
    look: Look | None = None,
) -> Figure:
    """Draw the score of every slice over its number in the file, above the slices that scored best.

    Args:
        planes: The slices as they are to be seen, in the order of the scores.
        scores: One for each slice.
        file_numbers: Number of each slice in its file; None for padding, which is not shown.
        best: How many slices are shown, at most.
        title: Such as the question.
        truth: First and last slice number of the true range.
        look: How the slices are shown.

    Raises:
        RecipeError: If there is no slice of the file, or scores and slices do not fit.
    """
    look = look or Look()
    values = np.asarray(scores, dtype=np.float64)
    if not len(planes) == len(values) == len(file_numbers):
        raise RecipeError(
            "slice scores", f"are {len(values)} for {len(planes)} slices, {len(file_numbers)} numbers", "Give as many"
        )
    real = [place for place, name in enumerate(file_numbers) if name is not None and isfinite(values[place])]
    if not real or best < 1:
        raise RecipeError("slice scores", "belong to no slice of a file", "Score the slices of a volume")
    numbers = np.array([file_numbers[place] for place in real])
    scored = values[real]
    ranked = [int(place) for place in np.argsort(-scored, kind="stable")[:best]]
    shown = [thinned(np.asarray(planes[real[place]])) for place in ranked]
    shapes = [look.pixel_mm[0] * plane.shape[0] / (look.pixel_mm[1] * plane.shape[1]) for plane in shown]
    panel_width = WIDTH / max(len(shown), 4) - 0.08
    panel_height = min(panel_width * max(shapes), 4.5) + 0.45
    figure = new_figure(WIDTH, CURVE_HEIGHT + panel_height + 0.55)
    head(figure, _short(title))
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[CURVE_HEIGHT, panel_height])[:, 0]
    _draw_curve(parts[0].subplots(), numbers, scored, ranked, truth)
    grid = np.atleast_1d(parts[1].subplots(1, max(len(shown), 4)))
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    grey = look.shown or display_range(np.concatenate([plane.reshape(-1) for plane in shown]))
    for rank, (axes, place, plane) in enumerate(zip(grid, ranked, shown, strict=False), 1):
        inside = truth is not None and truth[0] <= numbers[place] <= truth[1]
        _draw_slice(axes, plane, grey, look)
        on_picture(axes, 0.03, 0.97, str(rank), ("left", "top"))
        axes.set_title(f"slice {numbers[place]}", size=TEXT, weight="bold", color=TRUTH if inside else INK, pad=4)
        axes.set_xlabel(f"score {scored[place]:.3g}", size=SMALL, color=QUIET)
    figure.supxlabel(_caption(numbers, ranked, truth), x=0.01, ha="left", size=SMALL, color=QUIET)
    return figure


def _draw_curve(
    axes: Axes, numbers: np.ndarray, scores: np.ndarray, ranked: Sequence[int], truth: tuple[int, int] | None
) -> None:
    order = np.argsort(numbers, kind="stable")
    chart_axes(axes, "slice number in the file", "score")
    handles: list[Artist] = []
    labels = []
    if truth is not None:
        handles.append(axes.axvspan(truth[0] - 0.5, truth[1] + 0.5, color=TRUTH, alpha=0.18, linewidth=0))
        labels.append(f"true range, {truth[0]} to {truth[1]}")
    marker = "o" if len(numbers) <= FEW_SLICES else ""
    (line,) = axes.plot(numbers[order], scores[order], color=LINE, linewidth=1.6, marker=marker, markersize=3)
    axes.fill_between(numbers[order], scores[order], color=LINE, alpha=0.1, linewidth=0)
    handles.append(line)
    labels.append("score")
    handles.append(axes.axhline(float(scores.mean()), color=QUIET, linewidth=1, linestyle=(0, (2, 3))))
    labels.append("equal scores")
    peak = ranked[0]
    for rank, place in enumerate(ranked, 1):
        axes.plot(numbers[place], scores[place], "o", color=LINE, markeredgecolor="white", markersize=7 + (rank == 1))
    axes.annotate(
        f"slice {numbers[peak]}",
        (numbers[peak], scores[peak]),
        (0, 9),
        textcoords="offset points",
        ha="center",
        va="bottom",
        size=TEXT,
        weight="bold",
        color=INK,
    )
    low, high = min(0.0, float(scores.min())), float(scores.max())
    axes.set_ylim(low, high + 0.25 * ((high - low) or 1.0))
    margin = max(0.5, 0.015 * float(np.ptp(numbers)))
    axes.set_xlim(float(numbers.min()) - margin, float(numbers.max()) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    legend(axes, handles, labels, outside=True)


def _draw_slice(axes: Axes, plane: Shaped[np.ndarray, "rows columns"], grey: tuple[float, float], look: Look) -> None:
    axes.imshow(
        plane.astype(np.float64),
        cmap="gray",
        vmin=grey[0],
        vmax=grey[1],
        aspect=look.pixel_mm[0] / look.pixel_mm[1],
        interpolation="antialiased",
    )
    picture_axes(axes)
    axes.set_anchor("N")
    if look.letters is not None:
        left, right, top, bottom = look.letters
        on_picture(axes, 0.03, 0.5, left, ("left", "center"))
        on_picture(axes, 0.97, 0.5, right, ("right", "center"))
        on_picture(axes, 0.5, 0.97, top, ("center", "top"))
        on_picture(axes, 0.5, 0.03, bottom, ("center", "bottom"))


def _caption(numbers: np.ndarray, ranked: Sequence[int], truth: tuple[int, int] | None) -> str:
    text = f"The {len(ranked)} best of {len(numbers)} slices, best first; slices count from 0."
    if truth is None:
        return text
    inside = sum(truth[0] <= numbers[place] <= truth[1] for place in ranked)
    return f"{text} {inside} of {len(ranked)} lie in the true range (green)."


def _short(title: str) -> str:
    line = " ".join(title.split())
    return line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 1]}…"
