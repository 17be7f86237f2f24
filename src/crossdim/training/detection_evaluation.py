"""A detector measured on scenes whose boxes are known, and what is kept of it: scores, predictions, a page."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from crossdim.datasets.manifest import Progress
from crossdim.errors import ReadError
from crossdim.heads.detection3d import BoxPredictions
from crossdim.metrics.detection3d import DetectionReport, TrueBoxes, evaluate_detections
from crossdim.metrics.detection_protocol import Detections, Protocol, RawBoxes, detections, kept
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.training.data import refuse_failures
from crossdim.training.detection_data import DetectionDataset, collate_detection
from crossdim.training.recipe_detect import DetectionEvaluationSection
from crossdim.training.scenes import places_by_composition
from crossdim.training.schedule import Draw


@dataclass(frozen=True)
class ScenePrediction:
    """What a detector says of a scene, and what is true.

    Attributes:
        id: Of the record.
        group: What the scene belongs to (its room, its patient).
        raw: The boxes that the protocol keeps, with the probabilities of all classes.
        truth: What is labelled.
    """

    id: str
    group: str
    raw: RawBoxes
    truth: TrueBoxes

    def detections(self, protocol: Protocol) -> Detections:
        """Return the boxes with a class and a score each.

        Args:
            protocol: Knows whether a box counts for every class.
        """
        every = Protocol(fewest_points=0, overlap=1.0, objectness=-1.0, emission=protocol.emission)
        return detections(self.raw, None, every)


def protocol_of(section: DetectionEvaluationSection) -> Protocol:
    """Return what is asked of a box.

    Args:
        section: The recipe's section.
    """
    return Protocol(
        fewest_points=section.fewest_points,
        oriented=section.oriented,
        absent=section.absent,
        tighten_m=section.tighten_m,
    )


def raw_boxes(predictions: BoxPredictions) -> list[RawBoxes]:
    """Return everything that the last layer says of each scene of a batch.

    Args:
        predictions: Of one layer.
    """
    boxes, chances, objectness = (
        part.float().cpu().numpy()
        for part in (predictions.boxes, predictions.class_probabilities, predictions.objectness)
    )
    return [RawBoxes(*scene) for scene in zip(boxes, chances, objectness, strict=True)]


def predicted(
    dataset: DetectionDataset, draws: Sequence[Draw], predictions: BoxPredictions, protocol: Protocol
) -> list[ScenePrediction]:
    """Return what is kept of the predictions of a batch.

    Args:
        dataset: Evaluated.
        draws: The scenes of the batch.
        predictions: Behind the last layer.
        protocol: What is asked of a box.
    """
    found = []
    for draw, raw in zip(draws, raw_boxes(predictions), strict=True):
        scene, record = dataset.drawn(draw), dataset.manifest.records[draw.place]
        assert scene.points is not None
        assert scene.boxes is not None
        assert scene.classes is not None
        rest = kept(raw, scene.points.numpy(), protocol)
        truth = TrueBoxes(scene.boxes.numpy(), scene.classes.numpy())
        found.append(ScenePrediction(record.id, record.patient_id, rest, truth))
    return found


def batches_of(dataset: DetectionDataset, size: int) -> list[list[Draw]]:
    """Return every scene once, in batches of scenes with an image or without.

    Args:
        dataset: The scenes.
        size: Of a batch.
    """
    return [
        [Draw(0, place) for place in places[start : start + size]]
        for places in places_by_composition(dataset.manifest).values()
        for start in range(0, len(places), size)
    ]


@torch.inference_mode()
def predict_scenes(
    model: Detr3dForObjectDetection,
    dataset: DetectionDataset,
    protocol: Protocol,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> list[ScenePrediction]:
    """Return what a detector says of every scene, in the manifest's order.

    Args:
        model: In evaluation mode.
        dataset: Evaluated.
        protocol: What is asked of a box.
        batch_size: Scenes at a time.
        progress: Called with (done, all) after each batch.

    Raises:
        ContractError: A scene does not fit the detector's preprocessing.
        ReadError: A file cannot be read.
    """
    found: dict[int, ScenePrediction] = {}
    device = model.device
    for draws in batches_of(dataset, batch_size):
        samples = [dataset[draw] for draw in draws]
        batch = collate_failures(samples)
        inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            output = model(**inputs)
        rows = predicted(dataset, draws, output.predictions, protocol)
        found |= dict(zip((draw.place for draw in draws), rows, strict=True))
        if progress is not None:
            progress(len(found), len(dataset))
    return [found[place] for place in sorted(found)]


def collate_failures(samples: Sequence[Any]) -> dict[str, Any]:
    """Stack samples; the first that could not be prepared is raised.

    Args:
        samples: From a dataset.

    Raises:
        CrossdimError: A scene could not be prepared.
    """
    for sample in samples:
        refuse_failures({"failure": sample} if not hasattr(sample, "scene") else {})
    return collate_detection(samples)


def measure(
    found: Sequence[ScenePrediction], classes: Sequence[str], protocol: Protocol, bootstrap: int = 1000, seed: int = 0
) -> DetectionReport:
    """Measure predictions, with intervals over scenes (over rooms or patients where they hold several scenes).

    Args:
        found: Of every scene.
        classes: Names of the classes.
        protocol: What counts.
        bootstrap: Resamples.
        seed: Of the resamples.

    Raises:
        RecipeError: There are no scenes.
    """
    return evaluate_detections(
        [each.detections(protocol) for each in found],
        [each.truth for each in found],
        classes,
        absent=protocol.absent,
        groups=[each.group for each in found],
        bootstrap=bootstrap,
        seed=seed,
    )


def scores_of(report: DetectionReport) -> dict[str, float]:
    """Return the scores by short names: ``ap25``, ``ar25``, ``ap50``, ``ar50``.

    Args:
        report: Of a split.
    """
    scores = {}
    for each in report.thresholds:
        name = f"{100 * each.iou:.0f}"
        scores[f"ap{name}"] = each.mean_average_precision.value
        scores[f"ar{name}"] = each.average_recall.value
    return scores


def prediction_lines(found: Iterable[ScenePrediction], classes: Sequence[str], split: str) -> Iterator[str]:
    """Return predictions as lines of JSON: one a scene.

    Args:
        found: Of every scene.
        classes: Names of the classes.
        split: Name of the split.
    """
    for each in found:
        boxes = [
            _plain_box(box)
            | {"objectness": float(objectness), "probabilities": dict(zip(classes, map(float, chances), strict=True))}
            for box, objectness, chances in zip(
                each.raw.boxes, each.raw.objectness, each.raw.class_probabilities, strict=True
            )
        ]
        truth = [
            {"label": classes[number]} | _plain_box(box)
            for box, number in zip(each.truth.boxes, each.truth.classes, strict=True)
        ]
        yield json.dumps({"id": each.id, "group": each.group, "split": split, "boxes": boxes, "truth": truth})


def _plain_box(box: Float[np.ndarray, "7"]) -> dict[str, Any]:
    values = [float(value) for value in box]
    return {"center_m": values[:3], "size_m": values[3:6], "yaw_rad": values[6]}


def read_predictions(path: Path, split: str = "test") -> tuple[tuple[str, ...], list[ScenePrediction]]:
    """Return class names and predictions of a run, to compare runs on the same scenes.

    Args:
        path: ``predictions.jsonl``.
        split: Name of the split.

    Raises:
        ReadError: There is no such file, it is damaged, or it holds nothing of the split.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if row["split"] == split]
        names = {name: None for row in rows for box in row["boxes"] for name in box["probabilities"]}
        names |= {box["label"]: None for row in rows for box in row["truth"]}
        classes = tuple(names)
        found = [ScenePrediction(row["id"], row["group"], *_read(row, classes)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReadError(path, f"cannot be read ({error})", "Give predictions.jsonl of a finished run") from error
    if not found:
        raise ReadError(path, f"holds no scene of the split '{split}'", "Name another split")
    return classes, found


def _read(row: dict[str, Any], classes: tuple[str, ...]) -> tuple[RawBoxes, TrueBoxes]:
    boxes, truth = row["boxes"], row["truth"]
    raw = RawBoxes(
        _seven(boxes),
        np.array([[box["probabilities"][name] for name in classes] for box in boxes]).reshape(-1, len(classes)),
        np.array([box["objectness"] for box in boxes], dtype=np.float64),
    )
    return raw, TrueBoxes(_seven(truth), np.array([classes.index(box["label"]) for box in truth], dtype=np.int64))


def _seven(boxes: Sequence[dict[str, Any]]) -> Float[np.ndarray, "boxes 7"]:
    return np.array([[*box["center_m"], *box["size_m"], box["yaw_rad"]] for box in boxes]).reshape(-1, 7)
