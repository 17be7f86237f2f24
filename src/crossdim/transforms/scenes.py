"""Scenes to tensors: points in metres, an image stretched to one size, and the projection between the two.

Points keep their metres: nothing is centred or scaled. The projection maps a point of the prepared scene to a pixel of
the frame that the camera took; a place in that frame, as a share of its width and height, is the same place in the
prepared image, because images are stretched to the size.

Differs from the authors' code: an image is resized once (theirs twice, to 530 x 730 and then to 256 x 352), and the
projection knows the frame's own size (theirs divides by 730 and 530 whatever the camera: ``frame="released"``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import AfterValidator, Field, FiniteFloat, model_serializer, model_validator
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.geometry.camera import project, projection_matrix, visible
from crossdim.samples import Camera, Image, PointCloud, Scene
from crossdim.transforms.image import ImageContract, prepare_image
from crossdim.transforms.intensity import Part

Positive = Annotated[int, Field(ge=1)]
Place = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


def _lowest_first(region: tuple[Place, Place]) -> tuple[Place, Place]:
    for axis, low, high in zip("xyz", *region, strict=True):
        if low >= high:
            raise ValueError(f"must be (lowest, highest) along every axis, and {axis} goes from {low:g} to {high:g}")
    return region


Region = Annotated[tuple[Place, Place], AfterValidator(_lowest_first)]
"""An upright box: its lowest (x, y, z) and its highest, in metres of the scene's frame."""

RELEASED_FRAME = (530, 730)
"""(height, width) that the authors divide every pixel by."""


class PointsContract(Part):
    """How every cloud becomes points ``(kept, 3)``.

    Attributes:
        drawn: Points drawn at random from a cloud, without replacement; a cloud with fewer gives all of them.
        kept: Points that the model sees: spread over what was drawn by farthest-point sampling. A cloud with fewer is
            filled up with its own points, repeated one after the other.
        fewest: A cloud with fewer points is refused; the number of groups, each of which has a centre of its own.
        region: Points outside of it are left out, before any are drawn or counted; None takes all.
    """

    drawn: Positive = 20000
    kept: Positive = 2048
    fewest: Positive = 128
    region: Region | None = None

    @model_validator(mode="after")
    def _numbers_fall(self) -> "PointsContract":
        if not self.fewest <= self.kept <= self.drawn:
            raise ValueError(f"needs fewest <= kept <= drawn, and they are {self.fewest}, {self.kept} and {self.drawn}")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave the region out where there is none, so that contracts written before there were any keep their hash."""
        tree = handler(self)
        if self.region is None:
            tree.pop("region", None)
        return tree


class SceneContract(Part):
    """How every scene becomes tensors.

    Attributes:
        image: For the image, which is stretched to the size; None refuses images.
        points: For the points; None refuses points.
        frame: Places in the image are shares of the ``camera``'s own frame, or (``released``) of 530 x 730 pixels
            whatever the camera, as the authors' code has them.
    """

    image: ImageContract | None = None
    points: PointsContract | None = None
    frame: Literal["camera", "released"] = "camera"

    @model_validator(mode="after")
    def _the_projection_can_follow(self) -> "SceneContract":
        if self.image is None and self.points is None:
            raise ValueError("neither image nor points is stated: every scene would be refused")
        if self.image is not None and self.image.fit != "resize":
            raise ValueError(f"image.fit is {self.image.fit}; images of scenes are stretched (resize)")
        return self


@dataclass(frozen=True, eq=False)
class PreparedScene:
    """A scene as the contract makes it.

    Attributes:
        points: ``(points, 3)``, metres, finite; every point of the file until :func:`draw_points` took some.
        pixel_values: ``(channels, height, width)``, normalised.
        projection: ``(3, 4)``, float64: a point ``(x, y, z, 1)`` to ``(column * depth, row * depth, depth)`` in the
            frame; None where points, image or camera are missing.
        frame_size: (height, width) of the frame that the projection is about, in pixels; see the contract's ``frame``.
        notes: What was done that a user may want to know.
        boxes: ``(boxes, 7)``, float64: centre, full size and yaw of what is labelled; None where nothing is asked.
        classes: ``(boxes,)``, number of the class of each; None where nothing is asked.
    """

    points: Float[Tensor, "points 3"] | None
    pixel_values: Float[Tensor, "channels height width"] | None
    projection: Float[Tensor, "3 4"] | None = None
    frame_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    boxes: Float[Tensor, "boxes 7"] | None = None
    classes: Int[Tensor, " boxes"] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that the tensors take."""
        return sum(part.nbytes for part in (self.points, self.pixel_values) if part is not None)


def prepare_scene(scene: Scene, contract: SceneContract, generator: torch.Generator | None = None) -> PreparedScene:
    """Apply the contract to a scene.

    Args:
        scene: As read; points, image and camera may be missing.
        contract: What every scene of the model goes through.
        generator: Source of the draw of points, on the CPU; None keeps every point for :func:`draw_points`.

    Raises:
        ContractError: There is nothing in the scene, something that the contract does not know, too few finite points,
            an image that is not its camera's, or no point in view.
    """
    subject = scene.origin.path
    if scene.points is None and scene.image is None:
        raise ContractError(subject, "has neither points nor an image", "Give one of the two")
    points, notes = (None, ()) if scene.points is None else _points(scene.points, contract, subject)
    pixels = None if scene.image is None else _pixels(scene.image, contract, subject)
    projection, frame = None, None
    if points is not None and scene.image is not None and scene.camera is not None:
        _refuse_other_camera(scene.image, scene.camera, subject)
        frame = scene.camera.size if contract.frame == "camera" else RELEASED_FRAME
        matrix = projection_matrix(scene.camera)
        if not visible(*project(points.numpy().astype(np.float64), matrix), scene.camera.size).any():
            raise _empty_view(contract, subject)
        projection = torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float64))
    prepared = PreparedScene(points, pixels, projection, frame, notes)
    return prepared if generator is None else draw_points(prepared, contract, generator)


def _points(
    cloud: PointCloud, contract: SceneContract, subject: str
) -> tuple[Float[Tensor, "points 3"], tuple[str, ...]]:
    if contract.points is None:
        raise ContractError(
            subject, "has points, and the model knows images only", "Give its image alone, or another model"
        )
    fewest, region = contract.points.fewest, contract.points.region
    points = cloud.points[np.isfinite(cloud.points).all(axis=1)]
    broken, finite = len(cloud.points) - len(points), len(points)
    if finite < fewest:
        lost = f" ({broken} more are not finite)" if broken else ""
        raise ContractError(
            subject,
            f"has {finite} points{lost}, and the model needs {fewest} at least",
            "Give a denser cloud, or train a model with fewer groups",
        )
    if region is not None:
        points = points[within(points, region)]
        if len(points) < fewest:
            raise ContractError(
                subject,
                f"has {len(points)} of its {finite} points in the region that the model looks at "
                f"({in_words(region)}), and the model needs {fewest} at least",
                "Look at the scene with 'crossdim inspect'; check its frame and contract.region",
            )
    notes = (f"{broken} points that are not finite were left out",) if broken else ()
    return torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32)), notes


def within(places: Float[Any, "places 3"], region: tuple[Place, Place]) -> Bool[Any, " places"]:
    """Return which places lie in a region; its faces belong to it.

    Args:
        places: In metres of the scene's frame.
        region: Lowest and highest (x, y, z).
    """
    x, y, z = ((places[:, axis] >= region[0][axis]) & (places[:, axis] <= region[1][axis]) for axis in range(3))
    return x & y & z


def in_words(region: tuple[Place, Place]) -> str:
    """Return a region as a user reads it.

    Args:
        region: Lowest and highest (x, y, z), in metres.
    """
    return ", ".join(f"{axis} {low:g} to {high:g}" for axis, low, high in zip("xyz", *region, strict=True)) + " m"


def _pixels(image: Image, contract: SceneContract, subject: str) -> Float[Tensor, "channels height width"]:
    if contract.image is None:
        raise ContractError(
            subject, "has an image, and the model knows points only", "Give its points alone, or another model"
        )
    return prepare_image(image, contract.image).tensor


def _refuse_other_camera(image: Image, camera: Camera, subject: str) -> None:
    size = (image.pixels.shape[1], image.pixels.shape[2])
    if size != camera.size:
        raise ContractError(
            subject,
            f"has an image of {size[0]} x {size[1]} pixels and a camera of {camera.size[0]} x {camera.size[1]}",
            "Give the intrinsics and the size of the image as it is stored",
        )


def _empty_view(contract: SceneContract, subject: str) -> ContractError:
    region = None if contract.points is None else contract.points.region
    where, check = (
        (f" in the region that the model looks at ({in_words(region)})", "contract.region, ") if region else ("", "")
    )
    return ContractError(
        subject,
        f"has no point{where} that its camera sees",
        f"Look at it with 'crossdim inspect'; check {check}camera_from_scene, the units and the axes",
    )


def draw_points(prepared: PreparedScene, contract: SceneContract, generator: torch.Generator) -> PreparedScene:
    """Return the scene with as many points as the contract draws, in random order; fewer are all drawn.

    Args:
        prepared: Left as it is.
        contract: Knows how many.
        generator: Source of the draw, on the CPU.
    """
    if prepared.points is None or contract.points is None:
        return prepared
    order = torch.randperm(len(prepared.points), generator=generator)[: contract.points.drawn]
    return replace(prepared, points=prepared.points[order])


def collate_scenes(samples: Sequence[PreparedScene]) -> dict[str, Any]:
    """Stack scenes of one composition into the model's arguments.

    Args:
        samples: All with points or all without, and so with images and projections; equally many points each.

    Raises:
        ContractError: The compositions differ.
    """
    batch: dict[str, Any] = {}
    for name in ("points", "pixel_values", "projection"):
        found = [value for value in (getattr(sample, name) for sample in samples) if value is not None]
        if not found:
            continue
        if len(found) < len(samples):
            raise ContractError(
                "batch of scenes", f"has '{name}' for {len(found)} of {len(samples)} scenes", "Batch equal scenes only"
            )
        batch[name] = torch.stack(found).float()
    frames = [sample.frame_size for sample in samples if sample.frame_size is not None]
    if frames:
        batch["frame_size"] = torch.tensor(frames)
    return batch
