"""The straightforward implementation that the benchmark measures against is the same computation."""

from benchmarks.pimae_cost import compare, make_scenes

from crossdim.models.pimae_config import PimaeConfig


def test_the_plain_way_gives_our_losses_and_gradients():
    worst = compare("tiny", make_scenes(PimaeConfig.preset("tiny"), batch=2, seed=0), seed=0)
    assert max(worst.values()) < 1e-9
