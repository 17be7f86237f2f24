"""Groups of points as tokens: the mini-PointNet of Point-MAE (section 3.1) that PiMAE takes over.

Differs from the authors' code: maps are linear over the last axis instead of convolutions of width one over it, and
``[whole group, point]`` is never concatenated: the whole group's part of the product is computed once per group. The
numbers are the same.
"""

from math import inf
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from crossdim.errors import ContractError
from crossdim.tokens.neighbours import group_points, nearest_neighbours
from crossdim.tokens.sampling import farthest_points, gather_points


def check_point_sizes(unit_m: float | int, point_hidden_size: int) -> None:
    """Refuse sizes that no network of points can have.

    Args:
        unit_m: Metres of the unit that the networks see coordinates in.
        point_hidden_size: First width inside :class:`MiniPointNet`.

    Raises:
        ContractError: One of them is not positive, or infinite.
    """
    if not 0 < unit_m < inf:
        raise ContractError(f"unit_m {unit_m}", "is no length", "Give metres: 1 for rooms, 0.2 for things on a table")
    if point_hidden_size < 1:
        raise ContractError(f"point_hidden_size {point_hidden_size}", "is no width", "Give 1 or more, such as 128")


class PointGroups(NamedTuple):
    """A cloud as groups of neighbouring points.

    Attributes:
        centers: ``(batch, groups, 3)`` metres, in the order of farthest-point sampling.
        neighbourhoods: ``(batch, groups, size, 3)`` metres relative to the centre, nearest first.
        center_index: ``(batch, groups)`` places of the centres in the cloud.
        member_index: ``(batch, groups, size)`` places of the members in the cloud.
    """

    centers: Float[Tensor, "batch groups 3"]
    neighbourhoods: Float[Tensor, "batch groups size 3"]
    center_index: Int[Tensor, "batch groups"]
    member_index: Int[Tensor, "batch groups size"]

    def take(self, index: Int[Tensor, "batch chosen"]) -> "PointGroups":
        """Return some of the groups of each cloud.

        Args:
            index: Which, in the order wanted.
        """
        return PointGroups(
            gather_points(self.centers, index),
            gather_points(self.neighbourhoods.flatten(2), index).unflatten(2, self.neighbourhoods.shape[2:]),
            self.center_index.gather(1, index),
            self.member_index.gather(1, index[..., None].expand(-1, -1, self.member_index.shape[2])),
        )


def group_cloud(
    points: Float[Tensor, "batch points 3"],
    groups: int,
    group_size: int,
    start: int = 0,
    skip_near_origin: bool = False,
    valid: Bool[Tensor, "batch points"] | None = None,
) -> PointGroups:
    """Choose centres and gather each one's nearest neighbours, itself included.

    Args:
        points: Clouds in metres.
        groups: Number of centres.
        group_size: Points of each group.
        start: First centre.
        skip_near_origin: Whether points with ``|p|² <= 1e-3`` cannot become centres.
        valid: False where a cloud is padded.

    Raises:
        ContractError: A coordinate is not a number, or a cloud has too few points.
    """
    center_index = farthest_points(points, groups, start, valid, skip_near_origin)
    centers = gather_points(points, center_index)
    member_index = nearest_neighbours(points, centers, group_size, valid)
    return PointGroups(centers, group_points(points, member_index) - centers[:, :, None], center_index, member_index)


class MiniPointNet(nn.Module):
    """A token for each group; ``(batch, groups, size, 3)`` → ``(batch, groups, width)``.

    Args:
        width: Of the tokens.
        hidden: First width between; the next ones are twice and four times as much.
    """

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        twice, last = 2 * hidden, 4 * hidden
        self.first_conv = nn.Sequential(
            nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, twice)
        )
        self.second_conv = nn.Sequential(nn.Linear(last, last), nn.BatchNorm1d(last), nn.ReLU(), nn.Linear(last, width))

    def forward(self, neighbourhoods: Float[Tensor, "batch groups size 3"]) -> Float[Tensor, "batch groups width"]:
        """Map groups of points, given relative to their centres, in units of the model."""
        batch, groups, size, _ = neighbourhoods.shape
        local = self.first_conv(neighbourhoods.reshape(-1, 3)).unflatten(0, (batch * groups, size))
        mixing = self.second_conv[0]
        assert isinstance(mixing, nn.Linear)
        of_group, of_point = mixing.weight.split(local.shape[-1], dim=1)
        mixed = F.linear(local, of_point) + F.linear(local.amax(1), of_group, mixing.bias)[:, None]
        return self.second_conv[1:](mixed.flatten(0, 1)).reshape(batch, groups, size, -1).amax(2)


class PointPositions(nn.Module):
    """Position codes of places in the scene: two linear maps with exact GELU between.

    Args:
        width: Of the codes.
        hidden: Width between.
    """

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, places: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch width"]:
        """Code places given in units of the model."""
        return self.fc2(F.gelu(self.fc1(places)))
