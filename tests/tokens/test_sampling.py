"""Every backend chooses the points that the reference chooses, ties included."""

import torch

from crossdim.tokens.sampling import farthest_points, nearest_neighbours


def test_against_the_authors_sampling_and_neighbours(authors):
    index = farthest_points(authors["pre.points"], 16)
    assert torch.equal(index, authors["pre.fps_index"].long())
    centers = authors["pre.center"]
    assert torch.equal(nearest_neighbours(authors["pre.points"], centers, 8), authors["pre.knn_index"].long())
    index = farthest_points(authors["fps.points"], 59, skip_near_origin=True)
    assert torch.equal(index, authors["fps.index"].long())
