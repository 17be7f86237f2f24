"""A scene as a manifest holds it: the names of its files, and its camera and boxes in numbers.

Camera and boxes stand in the record rather than in files of their own, because every data set writes them in its own
way: whoever makes the manifest turns them into one, once.
"""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from crossdim.errors import GeometryError
from crossdim.geometry.camera import check_camera
from crossdim.readers.depth import DepthEncoding
from crossdim.samples import Boxes3D, Camera

Row3 = tuple[float, float, float]
Row4 = tuple[float, float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SceneCamera(_Strict):
    """A pinhole camera and its place in the scene; see ``samples.Camera``.

    Attributes:
        intrinsics: 3 rows of 3, in pixels of an image of ``size``; pixel centres are whole numbers.
        size: (height, width) of the image in pixels.
        camera_from_scene: 4 rows of 4, rigid: scene metres to camera metres (x right, y down, z forward).
    """

    intrinsics: tuple[Row3, Row3, Row3]
    size: tuple[PositiveInt, PositiveInt]
    camera_from_scene: tuple[Row4, Row4, Row4, Row4]

    @model_validator(mode="after")
    def _is_a_camera(self) -> "SceneCamera":
        try:
            check_camera(camera_of(self))
        except GeometryError as error:
            raise ValueError(error.reason) from error
        return self


class SceneBox(_Strict):
    """One oriented box; see ``samples.Boxes3D``.

    Attributes:
        label: Its class.
        center_m: In scene metres.
        size_m: Full lengths along the box's own x, y and z.
        yaw_rad: About +z, anticlockwise seen from above.
    """

    label: str = Field(min_length=1)
    center_m: Row3
    size_m: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    yaw_rad: float = 0.0


class SceneFiles(_Strict):
    """The parts of one scene; paths are relative to the manifest's root.

    Attributes:
        points: File of points in the scene's frame; instead of ``depth``.
        image: The picture that the camera took.
        depth: Depth picture; its readings become the points, through the camera.
        depth_unit_m: Metres that a step of ``depth`` is.
        depth_encoding: How the pixels of ``depth`` hold a reading.
        camera: None where it is not known, so that points and image cannot be laid on one another.
        boxes: What is known to be there; None where nothing is known.
    """

    points: str | None = None
    image: str | None = None
    depth: str | None = None
    depth_unit_m: PositiveFloat = 0.001
    depth_encoding: DepthEncoding = "plain"
    camera: SceneCamera | None = None
    boxes: tuple[SceneBox, ...] | None = None

    @model_validator(mode="after")
    def _something_to_read(self) -> "SceneFiles":
        if not self.paths:
            raise ValueError("a scene needs points, a depth picture or an image, and has none")
        if self.points is not None and self.depth is not None:
            raise ValueError("a scene has points or a depth picture, not both")
        if self.depth is not None and self.camera is None:
            raise ValueError("a depth picture needs a camera, or it cannot become points")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that there are: points or depth, then the image."""
        return tuple(path for path in (self.points, self.depth, self.image) if path is not None)


def camera_of(camera: SceneCamera) -> Camera:
    """Return a record's camera as a noun.

    Args:
        camera: As a record holds it.
    """
    return Camera(np.array(camera.intrinsics), camera.size, np.array(camera.camera_from_scene))


def boxes_of(boxes: tuple[SceneBox, ...]) -> Boxes3D:
    """Return a record's boxes as a noun.

    Args:
        boxes: As a record holds them; there may be none.
    """
    return Boxes3D(
        centers_m=np.array([box.center_m for box in boxes]).reshape(-1, 3),
        sizes_m=np.array([box.size_m for box in boxes]).reshape(-1, 3),
        yaws_rad=np.array([box.yaw_rad for box in boxes]),
        labels=tuple(box.label for box in boxes),
    )


def camera_record(camera: Camera) -> SceneCamera:
    """Return a camera as a record holds it.

    Args:
        camera: The noun.
    """
    intrinsics, pose = camera.intrinsics.tolist(), camera.camera_from_scene.tolist()
    return SceneCamera.model_validate(
        {
            "intrinsics": tuple(map(tuple, intrinsics)),
            "size": camera.size,
            "camera_from_scene": tuple(map(tuple, pose)),
        }
    )


def box_records(boxes: Boxes3D) -> tuple[SceneBox, ...]:
    """Return boxes as a record holds them.

    Args:
        boxes: The noun; scores are left out.
    """
    rows = zip(boxes.labels, boxes.centers_m.tolist(), boxes.sizes_m.tolist(), boxes.yaws_rad.tolist(), strict=True)
    return tuple(
        SceneBox(label=label, center_m=tuple(center), size_m=tuple(size), yaw_rad=yaw)
        for label, center, size, yaw in rows
    )
