"""Fields of view of labelled volumes, drawn so that what can be seen in them varies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from crossdim.datasets.anatomy_map import PATIENT_AXIS, Anatomy, Box, Plane
from crossdim.datasets.anatomy_seen import Frame, Rules, Status, look
from crossdim.errors import RecipeError

_DRAWS = 6
"""Fields of view drawn for each that is taken."""


@dataclass(frozen=True)
class Views:
    """Which fields of view are drawn.

    Attributes:
        count: How many of each case; 0 shows all of it, once.
        coverage: Smallest and largest share of the slices that one keeps.
        lateral: Share of them that leave out what lies beyond a plane near the midline, too.
    """

    count: int = 4
    coverage: tuple[float, float] = (0.3, 0.8)
    lateral: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.coverage
        if not 0 < low <= high <= 1 or not 0 <= self.lateral <= 1:
            subject = f"coverage {low:g} {high:g}, lateral {self.lateral:g}"
            raise RecipeError(subject, "are not shares, the first rising", "Take such as 0.3 0.8, and 0.5")
        if self.count < 0:
            raise RecipeError(f"fields of view {self.count}", "are below 0", "Take 0 for the whole volume")


def draw_boxes(
    anatomy: Anatomy, generator: Generator, rules: Rules, how: "Views", spacing: Sequence[float] | None
) -> list[Box]:
    """Return random fields of view that show some structures and leave others out.

    Of several drawn, the one is taken that helps most to let each structure be visible as often as absent.

    Args:
        anatomy: What they show parts of.
        generator: Draws everything.
        rules: When something counts as seen.
        how: How many, and how large.
        spacing: Of the volumes that are written.
    """
    balance = dict.fromkeys(anatomy.organs, 0)
    boxes: list[Box] = []
    for _ in range(how.count):
        drawn = [draw_box(anatomy, generator, rules.plane, how.coverage, how.lateral) for _ in range(_DRAWS)]
        shown = [_shown(anatomy, Frame.of(box, anatomy.map.affine, spacing), rules) for box in drawn]
        worth = [sum(abs(v) * 0.5 - np.sign(balance[n]) * v for n, v in values.items()) for values in shown]
        best = int(np.argmax(worth))
        boxes.append(drawn[best])
        balance = {name: count + shown[best][name] for name, count in balance.items()}
    return boxes


def _shown(anatomy: Anatomy, frame: "Frame", rules: Rules) -> dict[str, int]:
    """Return 1 for each structure that is visible, -1 for each that is absent, 0 for the others."""
    worth: dict[Status, int] = {"visible": 1, "absent": -1, "unclear": 0}
    seen = look(anatomy, frame, rules)
    return {name: worth[seen[name].status] for name in anatomy.organs}


def draw_box(
    anatomy: Anatomy, generator: Generator, plane: Plane, coverage: tuple[float, float], lateral: float
) -> Box:
    """Return a random field of view.

    Args:
        anatomy: What it shows a part of.
        generator: Draws everything.
        plane: Slices of this plane are left out at both ends.
        coverage: Smallest and largest share of the slices that is kept.
        lateral: Probability that what lies beyond a plane near the midline is left out as well.
    """
    low, high = list(anatomy.domain[0]), list(anatomy.domain[1])
    along, _ = anatomy.axes[PATIENT_AXIS[plane]]
    length = high[along] - low[along]
    kept = max(1, round(generator.uniform(*coverage) * length))
    start = low[along] + int(generator.integers(length - kept + 1))
    across, _ = anatomy.axes[0]
    beyond, cut, upper = generator.random() < lateral, generator.uniform(0.3, 0.7), generator.random() < 0.5
    if beyond and across != along:
        at = low[across] + max(1, round(cut * (high[across] - low[across])))
        low[across], high[across] = (at - 1, high[across]) if upper else (low[across], at)
    low[along], high[along] = start, start + kept
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
