"""Nearest neighbours and balls (PointNet++, section 3.2).

The reference is that of :mod:`crossdim.tokens.sampling`: float32, squared distances as ``(dx² + dy²) + dz²``, ties to
the lowest index. On a processor a tree finds candidates, which the reference's distances then order; elsewhere all
distances are computed, some queries at a time.

Differs from the authors' code: a ball that holds nothing gives the nearest point, not point 0.
"""

from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from crossdim.tokens.sampling import check_count, clean_points, gather_points

SPARE = 8
"""Candidates that a search takes beyond those wanted, so that rounding and ties seldom reach its end."""

BLOCK = 1 << 22
"""Distances that are in memory at once."""


def squared_distances(
    queries: Float[Tensor, "batch queries 3"], points: Float[Tensor, "batch points 3"]
) -> Float[Tensor, "batch queries points"]:
    """Return ``(dx² + dy²) + dz²`` of every pair, in float32.

    Args:
        queries: From.
        points: To.
    """
    pairs = [
        (q[:, :, None], p[:, None]) for q, p in zip(queries.float().unbind(-1), points.float().unbind(-1), strict=True)
    ]
    total = (pairs[0][0] - pairs[0][1]).square_()
    for query, point in pairs[1:]:
        total += (query - point).square_()
    return total


def nearest_neighbours(
    points: Float[Tensor, "batch points 3"],
    queries: Float[Tensor, "batch queries 3"],
    count: int,
    valid: Bool[Tensor, "batch points"] | None = None,
) -> Int[Tensor, "batch queries count"]:
    """Return the nearest points of each query, nearest first.

    Args:
        points: Clouds in metres.
        queries: Places; one that is a point of the cloud has itself as first neighbour.
        count: Neighbours of each query.
        valid: False where a cloud is padded.

    Raises:
        ContractError: A coordinate is not a number, or a cloud has fewer than ``count`` points.
    """
    flat, eligible = clean_points(points, valid)
    places = clean_points(queries, None)[0]
    check_count(eligible, count)
    if flat.device.type == "cpu":
        return torch.stack([_by_tree(*each, count) for each in zip(flat, places, eligible, strict=True)])
    return _by_all_distances(flat, places, eligible, count)


def _by_all_distances(
    points: Float[Tensor, "batch points 3"],
    queries: Float[Tensor, "batch queries 3"],
    eligible: Bool[Tensor, "batch points"],
    count: int,
) -> Int[Tensor, "batch queries count"]:
    found = []
    for part in queries.split(max(1, BLOCK // eligible.numel()), dim=1):
        distance = squared_distances(part, points).masked_fill_(~eligible[:, None], torch.inf)
        found.append(_smallest(distance.flatten(0, 1), count).unflatten(0, distance.shape[:2]))
    return torch.cat(found, dim=1)


def _by_tree(
    points: Float[Tensor, "points 3"],
    queries: Float[Tensor, "queries 3"],
    eligible: Bool[Tensor, "points"],
    count: int,
) -> Int[Tensor, "queries count"]:
    """Take candidates from a tree in float64, order them by the reference's distances; look again where in doubt."""
    index = eligible.nonzero()[:, 0]
    cloud = points[index]
    wanted = min(len(index), count + SPARE)
    tree = KDTree(cloud.numpy(), compact_nodes=False, balanced_tree=False)
    reach, found = (torch.from_numpy(each) for each in tree.query(queries.numpy(), range(1, wanted + 1)))
    found = found.sort(dim=1).values
    distance = squared_distances(queries[:, None], cloud[found])[:, 0]
    order = distance.argsort(dim=1, stable=True)[:, :count]
    found = found.gather(1, order)
    if wanted < len(index):
        beyond = distance.gather(1, order[:, -1:])[:, 0].double() >= reach[:, -1].square() * (1 - 1e-6)
        everything = torch.ones(1, len(index), dtype=torch.bool)
        found[beyond] = _by_all_distances(cloud[None], queries[None, beyond], everything, count)[0]
    return index[found]


def _smallest(distance: Float[Tensor, "rows points"], count: int) -> Int[Tensor, "rows count"]:
    """Return the indices of the smallest values of each row, ascending, ties to the lowest index."""
    values, index = distance.topk(count, largest=False)
    tied = (distance <= values[:, -1:]).sum(1) > count
    index = index.sort(1).values
    index = index.gather(1, distance.gather(1, index).argsort(dim=1, stable=True))
    if bool(tied.any()):
        index[tied] = distance[tied].argsort(dim=1, stable=True)[:, :count]
    return index


def ball_query(
    points: Float[Tensor, "batch points 3"],
    queries: Float[Tensor, "batch queries 3"],
    radius: float,
    count: int,
    valid: Bool[Tensor, "batch points"] | None = None,
) -> Int[Tensor, "batch queries count"]:
    """Return the first points, in the order of the cloud, that are nearer to each query than the radius.

    A ball with fewer points repeats its first one; a ball with none gives the nearest point.

    Args:
        points: Clouds in metres.
        queries: Centres of the balls.
        radius: Metres.
        count: Points of each ball.
        valid: False where a cloud is padded.

    Raises:
        ContractError: A coordinate is not a number, or a cloud has no points.
    """
    flat, eligible = clean_points(points, valid)
    places = clean_points(queries, None)[0]
    check_count(eligible, 1)
    found = []
    for part in places.split(max(1, BLOCK // eligible.numel()), dim=1):
        find = _pairs_by_tree if flat.device.type == "cpu" else _pairs_by_all_distances
        found.append(_first(find(flat, part, eligible, radius), part.shape[:2], count))
    index = torch.cat(found, dim=1)
    padding = index[..., :1]
    if bool((padding < 0).any()):
        padding = torch.where(padding < 0, nearest_neighbours(points, queries, 1, valid), padding)
    return torch.where(index < 0, padding, index)


def _pairs_by_all_distances(
    points: Float[Tensor, "batch points 3"],
    queries: Float[Tensor, "batch queries 3"],
    eligible: Bool[Tensor, "batch points"],
    radius: float,
) -> Int[Tensor, "pairs 3"]:
    """Return (cloud, query, point) of all pairs that are nearer than the radius, in this order."""
    limit = np.float32(radius) * np.float32(radius)
    return ((squared_distances(queries, points) < float(limit)) & eligible[:, None]).nonzero()


def _pairs_by_tree(
    points: Float[Tensor, "batch points 3"],
    queries: Float[Tensor, "batch queries 3"],
    eligible: Bool[Tensor, "batch points"],
    radius: float,
) -> Int[Tensor, "pairs 3"]:
    limit = np.float32(radius) * np.float32(radius)
    pairs = []
    for cloud, (own, places, held) in enumerate(zip(points, queries, eligible, strict=True)):
        index = held.nonzero()[:, 0]
        tree = KDTree(own[index].numpy(), compact_nodes=False, balanced_tree=False)
        lists = tree.query_ball_point(places.numpy(), radius * (1 + 1e-5), return_sorted=True)
        lengths = torch.tensor([len(each) for each in lists])
        point = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(lengths.sum()))
        query = torch.arange(len(lists)).repeat_interleave(lengths)
        member = index[torch.from_numpy(point)]
        near = squared_distances(places[query, None], own[member, None])[:, 0, 0] < float(limit)
        pairs.append(torch.stack([torch.full_like(query, cloud), query, member], dim=1)[near])
    return torch.cat(pairs)


def _first(pairs: Int[Tensor, "pairs 3"], size: torch.Size, count: int) -> Int[Tensor, "batch queries count"]:
    """Return the first points of each query, and -1 where there are no more.

    Args:
        pairs: (cloud, query, point), sorted.
        size: Clouds, and queries of each.
        count: Points of each query.
    """
    cloud, query, point = pairs.unbind(1)
    row = cloud * size[1] + query
    held = row.bincount(minlength=size.numel())
    rank = torch.arange(len(row), device=row.device) - (held.cumsum(0) - held)[row]
    among = rank < count
    index = torch.full((size.numel(), count), -1, dtype=torch.int64, device=row.device)
    index[row[among], rank[among]] = point[among]
    return index.unflatten(0, size)


def group_points(
    values: Float[Tensor, "batch points channels"], index: Int[Tensor, "batch groups members"]
) -> Float[Tensor, "batch groups members channels"]:
    """Return the values of the members of groups.

    Args:
        values: Coordinates or features.
        index: Of the members of each group.
    """
    return gather_points(values, index.flatten(1)).unflatten(1, index.shape[1:])
