"""Patches and the Unified Patch Embedding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.tokens.grid import UnifiedPatchEmbed, embed_patches, grid_of, inflate_kernel, patchify, unpatchify

axes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=2, max_size=3)


@settings(max_examples=40, deadline=None)
@given(axes=axes, channels=st.integers(1, 3), batch=st.integers(1, 2))
def test_unpatchify_undoes_patchify_for_any_grid_and_patch(axes, channels, batch):
    grid, patch = tuple(a for a, _ in axes), tuple(p for _, p in axes)
    values = torch.rand(batch, channels, *(g * p for g, p in axes))
    tokens = patchify(values, patch)
    assert torch.equal(unpatchify(tokens, grid, patch), values)


def test_patches_come_in_raster_order_with_channels_innermost():
    values = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4).float()
    tokens = patchify(values, (2, 2))
    assert tokens[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


def test_a_size_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ContractError, match="not a multiple of the patch"):
        grid_of((10, 16), (4, 4))
    with pytest.raises(ContractError, match="not a multiple of the patch"):
        grid_of((16, 16), (4, 4, 4))


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 2, 4, 8, 6)])
def test_the_stem_equals_a_convolution_whose_stride_is_its_kernel(shape):
    stem = UnifiedPatchEmbed(5, 3, (4, 4), 2, (2, 4, 3))
    values = torch.rand(shape)
    convolution = stem.image if len(shape) == 4 else stem.volume
    expected = convolution(values).flatten(2).transpose(1, 2)
    torch.testing.assert_close(stem(values), expected, rtol=1e-5, atol=1e-6)


def test_an_inflated_stem_sees_a_constant_depth_volume_as_the_image():
    stem = UnifiedPatchEmbed(6, 3, (4, 4), 1, (2, 4, 4), volume_stem="inflated")
    assert stem.volume is None
    plane = torch.rand(2, 1, 8, 8)
    from_image = stem(plane.expand(-1, 3, -1, -1))
    from_volume = stem(plane[:, :, None].expand(-1, -1, 2, -1, -1))
    torch.testing.assert_close(from_volume, from_image, rtol=1e-5, atol=1e-6)


def test_an_inflated_kernel_keeps_its_sum_when_the_patch_changes():
    kernel = torch.rand(3, 2, 4, 4)
    inflated = inflate_kernel(kernel, channels=2, patch=(3, 8, 8))
    assert inflated.shape == (3, 2, 3, 8, 8)
    torch.testing.assert_close(inflated.sum((1, 2, 3, 4)), kernel.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_wrong_rank_and_wrong_channels_are_refused():
    stem = UnifiedPatchEmbed(5, 3, (4, 4), 1, (4, 4, 4))
    with pytest.raises(ContractError, match="neither images"):
        stem(torch.rand(1, 3, 8))
    with pytest.raises(ContractError, match="has 1 channels where this model takes 3"):
        stem(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("rank", [2, 3])
def test_some_patches_are_embedded_without_the_others(rank):
    torch.manual_seed(0)
    kind = torch.nn.Conv2d if rank == 2 else torch.nn.Conv3d
    patch = (4, 2, 3)[:rank]
    stem, values = kind(2, 5, patch, patch), torch.rand(2, 2, 8, 4, 6)[(slice(None),) * 4 + ((0,) if rank == 2 else ())]
    every = stem(values).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed_patches(stem, patchify(values, patch)[:, 1:3]), every[:, 1:3])
