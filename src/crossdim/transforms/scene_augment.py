"""Random variation of scenes: points are mirrored, turned, scaled and cut out, and projection and boxes follow exactly.

The image stays as it is: whatever happens to the points is undone in the projection, so every point keeps its pixel;
and every box keeps its points.

Differs from the authors' code: theirs folds the variation into the calibration's tilt and a separate factor; here it is
one matrix behind the projection, exact for any camera. Their released pre-training varies nothing, as here by default.
Theirs enlarges the upright box around a turned one when it turns ScanNet's boxes; here boxes turn. How many points a
cuboid keeps is a share of the scene's (theirs: 30000 of 50000).
"""

from dataclasses import replace
from math import cos, radians, sin
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from crossdim.transforms.intensity import Part
from crossdim.transforms.scenes import PreparedScene

Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0)]
Size = Annotated[float, Field(gt=0, le=1)]

ATTEMPTS = 100
"""Cuboids that are tried before a scene stays whole."""


class SceneAugmentation(Part):
    """What of a scene is varied, and how much; the defaults vary nothing.

    Attributes:
        flip_x: Probability of mirroring the points at the plane x = 0.
        flip_y: Probability of mirroring the points at the plane y = 0.
        rotation_deg: Largest angle about the vertical through the origin, either way.
        scale: Smallest and largest factor on the points' coordinates. (1, 1) changes nothing.
    """

    flip_x: Share = 0.0
    flip_y: Share = 0.0
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: tuple[Factor, Factor] = (1.0, 1.0)

    @model_validator(mode="after")
    def _ranges_rise(self) -> "SceneAugmentation":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be (smallest, largest), and is ({self.scale[0]:g}, {self.scale[1]:g})")
        return self

    def vary(self, prepared: PreparedScene, generator: torch.Generator) -> PreparedScene:
        """Vary a prepared scene; without points there is nothing to vary.

        Args:
            prepared: Left as it is.
            generator: Source of all draws, on the CPU; how many are drawn depends on what is asked for alone.
        """
        draws = torch.rand(4 if self.flip_y else 3, generator=generator, dtype=torch.float64).tolist()
        matrix = self._matrix(draws)
        if prepared.points is None or bool((matrix == torch.eye(3, dtype=torch.float64)).all()):
            return prepared
        points = (prepared.points.double() @ matrix.T).float()
        projection = prepared.projection
        if projection is not None:
            projection = torch.cat([projection[:, :3] @ torch.linalg.inv(matrix), projection[:, 3:]], dim=1)
        boxes = None if prepared.boxes is None else moved_boxes(prepared.boxes, matrix)
        return replace(prepared, points=points, projection=projection, boxes=boxes)

    def _matrix(self, draws: list[float]) -> Float[Tensor, "3 3"]:
        """Return what points are multiplied with: mirrored, then turned, then scaled."""
        sides = [-1.0 if draws[0] < self.flip_x else 1.0, -1.0 if self.flip_y and draws[3] < self.flip_y else 1.0]
        angle = radians(self.rotation_deg * (2 * draws[1] - 1))
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[2]
        turn = torch.tensor(
            [[cos(angle), -sin(angle), 0.0], [sin(angle), cos(angle), 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64
        )
        return factor * turn * torch.tensor([*sides, 1.0], dtype=torch.float64)


def moved_boxes(boxes: Float[Tensor, "boxes 7"], matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "boxes 7"]:
    """Return boxes where their points have gone; the x axis of each box goes along.

    Args:
        boxes: Centre, full size, yaw.
        matrix: What points are multiplied with: mirrors at upright planes, turns about the vertical, one factor.
    """
    matrix = matrix.to(boxes)
    along = torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin()], dim=1) @ matrix[:2, :2].T
    yaws = torch.atan2(along[:, 1], along[:, 0])
    return torch.cat([boxes[:, :3] @ matrix.T, boxes[:, 3:6] * matrix[2, 2], yaws[:, None]], dim=1)


class SceneCrop(Part):
    """A cuboid is cut out of every scene at random (Zhang et al., "DepthContrast", ICCV 2021); by default none is.

    A cuboid stands around a point of the scene. Boxes whose centre is in it stay, whole.

    Attributes:
        size: Smallest and largest length of the cuboid along each axis, as a share of the scene's. (1, 1) cuts nothing.
        aspect: Two of the three shares at least are as alike as this.
        fewest_points: Share of the scene's points that has to stay.
    """

    size: tuple[Size, Size] = (1.0, 1.0)
    aspect: Size = 0.75
    fewest_points: Size = 0.6

    @model_validator(mode="after")
    def _ranges_rise(self) -> "SceneCrop":
        if self.size[0] > self.size[1]:
            raise ValueError(f"size must be (smallest, largest), and is ({self.size[0]:g}, {self.size[1]:g})")
        if self.size == (1.0, 1.0):
            for key in ("aspect", "fewest_points"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} has no effect while size is (1, 1): nothing is cut out")
        return self

    def cut(self, prepared: PreparedScene, generator: torch.Generator) -> PreparedScene:
        """Return what is in a cuboid: enough points, and a box if there were any; a scene without such one stays whole.

        Args:
            prepared: Left as it is.
            generator: Source of all draws, on the CPU.
        """
        points = prepared.points
        if points is None or self.size == (1.0, 1.0):
            return prepared
        extent = points.amax(0) - points.amin(0)
        for _ in range(ATTEMPTS):
            *draws, place = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
            shares = [self.size[0] + (self.size[1] - self.size[0]) * draw for draw in draws]
            small, middle, large = sorted(shares)
            if max(small / middle, middle / large) < self.aspect:
                continue
            center, half = points[int(place * len(points))], extent * torch.tensor(shares) / 2
            inside = ((points - center).abs() <= half).all(dim=1)
            if int(inside.sum()) < self.fewest_points * len(points):
                continue
            if prepared.boxes is None or prepared.classes is None:
                return replace(prepared, points=points[inside])
            held = ((prepared.boxes[:, :3] - center).abs() <= half).all(dim=1)
            if bool(held.any()) or not len(held):
                boxes, classes = prepared.boxes[held], prepared.classes[held]
                return replace(prepared, points=points[inside], boxes=boxes, classes=classes)
        return prepared
