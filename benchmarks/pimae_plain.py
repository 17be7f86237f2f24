"""PiMAE's pre-training step the straightforward way, with the weights of our model: what :mod:`benchmarks.pimae_cost`
measures against.

Every token is computed and hidden ones are dropped afterwards; convolutions of width one run over each group with
``[whole group, point]`` concatenated; attention weights, the enlarged map of features and all pairs of points are
written out; sampling is the loop from the textbook.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossdim.encoders.transformer import TransformerLayer
from crossdim.heads.point_reconstruction import RELEASED_MAP, ImagePlaces, image_places
from crossdim.masking import Mask
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.tokens.grid import pair, patchify
from crossdim.tokens.positions import sincos_table


class Scenes(NamedTuple):
    """A batch: what the model takes, and both masks."""

    points: Tensor
    pixel_values: Tensor
    projection: Tensor
    frame_size: Tensor
    points_mask: Tensor
    image_mask: Mask


class Groups(NamedTuple):
    """Centres and what is around them, relative to the centres."""

    centers: Tensor
    neighbourhoods: Tensor


def sample(points: Tensor, count: int) -> Tensor:
    """Return the indices of farthest points, all clouds in one loop."""
    batch, size, _ = points.shape
    chosen = torch.zeros(batch, count, dtype=torch.long)
    nearest = torch.full((batch, size), 1e10)
    farthest = torch.zeros(batch, dtype=torch.long)
    rows = torch.arange(batch)
    for step in range(count):
        chosen[:, step] = farthest
        distance = ((points - points[rows, farthest][:, None]) ** 2).sum(-1)
        nearest = torch.where(distance < nearest, distance, nearest)
        farthest = nearest.max(-1).indices
    return chosen


def choose(model: PimaeForPreTraining, points: Tensor) -> Groups:
    """Return groups by all distances."""
    rows = torch.arange(len(points))[:, None]
    centers = points[rows, sample(points, model.config.num_groups)]
    distance = ((centers[:, :, None] - points[:, None]) ** 2).sum(-1)
    members = distance.topk(model.config.group_size, largest=False).indices
    return Groups(centers, points[rows[..., None], members] - centers[:, :, None])


def convolve(layer: nn.Module, values: Tensor) -> Tensor:
    """Apply a linear map as a convolution of width one."""
    assert isinstance(layer, nn.Linear)
    return F.conv1d(values, layer.weight[..., None], layer.bias)


def normalise(layer: nn.Module, values: Tensor) -> Tensor:
    """Normalise over clouds, groups and points with the statistics of the batch."""
    assert isinstance(layer, nn.BatchNorm1d)
    return F.batch_norm(values, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)


def point_tokens(model: PimaeForPreTraining, neighbourhoods: Tensor) -> Tensor:
    """Return a token for each group, by convolutions over the points of each group."""
    batch, groups, size, _ = neighbourhoods.shape
    first, second = model.pimae.point_tokens.first_conv, model.pimae.point_tokens.second_conv
    values = neighbourhoods.reshape(batch * groups, size, 3).transpose(2, 1)
    local = convolve(first[3], F.relu(normalise(first[1], convolve(first[0], values))))
    whole = local.max(dim=2, keepdim=True).values
    both = torch.cat([whole.expand(-1, -1, size), local], dim=1)
    mixed = convolve(second[3], F.relu(normalise(second[1], convolve(second[0], both))))
    return mixed.max(dim=2).values.reshape(batch, groups, -1)


def tokens(model: PimaeForPreTraining, scenes: Scenes, groups: Groups) -> tuple[Tensor, Tensor]:
    """Return the visible tokens of both modalities; all are computed."""
    pimae, width = model.pimae, model.config.hidden_size
    image = pimae.patch_embed(scenes.pixel_values)
    grid = tuple(image.shape[2:])
    image = image.flatten(2).transpose(1, 2) + sincos_table(grid, width)[None, 1:] + pimae.image_embedding
    points = point_tokens(model, groups.neighbourhoods) + pimae.point_positions(groups.centers)
    points = points + pimae.points_embedding
    kept = scenes.image_mask.ids_keep[..., None].expand(-1, -1, width)
    return image.gather(1, kept), points[~scenes.points_mask].reshape(len(points), -1, width)


def attend(layer: TransformerLayer, hidden: Tensor) -> Tensor:
    """Apply a layer with its attention weights written out."""
    attention, mlp, training = layer.attention, layer.mlp, layer.training
    batch, count, width = hidden.shape
    qkv = attention.qkv(layer.norm1(hidden)).reshape(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0], qkv[1], qkv[2]
    weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
    weights = F.dropout(weights, attention.dropout, training)
    mixed = attention.proj((weights @ value).transpose(1, 2).reshape(batch, count, width))
    hidden = hidden + drop_path(F.dropout(mixed, layer.dropout, training), layer)
    activate = F.gelu if mlp.activation == "gelu" else F.relu
    mapped = mlp.fc2(F.dropout(activate(mlp.fc1(layer.norm2(hidden))), mlp.dropout, training))
    return hidden + drop_path(F.dropout(mapped, layer.dropout, training), layer)


def drop_path(branch: Tensor, layer: TransformerLayer) -> Tensor:
    """Skip a branch for some samples."""
    if not layer.training or layer.drop_path_rate == 0:
        return branch
    keep = 1 - layer.drop_path_rate
    return branch * torch.empty(len(branch), 1, 1).bernoulli_(keep) / keep


def encode(model: PimaeForPreTraining, image: Tensor, points: Tensor) -> Tensor:
    """Return the shared encoder's tokens, class token first."""
    pimae = model.pimae
    for layer in pimae.image_encoder.layers:
        image = attend(layer, image)
    for layer in pimae.points_encoder.layers:
        points = attend(layer, points)
    hidden = torch.cat([pimae.joint.cls_token.expand(len(image), -1, -1), image, points], dim=1)
    for layer in pimae.joint.layers:
        hidden = attend(layer, hidden)
    return hidden


def decode(model: PimaeForPreTraining, scenes: Scenes, groups: Groups, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image decoder's features, and the point decoder's of the hidden groups."""
    batch, width, kept = len(hidden), model.config.decoder_hidden_size, scenes.image_mask.ids_keep.shape[1]
    mask, restore = scenes.points_mask, scenes.image_mask.ids_restore
    patch = pair(model.config.patch_size)
    grid = (scenes.pixel_values.shape[2] // patch[0], scenes.pixel_values.shape[3] // patch[1])
    table = sincos_table(grid, width)[None, 1:]
    image = model.image_decoder_embed(hidden[:, 1 : 1 + kept])
    image = torch.cat([image, model.image_mask_token.repeat(batch, restore.shape[1] - kept, 1)], dim=1)
    image = image.gather(1, restore[..., None].repeat(1, 1, width)) + table + model.image_decoder_embedding
    points = model.points_decoder_embed(hidden[:, 1 + kept :])
    hidden_groups = mask.shape[1] - points.shape[1]
    points = torch.cat([points, model.points_mask_token.repeat(batch, hidden_groups, 1)], dim=1)
    shown = groups.centers[~mask].reshape(batch, -1, 3), groups.centers[mask].reshape(batch, -1, 3)
    positions = model.points_decoder_positions(torch.cat(shown, dim=1))
    both = torch.cat([image, points + positions + model.points_decoder_embedding], dim=1)
    for layer in model.joint_decoder.layers:
        both = attend(layer, both)
    both = model.joint_decoder.norm(both)
    image, points = both[:, : restore.shape[1]] + table, both[:, restore.shape[1] :]
    for layer in model.image_decoder.layers:
        image = attend(layer, image)
    for layer in model.points_decoder.layers:
        points = attend(layer, points + positions)
    return model.image_decoder.norm(image), model.points_decoder.norm(points[:, -hidden_groups:])


def losses(
    model: PimaeForPreTraining, scenes: Scenes, groups: Groups, image: Tensor, points: Tensor
) -> dict[str, Tensor]:
    """Return the three losses."""
    config, batch, patch = model.config, len(image), pair(model.config.patch_size)
    around = groups.neighbourhoods[scenes.points_mask]
    squared = ((model.points_head(points).reshape(-1, config.group_size, 1, 3) - around[:, None]) ** 2).sum(-1)
    chamfer = squared.min(2).values.mean() + squared.min(1).values.mean()
    error = ((model.image_head(image) - patchify(scenes.pixel_values, patch)) ** 2).mean(-1)
    pixels = (error * scenes.image_mask.mask).sum() / scenes.image_mask.mask.sum()
    members = (around + groups.centers[scenes.points_mask][:, None]).reshape(batch, -1, 3)
    places: ImagePlaces = image_places(members, scenes.projection, scenes.frame_size)
    height, width = scenes.pixel_values.shape[2] // patch[0], scenes.pixel_values.shape[3] // patch[1]
    small = image.detach().transpose(1, 2).reshape(batch, -1, height, width)
    large = F.interpolate(small, RELEASED_MAP, mode="bilinear", align_corners=False)
    at = 2 * torch.stack([places.u, places.v], dim=-1)[:, None] - 1
    target = F.grid_sample(large, at, mode="bilinear", padding_mode="border", align_corners=False)
    head = model.cross_modal_head
    assert head is not None
    prediction = convolve(head, points.transpose(1, 2)).transpose(1, 2).reshape(batch, members.shape[1], -1)
    wrong = ((prediction - target[:, :, 0].transpose(1, 2)) ** 2).mean(-1)
    return {"points": chamfer, "image": pixels, "cross_modal": (wrong * places.inside).sum() / places.inside.sum()}


def step(model: PimaeForPreTraining, scenes: Scenes) -> dict[str, Tensor]:
    """Return the losses of a batch."""
    groups = choose(model, scenes.points)
    hidden = encode(model, *tokens(model, scenes, groups))
    return losses(model, scenes, groups, *decode(model, scenes, groups, hidden))
