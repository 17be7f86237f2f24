"""Groups of points become tokens as in the authors' code."""

import pytest
import torch
from torch import nn

from crossdim.tokens.points import MiniPointNet, PointPositions, group_cloud


def test_against_the_authors_groups(authors):
    groups = group_cloud(authors["pre.points"], 16, 8)
    assert torch.equal(groups.center_index, authors["pre.fps_index"].long())
    assert torch.equal(groups.member_index, authors["pre.knn_index"].long())
    assert torch.equal(groups.centers, authors["pre.center"])
    assert torch.equal(groups.neighbourhoods, authors["pre.neighborhood"])


def by_convolutions(tokens: MiniPointNet) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the same weights as convolutions of width one."""
    stages = []
    for stage in (tokens.first_conv, tokens.second_conv):
        layers = []
        for layer in stage:
            if isinstance(layer, nn.Linear):
                conv = nn.Conv1d(layer.in_features, layer.out_features, 1)
                conv.weight.data, conv.bias.data = layer.weight.data[..., None].clone(), layer.bias.data.clone()
                layers.append(conv)
            elif isinstance(layer, nn.BatchNorm1d):
                norm = nn.BatchNorm1d(layer.num_features)
                norm.load_state_dict(layer.state_dict())
                layers.append(norm)
            else:
                layers.append(nn.ReLU())
        stages.append(nn.Sequential(*layers))
    return tuple(stages)


@pytest.mark.parametrize("hidden", [128, 12])
def test_tokens_gradients_and_statistics_equal_those_of_the_convolutions(hidden):
    torch.manual_seed(0)
    tokens = MiniPointNet(20, hidden).double()
    first, second = (stage.double() for stage in by_convolutions(tokens))
    groups = torch.randn(3, 5, 8, 3, dtype=torch.float64)
    ours = tokens(groups)
    local = first(groups.reshape(15, 8, 3).transpose(1, 2))
    both = torch.cat([local.amax(2, keepdim=True).expand(-1, -1, 8), local], dim=1)
    theirs = second(both).amax(2).reshape(3, 5, 20)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for mine, other in zip((tokens.first_conv, tokens.second_conv), (first, second), strict=True):
        for (name, parameter), expected in zip(mine.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, expected.grad.reshape(parameter.shape), msg=name)
        for buffer, expected in zip(mine.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(buffer, expected)


def test_a_token_does_not_depend_on_the_order_of_the_members():
    tokens = MiniPointNet(16).eval()
    groups = torch.randn(2, 3, 6, 3)
    torch.testing.assert_close(tokens(groups), tokens(groups[:, :, torch.randperm(6)]))


def test_positions_are_of_places_only():
    positions = PointPositions(24)
    places = torch.randn(2, 5, 3)
    assert positions(places).shape == (2, 5, 24)
    torch.testing.assert_close(positions(places)[1, 3], positions(places[1, 3]))
