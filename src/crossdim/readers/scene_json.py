"""``camera.json`` and ``boxes.json``: a camera and boxes as people write them by hand or programs export them."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from crossdim.errors import GeometryError, ReadError, nearest
from crossdim.geometry.camera import LEVEL, check_camera
from crossdim.readers.limits import Limits, file_bytes
from crossdim.samples import Boxes3D, Camera

DEPTH_UNIT_M = 0.001

_CAMERA_KEYS = ("intrinsics", "size", "camera_from_scene", "depth_unit_m")
_BOX_KEYS = ("label", "center_m", "size_m", "yaw_rad")
_MOST_BYTES = 2**26
_LARGEST_SIZE = 2**20
_REMEDY = "See docs/reference/formats.md for what it holds"


def read_json(path: str, limits: Limits) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        limits: What is allowed.

    Raises:
        ReadError: If it is absent, too large or not JSON.
    """
    size = file_bytes(path, limits)
    if size > _MOST_BYTES:
        raise ReadError(path, f"has {size} bytes, too many for a camera or boxes", _REMEDY)
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise ReadError(path, f"cannot be opened ({error})", "Check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ReadError(path, f"is not JSON ({error})", "Correct the file") from error


def parse_camera(value: object, subject: str | os.PathLike[str]) -> Camera:
    """Return the camera that a JSON object describes.

    Args:
        value: ``intrinsics`` (3 rows of 3, pixels), ``size`` ([height, width]) and perhaps ``camera_from_scene``
            (4 rows of 4; without it a level camera at the origin: scene x to the right, y forward, z up) and
            ``depth_unit_m``.
        subject: The file, for the error.

    Raises:
        ReadError: If a key is absent, unknown, or of the wrong type or shape.
        GeometryError: If the numbers cannot be those of a camera, for example because they mirror the scene.
    """
    said = _object(value, _CAMERA_KEYS, subject)
    depth_unit_m(value, subject)
    intrinsics = _numbers(said, "intrinsics", (3, 3), subject)
    height, width = _numbers(said, "size", (2,), subject)
    if not all(size == int(size) and 1 <= size <= _LARGEST_SIZE for size in (height, width)):
        reason = f"its size [{height:g}, {width:g}] is not two whole numbers of pixels"
        raise GeometryError(subject, reason, "Give [height, width] of the image")
    place = _numbers(said, "camera_from_scene", (4, 4), subject) if "camera_from_scene" in said else LEVEL.copy()
    camera = Camera(intrinsics, (int(height), int(width)), place)
    check_camera(camera, os.fspath(subject))
    return camera


def depth_unit_m(value: object, subject: str | os.PathLike[str]) -> float:
    """Return the metres that a step of the depth picture beside a ``camera.json`` is; 0.001 where it says nothing.

    Args:
        value: As for ``parse_camera``.
        subject: The file, for the error.

    Raises:
        ReadError: If it is not a number above 0.
    """
    said = _object(value, _CAMERA_KEYS, subject)
    if "depth_unit_m" not in said:
        return DEPTH_UNIT_M
    unit = float(_numbers(said, "depth_unit_m", (), subject))
    if not unit > 0:
        raise ReadError(subject, f"its depth_unit_m is {unit:g} and has to be above 0", "Give metres, such as 0.001")
    return unit


def parse_boxes(value: object, subject: str | os.PathLike[str]) -> Boxes3D:
    """Return the boxes that a JSON list describes; an empty list says that there are none.

    Args:
        value: For each box an object with ``label``, ``center_m``, ``size_m`` (full lengths along the box's own x, y
            and z) and perhaps ``yaw_rad`` (about +z, anticlockwise seen from above).
        subject: The file, for the error.

    Raises:
        ReadError: If a key is absent, unknown, or of the wrong type or shape, or a length is not above 0.
    """
    if not isinstance(value, list):
        raise ReadError(subject, f"holds {_kind(value)} where a list of boxes should be", _REMEDY)
    labels, centers, sizes, yaws = [], [], [], []
    for place, one in enumerate(value):
        name = f"{os.fspath(subject)}, box {place}"
        said = _object(one, _BOX_KEYS, name)
        label = said.get("label")
        if not isinstance(label, str) or not label:
            raise ReadError(name, "has no label", "Give its class as text")
        size = _numbers(said, "size_m", (3,), name)
        if not (size > 0).all():
            raise ReadError(name, f"its size_m {size.tolist()} is not above 0", "Give full lengths in metres")
        labels.append(label)
        sizes.append(size)
        centers.append(_numbers(said, "center_m", (3,), name))
        yaws.append(float(_numbers(said, "yaw_rad", (), name)) if "yaw_rad" in said else 0.0)
    return Boxes3D(
        np.array(centers, np.float64).reshape(-1, 3),
        np.array(sizes, np.float64).reshape(-1, 3),
        np.array(yaws, np.float64),
        tuple(labels),
    )


def _object(value: object, keys: Iterable[str], subject: str | os.PathLike[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReadError(subject, f"holds {_kind(value)} where an object should be", _REMEDY)
    unknown = [key for key in value if key not in keys]
    if unknown:
        raise ReadError(subject, f"has the unknown key '{unknown[0]}'", nearest(str(unknown[0]), keys))
    return value


def _numbers(said: dict[str, Any], key: str, shape: tuple[int, ...], subject: str | os.PathLike[str]) -> np.ndarray:
    if key not in said:
        raise ReadError(subject, f"has no '{key}'", _REMEDY)
    if not _fits(said[key], shape):
        wanted = " x ".join(map(str, shape)) + " numbers" if shape else "a number"
        raise ReadError(subject, f"its {key} is not {wanted}, all finite", _REMEDY)
    return np.array(said[key], np.float64)


def _fits(value: object, shape: Sequence[int]) -> bool:
    if shape:
        return isinstance(value, list | tuple) and len(value) == shape[0] and all(_fits(v, shape[1:]) for v in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "text", type(None): "nothing"}.get(type(value), "a number")
