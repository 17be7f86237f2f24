"""The page about a detector: average precision and recall, each class, and how boxes were counted."""

from collections.abc import Mapping, Sequence
from typing import Any

from crossdim.metrics.detection3d import DetectionReport, ThresholdScores
from crossdim.outputs.blocks import Document, Paragraph, Picture, Section, Table, Warnings
from crossdim.outputs.report import interval_text, provenance_section

FEW_SCENES = 20
"""Below this many, intervals are wide and said to be so."""


def detection_headline(report: DetectionReport) -> str:
    """Return an evaluation in a sentence.

    Args:
        report: Of the detector.
    """
    scores = ", ".join(
        f"AP{_percent(each)} {interval_text(each.mean_average_precision)}, "
        f"AR{_percent(each)} {interval_text(each.average_recall)}"
        for each in report.thresholds
    )
    empty = f" ({report.empty_scenes} of them empty)" if report.empty_scenes else ""
    return f"{scores}; {report.boxes} boxes in {report.scenes} scenes{empty}."


def detection_document(
    report: DetectionReport, title: str, provenance: Mapping[str, str], pictures: Sequence[Picture] = ()
) -> Document:
    """Return the page of one evaluation.

    Args:
        report: Of the detector.
        title: Of the page.
        provenance: What it takes to repeat the evaluation.
        pictures: Scenes with what was found in them.
    """
    sections = (*detection_sections(report, {}, pictures), provenance_section(provenance))
    data = report.to_dict() | {"provenance": dict(provenance)}
    return Document(title, detection_headline(report), sections, data)


def detection_sections(
    report: DetectionReport, others: Mapping[str, DetectionReport], pictures: Sequence[Picture] = ()
) -> list[Section]:
    """Return the results, the classes, the pictures and how to read them.

    Args:
        report: Of the detector.
        others: Reports to compare with, by name.
        pictures: Scenes with what was found in them.
    """
    warnings = []
    if report.scenes < FEW_SCENES:
        warnings.append(f"Only {report.scenes} scenes: intervals are wide, and may be too narrow still.")
    if not report.boxes:
        warnings.append("No scene holds a box: precision and recall are not defined.")
    results: list[Any] = [Warnings(tuple(warnings))] if warnings else []
    results.append(_scores(report, others))
    sections = [
        Section("Results", tuple(results)),
        Section("Classes", tuple(_classes(each) for each in report.thresholds)),
    ]
    if pictures:
        sections.append(Section("Scenes", tuple(pictures)))
    return [*sections, Section("How to read this", (Paragraph(_PROTOCOL),))]


_PROTOCOL = (
    "A box is right if it overlaps the best true box of its class by more than the IoU in the score's name and is the "
    "first to do so, from the highest score down. AP is the area under the envelope of precision over recall, AR the "
    "share of true boxes found in the end; both are means over the classes that occur. Boxes with hardly a point "
    "inside and those that a more certain box of the same class overlaps do not count (the protocol of VoteNet and "
    "3DETR). Scenes without boxes are kept. Intervals are 95 % percentiles over resamples of scenes."
)


def _percent(scores: ThresholdScores) -> str:
    return f"{100 * scores.iou:.0f}"


def _scores(report: DetectionReport, others: Mapping[str, DetectionReport]) -> Table:
    named = {"detector": report, **others}
    rows = [
        (f"{short}{_percent(each)}", *(interval_text(getattr(one.thresholds[place], key)) for one in named.values()))
        for place, each in enumerate(report.thresholds)
        for short, key in (("AP", "mean_average_precision"), ("AR", "average_recall"))
    ]
    return Table("Scores, with 95 % intervals", ("score", *named), tuple(rows))


def _classes(scores: ThresholdScores) -> Table:
    rows = tuple(
        (each.name, str(each.boxes), interval_text(each.average_precision), interval_text(each.recall))
        for each in scores.classes
    )
    columns = ("class", "true boxes", "average precision", "recall")
    return Table(f"Classes at an IoU of {scores.iou:g}", columns, rows)
