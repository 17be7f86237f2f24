"""Seeded furnished rooms as real files: a picture, a depth picture, a camera and boxes, in scene folders.

A room is furnished without overlap, looked at by a camera at eye height, and rendered by casting one ray a pixel: what
stands in front hides what stands behind, and only the sides that face the camera have points. The depth is then read by
a sensor with the noise and the gaps of a real one. Points are never drawn from the surfaces of boxes.

A box is the smallest one around a whole piece of furniture, hidden parts and parts beyond the picture's edge included;
a piece has one only where enough of it is to be seen. Room n is the same whatever the count, and the same in every run
with the same seed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.random import Generator

from crossdim.datasets.drawn_scenes import make_scenes, tilted
from crossdim.datasets.manifest import Header, Manifest, Progress, Task
from crossdim.datasets.room_furniture import FABRICS, PAINTS, WOODS, tone
from crossdim.datasets.room_plans import ROOMS, Plan, Standing, furnish
from crossdim.datasets.room_rendering import colours, measured, surface
from crossdim.datasets.room_shapes import Part, Solids, cast, placed, turned
from crossdim.datasets.splits import Fractions
from crossdim.errors import RecipeError
from crossdim.samples import Boxes3D, Camera

TASK = "room"

LEAST_SHARE = 0.1
"""Share of a piece (as far as the picture reaches) that is not hidden, at least, for it to have a box."""

LEAST_AREA = 1 / 640
"""Share of the picture's pixels that show it, at least (120 of 240 x 320)."""

_STANDPOINTS = 40
"""Places that are tried for the camera; the one with most furniture in view is taken."""

_ELBOW_ROOM = 0.45
"""Metres around the camera without furniture."""


@dataclass(frozen=True)
class Room:
    """One rendered room. The camera stands at the origin of the scene and looks along +y.

    Attributes:
        kind: One of ``ROOMS``.
        image: Red, green and blue.
        depth_m: What the sensor reads; NaN where it reads nothing.
        true_depth_m: What is there.
        camera: Of both pictures.
        boxes: Of the objects that can be seen.
        owners: Number of the box whose surface each pixel's depth was read from; -1 for any other surface.
        visible_shares: Of each box: share of its object's pixels that nothing hides.
    """

    kind: str
    image: UInt8[np.ndarray, "height width 3"]
    depth_m: Float[np.ndarray, "height width"]
    true_depth_m: Float[np.ndarray, "height width"]
    camera: Camera
    boxes: Boxes3D
    owners: Int[np.ndarray, "height width"]
    visible_shares: Float[np.ndarray, " boxes"]


def make_rooms(
    folder: str | os.PathLike[str],
    count: int = 120,
    size: tuple[int, int] = (240, 320),
    *,
    seed: int = 0,
    fractions: Fractions = (0.6, 0.2, 0.2),
    progress: Progress | None = None,
) -> Manifest:
    """Write rooms as scene folders, and their manifest; its task ``room`` is the kind of room.

    Args:
        folder: Gets ``rooms/r0000/{image.png,depth.png,camera.json,boxes.json}`` and ``manifest.jsonl``.
        count: Number of rooms; the kinds are equally frequent.
        size: (height, width) of the pictures in pixels, at least 48 each.
        seed: Seed of the rooms and of the split.
        fractions: Shares of train, val and test.
        progress: Called after each room.

    Raises:
        RecipeError: If there are fewer rooms than kinds, or the pictures are too small.
    """
    if min(size) < 48:
        raise RecipeError(f"size {size[0]} x {size[1]}", "is too small to see furniture", "Take at least 48 x 48")
    header = Header(
        name="synthetic rooms",
        root=str(Path(folder).absolute()),
        tasks={TASK: Task(kind="multiclass", classes=ROOMS)},
        source=f"crossdim.datasets.rooms, seed {seed}",
    )

    def draw(generator: Generator, kind: str) -> Room:
        return draw_room(generator, kind, size)

    return make_scenes(folder, count, draw, header, prefix="rooms/r", seed=seed, fractions=fractions, progress=progress)


def draw_room(generator: Generator, kind: str, size: tuple[int, int] = (240, 320)) -> Room:
    """Return one room as a camera and a depth sensor see it.

    Args:
        generator: Draws everything.
        kind: One of ``ROOMS``.
        size: (height, width) of the pictures in pixels.
    """
    plan = furnish(generator, kind)
    focal = size[1] * generator.uniform(0.82, 0.94)
    spot, heading = _standpoint(plan, size[1] / (2 * focal), generator)
    camera = _camera(generator, size, focal)
    eye = float(generator.uniform(1.25, 1.65))
    solids, shell = _scene(plan, (*spot, eye), heading, generator)
    hits = cast(solids, shell, camera)
    seen = surface(hits, solids, shell, np.zeros(3))
    image = colours(hits, seen, solids, shell, generator)
    depth, read_at = measured(hits.depths, seen.facing, focal, generator)
    owners = np.append(solids.owners, -1)[hits.solids]
    shown = np.array([(owners == number).sum() for number in range(len(plan.standing))])
    alone = np.array([hits.covered[number].sum() for number in range(len(plan.standing))])
    shares = shown / np.maximum(alone, 1)
    kept = np.flatnonzero((shares >= LEAST_SHARE) & (shown >= LEAST_AREA * size[0] * size[1]))
    renumbered = np.full(len(plan.standing) + 1, -1)
    renumbered[kept] = np.arange(len(kept))
    return Room(
        kind=kind,
        image=image,
        depth_m=depth,
        true_depth_m=hits.depths,
        camera=camera,
        boxes=_boxes([plan.standing[number] for number in kept], (*spot, eye), heading),
        owners=renumbered[owners[read_at[0], read_at[1]]],
        visible_shares=shares[kept],
    )


def _standpoint(plan: Plan, tangent: float, generator: Generator) -> tuple[tuple[float, float], float]:
    """Return where the camera stands and its heading (the angle of its view from +x), with much furniture in view."""
    half = np.array(plan.size[:2]) / 2 - 0.15
    middles = np.array([each.place[:2] for each in plan.standing])
    best, most = (0.0, 0.0, 0.0), -1.0
    for _ in range(_STANDPOINTS):
        spot = generator.uniform(-1, 1, 2) * half
        target = middles.mean(axis=0) + generator.normal(0, 0.6, 2)
        heading = float(np.arctan2(*(target - spot)[::-1]))
        if any(_within(each, spot) for each in plan.standing if not each.raised):
            continue
        forward, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
        ahead, aside = (middles - spot) @ forward, (middles - spot) @ left
        in_view = (ahead > 1.1) & (np.abs(aside) < tangent * ahead)
        score = in_view.sum() + generator.uniform(0, 0.9) + 2 * in_view[0]
        if score > most:
            best, most = (float(spot[0]), float(spot[1]), heading), score
    return best[:2], best[2]


def _within(standing: Standing, spot: Float[np.ndarray, "2"]) -> bool:
    x, y, _ = turned(np.append(spot - np.array(standing.place[:2]), 0.0), -standing.yaw)
    width, depth, _ = standing.piece.size
    return bool(abs(x) < width / 2 + _ELBOW_ROOM and abs(y) < depth / 2 + _ELBOW_ROOM)


def _camera(generator: Generator, size: tuple[int, int], focal: float) -> Camera:
    height, width = size
    center = (np.array([width, height]) - 1) / 2 + generator.normal(0, 0.008, 2) * width
    intrinsics = np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]])
    down, roll = np.deg2rad(generator.uniform(8, 26)), np.deg2rad(generator.normal(0, 1.0))
    return Camera(intrinsics, size, tilted(down, roll))


def _scene(plan: Plan, eye: tuple[float, float, float], heading: float, generator: Generator) -> tuple[Solids, Solids]:
    """Return what stands in the room and the room itself, in the frame of the scene."""
    turn = np.pi / 2 - heading
    pieces = [(each.piece.parts, each.place, each.yaw) for each in plan.standing]
    owners = [*range(len(pieces)), -1]
    solids = placed([*pieces, (_decoration(plan, generator), (0.0, 0.0, 0.0), 0.0)], owners)
    room = Part((0.0, 0.0, plan.size[2] / 2), plan.size, tone(generator, PAINTS), grain=0.15)
    shell = placed([((room,), (0.0, 0.0, 0.0), 0.0)], [-1])
    return _moved(solids, eye, turn), _moved(shell, eye, turn)


def _moved(solids: Solids, eye: tuple[float, float, float], turn: float) -> Solids:
    centers = turned(solids.centers - np.array(eye), turn)
    yaws = solids.yaws + turn
    return Solids(centers, solids.halves, yaws, solids.round, solids.colours, solids.grains, solids.owners)


def _decoration(plan: Plan, generator: Generator) -> tuple[Part, ...]:
    """Return a door, pictures on the walls and perhaps a rug: things that have no box."""
    width, length, height = plan.size
    door = float(generator.uniform(-0.3, 0.3) * width)
    parts = [Part((door, -length / 2, 1.0), (0.85, 0.06, 2.0), tone(generator, WOODS), grain=0.4)]
    for _ in range(int(generator.integers(1, 4))):
        wide, high = generator.uniform(0.3, 1.0), generator.uniform(0.3, 0.7)
        along, up = generator.uniform(-0.3, 0.3), min(generator.uniform(1.4, 1.8), height - 0.5)
        colour = tone(generator, FABRICS)
        if generator.random() < 0.5:
            side = float(generator.choice([-1, 1]))
            parts.append(Part((side * width / 2, along * length, up), (0.04, wide, high), colour, grain=1.0))
        else:
            parts.append(Part((along * width, length / 2, up), (wide, 0.04, high), colour, grain=1.0))
    if generator.random() < 0.5 and plan.kind != "bathroom":
        across = (float(generator.uniform(0.3, 0.6) * width), float(generator.uniform(0.3, 0.6) * length), 0.02)
        parts.append(Part((0.0, 0.0, 0.01), across, tone(generator, FABRICS), bool(generator.random() < 0.3), 1.0))
    return tuple(parts)


def _boxes(standing: list[Standing], eye: tuple[float, float, float], heading: float) -> Boxes3D:
    turn = np.pi / 2 - heading
    sizes = np.array([each.piece.size for each in standing], float).reshape(-1, 3)
    centers = np.array([each.place for each in standing], float).reshape(-1, 3) + sizes * np.array([0, 0, 0.5])
    yaws = np.array([each.yaw for each in standing], float) + turn
    yaws = np.mod(yaws + np.pi, 2 * np.pi) - np.pi
    centers = turned(centers - np.array(eye), turn)
    return Boxes3D(centers.round(4), sizes.round(4), yaws.round(5), tuple(each.piece.label for each in standing))
