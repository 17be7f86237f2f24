"""Every backend chooses the points that the reference chooses, ties included."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.tokens import sampling
from crossdim.tokens.sampling import farthest_points
from tests.tokens.clouds import clouds, distances

BACKENDS = ("numba", "numpy", "torch")


def plain_farthest(points: np.ndarray, count: int, start: int, candidates: np.ndarray) -> list[int]:
    """Return the reference's choice, written down as it is defined."""
    chosen = [start]
    while len(chosen) < count:
        nearest = np.min([distances(points, points[each]) for each in chosen], axis=0)
        left = [place for place in np.flatnonzero(candidates) if place not in chosen]
        chosen.append(int(max(left, key=lambda place: (nearest[place], -place))))
    return chosen


@pytest.mark.parametrize("backend", BACKENDS)
@given(cloud=clouds(), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_every_backend_is_the_reference_with_ties(backend, cloud, seed):
    generator = np.random.default_rng(seed)
    valid = generator.random(len(cloud)) < 0.8
    start = int(generator.integers(len(cloud)))
    valid[start] = True
    count = int(generator.integers(1, min(valid.sum(), 24) + 1))
    found = farthest_points(torch.from_numpy(cloud)[None], count, start, torch.from_numpy(valid)[None], backend=backend)
    assert found[0].tolist() == plain_farthest(cloud, count, start, valid)


def test_backends_agree_on_a_large_cloud_and_a_batch(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3, 5000, 3, generator=generator)
    points[1] = (points[1] * 12).round() / 12
    numba, numpy, plain = (farthest_points(points, 700, 3, backend=backend) for backend in BACKENDS)
    assert torch.equal(numba, numpy)
    assert torch.equal(numba, plain)
    assert all(len(set(row)) == 700 for row in numba.tolist())
    monkeypatch.setitem(sys.modules, "numba", None)
    assert torch.equal(farthest_points(points, 700, 3), numba)


def test_a_backend_that_is_not_installed_is_refused_when_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ContractError, match=r"'numba': cannot be imported .* Run pip install 'crossdim\[points\]'"):
        farthest_points(torch.rand(1, 20, 3), 4, backend="numba")


def test_the_compiled_kernel_works_where_its_cache_cannot_be_kept(monkeypatch):
    import numba

    def refuse(**options: bool) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", refuse)
    sampling._compiled_kernel.cache_clear()
    points = torch.rand(1, 300, 3)
    found = farthest_points(points, 20, backend="numba")
    sampling._compiled_kernel.cache_clear()
    assert torch.equal(found, farthest_points(points, 20, backend="numpy"))


def test_against_the_authors_sampling(authors):
    index = farthest_points(authors["pre.points"], 16)
    assert torch.equal(index, authors["pre.fps_index"].long())
    index = farthest_points(authors["fps.points"], 59, skip_near_origin=True)
    assert torch.equal(index, authors["fps.index"].long())


def test_quickfps_chooses_the_same_where_there_are_no_ties_and_others_where_there_are():
    """Why it is what we are measured against and not a backend."""
    quickfps = pytest.importorskip("torch_quickfps")
    scattered = torch.rand(2, 3000, 3, generator=torch.Generator().manual_seed(1))
    lattice = torch.cartesian_prod(*[torch.arange(7.0)] * 3)[None]
    assert torch.equal(quickfps.sample_idx(scattered, 300, start_idx=0), farthest_points(scattered, 300))
    assert not torch.equal(quickfps.sample_idx(lattice, 40, start_idx=0), farthest_points(lattice, 40))


def test_points_near_the_origin_are_left_out_when_asked_but_for_the_first():
    points = torch.tensor([[[0.0, 0.0, 0.01], [0.02, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.03, 0.03]]])
    assert farthest_points(points, 4).tolist() == [[0, 2, 3, 1]]
    assert farthest_points(points, 3, skip_near_origin=True).tolist() == [[0, 2, 3]]
    with pytest.raises(ContractError, match="cloud 0 of the batch: has 3 points to choose 4 from"):
        farthest_points(points, 4, skip_near_origin=True)


def test_a_cloud_with_too_few_points_is_named():
    points, valid = torch.rand(3, 10, 3), torch.ones(3, 10, dtype=torch.bool)
    valid[1, 4:] = False
    assert (farthest_points(points, 4, valid=valid)[1] < 4).all()
    with pytest.raises(ContractError, match="cloud 1 of the batch: has 4 points to choose 5 from"):
        farthest_points(points, 5, valid=valid)
    with pytest.raises(ContractError, match="0 points: are too few to choose"):
        farthest_points(points, 0)
    with pytest.raises(ContractError, match="cloud 0 of the batch: has 0 points to choose 1 from"):
        farthest_points(torch.zeros(1, 0, 3), 1)


@pytest.mark.parametrize("start", [-1, 7, 10])
def test_a_first_point_that_is_none_is_refused(start):
    valid = torch.arange(10)[None] < 7
    with pytest.raises(ContractError, match=f"first point {start}: is not among the points"):
        farthest_points(torch.rand(1, 10, 3), 2, start, valid)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_coordinates_that_are_no_numbers_are_refused(wrong):
    points = torch.rand(2, 10, 3)
    points[1, 4, 2] = wrong
    with pytest.raises(ContractError, match="1 of 20 points: have coordinates that are NaN or infinite"):
        farthest_points(points, 3)


def test_padding_may_hold_anything():
    points, valid = torch.rand(1, 10, 3), torch.arange(10)[None] < 8
    padded = points.masked_fill(~valid[..., None], torch.nan)
    assert torch.equal(farthest_points(padded, 5, valid=valid), farthest_points(points[:, :8], 5))
