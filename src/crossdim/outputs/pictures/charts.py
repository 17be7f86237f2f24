"""Charts of results: confusion matrix, ROC curves, reliability, and anything over training steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from crossdim.errors import RecipeError
from crossdim.metrics.calibration import Calibration
from crossdim.metrics.classification import ClassificationReport
from crossdim.outputs.pictures.house import (
    FAINT,
    INK,
    PALETTE,
    QUIET,
    SMALL,
    TEXT,
    chart_axes,
    head,
    legend,
    new_figure,
)

SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#8fbcdb", "#0b4f82"])
MANY_CLASSES, TOO_MANY_CLASSES = 10, 25
LONGEST_NAME = 28
CHARACTER_INCHES = 0.075
"""Width of a character of small text, for making room."""

BOOKKEEPING = ("step", "epoch", "total_flos", "padded_tokens", "train_loss")
VALIDATION = "eval_"
NOT_DRAWN = ("_runtime", "_per_second")


@dataclass(frozen=True)
class Panel:
    """One chart of several over the same steps.

    Attributes:
        title: What is measured.
        lines: Label of each line, and its key in the log.
        logarithmic: Whether the vertical axis is.
        chance: A level to compare with, as a dashed line.
    """

    title: str
    lines: Mapping[str, str]
    logarithmic: bool = False
    chance: float | None = None


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Draw how often each true class was taken for each class; shades are shares of the true class.

    Args:
        matrix: Counts, true class by predicted class.
        classes: Names.
    """
    counts = np.asarray(matrix)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    size = len(classes)
    side = min(9.0, max(3.0, 0.75 * size + 0.5) if size <= MANY_CLASSES else 0.42 * size)
    names = [_short(name) for name in classes]
    turned = max(map(len, names)) > 8 and size > 2
    longest = CHARACTER_INCHES * max(map(len, names))
    figure = new_figure(side + longest + 1.1, side + 0.7 * longest * turned + 0.8)
    head(figure, "Confusion matrix")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1)
    axes.set_xticks(range(size), names, rotation=40 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(size), [f"{name}  ({total})" for name, total in zip(names, totals[:, 0], strict=True)])
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(parse_math=False, size=SMALL, color=INK)
    if turned:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.set_xlabel("predicted", size=TEXT, color=INK)
    axes.set_ylabel("true (cases)", size=TEXT, color=INK)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_color(FAINT)
    if size <= TOO_MANY_CLASSES:
        _write_cells(axes, counts, shares, with_shares=size <= MANY_CLASSES)
    return figure


def _write_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray, with_shares: bool) -> None:
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        colour = "white" if share > 0.55 else (INK if count else QUIET)
        if with_shares and count:
            text = f"{share:.0%}" if share >= 0.005 else "<1%"
            _write_cell(axes, (column, row), f"{count}", TEXT + 1, colour, points_up=5)
            _write_cell(axes, (column, row), text, SMALL - 1, colour, points_up=-8)
        else:
            _write_cell(axes, (column, row), f"{count}", TEXT + 1 if with_shares else SMALL - 1, colour, points_up=0)


def _write_cell(axes: Axes, cell: tuple[int, int], text: str, size: float, colour: str, points_up: int) -> None:
    axes.annotate(
        text, cell, (0, points_up), textcoords="offset points", ha="center", va="center", size=size, color=colour
    )


def roc(report: ClassificationReport) -> Figure:
    """Draw the ROC curve of every class that has one, with its area and interval.

    Args:
        report: Of an evaluation.
    """
    curves_shown = report.roc[: len(PALETTE)]
    outside = len(curves_shown) > 3
    longest = CHARACTER_INCHES * (max((len(_short(curve.name)) for curve in curves_shown), default=0) + 24)
    figure = new_figure(4.8 + longest * outside, 4.8)
    head(figure, "ROC curves, one class against the others" if len(report.classes) > 2 else "ROC curve")
    axes = figure.add_subplot()
    chart_axes(axes, "false positive rate (1 − specificity)", "true positive rate (sensitivity)")
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (2, 3)))
    areas = {each.name: each.metrics["auc"] for each in report.per_class}
    handles, labels = [], []
    for curve, colour in zip(curves_shown, PALETTE, strict=False):
        (line,) = axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=colour, linewidth=1.8)
        area = areas[curve.name]
        interval = f" ({area.low:.2f} to {area.high:.2f})" if isfinite(area.low) else ""
        handles.append(line)
        labels.append(f"{_short(curve.name)}: {area.value:.3f}{interval}")
    for curve in report.roc[len(PALETTE) :]:
        (line,) = axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=FAINT, linewidth=1, zorder=1)
    if len(report.roc) > len(PALETTE):
        handles.append(line)
        labels.append(f"{len(report.roc) - len(PALETTE)} more classes")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    if handles:
        legend(axes, handles, labels, outside)
    else:
        axes.text(0.5, 0.5, "no class has positive and negative cases", ha="center", size=TEXT, color=QUIET)
    return figure


def reliability(found: Calibration) -> Figure:
    """Draw how often predictions of each confidence were right, over how many there are.

    Args:
        found: Bins of a calibration.
    """
    figure = new_figure(4.8, 5.4)
    head(figure, "Reliability")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    edges = np.asarray(found.edges)
    frequency = np.asarray(found.frequency)
    upper.bar(edges[:-1], np.nan_to_num(frequency), np.diff(edges), align="edge", color="#cfe3f1", edgecolor="white")
    upper.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (2, 3)))
    upper.plot(found.confidence, frequency, color=PALETTE[0], linewidth=1.2, marker="o", markersize=4)
    chart_axes(upper, "", "share that came true")
    upper.set(ylim=(0, 1.02), xlim=(0, 1))
    upper.text(0.03, 0.95, f"expected calibration error {found.error:.3f}", size=TEXT, color=INK, va="top")
    lower.bar(edges[:-1], found.counts, np.diff(edges), align="edge", color=PALETTE[0], edgecolor="white")
    chart_axes(lower, found.binning, "cases")
    return figure


def curves(rows: Sequence[Mapping[str, object]], panels: Sequence[Panel], title: str = "Training") -> Figure:
    """Draw columns of a training log over its steps.

    Args:
        rows: Lines of the log, each with ``step``; a key may be missing from any line.
        panels: What to draw.
        title: Of the figure.

    Raises:
        RecipeError: If the log holds nothing that is to be drawn.
    """
    drawn = [(panel, found) for panel in panels if (found := _series(rows, panel))]
    if not drawn:
        raise RecipeError("training log", "holds no numbers to draw", "Train for at least one logged step")
    columns = min(2, len(drawn))
    lines = ceil(len(drawn) / columns)
    figure = new_figure(5.2 * columns, 3.0 * lines + 0.4)
    head(figure, title)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    steps = [step for _, found in drawn for line_steps, _ in found.values() for step in line_steps]
    margin = 0.02 * (max(steps) - min(steps))
    for axes, (panel, series) in zip(grid, drawn, strict=False):
        _draw_panel(axes, panel, series)
        if margin:
            axes.set_xlim(min(steps) - margin, max(steps) + margin)
    return figure


def _series(rows: Sequence[Mapping[str, object]], panel: Panel) -> dict[str, tuple[list[float], list[float]]]:
    """Return steps and finite values of each line that has any."""
    found = {}
    for label, key in panel.lines.items():
        points = [
            (float(step), float(value))
            for row in rows
            if isinstance(step := row.get("step"), int | float)
            and isinstance(value := row.get(key), int | float)
            and isfinite(value)
        ]
        if points:
            steps, values = zip(*points, strict=True)
            found[label] = (list(steps), list(values))
    return found


def _draw_panel(axes: Axes, panel: Panel, series: Mapping[str, tuple[list[float], list[float]]]) -> None:
    handles, labels = [], []
    for place, (label, (steps, values)) in enumerate(series.items()):
        style = "-" if place < len(PALETTE) else "--"
        marker = "o" if len(steps) <= 12 else ""
        colour = PALETTE[place % len(PALETTE)]
        handles += axes.plot(steps, values, style, marker=marker, markersize=3.5, color=colour, linewidth=1.6)
        labels.append(label)
    if panel.chance is not None:
        handles.append(axes.axhline(panel.chance, color=QUIET, linewidth=1, linestyle=(0, (2, 3))))
        labels.append("chance")
    chart_axes(axes, "step", "")
    axes.yaxis.get_offset_text().set(size=SMALL, color=QUIET)
    axes.set_title(panel.title, size=TEXT, color=INK, loc="left", parse_math=False)
    if panel.logarithmic and min(min(values) for _, values in series.values()) > 0:
        axes.set_yscale("log")
        axes.tick_params(which="minor", labelsize=SMALL, labelcolor=INK, color=QUIET)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if panel.chance is not None:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if len(handles) > 1 or labels != [panel.title]:
        legend(axes, handles, labels)


def training_curves(rows: Sequence[Mapping[str, object]], title: str = "Training") -> Figure:
    """Draw everything in a training log: the losses together, then whatever else was measured.

    Args:
        rows: Lines of the log.
        title: Of the figure.

    Raises:
        RecipeError: If the log holds no numbers.
    """
    return curves(rows, panels_of(rows), title)


def panels_of(rows: Sequence[Mapping[str, object]]) -> list[Panel]:
    """Return the panels a log calls for: losses first, then one for each kind of number, named by its last part.

    What was measured in validation (``eval_auc``, ...) is one panel. ``features/image/knn_accuracy`` and
    ``features/volume/knn_accuracy`` share the panel "knn accuracy"; a ``chance`` beside them becomes its dashed line.

    Args:
        rows: Lines of the log.
    """
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, int | float)))
    keys = [key for key in keys if key not in BOOKKEEPING and not key.endswith(NOT_DRAWN)]
    losses = [key for key in keys if key.split("/")[0] in ("loss", "eval_loss")]
    rest = [key for key in keys if key not in losses and key.rsplit("/", 1)[-1] != "chance"]
    panels = [Panel("loss", {_label(key, "loss"): key for key in losses}, logarithmic=True)] if losses else []
    groups: dict[str, list[str]] = {}
    for key in rest:
        groups.setdefault("validation" if key.startswith(VALIDATION) else key.rsplit("/", 1)[-1], []).append(key)
    for name, members in groups.items():
        title = "gradient norm" if name == "grad_norm" else name.replace("_", " ")
        lines = {_label(key, title): key for key in members}
        panels.append(Panel(title, lines, chance=_chance(rows, members) if name.endswith("accuracy") else None))
    return panels


def _chance(rows: Sequence[Mapping[str, object]], keys: Sequence[str]) -> float | None:
    """Return the last level that was logged as ``chance`` beside one of these keys."""
    beside = [f"{key.rpartition('/')[0]}/chance" for key in keys]
    levels = [float(level) for row in rows for key in beside if isinstance(level := row.get(key), int | float)]
    return levels[-1] if levels else None


def _label(key: str, panel: str) -> str:
    """Return a line's label: what the panel's title does not say of its key."""
    if key == "loss":
        return "all"
    if panel == "loss":
        name = key.removeprefix("loss/")
    elif panel == "validation":
        name = key.removeprefix(VALIDATION)
    else:
        name = key.rpartition("/")[0].rpartition("/")[2] or panel
    return name.replace("_", " ").replace("/", " ")


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
