"""From an encoder's tokens to the language model's: average pooling without weights, and a two-layer map."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossdim.tokens.grid import Grid


def pooled_grid(grid: Grid, pool: tuple[int, ...]) -> Grid:
    """Return the grid that is left after pooling; what does not divide rounds up.

    Args:
        grid: Number of patches along each axis.
        pool: Patches that become one, along each axis.
    """
    return tuple(-(-length // p) for length, p in zip(grid, pool, strict=True))


def average_pool(
    tokens: Float[Tensor, "volumes tokens dim"], grid: Grid, pool: tuple[int, ...]
) -> Float[Tensor, "volumes pooled dim"]:
    """Average neighbouring tokens of a volume, raster order in and out.

    Where the pool does not divide the grid, windows overlap so that they stay equally spaced and no token is lost.

    Args:
        tokens: Patch tokens.
        grid: ``(depth, rows, columns)``.
        pool: Tokens that become one, along each axis.
    """
    volume = tokens.transpose(1, 2).unflatten(2, grid)
    depth, rows, columns = pooled_grid(grid, pool)
    return F.adaptive_avg_pool3d(volume, (depth, rows, columns)).flatten(2).transpose(1, 2)


class Connector(nn.Module):
    """Linear → exact GELU → Linear; ``(..., dim)`` → ``(..., out_dim)``.

    Args:
        dim: Width of the tokens that come.
        out_dim: Width of the tokens that go.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, out_dim)
        self.fc2 = nn.Linear(out_dim, out_dim)

    def hidden(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Return the tokens before the second map.

        Args:
            tokens: Encoder tokens.
        """
        return F.gelu(self.fc1(tokens))

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Map each token by itself.

        Args:
            tokens: Encoder tokens.
        """
        return self.fc2(self.hidden(tokens))
