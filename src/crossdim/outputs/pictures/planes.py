"""The three mid-planes of a volume as radiologists look at them: head up, face up, the patient's right on the left."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from crossdim.geometry.affine import reorient, spacing_mm

DISPLAY_ORIENTATION = "IPL"
"""Depth downwards, height backwards, width to the left: rows and columns of every plane then run as on a screen."""


@dataclass(frozen=True)
class Plane:
    """A slice to look at.

    Attributes:
        name: ``axial``, ``coronal`` or ``sagittal``.
        values: Channels, rows from top to bottom, columns from left to right.
        pixel_mm: Size of a pixel: height and width.
        letters: Where left, right, top and bottom of the picture are in the patient.
    """

    name: str
    values: Shaped[np.ndarray, "channels rows columns"]
    pixel_mm: tuple[float, float]
    letters: tuple[str, str, str, str]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        rows, columns = self.values.shape[1:]
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def mid_planes(
    voxels: Shaped[np.ndarray, "channels depth height width"], affine: Float[np.ndarray, "4 4"]
) -> tuple[Plane, Plane, Plane]:
    """Cut a volume through its middle; oblique axes count as the nearest one.

    Args:
        voxels: Of any type.
        affine: Index to patient millimetres (RAS+).
    """
    turned, turned_affine = reorient(voxels, affine, DISPLAY_ORIENTATION)
    down, back, left = spacing_mm(turned_affine)
    slices, rows, columns = (size // 2 for size in turned.shape[1:])
    return (
        Plane("axial", turned[:, slices], (back, left), ("R", "L", "A", "P")),
        Plane("coronal", turned[:, :, rows], (down, left), ("R", "L", "S", "I")),
        Plane("sagittal", turned[:, :, :, columns], (down, back), ("A", "P", "S", "I")),
    )
