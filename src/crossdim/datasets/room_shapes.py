"""Boxes and upright cylinders turned about the vertical, and what a camera's rays hit first among them.

Every solid becomes the cube or the cylinder from -1 to 1 in a frame of its own, where a ray enters between two planes
along each axis or through a circle. A ray keeps its parameter in that frame, so the depth is found there directly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int

from crossdim.samples import Camera

NEAREST = 0.05
"""Metres in front of the camera where things begin to be seen."""

SHELL = -1
"""Number of the room itself among the solids that a ray hits first: its floor, its walls and its ceiling."""

_SIGNS = np.array(list(product([-1, 1], repeat=3)))


@dataclass(frozen=True)
class Part:
    """One solid of a piece of furniture, in the piece's own frame (z up, metres).

    Attributes:
        center: x, y and z.
        size: Full lengths along x, y and z; a cylinder's first two are its diameters.
        colour: Red, green and blue, 0 to 1.
        round: Whether it is a cylinder.
        grain: Strength of its texture, 0 (paint) to 1.
        yaw: About +z in the piece's frame, in radians.
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    colour: tuple[float, float, float]
    round: bool = False
    grain: float = 0.3
    yaw: float = 0.0


@dataclass(frozen=True)
class Solids:
    """Many solids at once, in the scene.

    Attributes:
        centers: In metres.
        halves: Half of the full lengths.
        yaws: About +z, in radians.
        round: True for cylinders.
        colours: Red, green and blue, 0 to 1.
        grains: Strength of the texture.
        owners: Number of the object that each belongs to, -1 for what is no object.
    """

    centers: Float[np.ndarray, "solids 3"]
    halves: Float[np.ndarray, "solids 3"]
    yaws: Float[np.ndarray, " solids"]
    round: Bool[np.ndarray, " solids"]
    colours: Float[np.ndarray, "solids 3"]
    grains: Float[np.ndarray, " solids"]
    owners: Int[np.ndarray, " solids"]

    def __len__(self) -> int:
        return len(self.yaws)


@dataclass(frozen=True)
class Hits:
    """What each pixel shows.

    Attributes:
        depths: Metres along the camera's z axis.
        solids: Number of the solid; ``SHELL`` where it is the room.
        rays: Direction of each pixel's ray in the scene; one unit of it is one metre of depth.
        covered: Pixels that each object would cover if it were alone.
    """

    depths: Float[np.ndarray, "height width"]
    solids: Int[np.ndarray, "height width"]
    rays: Float[np.ndarray, "height width 3"]
    covered: Bool[np.ndarray, "objects height width"]


def placed(pieces: Sequence[tuple[Sequence[Part], tuple[float, float, float], float]], owners: Sequence[int]) -> Solids:
    """Return the solids of pieces that stand somewhere.

    Args:
        pieces: Parts, the place of their frame's origin, and the yaw, of each piece.
        owners: Number of the object that each piece is, -1 for what is no object.
    """
    parts, places, yaws, numbers = [], [], [], []
    for (those, place, yaw), owner in zip(pieces, owners, strict=True):
        for part in those:
            parts.append(part)
            places.append(place)
            yaws.append(yaw)
            numbers.append(owner)
    local = np.array([part.center for part in parts], float).reshape(-1, 3)
    angles = np.array(yaws, float)
    return Solids(
        centers=np.array(places, float).reshape(-1, 3) + turned(local, angles),
        halves=np.array([part.size for part in parts], float).reshape(-1, 3) / 2,
        yaws=angles + np.array([part.yaw for part in parts], float),
        round=np.array([part.round for part in parts], bool),
        colours=np.array([part.colour for part in parts], float).reshape(-1, 3),
        grains=np.array([part.grain for part in parts], float),
        owners=np.array(numbers, int),
    )


def turned(points: Float[np.ndarray, "*n 3"], yaws: Float[np.ndarray, "*n"] | float) -> Float[np.ndarray, "*n 3"]:
    """Return points turned about the z axis, anticlockwise seen from above.

    Args:
        points: x, y and z.
        yaws: One angle for each, in radians, or one for all.
    """
    cosine, sine = np.cos(yaws), np.sin(yaws)
    x, y = points[..., 0], points[..., 1]
    result = np.empty(points.shape)
    result[..., 0] = cosine * x - sine * y
    result[..., 1] = sine * x + cosine * y
    result[..., 2] = points[..., 2]
    return result


def camera_rays(camera: Camera) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "height width 3"]]:
    """Return where a camera stands in the scene, and the direction of each pixel's ray (one metre of depth long).

    Args:
        camera: Without skew.
    """
    height, width = camera.size
    k, rotation = camera.intrinsics, camera.camera_from_scene[:3, :3]
    columns = (np.arange(width) - k[0, 2]) / k[0, 0]
    rows = (np.arange(height) - k[1, 2]) / k[1, 1]
    rays = columns[None, :, None] * rotation[0] + rows[:, None, None] * rotation[1] + rotation[2]
    return -rotation.T @ camera.camera_from_scene[:3, 3], rays


def cast(solids: Solids, shell: Solids, camera: Camera) -> Hits:
    """Return what a camera sees of solids inside a room.

    Args:
        solids: Furniture and whatever else stands there.
        shell: The room: one box, seen from inside.
        camera: Inside the room.
    """
    origin, rays = camera_rays(camera)
    frame = in_own_frame(shell, 0, origin, rays)
    depths = _least(np.maximum(*_between_planes(*frame)))
    hit = np.full(depths.shape, SHELL)
    covered = np.zeros((int(solids.owners.max(initial=-1)) + 1, *depths.shape), bool)
    for number in range(len(solids)):
        rows, columns = _window(solids, number, camera)
        window = rays[rows, columns]
        start, direction = in_own_frame(solids, number, origin, window)
        entry = _entry(start, direction, bool(solids.round[number]))
        if solids.owners[number] >= 0:
            covered[solids.owners[number], rows, columns] |= np.isfinite(entry)
        nearer = entry < depths[rows, columns]
        depths[rows, columns][nearer] = entry[nearer]
        hit[rows, columns][nearer] = number
    return Hits(depths, hit, rays, covered)


def in_own_frame(
    solids: Solids,
    number: Int[np.ndarray, "*n"] | int,
    origin: Float[np.ndarray, "3"],
    rays: Float[np.ndarray, "*n 3"],
) -> tuple[Float[np.ndarray, "*#n 3"], Float[np.ndarray, "*n 3"]]:
    """Return start and direction of rays in the frame where a solid reaches from -1 to 1.

    Args:
        solids: All of them.
        number: Which one, for each ray, or one for all, which then have one start.
        origin: Where the rays begin.
        rays: Their directions.
    """
    halves, yaws = solids.halves.take(number, axis=0), -solids.yaws[number]
    direction = turned(rays, yaws) / halves
    tiny = 1e-9
    direction[np.abs(direction) < tiny] = tiny
    return turned(origin - solids.centers.take(number, axis=0), yaws) / halves, direction


def _between_planes(
    start: Float[np.ndarray, "*#n 3"], direction: Float[np.ndarray, "*n 3"]
) -> tuple[Float[np.ndarray, "*n 3"], Float[np.ndarray, "*n 3"]]:
    """Return the parameters at which rays cross the two planes of each axis."""
    return (-1 - start) / direction, (1 - start) / direction


def _entry(
    start: Float[np.ndarray, "*#n 3"], direction: Float[np.ndarray, "*n 3"], is_round: bool
) -> Float[np.ndarray, "*n"]:
    """Return the parameter at which each ray enters a solid, infinite where it does not."""
    planes = _between_planes(start, direction)
    into, out_of = np.minimum(*planes), np.maximum(*planes)
    if is_round:
        square = (direction[..., :2] ** 2).sum(axis=-1)
        half = (start[..., :2] * direction[..., :2]).sum(axis=-1)
        inside = half**2 - square * ((start[..., :2] ** 2).sum(axis=-1) - 1)
        root = np.sqrt(np.maximum(inside, 0))
        first, last = (-half - root) / square, (-half + root) / square
        entry = np.maximum(into[..., 2], first)
        seen = (inside > 0) & (entry < np.minimum(out_of[..., 2], last))
    else:
        entry = -_least(-into)
        seen = entry < _least(out_of)
    return np.where(seen & (entry > NEAREST), entry, np.inf)


def _least(values: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """Return the least of each three: faster than a reduction along so short an axis."""
    return np.minimum(np.minimum(values[..., 0], values[..., 1]), values[..., 2])


def _window(solids: Solids, number: int, camera: Camera) -> tuple[slice, slice]:
    """Return the rows and columns that a solid can lie in: all of them where it reaches behind the camera."""
    corners = solids.centers[number] + turned(_SIGNS * solids.halves[number], float(solids.yaws[number]))
    seen = corners @ camera.camera_from_scene[:3, :3].T + camera.camera_from_scene[:3, 3]
    height, width = camera.size
    if seen[:, 2].min() < NEAREST:
        return slice(0, height), slice(0, width)
    pixels = seen @ camera.intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    low = np.floor(pixels.min(axis=0)).astype(int).clip(0, (width, height))
    high = np.ceil(pixels.max(axis=0)).astype(int).clip(-1, (width - 1, height - 1)) + 1
    return slice(low[1], max(low[1], high[1])), slice(low[0], max(low[0], high[0]))
