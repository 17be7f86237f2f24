"""PLY files that any viewer of points shows: coloured points, and boxes as frames of thin bars.

Binary, little-endian, in metres of the scene. The bars are a mesh, because few viewers draw the lines of a PLY.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8

from crossdim.geometry.boxes import EDGES, corners
from crossdim.samples import Boxes3D

BAR_SHARE, THINNEST_M, THICKEST_M = 0.02, 0.002, 0.02
"""Thickness of a frame's bars as a share of the box's longest side, and its bounds."""

_TYPES = {"f4": "float", "u1": "uchar", "i4": "int"}


def points_ply(
    points: Float[np.ndarray, "points 3"],
    colours: UInt8[np.ndarray, "points 3"],
    attributes: Mapping[str, Integer[np.ndarray, " points"]] | None = None,
) -> bytes:
    """Return a PLY file of points.

    Args:
        points: In metres.
        colours: RGB of each.
        attributes: Whole numbers of each, by name.
    """
    more = {name: values.astype("<i4") for name, values in (attributes or {}).items()}
    row = np.dtype([*_PLACE_AND_COLOUR, *((name, "<i4") for name in more)])
    table = _filled(points, colours, row)
    for name, values in more.items():
        table[name] = values
    return _head([("vertex", len(table), row)]) + table.tobytes()


def boxes_ply(boxes: Boxes3D, colours: UInt8[np.ndarray, "boxes 3"]) -> bytes:
    """Return a PLY file of boxes: a frame of twelve bars for each.

    Args:
        boxes: In metres.
        colours: RGB of each.
    """
    vertices, triangles = frames(boxes)
    vertex = np.dtype(_PLACE_AND_COLOUR)
    face = np.dtype([("count", "u1"), ("vertex_indices", "<i4", 3)])
    table = np.empty(len(triangles), face)
    table["count"], table["vertex_indices"] = 3, triangles
    content = _filled(vertices, np.repeat(colours, 8 * len(EDGES), axis=0), vertex).tobytes() + table.tobytes()
    return _head([("vertex", len(vertices), vertex), ("face", len(triangles), face)]) + content


def frames(boxes: Boxes3D) -> tuple[Float[np.ndarray, "vertices 3"], Int[np.ndarray, "triangles 3"]]:
    """Return the bars along the edges of boxes as one mesh: 8 vertices for each bar of each box, in their order.

    Args:
        boxes: There may be none.
    """
    ends = corners(np.zeros((len(boxes), 3)), boxes.sizes_m, np.zeros(len(boxes)))[:, EDGES]
    thick = (BAR_SHARE * boxes.sizes_m.max(axis=1, initial=0)).clip(THINNEST_M, THICKEST_M)[:, None, None]
    middles, lengths = ends.mean(axis=2), np.abs(ends[:, :, 1] - ends[:, :, 0]) + thick
    bars = corners(middles, lengths, np.zeros(lengths.shape[:2]))
    cosine, sine = np.cos(boxes.yaws_rad), np.sin(boxes.yaws_rad)
    x, y, z = np.moveaxis(bars.reshape(len(boxes), 8 * len(EDGES), 3), -1, 0)
    turned = np.stack([cosine[:, None] * x - sine[:, None] * y, sine[:, None] * x + cosine[:, None] * y, z], axis=-1)
    vertices = (turned + boxes.centers_m[:, None]).reshape(-1, 3)
    triangles = np.arange(0, len(vertices), 8)[:, None, None] + np.array(_TRIANGLES)
    return vertices, triangles.reshape(-1, 3)


_PLACE_AND_COLOUR = [*((axis, "<f4") for axis in "xyz"), *((name, "u1") for name in ("red", "green", "blue"))]

_FACES = ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))
_TRIANGLES = [triangle for a, b, c, d in _FACES for triangle in ((a, b, c), (a, c, d))]
"""Of a box, by its corners, anticlockwise seen from outside."""


def _filled(points: np.ndarray, colours: np.ndarray, row: np.dtype) -> np.ndarray:
    table = np.empty(len(points), row)
    for column, axis in enumerate("xyz"):
        table[axis] = points[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        table[name] = colours[:, column]
    return table


def _head(elements: list[tuple[str, int, np.dtype]]) -> bytes:
    """Return the header: elements with the number of their rows and what a row holds."""
    lines = ["ply", "format binary_little_endian 1.0", "comment crossdim: metres, z up"]
    for name, count, row in elements:
        lines.append(f"element {name} {count}")
        if name == "face":
            lines.append("property list uchar int vertex_indices")
            continue
        assert row.names is not None
        lines += [f"property {_TYPES[row[column].str.lstrip('<|')]} {column}" for column in row.names]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")
