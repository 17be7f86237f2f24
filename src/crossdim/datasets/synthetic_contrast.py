"""Volumes of random contrast from label maps: real anatomy, made-up scanner.

Re-implemented from the description of SynthSeg (Billot et al., Medical Image Analysis 86, 2023, section 3): intensities
are drawn from a Gaussian with a mean and a deviation of its own for every label, then the volume is blurred, gets a
smooth multiplicative bias field and a random gamma, and loses resolution to thick slices.

Differs from the authors' code: no spatial deformation (questions about the label map would no longer be true); means
are drawn from as many levels as there are labels, one each, so that no two labels look alike; numpy and scipy instead
of a network's layers.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Float32, Integer
from numpy.random import Generator

from crossdim.errors import RecipeError
from crossdim.geometry.affine import spacing_mm
from crossdim.samples import Origin, Volume

_HIGHEST = 1000
"""Largest intensity of what comes out, which is whole numbers from 0 as scanners write them."""


_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class ContrastOptions:
    """What is random about a volume, and how much.

    Attributes:
        deviation: Largest deviation of intensities within a label, as a share of the whole range.
        blur_mm: Largest deviation of the Gaussian blur.
        bias: Largest deviation of the logarithm of the bias field; 0 for none.
        bias_mm: Distance between the points that the bias field is drawn at.
        gamma: Largest deviation of the logarithm of the exponent; 0 for none.
        thickness_mm: Thickest slices; the thickness is drawn from the map's spacing up to this, along a random axis.
        noise: Largest deviation of noise that is added at the end, as a share of the whole range.
        dark_background: Probability that label 0 is dark, as air is, rather than drawn like the others.
        same_means: Whether a label has the same mean intensity in every volume, as if all came from one kind of scan.
    """

    deviation: float = 0.06
    blur_mm: float = 1.0
    bias: float = 0.3
    bias_mm: float = 60.0
    gamma: float = 0.2
    thickness_mm: float = 6.0
    noise: float = 0.03
    dark_background: float = 1.0
    same_means: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                raise RecipeError(f"{field.name} {value:g}", "is below 0 or not finite", "Take 0 for none of it")


def synthesise(
    labels: Integer[np.ndarray, "depth height width"],
    affine: Float[np.ndarray, "4 4"],
    generator: Generator,
    options: ContrastOptions | None = None,
) -> Volume:
    """Return a volume of random contrast; the label map stays as it is.

    Args:
        labels: Label of every voxel, from 0. Give both sides of a body the same label if they are to look alike.
        affine: From an index to patient millimetres.
        generator: Draws everything; the same state gives the same volume.
        options: What is random, and how much.

    Raises:
        RecipeError: If the map is empty or holds a label below 0.
    """
    if labels.size == 0 or labels.min() < 0:
        raise RecipeError("label map", "is empty or holds labels below 0", "Give labels from 0")
    chosen = options or ContrastOptions()
    spacing = np.array(spacing_mm(affine))
    volume = _intensities(labels, generator, chosen)
    _blur(volume, generator.uniform(0, chosen.blur_mm) / spacing)
    volume *= np.exp(_bias(labels.shape, spacing, generator, chosen)) if chosen.bias else 1
    np.clip(volume, 0, None, out=volume)
    brightest = float(np.quantile(volume[::2, ::2, ::2], 0.998))
    np.clip(volume / max(brightest, 1e-6), 0, 1, out=volume)
    volume **= np.float32(np.exp(generator.normal() * chosen.gamma))
    volume = _thick_slices(volume, spacing, generator, chosen.thickness_mm)
    volume += generator.standard_normal(volume.shape, np.float32) * np.float32(generator.uniform(0, chosen.noise))
    voxels = (np.clip(volume, 0, 1) * _HIGHEST).round().astype(np.int16)
    return Volume(voxels[None], affine, "arbitrary", Origin("synthetic contrast"))


def _intensities(
    labels: Integer[np.ndarray, "depth height width"], generator: Generator, options: ContrastOptions
) -> Float32[np.ndarray, "depth height width"]:
    there = np.flatnonzero(np.bincount(labels.ravel()))
    means = np.zeros(there[-1] + 1, np.float32)
    drawn = (generator.permutation(len(there)) + generator.uniform(0.25, 0.75, len(there))) / len(there)
    # By the golden ratio, labels that are neighbours in number are far apart in intensity.
    means[there] = 0.1 + 0.9 * (there * _GOLDEN % 1 if options.same_means else drawn)
    deviations = generator.uniform(0, options.deviation, len(means)).astype(np.float32)
    if generator.random() < options.dark_background:
        means[0] = generator.uniform(0, 0.05)
        deviations[0] = generator.uniform(0, 0.02)
    noise = generator.standard_normal(labels.shape, np.float32)
    noise *= deviations[labels]
    noise += means[labels]
    return noise


def _blur(volume: Float32[np.ndarray, "depth height width"], deviation: Float[np.ndarray, "3"]) -> None:
    from scipy.ndimage import gaussian_filter

    gaussian_filter(volume, deviation, output=volume, mode="nearest", truncate=3)


def _bias(
    shape: tuple[int, ...], spacing: Float[np.ndarray, "3"], generator: Generator, options: ContrastOptions
) -> Float32[np.ndarray, "depth height width"]:
    """Return the logarithm of the bias field: random at a few points, smooth between them."""
    points = [max(2, round(n * mm / options.bias_mm) + 1) for n, mm in zip(shape, spacing, strict=True)]
    field = generator.standard_normal(points, np.float32) * np.float32(generator.uniform(0, options.bias))
    for axis, length in enumerate(shape):
        field = np.moveaxis(_spread(field.shape[axis], length) @ np.moveaxis(field, axis, -2), -2, axis)
    return field


def _spread(points: int, length: int) -> Float32[np.ndarray, "length points"]:
    """Return weights of linear interpolation between points, the first and the last at the ends."""
    at = np.linspace(0, points - 1, length)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(points))).astype(np.float32)


def _thick_slices(
    volume: Float32[np.ndarray, "depth height width"],
    spacing: Float[np.ndarray, "3"],
    generator: Generator,
    thickest_mm: float,
) -> Float32[np.ndarray, "depth height width"]:
    """Average over slices of a random thickness along a random axis, and interpolate back."""
    axis = int(generator.integers(3))
    thickness_mm = generator.uniform(spacing[axis], max(thickest_mm, spacing[axis]))
    length = volume.shape[axis]
    slices = max(1, round(length * spacing[axis] / thickness_mm))
    if slices >= length:
        return volume
    edges = np.arange(slices + 1) * length / slices
    low, high = np.arange(length), np.arange(1, length + 1)
    shared = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    average = (np.maximum(shared, 0) * slices / length).astype(np.float32)
    at = np.clip((np.arange(length) + 0.5) * slices / length - 0.5, 0, slices - 1)
    back = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(slices))).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis((back @ average) @ np.moveaxis(volume, axis, -2), -2, axis))
