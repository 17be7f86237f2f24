"""Boxes from queries: what the heads of 3DETR put out, and what it means in metres.

A query sits at a point of the scene. Its box has its centre within half a unit of it along each axis (the model's
``unit_m``: a metre where things are furniture), a size as a share of the scene's extent, an angle in one of several
bins plus the rest from the bin's middle, and a class or none.

Angles of the heads turn clockwise seen from above, as VoteNet's headings do, so that their weights serve; yaws, and
with them boxes, turn the other way. With a single bin, boxes are upright.

Differs from the authors' code: a scene flatter than a tenth of a unit along an axis counts as that there for centres
too (theirs for sizes only, and centres would be divided by nothing).
"""

from math import pi, tau
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossdim.tokens.abstraction import PointwiseMLP

REACH = 1.0
"""Units along each axis that the centres of a query's boxes can lie in, with the query in the middle."""

LEAST_EXTENT = 0.1
"""Units that a scene measures at least along each axis."""

LEAST_SIZE = 1e-3
"""Units that the smallest box measures: one without a size overlaps nothing, and nothing can be said of its overlap."""


class SceneExtent(NamedTuple):
    """The upright box around the points of a scene.

    Attributes:
        low: ``(batch, 3)`` metres: its lowest corner.
        size: ``(batch, 3)`` metres, at least :data:`LEAST_EXTENT` units.
    """

    low: Float[Tensor, "batch 3"]
    size: Float[Tensor, "batch 3"]

    def shares(self, places: Float[Tensor, "*layers batch places 3"]) -> Float[Tensor, "*layers batch places 3"]:
        """Return places as shares of the extent.

        Args:
            places: Metres.
        """
        return (places - self.low[:, None]) / self.size[:, None]


def scene_extent(
    points: Float[Tensor, "batch points 3"],
    scene_range: Float[Tensor, "batch 2 3"] | None = None,
    unit_m: float = 1.0,
) -> SceneExtent:
    """Return the box around the points.

    Args:
        points: Clouds in metres.
        scene_range: Lowest and highest corner, where others than those of the points are meant.
        unit_m: Metres of a unit.
    """
    low, high = (points.amin(1), points.amax(1)) if scene_range is None else scene_range.to(points).unbind(1)
    return SceneExtent(low, (high - low).clamp_min(LEAST_EXTENT * unit_m))


class BoxPredictions(NamedTuple):
    """What a detector says of each query; ``...`` is the batch, or layers and batch.

    Attributes:
        class_logits: ``(..., queries, classes + 1)``; the last one says that there is no object.
        centers: ``(..., queries, 3)`` metres.
        centers_normalized: The same as shares of the scene's extent.
        sizes: ``(..., queries, 3)`` metres, at least :data:`LEAST_SIZE` units.
        sizes_normalized: As shares of the scene's extent, however small.
        angle_logits: ``(..., queries, bins)``.
        angle_residuals_normalized: ``(..., queries, bins)``, as shares of half a bin.
    """

    class_logits: Float[Tensor, "*batch queries classes_and_none"]
    centers: Float[Tensor, "*batch queries 3"]
    centers_normalized: Float[Tensor, "*batch queries 3"]
    sizes: Float[Tensor, "*batch queries 3"]
    sizes_normalized: Float[Tensor, "*batch queries 3"]
    angle_logits: Float[Tensor, "*batch queries bins"]
    angle_residuals_normalized: Float[Tensor, "*batch queries bins"]

    def layer(self, number: int) -> "BoxPredictions":
        """Return the predictions behind one layer of several.

        Args:
            number: From 0; negative numbers count from the last.
        """
        return BoxPredictions(*(each[number] for each in self))

    @property
    def class_probabilities(self) -> Float[Tensor, "*batch queries classes"]:
        """Of each class; with the probability that there is no object they sum to one."""
        return self.class_logits.softmax(-1)[..., :-1]

    @property
    def objectness(self) -> Float[Tensor, "*batch queries"]:
        """Probability that there is an object of any class."""
        return 1 - self.class_logits.softmax(-1)[..., -1]

    @property
    def angle_residuals(self) -> Float[Tensor, "*batch queries bins"]:
        """Radians from the middle of each bin, clockwise seen from above."""
        return self.angle_residuals_normalized * (pi / self.angle_logits.shape[-1])

    @property
    def yaws(self) -> Float[Tensor, "*batch queries"]:
        """Radians about +z, anticlockwise seen from above, of the most probable bin."""
        bins = self.angle_logits.shape[-1]
        if bins == 1:
            return torch.zeros_like(self.angle_logits[..., 0])
        best = self.angle_logits.argmax(-1, keepdim=True)
        angle = (best * (tau / bins) + self.angle_residuals.gather(-1, best))[..., 0]
        return -torch.where(angle > pi, angle - tau, angle)

    @property
    def boxes(self) -> Float[Tensor, "*batch queries 7"]:
        """Centre, full size and yaw, as everything in :mod:`crossdim.geometry.boxes` takes them."""
        return torch.cat([self.centers, self.sizes, self.yaws[..., None]], dim=-1)


class BoxHead(nn.Module):
    """One head: two maps with batch normalisation, ReLU and dropout, then a linear one.

    Args:
        width: Of the features.
        values: Numbers for each query.
        dropout: Chance of each value between to be zero while training.
    """

    def __init__(self, width: int, values: int, dropout: float) -> None:
        super().__init__()
        self.mlp = PointwiseMLP((width, width, width), dropout)
        self.linear = nn.Linear(width, values)

    def forward(self, features: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch values"]:
        """Map every query by itself."""
        return self.linear(self.mlp(features))


class BoxHeads(nn.Module):
    """The five heads; features of queries → :class:`BoxPredictions`.

    The queries of all layers go through them together, so in training they share the statistics of one batch.

    Args:
        width: Of the features.
        classes: Number of classes.
        angle_bins: Bins of a full turn; one for boxes that are all upright.
        dropout: Of every head.
        unit_m: Metres of the unit in which queries reach :data:`REACH`.
    """

    def __init__(self, width: int, classes: int, angle_bins: int, dropout: float, unit_m: float = 1.0) -> None:
        super().__init__()
        self.unit_m = unit_m
        values = {"classes": classes + 1, "center": 3, "size": 3, "angle_class": angle_bins}
        values["angle_residual"] = angle_bins
        self.heads = nn.ModuleDict({name: BoxHead(width, count, dropout) for name, count in values.items()})

    def forward(
        self,
        features: Float[Tensor, "layers batch queries width"],
        places: Float[Tensor, "batch queries 3"],
        extent: SceneExtent,
    ) -> BoxPredictions:
        """Say what is at each query.

        Args:
            features: Of the queries behind every layer.
            places: Of the queries, in metres.
            extent: Of the scenes.
        """
        raw = {name: head(features) for name, head in self.heads.items()}
        raw = {name: values.to(torch.promote_types(values.dtype, torch.float32)) for name, values in raw.items()}
        centers = places + (raw["center"].sigmoid() - 0.5) * (REACH * self.unit_m)
        sizes = raw["size"].sigmoid()
        return BoxPredictions(
            raw["classes"],
            centers,
            extent.shares(centers),
            (sizes * extent.size[:, None]).clamp_min(LEAST_SIZE * self.unit_m),
            sizes,
            raw["angle_class"],
            raw["angle_residual"],
        )
