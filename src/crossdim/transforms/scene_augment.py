"""Random variation of scenes: the points are mirrored, turned and scaled, and the projection follows exactly.

The image stays as it is: whatever happens to the points is undone in the projection, so every point keeps its pixel.

Differs from the authors' code: theirs folds the variation into the calibration's tilt and a separate factor; here it is
one matrix behind the projection, exact for any camera. Their released recipe varies nothing, as here by default.
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


class SceneAugmentation(Part):
    """What of a scene is varied, and how much; the defaults vary nothing.

    Attributes:
        flip_x: Probability of mirroring the points at the plane x = 0.
        rotation_deg: Largest angle about the vertical through the origin, either way.
        scale: Smallest and largest factor on the points' coordinates. (1, 1) changes nothing.
    """

    flip_x: Share = 0.0
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
            generator: Source of all draws, on the CPU; always as many are drawn, whatever is switched on.
        """
        draws = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        matrix = self._matrix(draws)
        if prepared.points is None or bool((matrix == torch.eye(3, dtype=torch.float64)).all()):
            return prepared
        points = (prepared.points.double() @ matrix.T).float()
        projection = prepared.projection
        if projection is not None:
            projection = torch.cat([projection[:, :3] @ torch.linalg.inv(matrix), projection[:, 3:]], dim=1)
        return replace(prepared, points=points, projection=projection)

    def _matrix(self, draws: list[float]) -> Float[Tensor, "3 3"]:
        """Return what points are multiplied with: mirrored, then turned, then scaled."""
        side = -1.0 if draws[0] < self.flip_x else 1.0
        angle = radians(self.rotation_deg * (2 * draws[1] - 1))
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[2]
        turn = torch.tensor(
            [[cos(angle), -sin(angle), 0.0], [sin(angle), cos(angle), 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64
        )
        return factor * turn * torch.tensor([side, 1.0, 1.0], dtype=torch.float64)
