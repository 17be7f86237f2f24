"""The end of a detector's training: measured on the validation split, and once on the test split."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from crossdim.datasets.scenes import load_scene
from crossdim.metrics.detection3d import DetectionReport
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.outputs.blocks import Picture
from crossdim.outputs.detection_report import detection_headline
from crossdim.outputs.files import write_atomic
from crossdim.outputs.pictures.scenes import scene_picture
from crossdim.samples import Boxes3D
from crossdim.training.data import spread_evenly
from crossdim.training.detection_data import DetectionDataset
from crossdim.training.detection_evaluation import (
    ScenePrediction,
    measure,
    predict_scenes,
    prediction_lines,
    protocol_of,
)
from crossdim.training.progress import Announcer
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.reports import report_detection

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
    protocol, reports, found = protocol_of(recipe.evaluation), dict[str, DetectionReport](), {}
    for name in ("val", "test"):
        dataset = datasets.get(name)
        if dataset is None:
            continue
        if name == "test":
            folder.update(test_evaluated=datetime.now(UTC).isoformat(timespec="seconds"))
        with announcer.task(f"Evaluating on {name}") as advance:
            found[name] = predict_scenes(model, dataset, protocol, recipe.batch.scenes, advance)
        reports[name] = measure(found[name], dataset.classes, protocol, recipe.evaluation.bootstrap, recipe.seed)
        announcer.say(f"{name}: {detection_headline(reports[name])}")
    plain = {name: report.to_dict() for name, report in reports.items()}
    write_atomic(folder.path / "metrics.json", json.dumps(plain, indent=2) + "\n")
    lines = [line for name, each in found.items() for line in prediction_lines(each, datasets[name].classes, name)]
    write_atomic(folder.path / "predictions.jsonl", "".join(f"{line}\n" for line in lines))
    shown = next((name for name in ("test", "val") if name in reports), None)
    pictures = () if shown is None else pictures_of(datasets[shown], found[shown], recipe.evaluation.pictures)
    report_detection(folder, reports, pictures)
    return reports


def pictures_of(dataset: DetectionDataset, found: Sequence[ScenePrediction], count: int) -> list[Picture]:
    """Return some scenes, evenly spread, with the boxes found in them.

    Args:
        dataset: The scenes.
        found: Of every scene.
        count: At most this many.
    """
    pictures = []
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
