"""Small images and volumes with a known place in the patient."""

import numpy as np
from hypothesis import strategies as st

from crossdim.samples import Image, Origin, Volume

SPL_TO_RAS = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
"""Affine of a volume whose depth points to the head, height to the back and width to the left, 1 mm."""


def image(pixels, unit="uint8", path="photo.png"):
    return Image(np.asarray(pixels), unit, Origin(path))


def volume(voxels, affine=SPL_TO_RAS, unit="arbitrary", path="scan.nii.gz", names=()):
    return Volume(np.asarray(voxels), np.asarray(affine, dtype=np.float64), unit, Origin(path), names)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@st.composite
def affines(draw):
    """Axes in any order and direction, any spacing, a little oblique, any origin."""
    order = draw(st.permutations(range(3)))
    signs = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    spacings = [draw(st.floats(0.4, 5.0)) for _ in range(3)]
    angle = draw(st.floats(-0.3, 0.3))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, order] @ np.diag(signs) @ np.diag(spacings)
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return affine
