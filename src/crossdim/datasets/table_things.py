"""Things that stand on tables, and how they stand there: packages, tins, bowls and mugs, apart, touching and stacked.

Sizes are those of things in a kitchen. Lengths are in metres in the table's frame: z = 0 is its top, the camera stands
towards -y. Nothing is in anything else: things may touch, hide one another and stand on one another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from crossdim.datasets.room_furniture import CERAMICS, FABRICS, METALS, PAINTS, WOODS, Colour, Piece, assembled, tone
from crossdim.datasets.room_plans import Standing, overlap
from crossdim.datasets.room_shapes import Part

Key = TypeVar("Key")

PRINTS: tuple[Colour, ...] = (
    (0.75, 0.12, 0.12), (0.9, 0.75, 0.15), (0.15, 0.4, 0.7), (0.2, 0.5, 0.25), (0.9, 0.88, 0.82), (0.85, 0.45, 0.1),
    (0.45, 0.2, 0.45),
)  # fmt: skip
"""Colours of packages."""

AREA = ((-0.3, -0.38), (0.3, 0.25))
"""Lowest and highest x and y of the middles of things."""

TALLEST = 0.37
"""Metres above the table that the highest thing of a stack reaches at most, so that its top is seen."""

COUNTS = {2: 0.45, 3: 0.35, 4: 0.15, 5: 0.05}
"""How many things stand on a table → how often."""

_TRIES = 200
"""Things that are tried before a table stays emptier than it was meant to be."""

_PANELS = 12
"""Flat panels around a hollow thing."""


@dataclass(frozen=True)
class Arrangement:
    """A kind of table.

    Attributes:
        things: Keys of ``THINGS`` → how often.
        ways: How a thing comes to its place → how often; the first one always stands by itself.
    """

    things: Mapping[str, float]
    ways: Mapping[str, float]


_BOXES = {"carton": 0.4, "flat carton": 0.25, "slab": 0.2, "block": 0.15}
_ROUND = {"can": 0.2, "tin": 0.2, "bowl": 0.2, "mug": 0.25, "carton": 0.05, "slab": 0.1}

KINDS: Mapping[str, Arrangement] = {
    "boxes": Arrangement(_BOXES, {"alone": 0.5, "beside": 0.3, "on": 0.2}),
    "cylindric_objects": Arrangement(_ROUND, {"alone": 0.75, "beside": 0.1, "on": 0.15}),
    "occluded_objects": Arrangement(_BOXES | _ROUND, {"before": 0.7, "alone": 0.3}),
    "stacked_boxes": Arrangement(_BOXES, {"on": 0.75, "alone": 0.15, "beside": 0.1}),
}
"""Kind of arrangement → what stands there and how, by the names of the Object Segmentation Database."""

ARRANGEMENTS = tuple(KINDS)


def arrange(generator: Generator, kind: str) -> list[Standing]:
    """Return things on a table, none of them in another.

    Args:
        generator: Draws everything.
        kind: One of ``ARRANGEMENTS``.
    """
    arrangement = KINDS[kind]
    wanted = int(_drawn(generator, COUNTS))
    middle = generator.uniform((-0.06, -0.2), (0.06, 0.02))
    standing: list[Standing] = []
    for _ in range(_TRIES):
        piece = thing(_drawn(generator, arrangement.things), generator)
        way = _drawn(generator, arrangement.ways) if standing else "alone"
        other = standing[generator.integers(len(standing))] if standing else None
        new = _WAYS[way](piece, other, generator) if other and way != "alone" else _alone(piece, middle, generator)
        if new and _fits(new, standing):
            standing.append(new)
            if len(standing) == wanted:
                break
    return standing


def thing(name: str, generator: Generator) -> Piece:
    """Return a thing, varied at random.

    Args:
        name: A key of ``THINGS``; the piece's label.
        generator: Draws everything.
    """
    return assembled(name, THINGS[name](generator))


def top(standing: Standing) -> float:
    """Return how far above the table a thing reaches.

    Args:
        standing: The thing.
    """
    return standing.place[2] + standing.piece.size[2]


def _drawn(generator: Generator, shares: Mapping[Key, float]) -> Key:
    weights = np.array(list(shares.values()))
    return list(shares)[generator.choice(len(shares), p=weights / weights.sum())]


def _fits(new: Standing, standing: Sequence[Standing]) -> bool:
    low, high = np.array(AREA)
    if (new.place[:2] < low).any() or (new.place[:2] > high).any() or top(new) > TALLEST:
        return False
    level = [each for each in standing if each.place[2] < top(new) - 1e-9 and new.place[2] < top(each) - 1e-9]
    return not any(overlap(new.corners(), each.corners()) for each in level)


def _alone(piece: Piece, middle: Float[np.ndarray, "2"], generator: Generator) -> Standing:
    x, y = middle + generator.normal(0, (0.11, 0.11))
    yaw = generator.choice([0, np.pi / 2, generator.uniform(0, np.pi)]) + generator.normal(0, 0.1)
    return Standing(piece, (float(x), float(y), 0.0), float(yaw))


def _beside(piece: Piece, other: Standing, generator: Generator) -> Standing | None:
    """Return a thing that touches another one, or nearly."""
    if other.raised:
        return None
    side = int(generator.integers(4))
    turn = side * np.pi / 2
    reach = (other.piece.size[side % 2] + piece.size[0]) / 2 + generator.uniform(0.001, 0.02)
    along = generator.uniform(-0.3, 0.3) * other.piece.size[1 - side % 2]
    cosine, sine = np.cos(turn), np.sin(turn)
    x, y = other.at(np.array([cosine * reach - sine * along, sine * reach + cosine * along]))
    return Standing(piece, (float(x), float(y), 0.0), float(other.yaw + turn + generator.normal(0, 0.02)))


def _before(piece: Piece, other: Standing, generator: Generator) -> Standing | None:
    """Return a thing that hides a part of another one, or is hidden by it in part."""
    side = generator.choice([-1, 1])
    away = (min(piece.size[:2]) + min(other.piece.size[:2])) / 2 + generator.uniform(0.0, 0.12)
    x, y = other.place[0] + generator.normal(0, 0.05), other.place[1] + side * away
    yaw = generator.choice([0, np.pi / 2, other.yaw]) + generator.normal(0, 0.15)
    return Standing(piece, (float(x), float(y), 0.0), float(yaw))


def _on(piece: Piece, other: Standing, generator: Generator) -> Standing | None:
    """Return a thing on another one, whose middle carries it."""
    if other.piece.label in _OPEN or min(other.piece.size[:2]) < 0.3 * min(piece.size[:2]):
        return None
    x, y = other.at(generator.uniform(-0.25, 0.25, 2) * other.piece.size[:2])
    yaw = other.yaw + generator.choice([0, np.pi / 2, generator.uniform(0, np.pi)]) + generator.normal(0, 0.1)
    return Standing(piece, (float(x), float(y), top(other)), float(yaw), raised=True)


_WAYS: Mapping[str, Callable[[Piece, Standing, Generator], Standing | None]] = {
    "beside": _beside,
    "before": _before,
    "on": _on,
}

_OPEN = ("bowl", "mug")
"""Things without a flat top."""


def _printed(g: Generator, size: tuple[float, float, float]) -> list[Part]:
    """Return a package: its body and, a little before its faces, what is printed there."""
    width, depth, height = size
    body, print_, lettering = (tone(g, PRINTS) for _ in range(3))
    ink = 0.0005
    share, low = g.uniform(0.3, 0.6), g.uniform(0.05, 0.35) * height
    parts = [
        Part((0.0, 0.0, height / 2), size, body, grain=1.0),
        Part((0.0, 0.0, low + share * height / 2), (width + ink, depth + ink, share * height), print_, grain=1.0),
    ]
    x, y = g.uniform(-0.15, 0.15, 2) * (width, depth)
    wide, deep = g.uniform(0.3, 0.65, 2) * (width, depth)
    return [*parts, Part((float(x), float(y), height / 2), (float(wide), float(deep), height + ink), lettering)]


def _carton(g: Generator) -> list[Part]:
    return _printed(g, _three(g.uniform((0.12, 0.04, 0.13), (0.27, 0.09, 0.28))))


def _flat_carton(g: Generator) -> list[Part]:
    return _printed(g, _three(g.uniform((0.15, 0.1, 0.04), (0.28, 0.2, 0.09))))


def _slab(g: Generator) -> list[Part]:
    return _printed(g, _three(g.uniform((0.1, 0.04, 0.04), (0.27, 0.09, 0.1))))


def _block(g: Generator) -> list[Part]:
    return _printed(g, _three(g.uniform((0.05, 0.05, 0.05), (0.1, 0.1, 0.18))))


def _cylinder(g: Generator, across: float, height: float) -> list[Part]:
    metal, paper = tone(g, METALS + CERAMICS), tone(g, PRINTS + WOODS)
    band, low = g.uniform(0.5, 0.9) * height, g.uniform(0.02, 0.1) * height
    return [
        Part((0.0, 0.0, height / 2), (across, across, height), metal, round=True, grain=0.4),
        Part((0.0, 0.0, low + band / 2), (across + 0.0005, across + 0.0005, band), paper, round=True, grain=1.0),
    ]


def _can(g: Generator) -> list[Part]:
    return _cylinder(g, float(g.uniform(0.055, 0.1)), float(g.uniform(0.08, 0.25)))


def _tin(g: Generator) -> list[Part]:
    return _cylinder(g, float(g.uniform(0.12, 0.2)), float(g.uniform(0.05, 0.1)))


def _bowl(g: Generator) -> list[Part]:
    """Return a bowl or a pot: a ring on a narrower one, perhaps upside down and so without its hollow."""
    across, height = g.uniform((0.11, 0.05), (0.19, 0.11))
    colour, narrow = tone(g, CERAMICS + PAINTS + FABRICS), g.uniform(0.7, 1.0)
    if g.random() < 0.3:
        widths = across * np.linspace(1.0, narrow, 3)
        return [
            Part((0.0, 0.0, height * (n + 0.5) / 3), (float(wide), float(wide), height / 3), colour, True, 0.1)
            for n, wide in enumerate(widths)
        ]
    floor = Part((0.0, 0.0, 0.005), (across * narrow * 0.9, across * narrow * 0.9, 0.01), colour, True, 0.1)
    middle = height * 0.45
    parts = [floor, *_ring(across * narrow, 0.0, middle, colour), *_ring(across, middle, height - middle, colour)]
    if g.random() < 0.4:
        grip = (0.03, 0.05, 0.012)
        parts += [Part((side * (across + 0.02) / 2, 0.0, height * 0.85), grip, colour) for side in (-1, 1)]
    return parts


def _mug(g: Generator) -> list[Part]:
    """Return a mug with or without a handle, perhaps upside down and so without its hollow."""
    across, height = g.uniform((0.07, 0.08), (0.095, 0.12))
    colour = tone(g, CERAMICS + PRINTS)
    if g.random() < 0.3:
        parts = [Part((0.0, 0.0, height / 2), (across, across, height), colour, True, 0.3)]
    else:
        floor = Part((0.0, 0.0, 0.005), (across * 0.9, across * 0.9, 0.01), colour, True, 0.1)
        parts = [floor, *_ring(across, 0.0, height, colour)]
    if g.random() < 0.6:
        parts.append(Part((across / 2 + 0.014, 0.0, height * 0.5), (0.034, 0.012, height * 0.6), colour))
    return parts


def _ring(across: float, low: float, height: float, colour: Colour) -> list[Part]:
    """Return upright panels around a hollow; their corners lie on a circle."""
    thick, half = 0.005, np.pi / _PANELS
    away, wide = across / 2 * np.cos(half) - thick / 2, across * np.sin(half)
    return [
        Part(
            (float(away * np.cos(yaw)), float(away * np.sin(yaw)), low + height / 2),
            (thick, float(wide), height),
            colour,
            grain=0.1,
            yaw=float(yaw),
        )
        for yaw in np.arange(_PANELS) * 2 * half
    ]


def _three(values: Float[np.ndarray, "3"]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


THINGS: Mapping[str, Callable[[Generator], list[Part]]] = {
    "carton": _carton,
    "flat carton": _flat_carton,
    "slab": _slab,
    "block": _block,
    "can": _can,
    "tin": _tin,
    "bowl": _bowl,
    "mug": _mug,
}
