"""Clouds that make trouble, and the reference's distance."""

import numpy as np
from hypothesis import strategies as st


def distances(points: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the reference's squared distances: float32, one axis after the other."""
    x, y, z = (points - place).T
    return (x * x + y * y) + z * z


@st.composite
def clouds(draw: st.DrawFn) -> np.ndarray:
    """Draw a cloud: scattered, on a lattice, on a line, or the same few points over and over."""
    size = draw(st.integers(12, 400))
    generator = np.random.default_rng(draw(st.integers(0, 9999)))
    kind = draw(st.sampled_from(["scattered", "lattice", "line", "repeated", "far"]))
    if kind == "lattice":
        return generator.integers(0, 5, (size, 3)).astype(np.float32) / 10
    if kind == "line":
        return np.arange(size, dtype=np.float32)[generator.permutation(size), None] * np.float32([0.1, 0, 0.2])
    if kind == "repeated":
        return generator.normal(size=(4, 3)).astype(np.float32)[generator.integers(0, 4, size)]
    return generator.normal(size=(size, 3)).astype(np.float32) + np.float32(1000 if kind == "far" else 0)
