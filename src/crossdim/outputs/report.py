"""The reports that crossdim writes, assembled from numbers and pictures: an evaluation, a pre-training run.

``evaluation_sections`` and ``pretraining_sections`` are the parts, for a report that tells more than one thing.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from crossdim.metrics.classification import ClassificationReport
from crossdim.metrics.resampling import Estimate
from crossdim.outputs.blocks import Block, Document, Facts, Paragraph, Picture, Section, Table, Warnings
from crossdim.outputs.pictures.charts import confusion, panels_of, reliability, roc, training_curves

METRICS = {
    "auc": "AUC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision (mean over classes)",
    "recall": "Recall (mean over classes)",
    "f1": "F1 (mean over classes)",
    "quadratic_kappa": "Quadratic kappa",
    "average_precision": "Average precision",
}
OF_A_CLASS = {
    "auc": "AUC",
    "recall": "Recall (sensitivity)",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
    "average_precision": "Average precision",
}
ABSENT = "–"


def evaluation_report(
    report: ClassificationReport,
    title: str,
    provenance: Mapping[str, str],
    others: Mapping[str, ClassificationReport] | None = None,
    differences: Mapping[str, Mapping[str, Estimate]] | None = None,
    pictures: Sequence[Picture] = (),
) -> Document:
    """Return the report on an evaluation.

    Args:
        report: Of the model.
        title: Of the page.
        provenance: Model, data, versions, commit, seed, command, ...: whatever it takes to repeat this.
        others: Reports on the same cases to compare with, by name ("chance", "from scratch").
        differences: Model minus another, by the other's name, from ``paired_bootstrap``.
        pictures: More of them, under the charts.
    """
    sections = [
        *evaluation_sections(report, others or {}, differences or {}, pictures),
        provenance_section(provenance),
    ]
    data = {
        "evaluation": report.to_dict(),
        "others": {name: other.to_dict() for name, other in (others or {}).items()},
        "differences": {
            name: {metric: vars(estimate) for metric, estimate in each.items()}
            for name, each in (differences or {}).items()
        },
        "provenance": dict(provenance),
    }
    return Document(title, headline(report), tuple(sections), data)


def pretraining_report(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    provenance: Mapping[str, str],
    pictures: Sequence[Picture] = (),
    warnings: Sequence[str] = (),
) -> Document:
    """Return the report on a pre-training run.

    Args:
        rows: Lines of the training log.
        title: Of the page.
        provenance: Data, versions, commit, seed, command, ...
        pictures: Reconstructions, in reading order.
        warnings: What went wrong, if anything.
    """
    sections = [*pretraining_sections(rows, pictures, warnings), provenance_section(provenance)]
    steps = int(rows[-1]["step"]) if rows else 0
    last = _last_numbers(rows)
    loss = f", loss {last['loss']:.4g} at the end" if "loss" in last else ""
    data = {"log": [dict(row) for row in rows], "provenance": dict(provenance)}
    return Document(title, f"{steps} steps{loss}.", tuple(sections), data)


def evaluation_sections(
    report: ClassificationReport,
    others: Mapping[str, ClassificationReport],
    differences: Mapping[str, Mapping[str, Estimate]],
    pictures: Sequence[Picture] = (),
) -> list[Section]:
    """Return the results, the classes, the charts and how to read them.

    Args:
        report: Of the model.
        others: Reports to compare with, by name.
        differences: Model minus another, by the other's name.
        pictures: More of them.
    """
    results: list[Block] = [Warnings(report.flags)] if report.flags else []
    results.append(_metrics_table(report, others))
    results += [_difference_table(name, each) for name, each in differences.items()]
    return [
        Section("Results", tuple(results)),
        Section("Classes", (_class_table(report),)),
        Section("Pictures", (*_charts(report), *pictures)),
        Section("How to read this", tuple(Paragraph(text) for text in (_protocol(report), *report.notes))),
    ]


def pretraining_sections(
    rows: Sequence[Mapping[str, Any]], pictures: Sequence[Picture] = (), warnings: Sequence[str] = ()
) -> list[Section]:
    """Return the last numbers, the curves and the reconstructions; what is missing is left out.

    Args:
        rows: Lines of the training log.
        pictures: Reconstructions.
        warnings: What went wrong.
    """
    sections = [Section("Warnings", (Warnings(tuple(warnings)),))] if warnings else []
    panels = panels_of(rows)
    if panels:
        last = _last_numbers(rows)
        shown = tuple((key, f"{last[key]:.4g}") for panel in panels for key in panel.lines.values() if key in last)
        curves = Picture.from_figure(
            training_curves(rows, "Training log"),
            "Losses, and what else was measured, over optimiser steps.",
            f"Curves of {', '.join(panel.title for panel in panels)}",
        )
        sections.append(Section("Training", (curves, Table("Last values", ("number", "value"), shown))))
    if pictures:
        sections.append(Section("Reconstructions", tuple(pictures)))
    return sections


def provenance_section(provenance: Mapping[str, str]) -> Section:
    """Return where results come from.

    Args:
        provenance: Names and values.
    """
    return Section("Provenance", (Facts({name: str(value) for name, value in provenance.items()}),))


def headline(report: ClassificationReport) -> str:
    """Return an evaluation in a sentence.

    Args:
        report: Of the model.
    """
    numbers = [
        f"{name} {interval_text(report.metrics[key])}"
        for name, key in (("AUC", "auc"), ("balanced accuracy", "balanced_accuracy"))
        if isfinite(report.metrics[key].value)
    ]
    cases = f"{report.cases} cases of {report.patients} patients, {len(report.classes)} classes"
    return f"{', '.join(numbers)}; {cases}." if numbers else f"{cases}."


def interval_text(estimate: Estimate) -> str:
    """Return a number and its interval: ``0.842 (0.801 to 0.880)``; a dash where it is undefined.

    Args:
        estimate: The number.
    """
    if not isfinite(estimate.value):
        return ABSENT
    if not isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def signed_text(value: float) -> str:
    """Return a difference with its sign: ``+0.120``.

    Args:
        value: Any finite number.
    """
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _metrics_table(report: ClassificationReport, others: Mapping[str, ClassificationReport]) -> Table:
    rows = [
        (label, *(interval_text(each.metrics[name]) if name in each.metrics else ABSENT for each in columns))
        for name, label in METRICS.items()
        if name in report.metrics and (columns := (report, *others.values()))
    ]
    errors = tuple(f"{each.calibration.error:.3f}" for each in (report, *others.values()))
    rows.append(("Expected calibration error", *errors))
    return Table("Value (95 % interval)", ("metric", "model", *others), tuple(rows))


def _difference_table(name: str, difference: Mapping[str, Estimate]) -> Table:
    rows = tuple(
        (
            label,
            signed_text(each.value),
            f"{signed_text(each.low)} to {signed_text(each.high)}" if isfinite(each.low) else ABSENT,
        )
        for metric, label in METRICS.items()
        if metric in difference and isfinite((each := difference[metric]).value)
    )
    return Table(f"Model minus {name}, on the same resamples", ("metric", "difference", "95 % interval"), rows)


def _class_table(report: ClassificationReport) -> Table:
    rows = tuple(
        (each.name, str(each.cases), *(interval_text(each.metrics[name]) for name in OF_A_CLASS))
        for each in report.per_class
    )
    return Table("Each class against all others", ("class", "cases", *OF_A_CLASS.values()), rows)


def _charts(report: ClassificationReport) -> list[Picture]:
    charts = []
    if report.confusion is not None:
        right = sum(row[place] for place, row in enumerate(report.confusion))
        charts.append(
            Picture.from_figure(
                confusion(report.confusion, report.classes),
                "How often each true class was taken for which; shades are shares of the true class.",
                f"Confusion matrix: {right} of {report.cases} cases on the diagonal",
            )
        )
    if report.roc:
        areas = {each.name: each.metrics["auc"].value for each in report.per_class}
        listed = ", ".join(f"{curve.name} {areas[curve.name]:.2f}" for curve in report.roc)
        charts.append(
            Picture.from_figure(
                roc(report), "ROC curves with their areas and 95 % intervals.", f"ROC curves; areas: {listed}"
            )
        )
    charts.append(
        Picture.from_figure(
            reliability(report.calibration),
            "Stated probability against what came true; on the dashed line they agree. Below: cases in each bin.",
            f"Reliability diagram, expected calibration error {report.calibration.error:.3f}",
        )
    )
    return charts


def _protocol(report: ClassificationReport) -> str:
    return (
        f"Intervals hold 95 % of {report.bootstrap} resamples of patients with replacement (percentiles, seed "
        f"{report.seed}). Calibration: {report.calibration.binning}. Chance is an AUC of 0.5 and a kappa of 0."
    )


def _last_numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the last finite number logged under each key."""
    return {
        key: float(value)
        for row in rows
        for key, value in row.items()
        if isinstance(value, int | float) and isfinite(value)
    }
