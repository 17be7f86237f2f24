"""Furniture made of boxes and cylinders: varied in size, proportion and colour, hollow where real pieces are.

A piece stands on z = 0 with its middle over the origin. Its x runs from side to side, its back is towards +y and it is
used from -y. Its box is the smallest one around its parts, so it is exact by construction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from crossdim.datasets.room_shapes import Part

Colour = tuple[float, float, float]

WOODS: tuple[Colour, ...] = ((0.55, 0.36, 0.2), (0.74, 0.56, 0.36), (0.36, 0.22, 0.14), (0.82, 0.7, 0.52))
FABRICS: tuple[Colour, ...] = (
    (0.28, 0.35, 0.5), (0.55, 0.22, 0.2), (0.42, 0.46, 0.36), (0.6, 0.55, 0.48), (0.25, 0.25, 0.28), (0.7, 0.5, 0.22),
)  # fmt: skip
PAINTS: tuple[Colour, ...] = ((0.88, 0.88, 0.86), (0.7, 0.72, 0.74), (0.5, 0.52, 0.55), (0.86, 0.82, 0.72))
METALS: tuple[Colour, ...] = ((0.55, 0.56, 0.58), (0.2, 0.2, 0.22), (0.72, 0.7, 0.62))
CERAMICS: tuple[Colour, ...] = ((0.93, 0.93, 0.92), (0.9, 0.88, 0.82))


@dataclass(frozen=True)
class Piece:
    """A piece of furniture in its own frame.

    Attributes:
        label: Its class.
        parts: What it is made of.
        size: Full lengths of the smallest box around it along x, y and z, in metres.
    """

    label: str
    parts: tuple[Part, ...]
    size: tuple[float, float, float]


def build(name: str, generator: Generator) -> Piece:
    """Return a piece of furniture, varied at random.

    Args:
        name: A key of ``FURNITURE``.
        generator: Draws everything.
    """
    label, maker = FURNITURE[name]
    return assembled(label, maker(generator))


def assembled(label: str, parts: Sequence[Part]) -> Piece:
    """Return parts as a piece: its middle over the origin, on z = 0.

    Args:
        label: Its class.
        parts: What it is made of, anywhere; the sides of its box are along x, y and z.
    """
    centers, sizes = np.array([part.center for part in parts]), np.array([part.size for part in parts])
    yaws = np.array([0.0 if part.round else part.yaw for part in parts])
    cosine, sine = np.abs(np.cos(yaws)), np.abs(np.sin(yaws))
    across, along, height = sizes.T
    halves = np.stack([cosine * across + sine * along, sine * across + cosine * along, height], axis=1) / 2
    low, high = (centers - halves).min(axis=0), (centers + halves).max(axis=0)
    middle = np.array([*(low + high)[:2] / 2, low[2]])
    moved = tuple(replace(part, center=_triple(center - middle)) for part, center in zip(parts, centers, strict=True))
    return Piece(label, moved, _triple(high - low))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def tone(generator: Generator, palette: tuple[Colour, ...]) -> Colour:
    """Return a colour of a palette, somewhat lighter or darker.

    Args:
        generator: Draws it.
        palette: What it is taken from.
    """
    chosen = np.array(palette[generator.integers(len(palette))])
    return _triple((chosen * generator.uniform(0.75, 1.1) + generator.normal(0, 0.015, 3)).clip(0.04, 0.98))


def _box(x: float, y: float, low: float, size: tuple[float, float, float], colour: Colour, grain: float = 0.3) -> Part:
    """Return a box by the middle of its base and its size."""
    return Part((x, y, low + size[2] / 2), size, colour, grain=grain)


def _disc(x: float, y: float, low: float, size: tuple[float, float, float], colour: Colour, grain: float = 0.1) -> Part:
    """Return an upright cylinder by the middle of its base and its size."""
    return Part((x, y, low + size[2] / 2), size, colour, round=True, grain=grain)


def _legs(width: float, depth: float, height: float, thick: float, colour: Colour, *, is_round: bool) -> list[Part]:
    make = _disc if is_round else _box
    x, y = (width - thick) / 2, (depth - thick) / 2
    return [make(sx * x, sy * y, 0.0, (thick, thick, height), colour) for sx in (-1, 1) for sy in (-1, 1)]


def _chair(g: Generator) -> list[Part]:
    width, depth, seat, top = g.uniform((0.4, 0.42, 0.42, 0.8), (0.54, 0.55, 0.48, 1.02))
    wood = tone(g, WOODS if g.random() < 0.6 else METALS)
    cushion = tone(g, FABRICS) if g.random() < 0.5 else wood
    parts = [_box(0.0, 0.0, seat - 0.05, (width, depth, 0.05), cushion)]
    if g.random() < 0.35:  # an office chair: column, foot, soft back
        parts += [
            _disc(0.0, 0.0, 0.06, (0.07, 0.07, seat - 0.11), wood),
            _disc(0.0, 0.0, 0.0, (width * 1.05, width * 1.05, 0.06), wood),
            _box(0.0, depth / 2 - 0.04, seat + 0.12, (width * 0.9, 0.07, top - seat - 0.12), cushion),
            _box(0.0, depth / 2 - 0.02, seat - 0.05, (0.06, 0.03, 0.22), wood),
        ]
        return parts
    parts += _legs(width, depth, seat - 0.05, 0.04, wood, is_round=bool(g.random() < 0.4))
    posts = [_box(s * (width / 2 - 0.02), depth / 2 - 0.02, seat, (0.04, 0.04, top - seat), wood) for s in (-1, 1)]
    rungs = int(g.integers(1, 4))
    rung = (top - seat) / (2 * rungs)
    parts += posts + [
        _box(0.0, depth / 2 - 0.02, top - (2 * n + 1) * rung, (width - 0.06, 0.025, rung), cushion)
        for n in range(rungs)
    ]
    if g.random() < 0.25:
        parts += [_box(s * (width / 2 - 0.025), 0.0, seat + 0.2, (0.05, depth - 0.04, 0.04), wood) for s in (-1, 1)]
        parts += [_box(s * (width / 2 - 0.025), -depth / 2 + 0.06, seat, (0.04, 0.04, 0.2), wood) for s in (-1, 1)]
    return parts


def _table_of(g: Generator, width: float, depth: float, height: float) -> list[Part]:
    wood, thick = tone(g, WOODS if g.random() < 0.75 else PAINTS), g.uniform(0.03, 0.06)
    if g.random() < 0.3:
        across = (width + depth) / 2
        return [
            _disc(0.0, 0.0, height - thick, (across, across, thick), wood, 0.6),
            _disc(0.0, 0.0, 0.04, (0.1, 0.1, height - thick - 0.04), wood),
            _disc(0.0, 0.0, 0.0, (across * 0.5, across * 0.5, 0.04), wood),
        ]
    leg = g.uniform(0.045, 0.08)
    parts = [_box(0.0, 0.0, height - thick, (width, depth, thick), wood, 0.6)]
    parts += _legs(width - 0.06, depth - 0.06, height - thick, leg, wood, is_round=bool(g.random() < 0.3))
    if g.random() < 0.6:
        apron = (width - 0.14, 0.02, 0.08)
        parts += [_box(0.0, s * (depth / 2 - 0.06), height - thick - 0.08, apron, wood) for s in (-1, 1)]
    return parts


def _table(g: Generator) -> list[Part]:
    return _table_of(g, *(float(value) for value in g.uniform((0.9, 0.75, 0.7), (1.7, 1.0, 0.78))))


def _coffee_table(g: Generator) -> list[Part]:
    return _table_of(g, *(float(value) for value in g.uniform((0.8, 0.5, 0.34), (1.2, 0.7, 0.48))))


def _desk(g: Generator) -> list[Part]:
    width, depth, height = g.uniform((1.1, 0.58, 0.71), (1.6, 0.78, 0.77))
    wood, panel = tone(g, WOODS), tone(g, PAINTS)
    side, drawers = int(g.choice([-1, 1])), g.uniform(0.36, 0.44)
    parts = [
        _box(0.0, 0.0, height - 0.035, (width, depth, 0.035), wood, 0.6),
        _box(-side * (width / 2 - 0.015), 0.0, 0.0, (0.03, depth - 0.04, height - 0.035), wood),
        _box(0.0, depth / 2 - 0.05, height * 0.45, (width - 0.06, 0.02, height * 0.55 - 0.035), wood),
        _box(side * (width - drawers) / 2, 0.0, 0.0, (drawers, depth - 0.06, height - 0.035), panel),
    ]
    face = (height - 0.1) / 3
    for n in range(3):
        x, low = side * (width - drawers) / 2, 0.03 + n * face
        parts.append(_box(x, -depth / 2 + 0.02, low, (drawers - 0.04, 0.02, face - 0.025), wood))
    return parts


def _bed(g: Generator) -> list[Part]:
    width, length, height = float(g.choice([0.95, 1.4, 1.6, 1.8])), g.uniform(1.95, 2.12), g.uniform(0.42, 0.6)
    wood, sheet, cover = tone(g, WOODS), tone(g, PAINTS), tone(g, FABRICS)
    frame = height * 0.5
    headboard, covered = g.uniform(0.8, 1.15), length * g.uniform(0.5, 0.72)
    parts = [
        _box(0.0, 0.0, 0.08, (width, length, frame - 0.08), wood, 0.5),
        *_legs(width, length, 0.08, 0.07, wood, is_round=False),
        _box(0.0, -0.02, frame, (width - 0.06, length - 0.1, height - frame), sheet, 0.1),
        _box(0.0, length / 2 + 0.02, 0.0, (width, 0.05, headboard), wood, 0.6),
        _box(0.0, -(length - covered) / 2 + 0.01, frame + 0.04, (width, covered, height - frame), cover, 0.8),
    ]
    pillows = 2 if width > 1.2 else 1
    across = (width - 0.2) / pillows
    parts += [
        _box((n - (pillows - 1) / 2) * across, length / 2 - 0.32, height, (across - 0.08, 0.36, 0.11), sheet, 0.1)
        for n in range(pillows)
    ]
    return parts


def _sofa(g: Generator) -> list[Part]:
    width, depth, seat, top = g.uniform((1.4, 0.8, 0.38, 0.72), (2.2, 0.98, 0.46, 0.9))
    fabric, cushion = tone(g, FABRICS), tone(g, FABRICS)
    arm, back = g.uniform(0.14, 0.22), g.uniform(0.18, 0.25)
    inner = width - 2 * arm
    parts = [
        _box(0.0, 0.0, 0.06, (width, depth, seat - 0.18), fabric, 0.7),
        *_legs(width - 0.06, depth - 0.06, 0.06, 0.06, tone(g, WOODS), is_round=True),
        _box(0.0, (depth - back) / 2, seat - 0.12, (width, back, top - seat + 0.12), fabric, 0.7),
        *[_box(s * (width - arm) / 2, 0.0, seat - 0.12, (arm, depth, 0.32), fabric, 0.7) for s in (-1, 1)],
    ]
    seats = 3 if inner > 1.5 else 2
    each = inner / seats
    for n in range(seats):
        x = (n - (seats - 1) / 2) * each
        parts.append(_box(x, -back / 2, seat - 0.12, (each - 0.02, depth - back, 0.12), fabric, 0.7))
        if g.random() < 0.35:
            parts.append(_box(x, (depth - back) / 2 - back / 2 - 0.08, seat, (0.38, 0.14, 0.36), cushion, 0.8))
    return parts


def _bookshelf(g: Generator) -> list[Part]:
    width, depth, height = g.uniform((0.6, 0.26, 1.1), (1.2, 0.36, 2.05))
    wood, shelves = tone(g, WOODS if g.random() < 0.7 else PAINTS), int(g.integers(3, 6))
    step = (height - 0.025) / shelves
    parts = [_box(s * (width / 2 - 0.0125), 0.0, 0.0, (0.025, depth, height), wood) for s in (-1, 1)]
    parts += [_box(0.0, depth / 2 - 0.005, 0.0, (width, 0.01, height), wood)]
    parts += [_box(0.0, 0.0, n * step, (width - 0.05, depth, 0.025), wood) for n in range(shelves + 1)]
    for n in range(shelves):
        left = -width / 2 + 0.03
        while left < width / 2 - 0.12:
            run = min(g.uniform(0.06, 0.3), width / 2 - 0.03 - left)
            if g.random() < 0.75:
                size = (run - 0.004, depth * g.uniform(0.55, 0.85), (step - 0.03) * g.uniform(0.5, 0.95))
                place = depth / 2 - 0.015 - size[1] / 2
                parts.append(_box(left + run / 2, place, n * step + 0.025, size, tone(g, FABRICS), 0.2))
            left += run
    return parts


def _with_fronts(g: Generator, size: tuple[float, float, float], fronts: tuple[int, int], foot: float) -> list[Part]:
    """Return a closed body whose front has (columns, rows) of doors or drawers with knobs."""
    width, depth, height = size
    body = tone(g, WOODS if g.random() < 0.6 else PAINTS)
    front, metal = (body if g.random() < 0.6 else tone(g, PAINTS)), tone(g, METALS)
    parts = [_box(0.0, 0.01, foot, (width, depth - 0.02, height - foot), body, 0.5)]
    if foot:
        parts += _legs(width - 0.04, depth - 0.06, foot, 0.05, body, is_round=False)
    columns, rows = fronts
    across, up = width / columns, (height - foot) / rows
    for column in range(columns):
        for row in range(rows):
            x, low = (column - (columns - 1) / 2) * across, foot + row * up
            parts.append(_box(x, -depth / 2 + 0.01, low + 0.01, (across - 0.02, 0.02, up - 0.02), front, 0.5))
            parts.append(_disc(x, -depth / 2 - 0.01, low + up * 0.55, (0.03, 0.03, 0.03), metal))
    return parts


def _cabinet(g: Generator) -> list[Part]:
    width, depth, height = (float(value) for value in g.uniform((0.6, 0.38, 0.85), (1.1, 0.58, 1.9)))
    return _with_fronts(g, (width, depth, height), (2 if width > 0.75 else 1, 1 if height < 1.3 else 2), 0.0)


def _dresser(g: Generator) -> list[Part]:
    width, depth, height = (float(value) for value in g.uniform((0.8, 0.4, 0.72), (1.4, 0.52, 1.05)))
    return _with_fronts(g, (width, depth, height), (2, int(g.integers(3, 5))), 0.08)


def _night_stand(g: Generator) -> list[Part]:
    width, depth, height = (float(value) for value in g.uniform((0.38, 0.34, 0.45), (0.52, 0.44, 0.64)))
    return _with_fronts(g, (width, depth, height), (1, 2), float(g.choice([0.0, 0.12])))


def _lamp(g: Generator) -> list[Part]:
    height, shade, tall = g.uniform((1.35, 0.3, 0.22), (1.75, 0.48, 0.34))
    metal = tone(g, METALS)
    return [
        _disc(0.0, 0.0, 0.0, (0.28, 0.28, 0.03), metal),
        _disc(0.0, 0.0, 0.03, (0.03, 0.03, height - tall), metal),
        _disc(0.0, 0.0, height - tall, (shade, shade, tall), tone(g, ((0.95, 0.9, 0.75), (0.9, 0.8, 0.6))), 0.1),
    ]


def _toilet(g: Generator) -> list[Part]:
    width, depth, seat, top = g.uniform((0.36, 0.62, 0.38, 0.72), (0.42, 0.72, 0.43, 0.84))
    white, tank = tone(g, CERAMICS), 0.19
    bowl = depth - tank
    return [
        _disc(0.0, -tank / 2, 0.0, (width * 0.6, bowl * 0.75, seat * 0.6), white, 0.0),
        _disc(0.0, -tank / 2, seat * 0.6, (width, bowl, seat * 0.4 - 0.03), white, 0.0),
        _disc(0.0, -tank / 2, seat - 0.03, (width, bowl, 0.03), tone(g, CERAMICS), 0.0),
        _box(0.0, (depth - tank) / 2, seat * 0.6, (width * 0.98, tank, top - seat * 0.6 - 0.03), white, 0.0),
        _box(0.0, (depth - tank) / 2, top - 0.03, (width, tank + 0.02, 0.03), white, 0.0),
    ]


def _bathtub(g: Generator) -> list[Part]:
    width, depth, height = g.uniform((1.45, 0.68, 0.5), (1.75, 0.8, 0.62))
    white, rim = tone(g, CERAMICS), 0.09
    return [
        _box(0.0, 0.0, 0.0, (width, depth, 0.12), white, 0.0),
        *[_box(0.0, s * (depth - rim) / 2, 0.12, (width, rim, height - 0.12), white, 0.0) for s in (-1, 1)],
        *[_box(s * (width - rim) / 2, 0.0, 0.12, (rim, depth - 2 * rim, height - 0.12), white, 0.0) for s in (-1, 1)],
    ]


def _bin(g: Generator) -> list[Part]:
    across, height = g.uniform((0.24, 0.28), (0.36, 0.6))
    colour = tone(g, METALS + FABRICS)
    parts = [_disc(0.0, 0.0, 0.0, (across, across, height), colour)]
    return [*parts, _disc(0.0, 0.0, height, (across * 1.06, across * 1.06, 0.03), tone(g, METALS))]


def _monitor(g: Generator) -> list[Part]:
    width, height = g.uniform((0.45, 0.3), (0.65, 0.4))
    dark = tone(g, ((0.12, 0.12, 0.13), (0.3, 0.31, 0.33)))
    return [
        _box(0.0, 0.0, 0.0, (0.24, 0.18, 0.015), dark, 0.0),
        _box(0.0, 0.03, 0.015, (0.05, 0.03, 0.16), dark, 0.0),
        _box(0.0, 0.0, 0.1, (width, 0.035, height), dark, 0.0),
        _box(0.0, -0.02, 0.115, (width - 0.03, 0.006, height - 0.03), tone(g, ((0.16, 0.2, 0.26), (0.5, 0.62, 0.72)))),
    ]


FURNITURE: Mapping[str, tuple[str, Callable[[Generator], list[Part]]]] = {
    "bed": ("bed", _bed),
    "table": ("table", _table),
    "coffee table": ("table", _coffee_table),
    "sofa": ("sofa", _sofa),
    "chair": ("chair", _chair),
    "toilet": ("toilet", _toilet),
    "desk": ("desk", _desk),
    "dresser": ("dresser", _dresser),
    "night stand": ("night_stand", _night_stand),
    "bookshelf": ("bookshelf", _bookshelf),
    "bathtub": ("bathtub", _bathtub),
    "cabinet": ("cabinet", _cabinet),
    "lamp": ("lamp", _lamp),
    "bin": ("bin", _bin),
    "monitor": ("monitor", _monitor),
}
"""Name of each piece → its class and what makes its parts. The first ten classes are named as in SUN RGB-D."""

CLASSES = tuple(dict.fromkeys(label for label, _ in FURNITURE.values()))
"""The classes of boxes."""
