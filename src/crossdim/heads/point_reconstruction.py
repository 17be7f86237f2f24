"""What PiMAE's point decoder is measured by: Chamfer distance, and features of the image where the points lie.

Section 3 of the paper: hidden groups of points are reconstructed, and from the same tokens the image's features at the
places where their points project.

Differs from the authors' code: the features are sampled from the decoder's own small map (theirs is first enlarged to
256 x 352); the sampling grid is (across, down) (theirs is swapped); points outside the image or behind the camera do
not count (theirs meet zeros). Each of these is an option.
"""

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor
from torch.nn import functional as F

from crossdim.geometry.camera import project
from crossdim.masking import PixelConvention
from crossdim.tokens.grid import Grid

Chamfer = Literal["l2", "l1"]
CrossModalAxes = Literal["uv", "vu"]
CrossModalSampling = Literal["direct", "upsampled"]

RELEASED_MAP = (256, 352)
"""Size to which the authors enlarge the map of features, whatever the size of the image."""


class ImagePlaces(NamedTuple):
    """Where points lie in an image.

    Attributes:
        u: Across, 0 at the left and 1 at the right border; a point without a place has some finite number.
        v: Down, 0 at the upper and 1 at the lower border.
        inside: Whether the point is in front of the camera and on the image.
    """

    u: Float[Tensor, "batch points"]
    v: Float[Tensor, "batch points"]
    inside: Bool[Tensor, "batch points"]


@torch.no_grad()
def image_places(
    points: Float[Tensor, "batch points 3"],
    projection: Float[Tensor, "batch 3 4"],
    frame_size: Num[Tensor, "batch 2"],
    convention: PixelConvention = "centre",
) -> ImagePlaces:
    """Return where points lie in an image, however it is stretched afterwards; no gradient flows.

    Args:
        points: In scene metres.
        projection: From scene metres to (column * depth, row * depth, depth) of the frame the camera took.
        frame_size: (height, width) of this frame in pixels.
        convention: ``centre``: pixels are areas, so ``u = (column + 1/2) / width``. ``released``: ``u = round(column)
            / width``, and a point behind the camera has the place that the line through the camera's centre gives it.
    """
    height, width = frame_size.to(points).unsqueeze(-1).unbind(1)
    with torch.autocast(points.device.type, enabled=False):
        if convention == "centre":
            columns, rows, depths = project(points, projection.to(points))
            u, v = (columns + 0.5) / width, (rows + 0.5) / height
            inside = (depths > 0) & (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
        else:
            scaled = F.pad(points, (0, 1), value=1.0) @ projection.to(points).transpose(1, 2)
            u = (scaled[..., 0] / scaled[..., 2]).round() / width
            v = (scaled[..., 1] / scaled[..., 2]).round() / height
            inside = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    u, v = (torch.nan_to_num(share, nan=-1.0, posinf=-1.0, neginf=-1.0) for share in (u, v))
    return ImagePlaces(u, v, inside)


def sample_features(
    features: Float[Tensor, "batch patches values"],
    grid: Grid,
    places: ImagePlaces,
    sampling: CrossModalSampling = "direct",
    axes: CrossModalAxes = "uv",
    zeros_outside: bool = False,
) -> Float[Tensor, "batch points values"]:
    """Return the features of an image at the places of points, interpolated between the centres of its patches.

    Beyond the centres of the outermost patches their own features go on up to the border of the image.

    Args:
        features: One for each patch (or pixel), in raster order.
        grid: Number of patches along each axis.
        places: Of the points.
        sampling: ``direct``: from the map as it is. ``upsampled``: from the map enlarged to 256 x 352, as released.
        axes: ``uv``: across, down. ``vu``: swapped, as released.
        zeros_outside: Whether there are zeros outside the image (as released), or the border's features go on.
    """
    precision = torch.promote_types(features.dtype, torch.float32)
    small = rearrange(features.to(precision), "b (h w) f -> b f h w", h=grid[0], w=grid[1])
    if sampling == "upsampled":
        small = F.interpolate(small, RELEASED_MAP, mode="bilinear", align_corners=False)
    x, y = (places.u, places.v) if axes == "uv" else (places.v, places.u)
    at = torch.stack([x, y], dim=-1).to(precision)
    padding = "zeros" if zeros_outside and sampling == "upsampled" else "border"
    sampled = F.grid_sample(small, 2 * at[:, None] - 1, mode="bilinear", padding_mode=padding, align_corners=False)
    sampled = sampled[:, :, 0].transpose(1, 2)
    if zeros_outside and sampling == "direct":
        sampled = sampled * ((at >= 0) & (at <= 1)).all(dim=-1, keepdim=True)
    return sampled


def chamfer_distance(
    prediction: Float[Tensor, "clouds points 3"], target: Float[Tensor, "clouds others 3"], kind: Chamfer = "l2"
) -> Float[Tensor, ""]:
    """Return the mean distance from each point to the nearest one of the other cloud, both ways, at least in float32.

    ``l2``: the two means of squared distances, added. ``l1``: the mean of the two means of distances. Nothing of the
    size ``(clouds, points, others, 3)`` is built.

    Args:
        prediction: Clouds of points.
        target: The clouds they should be.
        kind: Which distance.
    """
    precision = torch.promote_types(prediction.dtype, torch.float32)
    prediction, target = prediction.to(precision), target.to(precision)
    to_target, to_prediction = _nearest(prediction.detach(), target)
    ways = (
        (prediction - _pick(target, to_target)).square().sum(dim=-1),
        (_pick(prediction, to_prediction) - target).square().sum(dim=-1),
    )
    if kind == "l2":
        return ways[0].mean() + ways[1].mean()
    # The square root has no gradient at zero: a point that is met exactly pulls nowhere.
    smallest = torch.finfo(precision).tiny
    return (ways[0].clamp_min(smallest).sqrt().mean() + ways[1].clamp_min(smallest).sqrt().mean()) / 2


@torch.no_grad()
def _nearest(
    first: Float[Tensor, "clouds points 3"], second: Float[Tensor, "clouds others 3"]
) -> tuple[Int[Tensor, "clouds points"], Int[Tensor, "clouds others"]]:
    """Return, for each point, the number of the nearest one of the other cloud."""
    with torch.autocast(first.device.type, enabled=False):
        distances = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.min(dim=2).indices, distances.min(dim=1).indices


def _pick(
    points: Float[Tensor, "clouds points 3"], index: Int[Tensor, "clouds picked"]
) -> Float[Tensor, "clouds picked 3"]:
    return points.gather(1, index[..., None].expand(-1, -1, 3))
