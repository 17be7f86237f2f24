"""Neighbours and balls are the reference's, ties included, however they are found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.tokens import neighbours
from crossdim.tokens.neighbours import ball_query, group_points, nearest_neighbours
from crossdim.tokens.sampling import gather_points
from tests.tokens.clouds import clouds, distances


def test_against_the_authors_neighbours(authors):
    found = nearest_neighbours(authors["pre.points"], authors["pre.center"], 8)
    assert torch.equal(found, authors["pre.knn_index"].long())


@given(cloud=clouds(), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_neighbours_come_by_distance_then_by_index(cloud, seed):
    generator = np.random.default_rng(seed)
    valid = generator.random(len(cloud)) < 0.8
    valid[0] = True
    count = int(generator.integers(1, min(valid.sum(), 24) + 1))
    queries = np.concatenate([cloud[:3], generator.normal(size=(3, 3)).astype(np.float32)])
    found = nearest_neighbours(
        *(torch.from_numpy(each)[None] for each in (cloud, queries)), count, torch.from_numpy(valid)[None]
    )
    for query, row in zip(queries, found[0].tolist(), strict=True):
        distance = np.where(valid, distances(cloud, query), np.inf)
        assert row == np.argsort(distance, kind="stable")[:count].tolist()


def test_neighbours_are_the_same_whatever_fits_in_memory(monkeypatch):
    points = (torch.rand(2, 3000, 3) * 20).round()
    queries = points[:, :500]
    whole = nearest_neighbours(points, queries, 16)
    monkeypatch.setattr(neighbours, "BLOCK", 7000)
    assert torch.equal(nearest_neighbours(points, queries, 16), whole)
    balls = ball_query(points, queries, 2.5, 16)
    monkeypatch.undo()
    assert torch.equal(ball_query(points, queries, 2.5, 16), balls)


@given(cloud=clouds(), seed=st.integers(0, 99), radius=st.floats(0.05, 2))
@settings(max_examples=40)
def test_a_ball_holds_the_first_points_within_it(cloud, seed, radius):
    generator = np.random.default_rng(seed)
    valid = generator.random(len(cloud)) < 0.8
    valid[0] = True
    queries = np.concatenate([cloud[:3], generator.normal(size=(3, 3)).astype(np.float32)])
    found = ball_query(
        *(torch.from_numpy(each)[None] for each in (cloud, queries)), radius, 8, torch.from_numpy(valid)[None]
    )
    limit = np.float32(radius) * np.float32(radius)
    for query, row in zip(queries, found[0].tolist(), strict=True):
        distance = np.where(valid, distances(cloud, query), np.inf)
        inside = np.flatnonzero(distance < limit)[:8].tolist() or [int(distance.argmin())]
        assert row == inside + inside[:1] * (8 - len(inside))


@pytest.mark.parametrize("clouds", ["scattered", "lattice"])
def test_without_a_tree_the_same_is_found(clouds):
    points = torch.rand(2, 900, 3, generator=torch.Generator().manual_seed(0))
    points = (points * 8).round() / 8 if clouds == "lattice" else points
    queries, valid = points[:, :90], torch.rand(2, 900) < 0.7
    valid[:, 0] = True
    everywhere = neighbours._by_all_distances(points, queries, valid, 12)
    assert torch.equal(everywhere, nearest_neighbours(points, queries, 12, valid))
    pairs = (neighbours._pairs_by_all_distances, neighbours._pairs_by_tree)
    assert torch.equal(*(find(points, queries, valid, 0.25) for find in pairs))


def test_a_ball_without_points_gives_the_nearest():
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]])
    assert ball_query(points, torch.tensor([[[5.0, 0, 0], [0.9, 0, 0]]]), 0.5, 2).tolist() == [[[2, 2], [1, 1]]]


def test_the_radius_itself_is_outside():
    points = torch.tensor([[[0.0, 0, 0], [0.5, 0, 0], [0.25, 0, 0]]])
    assert ball_query(points, points[:, :1], 0.5, 3).tolist() == [[[0, 2, 0]]]


def test_bad_clouds_are_refused():
    points, valid = torch.rand(3, 10, 3), torch.ones(3, 10, dtype=torch.bool)
    valid[1, 4:] = False
    with pytest.raises(ContractError, match="cloud 1 of the batch: has 4 points to choose 5 from"):
        nearest_neighbours(points, points[:, :2], 5, valid)
    with pytest.raises(ContractError, match="cloud 0 of the batch: has 0 points"):
        ball_query(torch.zeros(1, 0, 3), torch.zeros(1, 1, 3), 1.0, 2)
    points[1, 4, 2] = torch.nan
    with pytest.raises(ContractError, match="1 of 30 points: have coordinates that are NaN"):
        nearest_neighbours(points, torch.rand(3, 1, 3), 3)
    with pytest.raises(ContractError, match="1 of 30 points"):
        ball_query(torch.rand(3, 4, 3), points, 0.1, 3)


def test_padding_may_hold_anything():
    points, valid = torch.rand(1, 10, 3), torch.arange(10)[None] < 8
    padded, whole, queries = points.masked_fill(~valid[..., None], torch.nan), points[:, :8], points[:, :2]
    assert torch.equal(nearest_neighbours(padded, queries, 5, valid), nearest_neighbours(whole, queries, 5))
    assert torch.equal(ball_query(padded, queries, 0.4, 5, valid), ball_query(whole, queries, 0.4, 5))


def test_gathering_follows_the_index():
    values = torch.randn(2, 6, 4)
    index = torch.tensor([[5, 0, 0], [1, 2, 3]])
    assert torch.equal(gather_points(values, index)[1], values[1, 1:4])
    groups = group_points(values, index[:, None].expand(-1, 2, -1))
    assert groups.shape == (2, 2, 3, 4)
    assert torch.equal(groups[0, 1, 0], values[0, 5])
