"""What a camera sees of a furnished room: colours with light and texture, and the depth that a real sensor reads.

The sensor follows "Intrinsic scene properties from a single RGB-D image" (Barron and Malik, CVPR 2013, section 5): the
disparity is read at a place that is a little off, is noisy, and comes in whole steps, so that the noise of the depth
grows with its square. Beyond that, surfaces seen at a grazing angle, pixels at edges, and what the projector beside the
camera does not reach give no reading.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.random import Generator

from crossdim.datasets.room_shapes import SHELL, Hits, Solids, in_own_frame, turned

STEPS_M = 351.3
"""Metres times steps of disparity: one step is depth² / 351.3 m (0.3 cm at 1 m, 4.6 cm at 4 m)."""

STEP_NOISE = 1 / 6
"""Deviation of the disparity, in steps."""

JITTER = 0.5
"""Deviation of the place where the disparity is read, in pixels."""

RANGE_M = (0.4, 8.0)
BASELINE_M = 0.075
"""From the camera to the projector of the pattern, to its right."""

GRAZING = 0.12
"""Cosine of the angle between ray and normal below which there is no reading."""

EDGE_LOSS, SPECKLE_LOSS = 0.4, 0.004
"""Share of the pixels at edges, and of all pixels, that are lost."""


@dataclass(frozen=True)
class Surface:
    """What each pixel's ray meets.

    Attributes:
        points: Where, in the scene.
        local: The same in metres of the solid's own frame.
        normals: Away from the surface.
        facing: Cosine of the angle between normal and ray, 0 to 1.
    """

    points: Float[np.ndarray, "height width 3"]
    local: Float[np.ndarray, "height width 3"]
    normals: Float[np.ndarray, "height width 3"]
    facing: Float[np.ndarray, "height width"]


def surface(hits: Hits, solids: Solids, shell: Solids, origin: Float[np.ndarray, "3"]) -> Surface:
    """Return place and direction of the surface at each pixel.

    Args:
        hits: What each pixel shows.
        solids: What stands in the room.
        shell: The room.
        origin: Where the camera is.
    """
    everything = with_shell(solids, shell)
    start, direction = in_own_frame(everything, hits.solids, origin, hits.rays)
    own = start + hits.depths[..., None] * direction
    halves, is_round = everything.halves.take(hits.solids, axis=0), everything.round[hits.solids]
    away = np.abs(own)
    axis = np.where(is_round, 2, away.argmax(axis=-1))
    normals = np.where(axis[..., None] == np.arange(3), np.sign(own), 0.0)
    is_side = is_round & (np.hypot(own[..., 0], own[..., 1]) > away[..., 2])
    normals[is_side, :2] = own[is_side, :2] / halves[is_side, :2]
    normals[is_side, 2] = 0.0
    normals = turned(normals / lengths(normals)[..., None], everything.yaws[hits.solids])
    normals[hits.solids == SHELL] *= -1
    facing = np.abs((normals * hits.rays).sum(axis=-1)) / lengths(hits.rays)
    points = origin + hits.depths[..., None] * hits.rays
    return Surface(points, own * halves, normals, facing)


def lengths(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """Return the length of each vector.

    Args:
        vectors: x, y and z.
    """
    return np.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2 + vectors[..., 2] ** 2)


def with_shell(solids: Solids, shell: Solids) -> Solids:
    """Return the solids with the room as the last of them, where the number ``SHELL`` finds it.

    Args:
        solids: What stands in the room.
        shell: The room.
    """
    return Solids(*(np.concatenate([getattr(solids, name), getattr(shell, name)]) for name in Solids.__annotations__))


def colours(
    hits: Hits, seen: Surface, solids: Solids, shell: Solids, generator: Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the picture: two kinds of light, grain of each solid, pattern of the floor, noise.

    Args:
        hits: What each pixel shows.
        seen: The surface there.
        solids: What stands in the room.
        shell: The room; its colour is that of the walls.
        generator: Draws the light, the patterns and the noise.
    """
    everything = with_shell(solids, shell)
    base = everything.colours.take(hits.solids, axis=0)
    phases = generator.uniform(0, 2 * np.pi, (len(everything), 3))
    waves = generator.uniform(8, 60, (len(everything), 3)) * generator.choice([0.1, 1.0], (len(everything), 3))
    angle = (waves.take(hits.solids, axis=0) * seen.local + phases.take(hits.solids, axis=0)).sum(axis=-1)
    grain = everything.grains[hits.solids] * (0.1 * np.sin(angle + 1.5 * np.sin(0.37 * angle)))
    is_floor = (hits.solids == SHELL) & (seen.normals[..., 2] > 0.5)
    is_ceiling = (hits.solids == SHELL) & (seen.normals[..., 2] < -0.5)
    base = np.where(is_floor[..., None], _floor(seen.local, generator), base)
    base = np.where(is_ceiling[..., None], 0.93, base)
    lamp = shell.centers[0] + np.array([*generator.uniform(-1, 1, 2), shell.halves[0, 2] * 0.85])
    to_lamp = lamp - seen.points
    distance = lengths(to_lamp)
    lit = np.clip((to_lamp * seen.normals).sum(axis=-1) / distance, 0, 1)
    window = generator.normal(size=3) * np.array([1, 1, 0.3])
    daylight = np.clip((seen.normals * (window / np.linalg.norm(window))).sum(axis=-1), 0, 1)
    near = 1 / (1 + 0.08 * distance**2)
    light = (
        generator.uniform(0.35, 0.5) + generator.uniform(0.5, 0.7) * lit * near + generator.uniform(0.1, 0.3) * daylight
    )
    tint = np.array([1.0, generator.uniform(0.94, 1.0), generator.uniform(0.84, 1.0)])
    shade = (base * (1 + grain[..., None]) * light[..., None] * tint).clip(0, 1) ** 0.8
    noisy = shade + generator.normal(0, 0.012, shade.shape) + generator.normal(0, 0.006, shade.shape[:2])[..., None]
    return (255 * noisy.clip(0, 1)).round().astype(np.uint8)


def _floor(local: Float[np.ndarray, "height width 3"], generator: Generator) -> Float[np.ndarray, "height width 3"]:
    """Return the colours of a floor of planks, of tiles, or of carpet."""
    kind = int(generator.integers(3))
    tones = np.array([[0.62, 0.44, 0.28], [0.72, 0.7, 0.66], [0.45, 0.42, 0.4]])
    base = (tones[kind] * generator.uniform(0.8, 1.2, 3)).clip(0.1, 0.95)
    if kind == 0:
        plank = np.floor(local[..., 0] / 0.14)
        joint = np.floor(local[..., 1] / 1.1 + 0.37 * plank)
        pattern = 0.16 * np.sin(12.9898 * plank + 78.233 * joint) + 0.04 * np.sin(
            40 * local[..., 0] + 9 * local[..., 1]
        )
    elif kind == 1:
        edge = (np.abs(np.mod(local[..., :2] / 0.3, 1) - 0.5) > 0.48).any(axis=-1)
        pattern = -0.3 * edge
    else:
        pattern = 0.05 * np.sin(91 * local[..., 0]) * np.sin(87 * local[..., 1])
    return base * (1 + pattern[..., None])


def measured(
    depths: Float[np.ndarray, "height width"],
    facing: Float[np.ndarray, "height width"],
    focal: float,
    generator: Generator,
) -> tuple[Float[np.ndarray, "height width"], Int[np.ndarray, "2 height width"]]:
    """Return the depths that a sensor reads (NaN: no reading), and the row and column that each was read at.

    Args:
        depths: True depths in metres.
        facing: Cosine of the angle between the surface's normal and the ray.
        focal: Focal length in pixels.
        generator: Draws the noise.
    """
    height, width = depths.shape
    rows, columns = np.indices(depths.shape)
    shifts = np.rint(generator.normal(0, JITTER, (2, height, width))).astype(int)
    read_at = np.stack([(rows + shifts[0]).clip(0, height - 1), (columns + shifts[1]).clip(0, width - 1)])
    true = depths[read_at[0], read_at[1]]
    steps = np.floor(STEPS_M / true + generator.normal(0, STEP_NOISE, true.shape) + 0.5)
    read = STEPS_M / np.maximum(steps, 1)
    lost = (read < RANGE_M[0]) | (read > RANGE_M[1])
    lost |= facing[read_at[0], read_at[1]] < GRAZING
    lost |= in_shadow(depths, focal)
    lost |= _at_edge(depths) & (generator.random(depths.shape) < EDGE_LOSS)
    lost |= generator.random(depths.shape) < SPECKLE_LOSS
    return np.where(lost, np.nan, read), read_at


def in_shadow(depths: Float[np.ndarray, "height width"], focal: float) -> Bool[np.ndarray, "height width"]:
    """Return where the projector's light does not reach: something nearer lies between.

    Seen from the projector, columns come in another order where one thing hides another: what lies to the left of a
    near thing in the camera's picture lies behind it in the projector's.

    Args:
        depths: True depths in metres.
        focal: Focal length in pixels.
    """
    seen_from_projector = np.arange(depths.shape[1]) - focal * BASELINE_M / depths
    least_to_the_right = np.minimum.accumulate(seen_from_projector[:, ::-1], axis=1)[:, ::-1]
    return seen_from_projector > least_to_the_right + 1e-9


def _at_edge(depths: Float[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Return pixels whose neighbour is nearer or farther by more than a twentieth of the depth."""
    edge = np.zeros(depths.shape, bool)
    for axis in (0, 1):
        first = np.take(depths, np.arange(depths.shape[axis] - 1), axis=axis)
        jump = np.abs(np.diff(depths, axis=axis)) > 0.05 * first
        before, after = ([(0, 1), (0, 0)], [(1, 0), (0, 0)]) if axis == 0 else ([(0, 0), (0, 1)], [(0, 0), (1, 0)])
        edge |= np.pad(jump, before) | np.pad(jump, after)
    return edge
