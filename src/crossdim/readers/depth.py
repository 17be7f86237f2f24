"""Depth pictures to metres."""

import os
from typing import Literal

import numpy as np
from jaxtyping import Float32

from crossdim.errors import ReadError, RecipeError
from crossdim.readers.formats import detect
from crossdim.readers.grids import open_grid
from crossdim.readers.limits import Limits
from crossdim.readers.selector import split_selector
from crossdim.samples import Image

DepthEncoding = Literal["plain", "sunrgbd"]
"""How a pixel holds a reading: ``plain`` as a number of units; ``sunrgbd`` as 16 bits turned left by 3."""


def read_depth(
    path: str | os.PathLike[str],
    *,
    unit_m: float = 0.001,
    encoding: DepthEncoding = "plain",
    limits: Limits | None = None,
) -> Float32[np.ndarray, "height width"]:
    """Read a depth picture: metres along the camera's view, NaN where there is no reading.

    Readings of 0, below 0, and those that are not finite are none.

    Args:
        path: A PNG or TIFF of 16 bit, or an array or TIFF of floats; 8 bit hold no depth.
        unit_m: Metres that a step is.
        encoding: How a pixel holds a reading. SUN RGB-D's raw frames have the lowest three bits on top.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged, no picture with one number a pixel, or holds no reading at all.
        RecipeError: If the unit is not above 0.
    """
    if not (np.isfinite(unit_m) and unit_m > 0):
        raise RecipeError("unit_m", f"is {unit_m} and has to be above 0", "Give the metres of one step, such as 0.001")
    allowed = limits or Limits()
    source, select = split_selector(os.fspath(path))
    picture = open_grid(source, select, detect(source, allowed), allowed).read()
    if not isinstance(picture, Image) or len(picture.pixels) != 1 or picture.pixels.dtype == np.uint8:
        found = (
            f"{len(picture.pixels)} channels of {picture.pixels.dtype}" if isinstance(picture, Image) else "a volume"
        )
        reason = f"is no depth picture: it holds {found}"
        raise ReadError(path, reason, "Give a picture with one 16 bit number or one float a pixel")
    values = picture.pixels[0]
    if encoding == "sunrgbd":
        if values.dtype != np.uint16:
            raise ReadError(path, f"holds {values.dtype}, and SUN RGB-D's depth is uint16", "Read it as plain")
        values = values >> 3 | values << 13
    depth_m = values.astype(np.float32) * np.float32(unit_m)
    depth_m[~(np.isfinite(depth_m) & (depth_m > 0))] = np.nan
    if np.isnan(depth_m).all():
        raise ReadError(path, "holds no reading: no pixel is above 0", "Copy or export it again, or leave it out")
    return depth_m
