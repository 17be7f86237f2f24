"""What our detector, its losses, the transfer and the evaluation give for every array of a fixture that they own."""

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossdim.convert import convert_state_dict
from crossdim.geometry.boxes import corners, iou_3d
from crossdim.heads.detection3d import BoxPredictions
from crossdim.heads.matching import DetectionWeights, detection_losses, generalised_iou, match, weighted_sum
from crossdim.metrics.detection3d import TrueBoxes, evaluate_detections
from crossdim.metrics.detection_protocol import Protocol, RawBoxes, detections, kept_boxes, points_inside
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import Detr3dConfig, Detr3dForObjectDetectionOutput
from crossdim.models.pimae_config import PimaeConfig
from tests.parity.fixture import Fixture

Values = Iterator[tuple[str, np.ndarray | Tensor]]

LOSSES = {
    "sem_cls": ("classes", "class_weight"),
    "angle_cls": ("angle_class", "angle_class_weight"),
    "angle_reg": ("angle_residual", "angle_residual_weight"),
    "center": ("center", "center_weight"),
    "size": ("size", "size_weight"),
    "giou": ("giou", "giou_weight"),
    "cardinality": ("cardinality", ""),
}
"""Their names of the parts, ours, and the weight that theirs include."""

CORNERS = (2, 1, 0, 3, 6, 5, 4, 7)
"""Which of our corners theirs are: seen from above theirs go from (+x, +y), with y of the camera down."""


Pretrained = tuple[PimaeConfig, dict[str, Tensor], dict[str, str]]
"""Config and weights of ours, and the authors' name → our name of each."""


def results(fixture: Fixture, dtype: torch.dtype, pretrained: Pretrained) -> Values:
    """Yield (name, value) of every array, from the authors' weights through our converter and public models."""
    weights = {name: torch.from_numpy(value) for name, value in fixture.state_dict("detector").items()}
    config, state, report = convert_state_dict("pimae/detector", weights, fixture.config)
    if report.missing:
        raise ValueError(f"the converter leaves {len(report.missing)} weights unfilled: {report.missing[:3]}")
    points = torch.from_numpy(fixture.input("det.points")).to(dtype)
    inputs = {"points": points, "labels": labels(fixture, dtype), "scene_range": scene_range(fixture, dtype)}
    yield from predicted(fixture, built(config, state, dtype), inputs)
    still = {"dropout": 0.0, "decoder_dropout": 0.0, "head_dropout": 0.0}
    yield from trained(fixture, built(config, state, dtype, **still).train(), report.used, inputs)
    yield from transferred(fixture, built(config, state, dtype), pretrained, inputs)
    yield from evaluated(fixture)


def built(
    config: Detr3dConfig, state: dict[str, Tensor], dtype: torch.dtype, **changes: Any
) -> Detr3dForObjectDetection:
    """Return our model with the authors' weights and changed options."""
    changed = deepcopy(config)
    for name, value in changes.items():
        setattr(changed, name, value)
    model = Detr3dForObjectDetection(changed)
    model.load_state_dict(state)
    return model.eval().to(dtype)


def labels(fixture: Fixture, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Return the boxes that are there; their angles turn the other way."""
    names = ("gt_box_centers", "gt_box_sizes", "gt_box_angles", "gt_box_sem_cls_label", "gt_box_present")
    columns = [torch.from_numpy(fixture.stored(f"det.{name}")) for name in names]
    found = []
    for centers, sizes, angles, classes, present in zip(*columns, strict=True):
        boxes = torch.cat([centers, sizes, -angles[:, None]], dim=1)[present > 0]
        found.append({"boxes": boxes.to(dtype), "classes": classes[present > 0].long()})
    return found


def scene_range(fixture: Fixture, dtype: torch.dtype) -> Tensor:
    """Return the lowest and the highest corner of the scenes."""
    edges = [torch.from_numpy(fixture.stored(f"det.point_cloud_dims_{end}")) for end in ("min", "max")]
    return torch.stack(edges, dim=1).to(dtype)


def camera_corners(centers: Any, sizes: Any, angles: Any) -> Any:
    """Return corners in the authors' order and axes: x to the right, y down, z forward."""
    found = corners(centers, sizes, -angles)[..., CORNERS, :]
    return np.stack([found[..., 0], -found[..., 2], found[..., 1]], axis=-1)


def predictions_of(group: str, model: BoxPredictions) -> Values:
    """What the heads put out behind one layer."""
    yield f"{group}.sem_cls_logits", model.class_logits
    yield f"{group}.center_unnormalized", model.centers
    yield f"{group}.size_unnormalized", model.sizes
    yield f"{group}.angle_logits", model.angle_logits


def boxes_of(group: str, last: BoxPredictions) -> Values:
    """Everything that the last layer says."""
    yield from predictions_of(group, last)
    yield f"{group}.center_normalized", last.centers_normalized
    yield f"{group}.size_normalized", last.sizes_normalized
    yield f"{group}.angle_residual", last.angle_residuals
    yield f"{group}.angle_residual_normalized", last.angle_residuals_normalized
    yield f"{group}.angle_continuous", -last.yaws
    yield f"{group}.objectness_prob", last.objectness
    yield f"{group}.sem_cls_prob", last.class_probabilities
    parts = (last.centers, last.sizes, -last.yaws)
    yield f"{group}.box_corners", camera_corners(*(part.detach().numpy() for part in parts))


def losses_of(group: str, losses: dict[str, Tensor], weights: DetectionWeights) -> Values:
    """Their sum and the parts of every layer with their weights; the last layer has no number."""
    yield f"{group}.loss", weighted_sum(losses, weights)
    for theirs, (ours, weight) in LOSSES.items():
        for layer, value in enumerate(losses.get(ours, [])):
            number = "" if layer == len(losses[ours]) - 1 else f"_{layer}"
            yield f"{group}.loss_{theirs}{number}", value * (getattr(weights, weight) if weight else 1)


def matches_of(group: str, output: Detr3dForObjectDetectionOutput) -> Values:
    """Which query of the last layer answers for which box."""
    yield f"{group}.matched_gt", output.assignment.box[-1]
    yield f"{group}.matched", output.assignment.matched[-1].double()


@torch.no_grad()
def predicted(fixture: Fixture, model: Detr3dForObjectDetection, inputs: dict[str, Any]) -> Values:
    """Everything in evaluation mode."""
    output: Detr3dForObjectDetectionOutput = model(**inputs)
    inside, last, targets = output.model, output.predictions, output.targets
    yield "det.eval.pre_index", inside.token_index
    yield "det.eval.pre_feature", inside.tokens.mT
    yield "det.eval.encoder", inside.encoded
    yield "det.eval.enc2dec", inside.memory.mT
    yield "det.eval.query_xyz", inside.query_places
    yield "det.eval.query_embedding", inside.query_positions.mT
    yield from boxes_of("det.eval", last)
    for layer in range(len(output.layer_predictions.centers) - 1):
        yield from predictions_of(f"det.eval.aux{layer}", output.layer_predictions.layer(layer))
    yield from losses_of("det.eval", output.layer_losses, model.config.weights())
    yield from matches_of("det.eval", output)
    slots = fixture.arrays["det.gt_box_present"]["shape"][1]
    for name, rule in (("gious", "released"), ("gious_exact", "exact")):
        overlap = generalised_iou(last.boxes, targets.boxes, rule) * targets.present[:, None]
        yield f"det.eval.{name}", torch.nn.functional.pad(overlap, (0, slots - overlap.shape[-1]))
    given = torch.from_numpy(fixture.stored("det.gt_box_centers_normalized")).to(last.centers)
    apart = (last.centers_normalized[:, :, None] - given[:, None]).abs().sum(-1)
    kept = targets.centers_normalized.shape[1]
    ours = (last.centers_normalized[:, :, None] - targets.centers_normalized[:, None]).abs().sum(-1)
    apart[..., :kept] = torch.where(targets.present[:, None], ours, apart[..., :kept])
    yield "det.eval.center_dist", apart
    other = convert_state_dict("pimae/detector", {}, fixture.config["detector"] | fixture.config["scannet_weights"])[0]
    weights = other.weights()
    assignment = match(output.layer_predictions, targets, weights)
    losses = detection_losses(output.layer_predictions, targets, assignment, weights)
    yield from losses_of("det.scannet_weights", losses, weights)


def trained(fixture: Fixture, model: Detr3dForObjectDetection, used: dict[str, str], inputs: dict[str, Any]) -> Values:
    """Predictions, losses and gradients of one training step."""
    output = model(**inputs)
    output.loss.backward()
    yield from boxes_of("det.train", output.predictions)
    yield from losses_of("det.train", output.layer_losses, model.config.weights())
    yield from matches_of("det.train", output)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    ours = [gradients.get(used.get(name, "")) for name in fixture.config["detector"]["grad_names"]]
    yield "det.train.grad_norm", np.array([math.nan if g is None else g.double().norm().item() for g in ours])


@torch.no_grad()
def transferred(
    fixture: Fixture, model: Detr3dForObjectDetection, pretrained: Pretrained, inputs: dict[str, Any]
) -> Values:
    """The detector after the layers of a pre-training have been moved into it."""
    config, state, used = pretrained
    moved = model.transfer(config, state, official_transfer=True).moved
    theirs = {ours: name for name, ours in used.items()}
    if {theirs[name] for name in moved} != set(fixture.config["transfer_map"].values()):
        raise ValueError("other weights were moved than the fixture names")
    output = model(**inputs)
    yield "transfer.encoder", output.model.encoded
    yield "transfer.sem_cls_logits", output.predictions.class_logits
    yield from losses_of("transfer", output.layer_losses, model.config.weights())


def evaluated(fixture: Fixture) -> Values:
    """The evaluation of stored boxes, with and without empty ones."""
    names = ("centers", "sizes", "angles", "class_prob", "objectness")
    centers, sizes, angles, probabilities, objectness = (fixture.stored(f"ap.pred_{name}") for name in names)
    yield "ap.pred_corners", camera_corners(centers, sizes, angles)
    true = {name: fixture.stored(f"ap.gt_box_{name}") for name in ("centers", "sizes", "angles", "present")}
    yield "ap.gt_box_corners", camera_corners(true["centers"], true["sizes"], true["angles"])
    found, wanted = (
        np.concatenate([each[0], each[1], -each[2][..., None]], axis=-1).astype(np.float64)
        for each in ((centers, sizes, angles), (true["centers"], true["sizes"], true["angles"]))
    )
    raw = [RawBoxes(*each) for each in zip(found, probabilities, objectness, strict=True)]
    points = fixture.input("ap.points").astype(np.float64)
    yield "ap.points_inside", np.stack([points_inside(each.boxes, of) for each, of in zip(raw, points, strict=True)])
    scene, prediction, box = fixture.stored("ap.iou_pairs").astype(int).T
    pairs = found[scene, prediction], wanted[scene, box]
    yield "ap.iou3d", iou_3d(*pairs, pairwise=False)
    flat = [
        np.concatenate([each[:, :2], 0 * each[:, :1], each[:, 3:5], 1 + 0 * each[:, :1], each[:, 6:]], axis=1)
        for each in pairs
    ]
    yield "ap.iou_bev", iou_3d(*flat, pairwise=False)
    labels = fixture.stored("ap.gt_box_sem_cls_label").astype(np.int64)
    there = true["present"] > 0
    truth = [TrueBoxes(*(each[mask] for each in pair)) for *pair, mask in zip(wanted, labels, there, strict=True)]
    classes = list(fixture.config["ap"]["classes"].values())
    for group, fewest in (("exact", 5), ("train_time", 0)):
        protocol = Protocol(fewest_points=fewest, absent="zero")
        scenes = list(zip(raw, points, strict=True))
        yield f"ap.{group}.kept", np.stack([kept_boxes(*each, protocol) for each in scenes])
        counted = [detections(*each, protocol) for each in scenes]
        report = evaluate_detections(counted, truth, classes, (0.25, 0.5), protocol.absent, bootstrap=1)
        for scores in report.thresholds:
            rows = {
                **{f"{row.name} Average Precision": row.average_precision.value for row in scores.classes},
                "mAP": scores.mean_average_precision.value,
                **{f"{row.name} Recall": row.recall.value for row in scores.classes},
                "AR": scores.average_recall.value,
            }
            key = f"{group}@{scores.iou:.2f}"
            values = np.array([rows[name] for name in fixture.config["ap"]["metric_names"][key]])
            yield f"ap.{group}.metrics@{scores.iou:.2f}", values
