"""Gradient maps: the target of Uni4Eye's second decoder (section 2.3).

Images: the mean of the absolute horizontal and vertical 5x5 Sobel derivatives of the luminance. Volumes: the Euclidean
norm of the three separable five-tap Sobel derivatives, scaled like the image map (a unit step gives at most 1 at the
default scale); with several channels, the mean over channels.

Differs from the authors' code: they round to uint8 inside (their map reaches 48 while intensities end at 1); that is
``"uint8"`` here. A second released recipe runs the derivatives over the channel axis by mistake; that is
``"uint8_chw"``. They released no gradient for volumes; ours is new.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

GradientTarget = Literal["float", "uint8", "uint8_chw"]

SMOOTH = (1.0, 4.0, 6.0, 4.0, 1.0)
DERIVE = (-1.0, -2.0, 0.0, 2.0, 1.0)
LUMINANCE = (0.299, 0.587, 0.114)
UNIT_STEP_RESPONSE = 48.0
"""What the integer image kernels answer to a step of one: 3 from the derivative, 16 from the smoothing."""


def luminance(pixels: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Return grey images: the ITU-R 601 weights for three channels, the mean otherwise.

    Args:
        pixels: RGB or any other number of channels.
    """
    if pixels.shape[1] != 3:
        return pixels.mean(dim=1, keepdim=True)
    red, green, blue = pixels.unbind(1)
    return (LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue)[:, None]


def sobel(values: Float[Tensor, "batch channels *spatial"]) -> Float[Tensor, "batch channels axes *spatial"]:
    """Return the five-tap Sobel derivative along each axis, smoothed along the others, with integer kernels.

    The border mirrors without repeating the edge; where an axis is too thin for that, the edge is repeated.

    Args:
        values: Two or three spatial axes.
    """
    size = values.shape[2:]
    rank = len(size)
    derive, smooth = (torch.tensor(taps, dtype=values.dtype, device=values.device) for taps in (DERIVE, SMOOTH))
    letters = "ijk"[:rank]
    outer = f"{','.join(letters)}->{letters}"
    kernels = [torch.einsum(outer, *(derive if axis == way else smooth for axis in range(rank))) for way in range(rank)]
    padded = F.pad(values.flatten(0, 1)[:, None], (2,) * (2 * rank), mode="reflect" if min(size) > 2 else "replicate")
    convolve = F.conv2d if rank == 2 else F.conv3d
    return convolve(padded, torch.stack(kernels)[:, None]).unflatten(0, values.shape[:2])


def sobel_uint8(grey: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels 2 height width"]:
    """Return the absolute derivatives as the authors store them: rounded half to even, clipped to 255.

    Args:
        grey: Images in [0, 1].
    """
    return sobel(grey).round().clamp(-32768, 32767).abs().clamp(max=255)


def image_gradient(
    pixels: Float[Tensor, "batch channels height width"],
    target: GradientTarget = "float",
    edge_scale: float = 1 / UNIT_STEP_RESPONSE,
) -> Float[Tensor, "batch maps height width"]:
    """Return the gradient map of images: one map, or one per channel for ``uint8_chw``.

    Args:
        pixels: Images; the ``uint8`` recipes expect values in [0, 1].
        target: ``float`` without rounding, or one of the two released recipes.
        edge_scale: Factor on the ``float`` map's integer-kernel response.
    """
    pixels = pixels.float()
    if target == "float":
        return sobel(luminance(pixels)).abs().mean(dim=2) * edge_scale
    # The second recipe reads (channels, height, width) as (height, width, channels): "x" is image rows, "y" is colour.
    grey = luminance(pixels) if target == "uint8" else pixels.permute(0, 3, 1, 2)
    both = sobel_uint8(grey).mean(dim=2).round()
    return both if target == "uint8" else both.permute(0, 2, 3, 1)


def volume_gradient(
    voxels: Float[Tensor, "batch channels depth height width"], edge_scale: float = 1 / UNIT_STEP_RESPONSE
) -> Float[Tensor, "batch 1 depth height width"]:
    """Return the gradient magnitude of volumes, the mean over their channels.

    Args:
        voxels: Volumes of any size.
        edge_scale: Same factor as for images.
    """
    voxels = voxels.float()
    scale = edge_scale / sum(SMOOTH)
    squares = sobel(voxels).mul(scale).square().sum(dim=2)
    return squares.clamp_min(1e-12).sqrt().mean(dim=1, keepdim=True)
