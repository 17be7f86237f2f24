"""The nouns: what readers return and everything downstream speaks about (numpy only).

Axis legend (fixed everywhere in crossdim):

* ``Image.pixels``: ``(channels, height, width)``, origin top left; colour channels in RGB order.
* ``Volume.voxels``: ``(channels, depth, height, width)``; depth is the slice axis.
* ``Volume.affine``: 4x4, maps a voxel index ``(depth, height, width, 1)`` to patient
  millimetres in RAS+ (x to the right, y to the front, z to the head; NIfTI's convention).
* Scenes: right-handed, in metres, z up. ``PointCloud.points``: ``(points, 3)``.
* Cameras: x to the right, y down, z forward. Pixel centres are whole numbers: (column, row) = (0, 0) is the centre of
  the top left pixel.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IntensityUnit = Literal["uint8", "uint16", "HU", "unit", "arbitrary"]
"""What an intensity means.

* ``uint8``: display values 0-255; ``uint16``: display values 0-65535;
* ``HU``: Hounsfield units (CT); ``unit``: already scaled to [0, 1];
* ``arbitrary``: scanner units without a scale of their own (MR, ultrasound, float data).
"""


@dataclass(frozen=True)
class Origin:
    """Where a sample came from, enough to find it again.

    Attributes:
        path: File or folder that was read.
        select: What was chosen inside it (a series UID, a 4D volume index, an array and row), if anything.
        slice_names: For volumes made of files: the file name of each slice along depth, in order.
        modality: DICOM modality code (``CT``, ``MR``, ``OPT``, ...) when the file says so.
    """

    path: str
    select: str | None = None
    slice_names: tuple[str, ...] = ()
    modality: str | None = None


@dataclass(frozen=True)
class Image:
    """A 2D image: ``pixels (channels, height, width)`` in the file's own numeric type."""

    pixels: NDArray[np.generic]
    unit: IntensityUnit
    origin: Origin
    spacing_mm: tuple[float, float] | None = None
    """Millimetres between pixel centres along (height, width), when the file says so."""
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["image"]:
        """The word for this noun in manifests and contracts."""
        return "image"


@dataclass(frozen=True)
class Volume:
    """A 3D volume: ``voxels (channels, depth, height, width)`` and its place in the patient."""

    voxels: NDArray[np.generic]
    affine: NDArray[np.float64]
    unit: IntensityUnit
    origin: Origin
    channel_names: tuple[str, ...] = ()
    """One name per channel when channels are co-registered series (``("T1", "FLAIR")``)."""
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["volume"]:
        """The word for this noun in manifests and contracts."""
        return "volume"


@dataclass(frozen=True)
class PointCloud:
    """Points in metres: ``points (points, 3)`` float32, right-handed, z up."""

    points: NDArray[np.float32]
    origin: Origin
    colors: NDArray[np.uint8] | None = None
    """``(points, 3)``, RGB, when the file has them."""
    attributes: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    """Anything else the file says of each point (``intensity``, ``label``), ``(points,)`` each."""
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["points"]:
        """The word for this noun in manifests and contracts."""
        return "points"


@dataclass(frozen=True)
class Camera:
    """A pinhole camera and its place in the scene.

    Attributes:
        intrinsics: ``(3, 3)``, in pixels of an image of ``size``; pixel centres are whole numbers.
        size: (height, width) of the image in pixels.
        camera_from_scene: ``(4, 4)``, rigid: scene metres to camera metres (x right, y down, z forward).
    """

    intrinsics: NDArray[np.float64]
    size: tuple[int, int]
    camera_from_scene: NDArray[np.float64]


@dataclass(frozen=True)
class Boxes3D:
    """Oriented boxes in a scene.

    Attributes:
        centers_m: ``(boxes, 3)``.
        sizes_m: ``(boxes, 3)``, full lengths along the box's own x, y and z.
        yaws_rad: ``(boxes,)``, about +z, anticlockwise seen from above.
        labels: Class of each box.
        scores: ``(boxes,)``, 0 to 1, of predicted boxes.
    """

    centers_m: NDArray[np.float64]
    sizes_m: NDArray[np.float64]
    yaws_rad: NDArray[np.float64]
    labels: tuple[str, ...]
    scores: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Scene:
    """Points, a picture of them, the camera that took it, and boxes: each where it is known."""

    origin: Origin
    points: PointCloud | None = None
    image: Image | None = None
    camera: Camera | None = None
    boxes: Boxes3D | None = None
    """None where nothing is known; no boxes at all where it is known that there are none."""
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["scene"]:
        """The word for this noun in manifests and contracts."""
        return "scene"


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about one file."""

    path: str
    task: str
    label: str | tuple[str, ...]
    """The class with the largest probability; for multi-label tasks every class above one half."""
    probabilities: dict[str, float]
    details: dict[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class SliceScore:
    """How much one slice mattered to an answer.

    Attributes:
        score: Share of the attention over all slices, 0 to 1.
        index: Slice number in the file, along ``axis`` of its array; None where the model saw padding.
        axis: Axis of the file's array behind the channels: 0 depth, 1 height, 2 width.
        position_mm: Centre of the slice in the patient, RAS+ millimetres.
    """

    score: float
    index: int | None
    axis: int
    position_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Answer:
    """What a model answered about one or several volumes or images.

    Attributes:
        paths: What was asked about.
        question: As it was asked.
        text: The answer.
        probabilities: For closed questions: each choice and its probability, most probable first.
        slices: For each volume, in order, the score of every slice the model saw, from the first to the last.
        tokens: Number of generated tokens; 0 where a choice was taken.
        complete: Whether the answer ended by itself, not because there was no more room.
    """

    paths: tuple[str, ...]
    question: str
    text: str
    probabilities: dict[str, float] = field(default_factory=dict)
    slices: tuple[tuple[SliceScore, ...], ...] = ()
    tokens: int = 0
    complete: bool = True
