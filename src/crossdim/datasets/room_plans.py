"""Where furniture stands: five kinds of rooms with what is typical of them, placed without overlap.

Lengths are in metres in the room's own frame: the middle of the floor is the origin, z is up, the walls are parallel to
x and y.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from crossdim.datasets.room_furniture import Piece, build

TRIES = 25
"""Places that are tried before a piece is left out."""

GAP = 0.03
"""Metres that are left free around each piece."""


@dataclass(frozen=True)
class Standing:
    """A piece of furniture and its place.

    Attributes:
        piece: What stands there.
        place: The middle of its base.
        yaw: About +z, in radians.
        raised: Whether it stands on another piece instead of the floor.
    """

    piece: Piece
    place: tuple[float, float, float]
    yaw: float
    raised: bool = False

    def corners(self, margin: float = 0.0) -> Float[np.ndarray, "4 2"]:
        """Return the corners of its base seen from above, anticlockwise.

        Args:
            margin: Metres added on every side.
        """
        width, depth = self.piece.size[0] / 2 + margin, self.piece.size[1] / 2 + margin
        return self.at(np.array([[-width, -depth], [width, -depth], [width, depth], [-width, depth]]))

    def at(self, local: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Return places given in the piece's own frame as places in the room.

        Args:
            local: x (from side to side) and y (towards its back).
        """
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        x, y = local[..., 0], local[..., 1]
        return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1) + np.array(self.place[:2])


@dataclass(frozen=True)
class Wish:
    """Furniture that a kind of room has.

    Attributes:
        name: A key of ``FURNITURE``.
        where: Against a wall, in a corner, in the middle, or beside, before, around or on another piece.
        count: The fewest and the most pieces (for each piece of ``of``, where there is one).
        of: The class of the other piece.
    """

    name: str
    where: Literal["wall", "corner", "middle", "beside", "before", "around", "on"]
    count: tuple[int, int] = (1, 1)
    of: str = ""


KINDS: Mapping[str, tuple[Wish, ...]] = {
    "bedroom": (
        Wish("bed", "wall"),
        Wish("night stand", "beside", (1, 2), "bed"),
        Wish("dresser", "wall", (0, 1)),
        Wish("cabinet", "wall", (0, 1)),
        Wish("lamp", "corner", (0, 1)),
        Wish("chair", "middle", (0, 1)),
        Wish("bookshelf", "wall", (0, 1)),
        Wish("bin", "corner", (0, 1)),
    ),
    "office": (
        Wish("desk", "wall", (1, 2)),
        Wish("monitor", "on", (1, 1), "desk"),
        Wish("chair", "before", (1, 1), "desk"),
        Wish("bookshelf", "wall", (0, 2)),
        Wish("cabinet", "wall", (0, 1)),
        Wish("bin", "corner", (0, 2)),
        Wish("chair", "middle", (0, 2)),
    ),
    "living_room": (
        Wish("sofa", "wall", (1, 2)),
        Wish("coffee table", "before", (0, 1), "sofa"),
        Wish("bookshelf", "wall", (0, 2)),
        Wish("lamp", "corner", (0, 2)),
        Wish("dresser", "wall", (0, 1)),
        Wish("chair", "middle", (0, 2)),
    ),
    "dining_room": (
        Wish("table", "middle"),
        Wish("chair", "around", (2, 6), "table"),
        Wish("dresser", "wall", (0, 1)),
        Wish("cabinet", "wall", (0, 1)),
        Wish("lamp", "corner", (0, 1)),
        Wish("bin", "corner", (0, 1)),
    ),
    "bathroom": (
        Wish("bathtub", "wall"),
        Wish("toilet", "wall"),
        Wish("cabinet", "wall", (0, 1)),
        Wish("bin", "corner", (0, 1)),
        Wish("chair", "middle", (0, 1)),
    ),
}
"""Kind of room → its furniture, in the order in which it is placed."""

ROOMS = tuple(KINDS)


@dataclass
class Plan:
    """A room while it is furnished.

    Attributes:
        kind: One of ``ROOMS``.
        size: Width (x), length (y) and height.
        standing: The furniture so far.
    """

    kind: str
    size: tuple[float, float, float]
    standing: list[Standing] = field(default_factory=list)

    def free(self, new: Standing) -> bool:
        """Return whether a piece lies inside the room and meets no other.

        Args:
            new: The piece.
        """
        corners = new.corners()
        inside = (np.abs(corners) <= np.array(self.size[:2]) / 2).all() and new.piece.size[2] < self.size[2]
        others = [each.corners(GAP) for each in self.standing if not each.raised]
        return bool(inside) and (new.raised or not any(overlap(corners, other) for other in others))


def furnish(generator: Generator, kind: str) -> Plan:
    """Return a furnished room.

    Args:
        generator: Draws everything.
        kind: One of ``ROOMS``.
    """
    small = kind == "bathroom"
    low, high = ((2.6, 3.0, 2.3), (3.4, 3.8, 2.7)) if small else ((3.0, 3.4, 2.4), (5.2, 6.0, 3.0))
    width, length, height = (float(value) for value in generator.uniform(low, high))
    plan = Plan(kind, (width, length, height))
    for wish in KINDS[kind]:
        anchors = [each for each in plan.standing if each.piece.label == wish.of] if wish.of else [None]
        for anchor in anchors:
            for number in range(int(generator.integers(wish.count[0], wish.count[1] + 1))):
                _place(plan, wish, anchor, number, generator)
    return plan


def overlap(first: Float[np.ndarray, "4 2"], second: Float[np.ndarray, "4 2"]) -> bool:
    """Return whether two rectangles meet: no edge of either has the other wholly beyond it.

    Args:
        first: Corners in order.
        second: The same.
    """
    for a, b in ((first, second), (second, first)):
        edges = np.roll(a, -1, axis=0) - a
        normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
        beyond = ((b[None] - a[:, None]) * normals[:, None]).sum(axis=-1)
        if (beyond >= 0).all(axis=1).any():
            return False
    return True


def _place(plan: Plan, wish: Wish, anchor: Standing | None, number: int, generator: Generator) -> None:
    """Add a piece where it fits, or leave it out."""
    piece = build(wish.name, generator)
    for _ in range(TRIES):
        new = (
            _BESIDE[wish.where](piece, anchor, number, generator)
            if anchor
            else _free_place(plan, piece, wish, generator)
        )
        if plan.free(new):
            plan.standing.append(new)
            return


def _free_place(plan: Plan, piece: Piece, wish: Wish, generator: Generator) -> Standing:
    half = np.array(plan.size[:2]) / 2
    if wish.where == "middle":
        x, y = generator.uniform(-0.5, 0.5, 2) * half
        return Standing(piece, (float(x), float(y), 0.0), float(generator.uniform(-np.pi, np.pi)))
    wall = int(generator.integers(4))
    yaw = wall * np.pi / 2
    along, away = (half if wall % 2 == 0 else half[::-1]) - np.array([piece.size[0], piece.size[1]]) / 2
    sign = generator.choice([-1, 1])
    offset = (
        sign * (along - generator.uniform(0.05, 0.2)) if wish.where == "corner" else generator.uniform(-along, along)
    )
    local = np.array([offset, away - generator.uniform(0.02, 0.06)])
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turn = generator.uniform(-0.03, 0.03) if wish.where == "wall" else generator.uniform(-0.4, 0.4)
    place = (float(cosine * local[0] - sine * local[1]), float(sine * local[0] + cosine * local[1]), 0.0)
    return Standing(piece, place, float(yaw + turn))


def _beside(piece: Piece, anchor: Standing, number: int, generator: Generator) -> Standing:
    side = 1 if number else -1
    x = side * ((anchor.piece.size[0] + piece.size[0]) / 2 + generator.uniform(0.04, 0.12))
    y = (anchor.piece.size[1] - piece.size[1]) / 2 - generator.uniform(0, 0.08)
    return _standing(piece, anchor, (x, y), 0.0)


def _before(piece: Piece, anchor: Standing, number: int, generator: Generator) -> Standing:
    is_seat = piece.label == "chair"
    gap = generator.uniform(0.05, 0.3) if is_seat else generator.uniform(0.25, 0.5)
    y = -(anchor.piece.size[1] + piece.size[1]) / 2 - gap
    x = generator.uniform(-0.2, 0.2) * anchor.piece.size[0]
    return _standing(piece, anchor, (x, y), np.pi + generator.normal(0, 0.35) if is_seat else generator.normal(0, 0.05))


def _around(piece: Piece, anchor: Standing, number: int, generator: Generator) -> Standing:
    side = number % 4
    width, depth, _ = anchor.piece.size
    along, away = (width, depth) if side % 2 == 0 else (depth, width)
    x = generator.uniform(-0.3, 0.3) * along
    y = -(away + piece.size[1]) / 2 - generator.uniform(0.05, 0.2)
    turn = side * np.pi / 2
    cosine, sine = np.cos(turn), np.sin(turn)
    place = (cosine * x - sine * y, sine * x + cosine * y)
    return _standing(piece, anchor, place, turn + np.pi + generator.normal(0, 0.15))


def _on(piece: Piece, anchor: Standing, number: int, generator: Generator) -> Standing:
    room = (np.array(anchor.piece.size[:2]) - np.array(piece.size[:2])) / 2 - 0.03
    x, y = generator.uniform(-room[0], room[0]) * 0.6, max(room[1], 0.0) * 0.8
    return _standing(piece, anchor, (x, y), generator.normal(0, 0.15), raised=True)


def _standing(piece: Piece, anchor: Standing, local: Sequence[float], turn: float, *, raised: bool = False) -> Standing:
    x, y = anchor.at(np.array(local, float))
    height = anchor.place[2] + anchor.piece.size[2] if raised else 0.0
    return Standing(piece, (float(x), float(y), height), float(anchor.yaw + turn), raised)


_BESIDE: Mapping[str, Callable[[Piece, Standing, int, Generator], Standing]] = {
    "beside": _beside,
    "before": _before,
    "around": _around,
    "on": _on,
}
