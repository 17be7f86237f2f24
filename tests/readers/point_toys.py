"""Small files of points and small scenes, written on the fly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

NUMPY_TO_PLY = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int", "u2": "ushort"}


def toy_points(count: int = 40, seed: int = 0) -> np.ndarray:
    """Points in a box of 2 x 3 x 1 metres in front of a level camera at the origin."""
    return np.random.default_rng(seed).uniform((-1, 2, -0.5), (1, 5, 0.5), (count, 3)).astype(np.float32)


def toy_colors(count: int = 40) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3), dtype=np.uint8)


def table_of(**columns: Any) -> np.ndarray:
    """Return a structured array with these columns."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    table = np.empty(len(next(iter(arrays.values()))), [(name, values.dtype) for name, values in arrays.items()])
    for name, values in arrays.items():
        table[name] = values
    return table


def xyz_table(points: np.ndarray, **more: Any) -> np.ndarray:
    return table_of(x=points[:, 0], y=points[:, 1], z=points[:, 2], **more)


def write_ply(
    path: Path,
    table: np.ndarray,
    order: str = "binary_little_endian",
    *,
    before: tuple[str, bytes] = ("", b""),
    after: tuple[str, bytes] = ("", b""),
    count: int | None = None,
) -> Path:
    """Write a PLY file; ``before`` and ``after`` are header lines and data of other elements."""
    properties = "".join(f"property {NUMPY_TO_PLY[table.dtype[n].str[1:]]} {n}\n" for n in table.dtype.names or ())
    vertices = f"element vertex {len(table) if count is None else count}\n{properties}"
    header = f"ply\nformat {order} 1.0\ncomment toy\n{before[0]}{vertices}{after[0]}end_header\n"
    if order == "ascii":
        body = "".join(" ".join(repr(value) for value in row) + "\n" for row in table.tolist()).encode()
    else:
        body = table.astype(table.dtype.newbyteorder(">" if "big" in order else "<")).tobytes()
    path.write_bytes(header.encode() + before[1] + body + after[1])
    return path


def write_pcd(path: Path, table: np.ndarray, data: str = "binary", **header: str) -> Path:
    """Write a PCD file, text or binary; header lines override those of the table."""
    kinds = [table.dtype[name].str for name in table.dtype.names or ()]
    lines = {
        "VERSION": "0.7",
        "FIELDS": " ".join(table.dtype.names or ()),
        "SIZE": " ".join(kind[2:] for kind in kinds),
        "TYPE": " ".join(kind[1].upper() for kind in kinds),
        "COUNT": " ".join("1" for _ in kinds),
        "WIDTH": str(len(table)),
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(len(table)),
        "DATA": data,
        **header,
    }
    text = "# .PCD v0.7 - Point Cloud Data file format\n" + "".join(f"{key} {value}\n" for key, value in lines.items())
    if lines["DATA"] == "ascii":
        body = "".join(" ".join(repr(value) for value in row) + "\n" for row in table.tolist()).encode()
    else:
        body = table.tobytes()
    path.write_bytes(text.encode() + body)
    return path


CAMERA: dict[str, Any] = {"intrinsics": [[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]], "size": [30, 40]}
"""A level camera at the origin, whose picture is 30 pixels high and 40 wide."""

BOXES: list[dict[str, Any]] = [{"label": "chair", "center_m": [0, 3, 0], "size_m": [2, 3, 1], "yaw_rad": 0.1}]


def write_scene(
    folder: Path,
    *,
    camera: dict[str, Any] | None = None,
    boxes: Any = None,
    size: tuple[int, int] = (30, 40),
    points: np.ndarray | None = None,
    depth: np.ndarray | None = None,
) -> Path:
    """Write a scene's folder: points in view unless depth is given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "camera.json").write_text(json.dumps(CAMERA if camera is None else camera))
    if boxes is not None:
        (folder / "boxes.json").write_text(json.dumps(boxes))
    pixels = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(folder / "image.png")
    if depth is not None:
        PillowImage.fromarray(depth).save(folder / "depth.png")
    else:
        write_ply(folder / "points.ply", xyz_table(toy_points() if points is None else points))
    return folder


def flat_depth(value: int = 2000, size: tuple[int, int] = (30, 40)) -> np.ndarray:
    """A wall across the view, with a corner where there is no reading."""
    depth = np.full(size, value, np.uint16)
    depth[:5, :5] = 0
    return depth
