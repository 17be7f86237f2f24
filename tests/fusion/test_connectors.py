"""Average pooling and the two-layer map."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossdim.fusion.connectors import Connector, average_pool, pooled_grid


def test_pooling_is_the_mean_of_neighbouring_blocks_in_raster_order():
    tokens = torch.rand(2, 4 * 2 * 6, 5)
    pooled = average_pool(tokens, (4, 2, 6), (2, 2, 2))
    grid = tokens.reshape(2, 4, 2, 6, 5)
    assert pooled.shape == (2, 2 * 1 * 3, 5)
    torch.testing.assert_close(pooled[:, 3 + 2], grid[:, 2:4, 0:2, 4:6].mean(dim=(1, 2, 3)))
    expected = F.avg_pool3d(grid.movedim(-1, 1), 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize("grid", [(5, 2, 3), (1, 1, 1), (3, 5, 7)])
def test_a_grid_that_does_not_divide_rounds_up_and_loses_no_token(grid):
    tokens = torch.rand(1, grid[0] * grid[1] * grid[2], 3, requires_grad=True)
    pooled = average_pool(tokens, grid, (2, 2, 2))
    rows, height, width = pooled_grid(grid, (2, 2, 2))
    assert (rows, height, width) == tuple((n + 1) // 2 for n in grid)
    assert pooled.shape[1] == rows * height * width
    pooled.sum().backward()
    assert (tokens.grad > 0).all()


def test_a_connector_is_two_maps_with_exact_gelu_between():
    connector, x = Connector(4, 6), torch.randn(2, 3, 4)
    same = nn.Sequential(connector.fc1, nn.GELU(), connector.fc2)
    assert torch.equal(connector(x), same(x))
    assert torch.equal(connector.fc2(connector.hidden(x)), connector(x))


def test_pooling_works_in_bf16():
    assert average_pool(torch.rand(1, 8, 3).bfloat16(), (2, 2, 2), (2, 2, 2)).dtype == torch.bfloat16
