"""What a header says about a file, and what looking at the intensities adds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossdim.errors import ReadError
from crossdim.geometry.affine import orientation_code, spacing_mm
from crossdim.samples import Image, IntensityUnit, Volume


@dataclass(frozen=True)
class SceneFacts:
    """What points or a scene hold; None where that part is absent or was not looked at.

    Attributes:
        points: How many there are in the file.
        low_m: Smallest x, y and z.
        high_m: Largest x, y and z.
        spacing_m: Typical distance from a point to the nearest other one.
        colors: Whether points have colours.
        attributes: What else is known of each point.
        image: (height, width) of the picture.
        camera: (height, width) of the camera's picture.
        view_deg: How far the camera sees, (across, down).
        in_view: Share of the points that it sees.
        boxes: How many boxes each class has.
    """

    points: int | None = None
    low_m: tuple[float, float, float] | None = None
    high_m: tuple[float, float, float] | None = None
    spacing_m: float | None = None
    colors: bool = False
    attributes: tuple[str, ...] = ()
    image: tuple[int, int] | None = None
    camera: tuple[int, int] | None = None
    view_deg: tuple[float, float] | None = None
    in_view: float | None = None
    boxes: dict[str, int] | None = None


@dataclass(frozen=True)
class Inspection:
    """What a file is.

    Attributes:
        path: As given, with its selector.
        kind: What it is read as.
        format: The file format in words.
        shape: (channels, height, width), (channels, depth, height, width) or, of points, (points, columns); of a scene
            its picture's, or else its points'.
        spacing_mm: Millimetres along (height, width) or (depth, height, width), when the file says so.
        orientation: Of a volume: where depth, height and width point to, such as ``SPL``.
        dtype: Numeric type of the intensities or coordinates as read.
        intensity_min: Smallest finite intensity; None if intensities were not looked at.
        intensity_max: Largest finite intensity; None if intensities were not looked at.
        unit: What an intensity means; None of points and scenes.
        problems: Everything that a user should know before using it.
        choices: What can stand behind ``#``, if the file holds several images or volumes.
        needs_choice: Whether ``read`` refuses it until one of the choices is named.
        contradicts: Whether ``read`` refuses it because its parts contradict one another; ``problems`` say how.
        scene: Of points and scenes.
    """

    path: str
    kind: Literal["image", "volume", "points", "scene"]
    format: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    orientation: str | None
    dtype: str
    intensity_min: float | None
    intensity_max: float | None
    unit: IntensityUnit | None
    problems: tuple[str, ...]
    choices: tuple[str, ...]
    needs_choice: bool
    contradicts: bool = False
    scene: SceneFacts | None = None


@dataclass(frozen=True)
class Opened:
    """A file whose header was read and checked, and whose intensities were not.

    Attributes:
        path: The file or folder.
        select: What was chosen inside it.
        kind: What it is read as.
        format: The file format in words.
        name: What it is called as a channel: the series description, or the file's name without its ending.
        shape: As in ``Inspection``.
        dtype: As in ``Inspection``.
        unit: As far as the header tells.
        load: Reads the intensities; where a choice is needed, those of the first one.
        affine: Of a volume.
        pixel_spacing_mm: Of an image, (height, width).
        warnings: What the header alone shows.
        choices: What can stand behind ``#``.
        needs_choice: Why one of them has to be named; empty if none has to.
    """

    path: str
    select: str | None
    kind: Literal["image", "volume"]
    format: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: IntensityUnit
    load: Callable[[], Image | Volume]
    affine: NDArray[np.float64] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    choices: tuple[str, ...] = field(default=(), repr=False)
    needs_choice: str = ""

    def read(self) -> Image | Volume:
        """Read the intensities.

        Raises:
            ReadError: If a choice has to be named, or the intensities are damaged.
        """
        if self.needs_choice:
            examples = " or ".join(
                f"'{self.path}#{choice}'" for choice in self.choices[:: max(len(self.choices) - 1, 1)]
            )
            raise ReadError(self.path, self.needs_choice, f"Choose one, such as {examples}")
        return self.load()

    def inspect(self, *, intensity: bool) -> Inspection:
        """Return what the file is.

        Args:
            intensity: Whether to read the intensities for their range, unit and faults.
        """
        noun = self.load() if intensity else None
        values = _values(noun) if noun is not None else None
        low, high = finite_range(values) if values is not None else (None, None)
        spacing = spacing_mm(self.affine) if self.affine is not None else self.pixel_spacing_mm
        remarks = self.warnings if noun is None else noun.warnings
        return Inspection(
            path=self.path if self.select is None else f"{self.path}#{self.select}",
            kind=self.kind,
            format=self.format,
            shape=self.shape,
            spacing_mm=spacing,
            orientation=orientation_code(self.affine) if self.affine is not None else None,
            dtype=self.dtype if values is None else str(values.dtype),
            intensity_min=low,
            intensity_max=high,
            unit=self.unit if noun is None else noun.unit,
            problems=((self.needs_choice,) if self.needs_choice else ()) + remarks,
            choices=self.choices,
            needs_choice=bool(self.needs_choice),
        )


def _values(noun: Image | Volume) -> NDArray[np.generic]:
    return noun.pixels if isinstance(noun, Image) else noun.voxels


def finite_range(values: NDArray[np.generic]) -> tuple[float, float]:
    """Return the smallest and the largest finite value (0, 0 if there is none).

    Args:
        values: Of any numeric type.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
