"""Which query answers for which box, and what each answer costs (3DETR, section 3.4, with its released weights).

Each scene's boxes and queries are matched one to one so that the sum of costs is least; a query without a box has to
say that there is no object. Every layer of the decoder is matched and pays for itself.

Differs from the authors' code: the generalised IoU is exact for turned boxes (theirs takes some overlaps for none,
``"released"``), and with gradient only for what is matched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi, tau
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from crossdim.errors import ContractError
from crossdim.geometry.boxes import check_boxes, corners, envelopes, giou_3d, intersection_volume, volumes
from crossdim.heads.detection3d import BoxPredictions, SceneExtent

GiouRule = Literal["exact", "released"]

Labels = Sequence[Mapping[str, Tensor]]
"""For each scene ``boxes`` ``(boxes, 7)``, centre, full size and yaw in scene metres, and ``classes`` ``(boxes,)``."""


@dataclass(frozen=True)
class DetectionWeights:
    """What matters in matching, and in the loss.

    Attributes:
        class_cost: Of the probability of the box's class.
        objectness_cost: Of the probability of any object.
        center_cost: Of the distance of centres, as shares of the scene's extent, summed over the axes.
        giou_cost: Of the generalised IoU.
        no_object_weight: Of queries without a box among the cross entropy over classes.
        class_weight: Of the cross entropy over classes.
        angle_class_weight: Of the cross entropy over bins of the angle.
        angle_residual_weight: Of the Huber loss on what is missing from the bin's middle, as a share of half a bin.
        center_weight: Of the distance of centres.
        size_weight: Of the distance of sizes, as shares of the scene's extent, summed over the axes.
        giou_weight: Of one less the generalised IoU.
        giou: Exact, or as released.
    """

    class_cost: float | int
    objectness_cost: float | int
    center_cost: float | int
    giou_cost: float | int
    no_object_weight: float | int
    class_weight: float | int
    angle_class_weight: float | int
    angle_residual_weight: float | int
    center_weight: float | int
    size_weight: float | int
    giou_weight: float | int
    giou: GiouRule = "exact"


class BoxTargets(NamedTuple):
    """The boxes of a batch, filled up to the same number in every scene.

    Attributes:
        boxes: ``(batch, boxes, 7)``; boxes that are not there have one metre along each axis.
        classes: ``(batch, boxes)``.
        present: ``(batch, boxes)``.
        centers_normalized: ``(batch, boxes, 3)``, as shares of the scene's extent.
        sizes_normalized: ``(batch, boxes, 3)``.
        angle_classes: ``(batch, boxes)``, bin of the angle.
        angle_residuals_normalized: ``(batch, boxes)``, what is missing from the bin's middle, as a share of half a bin.
    """

    boxes: Float[Tensor, "batch boxes 7"]
    classes: Int[Tensor, "batch boxes"]
    present: Bool[Tensor, "batch boxes"]
    centers_normalized: Float[Tensor, "batch boxes 3"]
    sizes_normalized: Float[Tensor, "batch boxes 3"]
    angle_classes: Int[Tensor, "batch boxes"]
    angle_residuals_normalized: Float[Tensor, "batch boxes"]


class Assignment(NamedTuple):
    """Which query answers for which box.

    Attributes:
        box: ``(..., queries)``, number of the box; 0 where there is none.
        matched: ``(..., queries)``.
    """

    box: Int[Tensor, "*batch queries"]
    matched: Bool[Tensor, "*batch queries"]


def box_targets(labels: Labels, extent: SceneExtent, classes: int, angle_bins: int) -> BoxTargets:
    """Return labels as the losses take them.

    Args:
        labels: Boxes and classes of each scene; none at all is right too.
        extent: Of the scenes.
        classes: Number of classes.
        angle_bins: Bins of a full turn; with one, the yaws of the labels are not asked for.

    Raises:
        ContractError: There are not labels for every scene, a class is none of the model's, or shapes do not fit.
        GeometryError: A box has no size or is not finite.
    """
    if len(labels) != len(extent.low):
        raise ContractError(f"labels of {len(labels)} scenes", f"for {len(extent.low)} scenes", "Give those of each")
    low = extent.low
    count = max(1, *(len(each["classes"]) for each in labels))
    boxes = low.new_tensor([0.0, 0, 0, 1, 1, 1, 0]).repeat(len(labels), count, 1)
    numbers = torch.zeros(len(labels), count, dtype=torch.int64, device=low.device)
    present = torch.zeros_like(numbers, dtype=torch.bool)
    for place, each in enumerate(labels):
        _check_labels(each, place, classes)
        held = len(each["classes"])
        boxes[place, :held], numbers[place, :held] = each["boxes"].to(low), each["classes"].to(numbers)
        present[place, :held] = True
    if angle_bins == 1:
        boxes[..., 6] = 0
    check_boxes(boxes)
    width = tau / angle_bins
    turned = (width / 2 - boxes[..., 6]) % tau
    bins = (turned / width).floor().clamp_max(angle_bins - 1)
    return BoxTargets(
        boxes,
        numbers,
        present,
        extent.shares(boxes[..., :3]),
        boxes[..., 3:6] / extent.size[:, None],
        bins.long(),
        (turned - (bins + 0.5) * width) / (pi / angle_bins),
    )


def _check_labels(each: Mapping[str, Tensor], place: int, classes: int) -> None:
    boxes, numbers = each["boxes"], each["classes"]
    if numbers.ndim != 1 or tuple(boxes.shape) != (len(numbers), 7):
        raise ContractError(
            f"labels of scene {place}",
            f"have boxes of shape {tuple(boxes.shape)} and classes of shape {tuple(numbers.shape)}",
            "Give (boxes, 7) and (boxes,)",
        )
    wrong = numbers[(numbers < 0) | (numbers >= classes)]
    if len(wrong):
        raise ContractError(
            f"labels of scene {place}", f"have class {int(wrong[0])}, and there are {classes}", "Number them from 0"
        )


def generalised_iou(
    predicted: Float[Tensor, "*batch queries 7"],
    boxes: Float[Tensor, "*scenes boxes 7"],
    rule: GiouRule = "exact",
    pairwise: bool = True,
) -> Float[Tensor, "..."]:
    """Return the generalised IoU of boxes; see :func:`crossdim.geometry.boxes.giou_3d`.

    Args:
        predicted: Centre, size, yaw.
        boxes: The same; without the batch's first axes it serves all of them.
        rule: ``released`` takes an overlap for none unless the corners (+x, +y) of both boxes lie beyond the corners
            (-x, -y) of both, along the scene's x and y: right for upright boxes only.
        pairwise: Every predicted one with every other; otherwise one by one.
    """
    if rule == "exact":
        return giou_3d(predicted, boxes, pairwise)
    common = intersection_volume(predicted, boxes, pairwise)
    one, other = (predicted[..., :, None, :], boxes[..., None, :, :]) if pairwise else (predicted, boxes)
    first, second = (corners(each[..., :3], each[..., 3:6], each[..., 6])[..., :2] for each in (one, other))
    beyond = torch.minimum(first[..., 2, :], second[..., 2, :]) > torch.maximum(first[..., 0, :], second[..., 0, :])
    common = torch.where(beyond.all(-1), common, 0)
    union = volumes(one) + volumes(other) - common
    (low_one, high_one), (low_other, high_other) = envelopes(one), envelopes(other)
    around = (torch.maximum(high_one, high_other) - torch.minimum(low_one, low_other)).prod(-1)
    return common / union - (1 - union / around)


@torch.no_grad()
def match(predictions: BoxPredictions, targets: BoxTargets, weights: DetectionWeights) -> Assignment:
    """Match queries and boxes one to one, for the least sum of costs in each scene.

    Args:
        predictions: Of one layer ``(batch, queries)`` or several ``(layers, batch, queries)``.
        targets: Of the scenes.
        weights: What a cost is made of.

    Raises:
        ContractError: A prediction is not a number.
    """
    cost = matching_cost(predictions, targets, weights)
    if not bool(torch.isfinite(cost).all()):
        raise ContractError("predicted boxes", "are NaN or infinite", "Train with a lower learning rate")
    counts = targets.present.sum(-1).tolist()
    batch, queries, _ = cost.shape[-3:]
    flat = cost.reshape(-1, *cost.shape[-2:]).cpu().numpy()
    box = np.zeros((len(flat), queries), dtype=np.int64)
    matched = np.zeros((len(flat), queries), dtype=bool)
    for place, each in enumerate(flat):
        rows, columns = linear_sum_assignment(each[:, : counts[place % batch]])
        box[place, rows], matched[place, rows] = columns, True
    shape = cost.shape[:-1]
    return Assignment(*(torch.from_numpy(each).reshape(shape).to(cost.device) for each in (box, matched)))


def matching_cost(
    predictions: BoxPredictions, targets: BoxTargets, weights: DetectionWeights
) -> Float[Tensor, "*batch queries boxes"]:
    """Return what it costs that a query answers for a box.

    Args:
        predictions: Of one layer or several.
        targets: Of the scenes.
        weights: What a cost is made of.
    """
    probabilities, objectness = predictions.class_probabilities, predictions.objectness
    classes = targets.classes[:, None].expand(*probabilities.shape[:-1], -1)
    cost = -weights.class_cost * probabilities.gather(-1, classes) - weights.objectness_cost * objectness[..., None]
    if weights.center_cost:
        apart = predictions.centers_normalized[..., :, None, :] - targets.centers_normalized[:, None]
        cost = cost + weights.center_cost * apart.abs().sum(-1)
    if weights.giou_cost:
        cost = cost - weights.giou_cost * generalised_iou(predictions.boxes, targets.boxes, weights.giou)
    return cost


def detection_losses(
    predictions: BoxPredictions, targets: BoxTargets, assignment: Assignment, weights: DetectionWeights
) -> dict[str, Float[Tensor, "layers"]]:
    """Return the parts of the loss of every layer, without their weights.

    ``classes`` is a weighted mean over queries; the others are sums over matched queries, as shares of the mean number
    of boxes in a batch. ``cardinality`` (how many objects are seen too much or too few) has no weight at all.

    Args:
        predictions: Of all layers.
        targets: Of the scenes.
        assignment: Of :func:`match`.
        weights: Of queries without a box; the rule of the generalised IoU, which is left out where its weight is 0.
    """
    none = predictions.class_logits.shape[-1] - 1
    matched, boxes = assignment.matched, mean_over_processes(targets.present.sum()).clamp_min(1)
    scene = torch.arange(matched.shape[1], device=matched.device)[:, None]
    classes = torch.where(matched, targets.classes[scene, assignment.box], none)
    importance = predictions.class_logits.new_ones(none + 1)
    importance[none] = weights.no_object_weight
    entropy = F.cross_entropy(predictions.class_logits.movedim(-1, 1), classes, importance, reduction="none")
    losses = {"classes": entropy.flatten(1).sum(1) / importance[classes].flatten(1).sum(1)}

    found = matched.nonzero(as_tuple=True)
    scene, box = found[1], assignment.box[found]

    def total(values: Float[Tensor, "found"]) -> Float[Tensor, "layers"]:
        return values.new_zeros(matched.shape).index_put(found, values).flatten(1).sum(1) / boxes

    bins = targets.angle_classes[scene, box]
    residuals = predictions.angle_residuals_normalized[found].gather(1, bins[:, None])[:, 0]
    wanted = targets.angle_residuals_normalized[scene, box]
    losses["angle_class"] = total(F.cross_entropy(predictions.angle_logits[found], bins, reduction="none"))
    losses["angle_residual"] = total(F.huber_loss(residuals, wanted, reduction="none"))
    apart = predictions.centers_normalized[found] - targets.centers_normalized[scene, box]
    losses["center"] = total(apart.abs().sum(1))
    losses["size"] = total((predictions.sizes_normalized[found] - targets.sizes_normalized[scene, box]).abs().sum(1))
    if weights.giou_weight:
        overlap = generalised_iou(predictions.boxes[found], targets.boxes[scene, box], weights.giou, pairwise=False)
        losses["giou"] = total(1 - overlap)
    seen = (predictions.class_logits.detach().argmax(-1) != none).sum(-1)
    losses["cardinality"] = (seen - targets.present.sum(-1)).abs().to(predictions.centers).mean(-1)
    return losses


def weighted_sum(losses: Mapping[str, Float[Tensor, "layers"]], weights: DetectionWeights) -> Float[Tensor, ""]:
    """Return the loss: all parts of all layers with their weights.

    Args:
        losses: Of :func:`detection_losses`.
        weights: Of the parts.
    """
    of = {"classes": weights.class_weight, "angle_class": weights.angle_class_weight}
    of |= {"angle_residual": weights.angle_residual_weight, "center": weights.center_weight}
    of |= {"size": weights.size_weight, "giou": weights.giou_weight}
    return torch.stack([of[name] * part.sum() for name, part in losses.items() if name in of]).sum()


def mean_over_processes(count: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the mean of a number over the processes that train together.

    Without gradients it is this process's own: whoever evaluates may have more batches than the others, and nobody
    would answer.

    Args:
        count: Of this one.
    """
    mean = count.to(torch.float32)
    if torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean
