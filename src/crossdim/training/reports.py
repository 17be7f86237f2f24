"""The page that a finished run leaves: ``report.html``."""

from collections.abc import Sequence
from typing import Any

from crossdim.metrics.classification import ClassificationReport
from crossdim.metrics.detection3d import DetectionReport
from crossdim.outputs.detection_report import detection_headline, detection_sections
from crossdim.outputs.document import Document, Picture, save_document
from crossdim.outputs.report import (
    evaluation_sections,
    headline,
    pretraining_report,
    pretraining_sections,
    provenance_section,
)
from crossdim.training.provenance import RunFolder
from crossdim.training.schedule import PLURALS


def provenance_of(folder: RunFolder) -> dict[str, str]:
    """Return what it takes to repeat a run, as names and texts.

    Args:
        folder: The run.
    """
    document: dict[str, Any] = folder.document
    last = document["sessions"][-1]
    facts = {f"{name} hash" if isinstance(value, str) else name: value for name, value in document["facts"].items()}
    return {
        "run": str(folder.path),
        "command": last["command"],
        "seed": str(document["seed"]),
        **{name: str(value) for name, value in facts.items()},
        "commit": str(last["commit"] or "installed copy"),
        "versions": ", ".join(f"{name} {version}" for name, version in last["versions"].items()),
        "hardware": ", ".join(f"{name} {value}" for name, value in last["hardware"].items()),
        "sessions": "; ".join(f"from step {each['from_step']} at {each['start']}" for each in document["sessions"]),
    }


def report_pretraining(folder: RunFolder) -> None:
    """Write the page of a pre-training run: curves and the last reconstructions.

    Args:
        folder: The run.
    """
    pictures = []
    for name in PLURALS.values():
        drawn = sorted(folder.pictures.glob(f"{name}-*.png"))
        if drawn:
            step = int(drawn[-1].stem.rpartition("-")[2])
            caption = f"Reconstructed {name} after {step} steps."
            pictures.append(Picture.from_file(drawn[-1], caption, f"Input, masked input and reconstruction of {name}"))
    document = pretraining_report(folder.read_log(), "Pre-training", provenance_of(folder), pictures)
    save_document(document, folder.path / "report.html")


def report_finetuning(
    folder: RunFolder, task: str, reports: dict[str, ClassificationReport], chance: ClassificationReport | None
) -> None:
    """Write the page of a fine-tuning run: the test split's results (the validation split's where there is none).

    Args:
        folder: The run.
        task: Name of the task.
        reports: By split.
        chance: A predictor that never looks at the data, on the same split.
    """
    name = next((split for split in ("test", "val") if split in reports), None)
    curves = pretraining_sections(folder.read_log())
    provenance = provenance_of(folder)
    data = {split: report.to_dict() for split, report in reports.items()} | {"provenance": provenance}
    if name is None:
        summary = "There is neither a validation nor a test split, so nothing was measured."
        sections = [*curves, provenance_section(provenance)]
    else:
        others = {} if chance is None else {"chance": chance}
        summary = f"On the {name} split: {headline(reports[name])}"
        if name == "test" and "val" in reports:
            summary += f" On the validation split, which chose the checkpoint: {headline(reports['val'])}"
        sections = [*evaluation_sections(reports[name], others, {}), *curves, provenance_section(provenance)]
    save_document(Document(f"Fine-tuning for {task}", summary, tuple(sections), data), folder.path / "report.html")


def report_detection(folder: RunFolder, reports: dict[str, DetectionReport], pictures: Sequence[Picture]) -> None:
    """Write the page of a detector's training: the test split's results (the validation split's where there is none).

    Args:
        folder: The run.
        reports: By split.
        pictures: Scenes with what was found in them.
    """
    name = next((split for split in ("test", "val") if split in reports), None)
    curves, provenance = pretraining_sections(folder.read_log()), provenance_of(folder)
    data = {split: report.to_dict() for split, report in reports.items()} | {"provenance": provenance}
    summary, sections = "There is neither a validation nor a test split, so nothing was measured.", list(curves)
    if name is not None:
        summary = f"On the {name} split: {detection_headline(reports[name])}"
        if name == "test" and "val" in reports:
            summary += f" On the validation split, which chose the checkpoint: {detection_headline(reports['val'])}"
        others = {"detector on the validation split": reports["val"]} if name == "test" and "val" in reports else {}
        sections = [*detection_sections(reports[name], others, pictures), *curves]
    sections.append(provenance_section(provenance))
    save_document(Document("Detection of boxes", summary, tuple(sections), data), folder.path / "report.html")
