"""A detector measured: at the end of its training on the validation split and once on the test split, or any time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crossdim.datasets.manifest import Manifest, Progress
from crossdim.datasets.scenes import load_scene
from crossdim.metrics.detection3d import DetectionReport
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.outputs.blocks import Picture
from crossdim.outputs.detection_report import detection_headline
from crossdim.outputs.files import write_atomic
from crossdim.outputs.pictures.scenes import scene_picture
from crossdim.samples import Boxes3D
from crossdim.training.data import spread_evenly
from crossdim.training.detection_continuation import class_names
from crossdim.training.detection_data import DetectionDataset, Labelling, scenes_to_measure
from crossdim.training.detection_evaluation import (
    ScenePrediction,
    measure,
    predict_scenes,
    prediction_lines,
    protocol_of,
)
from crossdim.training.progress import Announcer
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe_detect import DetectionEvaluationSection, DetectRecipe
from crossdim.training.reports import report_detection
from crossdim.training.scenes import scene_part
from crossdim.transforms.contract import PreprocessingContract

SHOWN_SCORE = 0.5
"""Boxes with this score at least are drawn."""


def conclude_detection(
    model: Detr3dForObjectDetection,
    datasets: dict[str, DetectionDataset],
    recipe: DetectRecipe,
    folder: RunFolder,
    announcer: Announcer,
) -> dict[str, DetectionReport]:
    """Evaluate the final detector by split; write ``metrics.json``, ``predictions.jsonl`` and ``report.html``.

    ``run.json`` says when the test split was evaluated, before it is.

    Args:
        model: The final detector, in evaluation mode.
        datasets: By split.
        recipe: Protocol, resamples and seed.
        folder: The run.
        announcer: Shows progress and results.
    """
    measured: dict[str, Measured] = {}
    for name in ("val", "test"):
        dataset = datasets.get(name)
        if dataset is None:
            continue
        if name == "test":
            folder.update(test_evaluated=datetime.now(UTC).isoformat(timespec="seconds"))
        with announcer.task(f"Evaluating on {name}") as advance:
            measured[name] = measure_on(model, dataset, recipe.evaluation, recipe.batch.scenes, recipe.seed, advance)
        announcer.say(f"{name}: {detection_headline(measured[name].report)}")
    reports = {name: each.report for name, each in measured.items()}
    write_measured(folder.path, {name: report.to_dict() for name, report in reports.items()}, measured)
    shown = next((measured[name] for name in ("test", "val") if name in measured), None)
    pictures = () if shown is None else pictures_of(shown, recipe.evaluation.pictures)
    report_detection(folder, reports, pictures)
    return reports


@dataclass(frozen=True)
class Unknown:
    """What becomes of boxes that a detector cannot know.

    Attributes:
        classes: One of a class that it does not know is refused, or left out.
        outside: One that lies outside of the points or of the region is refused, or kept, as one that cannot be found.
    """

    classes: Literal["refuse", "leave_out"] = "refuse"
    outside: Literal["refuse", "keep"] = "refuse"


@dataclass(frozen=True)
class Measured:
    """What a detector scored, and what it found.

    Attributes:
        report: Scores.
        found: Of every scene.
        dataset: The scenes.
    """

    report: DetectionReport
    found: list[ScenePrediction]
    dataset: DetectionDataset


def measure_on(
    model: Detr3dForObjectDetection,
    dataset: DetectionDataset,
    section: DetectionEvaluationSection,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Measure a detector on scenes.

    Args:
        model: In evaluation mode.
        dataset: The scenes.
        section: Protocol and resamples.
        batch_size: Scenes at a time.
        seed: Of the resamples.
        progress: Called with (done, all) after each batch.

    Raises:
        ContractError: A scene does not fit the detector's preprocessing.
        ReadError: A file cannot be read.
    """
    protocol = protocol_of(section)
    found = predict_scenes(model, dataset, protocol, batch_size, progress)
    return Measured(measure(found, dataset.classes, protocol, section.bootstrap, seed), found, dataset)


def write_measured(folder: Path, plain: Mapping[str, Any], measured: Mapping[str, Measured]) -> None:
    """Write ``metrics.json`` and ``predictions.jsonl``.

    Args:
        folder: Of a run or of an evaluation.
        plain: The content of ``metrics.json``.
        measured: By split.
    """
    write_atomic(folder / "metrics.json", json.dumps(plain, indent=2) + "\n")
    parts = (prediction_lines(each.found, each.dataset.classes, name) for name, each in measured.items())
    write_atomic(folder / "predictions.jsonl", "".join(f"{line}\n" for lines in parts for line in lines))


def pictures_of(measured: Measured, count: int) -> list[Picture]:
    """Return some scenes, evenly spread, with the boxes found in them.

    Args:
        measured: What was found.
        count: At most this many.
    """
    pictures, dataset, found = [], measured.dataset, measured.found
    for place in spread_evenly(range(len(found)), count) if count else ():
        scene, each = load_scene(dataset.manifest, dataset.manifest.records[place]), found[place]
        best = each.raw.class_probabilities.argmax(axis=1)
        scores = each.raw.objectness * np.take_along_axis(each.raw.class_probabilities, best[:, None], axis=1)[:, 0]
        shown = np.flatnonzero(scores >= SHOWN_SCORE)
        boxes = each.raw.boxes[shown].astype(np.float64)
        labels = tuple(dataset.classes[number] for number in best[shown])
        drawn = Boxes3D(boxes[:, :3], boxes[:, 3:6], boxes[:, 6], labels, scores[shown].astype(np.float64))
        many = f"{len(shown)} boxes with a score of {SHOWN_SCORE:g} at least"
        caption = f"{each.id}: {many}; {len(each.truth.classes)} are labelled."
        figure = scene_picture(replace(scene, boxes=drawn))
        pictures.append(Picture.from_figure(figure, caption, f"Boxes found in {each.id}"))
    return pictures


def evaluate_boxes(
    model: Detr3dForObjectDetection,
    contract: PreprocessingContract,
    part: Manifest,
    section: DetectionEvaluationSection,
    unknown: Unknown,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Measured, dict[str, int]]:
    """Measure a trained detector on scenes with boxes, whichever they are, and return what was left out too.

    Args:
        model: In evaluation mode.
        contract: Its preprocessing.
        part: Usually one split.
        section: Protocol and resamples.
        unknown: What becomes of boxes that it cannot know.
        seed: Of the resamples.
        progress: Called with (done, all) after each batch.

    Raises:
        RecipeError: No scene is labelled, one has no points, or a box is of a class that the detector does not know.
        ContractError: A scene does not fit the detector's preprocessing, or a box lies outside of its points.
        ReadError: A file cannot be read.
    """
    config, scene = model.config, scene_part(contract)
    classes = class_names(config)
    scenes, left_out = scenes_to_measure(part, classes, scene.image is not None, unknown.classes)
    skip = bool(config.skip_points_near_origin)
    dataset = DetectionDataset(scenes, contract, Labelling(classes, unknown.outside), seed, skip)
    return measure_on(model, dataset, section, seed=seed, progress=progress), left_out
