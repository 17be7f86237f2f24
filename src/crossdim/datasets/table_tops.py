"""Seeded table tops as real files: a picture, a depth picture, a camera and boxes, in scene folders.

A few things stand on a table, apart, touching, hiding one another or stacked, and a camera with a depth sensor looks
down at them. They are rendered as rooms are, and labelled like the Object Segmentation Database (``osd``): the table is
z = 0, the only class is ``object``, and a box covers what is seen of a thing, from its foot (the table, or what it
stands on) to its highest seen point. Table n is the same whatever the count, and the same in every run with the same
seed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.random import Generator

from crossdim.datasets.drawn_scenes import make_scenes, tilted
from crossdim.datasets.manifest import Header, Manifest, Progress, Task
from crossdim.datasets.osd import OBJECT
from crossdim.datasets.room_furniture import PAINTS, WOODS, tone
from crossdim.datasets.room_plans import Standing
from crossdim.datasets.room_rendering import colours, measured, surface
from crossdim.datasets.room_shapes import Part, Solids, cast, placed, turned
from crossdim.datasets.splits import Fractions
from crossdim.datasets.table_things import ARRANGEMENTS, arrange, top
from crossdim.errors import RecipeError
from crossdim.geometry.camera import project, projection_matrix, unproject, visible
from crossdim.geometry.tightening import LEAST_SIZE, smallest_rectangle
from crossdim.samples import Boxes3D, Camera

TASK = "category"

FOCAL = 525 / 640
"""Focal length in widths of the picture: that of the first Kinect."""

LEAST_AREA = 1 / 720
"""Share of the picture's pixels that must read a thing for it to have a box (60 of 180 x 240)."""

STRAY = 0.005
"""Share of the points that may lie beyond each side of a box, because their depth was read at an edge."""

_MOST_POINTS = 800
"""Points of a thing that its rectangle is found from."""

_CAMERAS = 10
"""Cameras that are tried."""

_LOOKS_AT = 0.08
"""Metres behind the middle of the table where the view meets it, but for some variation."""


@dataclass(frozen=True)
class TableTop:
    """One rendered table. Its top is z = 0, and the camera looks along +y and down.

    Attributes:
        kind: One of ``ARRANGEMENTS``.
        image: Red, green and blue.
        depth_m: What the sensor reads; NaN where it reads nothing.
        true_depth_m: What is there.
        camera: Of both pictures.
        boxes: Of what is seen of the things.
        owners: Number of the box whose thing each pixel's depth was read from; -1 for anything else.
        standing: The thing in each box.
    """

    kind: str
    image: UInt8[np.ndarray, "height width 3"]
    depth_m: Float[np.ndarray, "height width"]
    true_depth_m: Float[np.ndarray, "height width"]
    camera: Camera
    boxes: Boxes3D
    owners: Int[np.ndarray, "height width"]
    standing: tuple[Standing, ...]


def make_table_tops(
    folder: str | os.PathLike[str],
    count: int = 120,
    size: tuple[int, int] = (180, 240),
    *,
    seed: int = 0,
    fractions: Fractions = (0.8, 0.0, 0.2),
    progress: Progress | None = None,
) -> Manifest:
    """Write table tops as scene folders, and their manifest; its task ``category`` is the kind of arrangement.

    Args:
        folder: Gets ``tables/t0000/{image.png,depth.png,camera.json,boxes.json}`` and ``manifest.jsonl``.
        count: Number of tables; the kinds of arrangements are equally frequent.
        size: (height, width) of the pictures in pixels, at least 48 each.
        seed: Seed of the tables and of the split.
        fractions: Shares of train, val and test.
        progress: Called after each table.

    Raises:
        RecipeError: If there are fewer tables than kinds, or the pictures are too small.
    """
    if min(size) < 48:
        raise RecipeError(f"size {size[0]} x {size[1]}", "is too small to see things", "Take at least 48 x 48")
    header = Header(
        name="synthetic table tops",
        root=str(Path(folder).absolute()),
        tasks={TASK: Task(kind="multiclass", classes=ARRANGEMENTS)},
        source=f"crossdim.datasets.table_tops, seed {seed}",
    )

    def draw(generator: Generator, kind: str) -> TableTop:
        return draw_table_top(generator, kind, size)

    return make_scenes(
        folder, count, draw, header, prefix="tables/t", seed=seed, fractions=fractions, progress=progress
    )


def draw_table_top(generator: Generator, kind: str, size: tuple[int, int] = (180, 240)) -> TableTop:
    """Return one table as a camera and a depth sensor see it.

    Args:
        generator: Draws everything.
        kind: One of ``ARRANGEMENTS``.
        size: (height, width) of the pictures in pixels.
    """
    standing = arrange(generator, kind)
    camera, eye = _camera(standing, size, generator)
    solids, shell = _scene(standing, generator)
    hits = cast(solids, shell, camera)
    seen = surface(hits, solids, shell, eye)
    image = colours(hits, seen, solids, shell, generator)
    depth, read_at = measured(hits.depths, seen.facing, FOCAL * size[1], generator)
    owners = np.append(solids.owners, -1)[hits.solids][read_at[0], read_at[1]]
    owners = np.where(np.isfinite(depth), owners, -1)
    counts = np.bincount(owners[owners >= 0], minlength=len(standing))
    kept = np.flatnonzero(counts >= LEAST_AREA * size[0] * size[1])
    renumbered = np.full(len(standing) + 1, -1)
    renumbered[kept] = np.arange(len(kept))
    points = unproject(depth, camera)
    seen_boxes = [seen_box(points[owners == number], standing[number].place[2]) for number in kept]
    rows = np.array(seen_boxes).reshape(-1, 7)
    return TableTop(
        kind=kind,
        image=image,
        depth_m=depth,
        true_depth_m=hits.depths,
        camera=camera,
        boxes=Boxes3D(rows[:, :3].round(4), rows[:, 3:6].round(4), rows[:, 6].round(5), (OBJECT,) * len(rows)),
        owners=renumbered[owners],
        standing=tuple(standing[number] for number in kept),
    )


def seen_box(points: Float[np.ndarray, "points 3"], foot: float) -> Float[np.ndarray, "7"]:
    """Return the smallest upright box around what is seen of a thing: centre, size and yaw (-45 to 45 degrees).

    Args:
        points: Of the thing, in metres; at least one.
        foot: Height of what it stands on.
    """
    few = points[:: -(-len(points) // _MOST_POINTS), :2]
    center, size, yaw = smallest_rectangle(few, stray=STRAY)
    height = max(float(np.quantile(points[:, 2], 1 - STRAY)) - foot, LEAST_SIZE)
    return np.array([*center, foot + height / 2, *size, height, yaw])


def _camera(
    standing: list[Standing], size: tuple[int, int], generator: Generator
) -> tuple[Camera, Float[np.ndarray, "3"]]:
    """Return a camera before the table with all things in its picture, if one is found soon, and where it stands."""
    height, width = size
    focal = FOCAL * width
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    ends = [(each, end) for each in standing for end in (each.place[2], top(each))]
    things = np.concatenate([np.column_stack([each.corners(), np.full(4, end)]) for each, end in ends])
    for _ in range(_CAMERAS):
        eye = generator.uniform((-0.1, -0.78, 0.53), (0.1, -0.55, 0.68))
        down = np.arctan2(eye[2], _LOOKS_AT - eye[1]) + generator.normal(0, 0.03)
        pose = tilted(float(down), float(generator.normal(0, 0.02)))
        pose[:3, 3] = -pose[:3, :3] @ eye
        camera = Camera(intrinsics, size, pose)
        if visible(*project(things, projection_matrix(camera)), size).all():
            break
    return camera, eye


def _scene(standing: list[Standing], generator: Generator) -> tuple[Solids, Solids]:
    """Return the things, the table and the room around it."""
    things = [(each.piece.parts, each.place, each.yaw) for each in standing]
    turn = float(generator.normal(0, 0.15))
    feet = np.concatenate([np.column_stack([each.corners(), np.zeros(4)]) for each in standing])
    feet = turned(feet, -turn)[:, :2]
    left, front = feet.min(axis=0) - generator.uniform((0.05, 0.05), (0.9, 0.4))
    right, back = feet.max(axis=0) + generator.uniform((0.05, 0.2), (0.9, 2.5))
    middle = (float(left + right) / 2, float(front + back) / 2, -0.02)
    size = (float(right - left), float(back - front), 0.04)
    slab = Part(middle, size, tone(generator, WOODS + PAINTS), grain=0.3)
    solids = placed([*things, ((slab,), (0.0, 0.0, 0.0), turn)], [*range(len(things)), -1])
    low = float(generator.uniform(0.68, 0.78))
    center = (float(generator.uniform(-0.8, 0.8)), float(generator.uniform(0.0, 1.0)), 1.3 - low)
    room = Part(center, (5.0, 5.0, 2.6), tone(generator, PAINTS), grain=0.15)
    return solids, placed([((room,), (0.0, 0.0, 0.0), 0.0)], [-1])
