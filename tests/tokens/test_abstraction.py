"""Balls of points as tokens."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossdim.errors import ContractError
from crossdim.tokens.abstraction import PointwiseMLP, SetAbstraction, cut_balls


def as_convolutions(mlp):
    """Return the same as convolutions of width one, as PointNet++ is usually written."""
    layers = []
    for linear, norm in zip(mlp.maps, mlp.norms, strict=True):
        conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=False)
        conv.weight.data.copy_(linear.weight.data[..., None, None])
        plain = nn.BatchNorm2d(linear.out_features)
        plain.load_state_dict(norm.state_dict())
        layers += [conv, plain, nn.ReLU()]
    return nn.Sequential(*layers).double()


def abstraction(width=8):
    torch.manual_seed(0)
    tokens = SetAbstraction(width)
    for norm in tokens.mlp.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return tokens


@pytest.mark.parametrize("training", [True, False])
def test_a_set_abstraction_equals_convolutions_and_pooling(training):
    tokens = abstraction().double().train(training)
    reference = as_convolutions(tokens.mlp).train(training)
    offsets = torch.rand(2, 5, 7, 3, dtype=torch.float64, requires_grad=True)
    expected = F.max_pool2d(reference(offsets.permute(0, 3, 1, 2)), (1, 7))[..., 0].mT
    found = tokens(offsets)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    ours, offsets.grad = offsets.grad, None
    expected.square().sum().backward()
    torch.testing.assert_close(ours, offsets.grad)
    torch.testing.assert_close(tokens.mlp.norms[2].running_var, reference[7].running_var)


def test_the_statistics_of_training_are_precise():
    tokens = abstraction().train()
    offsets = torch.rand(1, 1000, 64, 3) - 0.5
    precise = deepcopy(tokens).double()(offsets.double())
    assert (tokens(offsets).double() - precise).abs().max() < 3e-6 * precise.abs().max()


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    mlp = PointwiseMLP((4, 6, 6), dropout=0.5)
    values = torch.rand(3, 5, 4)
    assert not torch.equal(mlp(values), mlp(values))
    mlp.eval()
    assert torch.equal(mlp(values), mlp(values))
    torch.testing.assert_close(mlp(values)[1, 2], mlp(values[1, 2][None])[0])


def test_balls_are_cut_around_points_spread_over_the_cloud():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 200, 3, generator=generator)
    balls = cut_balls(points, 12, 9, 0.3, start=4)
    assert balls.center_index[:, 0].tolist() == [4, 4]
    assert torch.equal(balls.centers[1], points[1, balls.center_index[1]])
    assert (balls.offsets.norm(dim=-1) < 1).all()
    members = balls.centers[:, :, None] + balls.offsets * 0.3
    for place in range(12):
        near = (points[0] - balls.centers[0, place]).norm(dim=-1) < 0.3
        expected = points[0][near][:9]
        torch.testing.assert_close(members[0, place, : len(expected)], expected)


def test_a_ball_with_few_points_repeats_its_first():
    points = torch.tensor([[[0.0, 0, 0], [5, 0, 0], [5.1, 0, 0]]])
    balls = cut_balls(points, 2, 3, 0.2)
    assert balls.center_index.tolist() == [[0, 2]]
    torch.testing.assert_close(balls.offsets[0, 1], torch.tensor([[-0.5, 0, 0], [0, 0, 0], [-0.5, 0, 0]]))


def test_points_near_the_origin_can_be_left_out_of_the_centres():
    points = torch.tensor([[[1.0, 0, 0], [0.01, 0, 0], [2, 0, 0]]])
    assert 1 in cut_balls(points, 3, 1, 0.1).center_index
    assert cut_balls(points, 2, 1, 0.1, skip_near_origin=True).center_index.tolist() == [[0, 2]]


def test_more_balls_than_points_are_refused():
    with pytest.raises(ContractError, match="has 3 points to choose 4 from"):
        cut_balls(torch.rand(1, 3, 3), 4, 2, 0.1)
