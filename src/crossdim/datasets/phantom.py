"""Label maps that nobody drew: bodies of ellipsoids with organs that vary in size and place and may be missing.

For demonstrations and tests of questions about anatomy, where real label maps are not at hand. Left and right, front
and back, above and below are as in a patient; nothing else is.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator

from crossdim.datasets.anatomy_cases import Case
from crossdim.datasets.labelmaps import Names
from crossdim.datasets.manifest import Progress
from crossdim.errors import RecipeError

BODY = 1
"""Label of the tissue between the organs, which has no name: nothing is asked about it."""

_FIELD = 1.15
"""Half the width of the field, in half axes of the body."""


@dataclass(frozen=True)
class _Plan:
    """An organ's usual place and half axes, as shares of the body's: right, front and head are positive."""

    centre: tuple[float, float, float]
    half_axes: tuple[float, float, float]


_PLANS: Mapping[str, _Plan] = {
    "right lung": _Plan((0.45, 0.0, 0.5), (0.26, 0.45, 0.34)),
    "left lung": _Plan((-0.45, 0.0, 0.5), (0.26, 0.45, 0.34)),
    "liver": _Plan((0.4, 0.2, -0.02), (0.36, 0.42, 0.2)),
    "stomach": _Plan((-0.3, 0.3, -0.02), (0.26, 0.3, 0.17)),
    "spine": _Plan((0.0, -0.68, 0.0), (0.1, 0.12, 0.8)),
    "heart": _Plan((-0.08, 0.3, 0.42), (0.2, 0.26, 0.2)),
    "right kidney": _Plan((0.38, -0.42, -0.34), (0.15, 0.16, 0.2)),
    "left kidney": _Plan((-0.38, -0.42, -0.34), (0.15, 0.16, 0.2)),
    "spleen": _Plan((-0.55, -0.3, 0.04), (0.16, 0.24, 0.15)),
    "bladder": _Plan((0.0, 0.15, -0.72), (0.22, 0.24, 0.14)),
}
"""Painted in this order; a later organ covers an earlier one where they meet."""

NAMES: Names = dict(enumerate(_PLANS, BODY + 1))
"""What the label values stand for."""


def make_phantoms(
    folder: str | os.PathLike[str],
    count: int = 60,
    size: int = 48,
    *,
    seed: int = 0,
    absent: float = 0.3,
    progress: Progress | None = None,
) -> tuple[list[Case], Names]:
    """Write label maps and their names, and return them as cases for questions about anatomy.

    Phantom n is the same whatever the count. The maps hold a value without a name (the body's tissue), so questions
    are built with ``unnamed="ignore"`` and, as there are no images, with synthetic contrasts.

    Args:
        folder: Gets ``labels/*.nii.gz`` and ``names.json``.
        count: Number of phantoms.
        size: Voxels along each side, at least 16.
        seed: Seed of everything.
        absent: Probability that an organ is missing; both of a pair on their own.
        progress: Called after each phantom.

    Raises:
        RecipeError: If an argument is out of its range.
    """
    import nibabel

    if count < 1 or size < 16 or not 0 <= absent < 1:
        subject = f"count {count}, size {size}, absent {absent:g}"
        raise RecipeError(subject, "are out of range", "Take at least 1, at least 16, and from 0 to below 1")
    root = Path(folder)
    (root / "labels").mkdir(parents=True, exist_ok=True)
    (root / "names.json").write_text(json.dumps(NAMES, indent=1) + "\n", encoding="utf-8")
    cases = []
    for number in range(count):
        labels, affine = phantom(np.random.default_rng([seed, number]), size, absent)
        name = f"phantom_{number:04d}"
        path = root / "labels" / f"{name}.nii.gz"
        nibabel.save(nibabel.nifti1.Nifti1Image(labels, affine), path)
        cases.append(Case(name, name, str(path)))
        if progress:
            progress(number + 1, count)
    return cases, dict(NAMES)


def phantom(
    generator: Generator, size: int = 48, absent: float = 0.3
) -> tuple[UInt8[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """Return one label map in RAS+ order and its affine.

    Args:
        generator: Draws everything.
        size: Voxels along each side.
        absent: Probability that an organ is missing.
    """
    half_mm = generator.uniform((150, 105, 210), (180, 125, 250))
    spacing_mm = 2 * _FIELD * half_mm / size
    shift = generator.uniform(-0.05, 0.05, 3)
    at = np.meshgrid(*[np.linspace(-_FIELD, _FIELD, size) - s for s in shift], indexing="ij", sparse=True)
    labels = np.zeros((size,) * 3, np.uint8)
    body = _inside(at, np.zeros(3), np.ones(3))
    labels[body] = BODY
    for value, name in NAMES.items():
        plan = _PLANS[name]
        centre = np.array(plan.centre) + generator.normal(0, 0.04, 3)
        half_axes = np.array(plan.half_axes) * generator.uniform(0.8, 1.2) * generator.uniform(0.85, 1.15, 3)
        if generator.random() >= absent:
            labels[body & _inside(at, centre, half_axes)] = value
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * (size - 1) / 2
    return labels, affine


def _inside(
    at: Sequence[Float[np.ndarray, "..."]], centre: Float[np.ndarray, "3"], half_axes: Float[np.ndarray, "3"]
) -> np.ndarray:
    scaled = [((axis - c) / a) ** 2 for axis, c, a in zip(at, centre, half_axes, strict=True)]
    return np.asarray(scaled[0] + scaled[1] + scaled[2] <= 1)
