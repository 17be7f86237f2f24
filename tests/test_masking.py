"""Masks are permutations with exact counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.masking import block_noise, hide_padding_first, kept_tokens, mask_by_noise


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 3), tokens=st.integers(1, 40), ratio=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_a_mask_is_a_permutation_with_an_exact_count(batch, tokens, ratio, seed):
    noise = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed))
    mask = mask_by_noise(noise, ratio)
    kept = kept_tokens(tokens, ratio)
    assert (mask.mask.sum(1) == tokens - kept).all()
    assert torch.equal(mask.ids_restore.sort(1).values, torch.arange(tokens).expand(batch, -1))
    hidden = mask.mask.gather(1, mask.ids_keep)
    assert not hidden.any()
    assert len(set(mask.ids_keep[0].tolist())) == kept


def test_kept_counts_truncate_as_the_authors_do_and_never_reach_zero():
    assert [kept_tokens(196, 0.75), kept_tokens(686, 0.75), kept_tokens(112, 0.5)] == [49, 171, 56]
    assert kept_tokens(10, 0.95) == 1


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 75.0])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(ContractError, match=r"outside \[0, 1\)"):
        kept_tokens(10, ratio)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), ratio=st.sampled_from([0.25, 0.5, 0.75]))
def test_block_masks_hide_whole_blocks_but_for_one(seed, ratio):
    grid, block = (4, 6, 4), (2, 3, 2)
    noise = torch.rand(2, 96, generator=torch.Generator().manual_seed(seed))
    mask = mask_by_noise(block_noise(noise, grid, block), ratio).mask.reshape(2, 2, 2, 2, 3, 2, 2)
    hidden_per_block = mask.sum((2, 4, 6)).flatten(1)
    partly = ((hidden_per_block > 0) & (hidden_per_block < 12)).sum(1)
    assert (partly <= 1).all()
    assert (hidden_per_block.sum(1) == 96 - kept_tokens(96, ratio)).all()


def test_blocks_at_the_end_of_an_odd_grid_are_smaller():
    noise = torch.rand(1, 5 * 3)
    assert mask_by_noise(block_noise(noise, (5, 3), (2, 2)), 0.5).mask.sum() == 15 - 7


def test_the_ratio_is_of_the_tokens_that_hold_data():
    noise = torch.rand(3, 40)
    padding = torch.zeros(3, 40, dtype=torch.bool)
    padding[:, 20:] = True
    mask = mask_by_noise(hide_padding_first(noise, padding), 0.75, of=20).mask
    assert (mask[:, :20].sum(1) == 15).all()
    assert mask[:, 20:].all()


def test_padded_tokens_are_hidden_first():
    noise = torch.rand(2, 8)
    padding = torch.zeros(2, 8, dtype=torch.bool)
    padding[0, 5:] = True
    mask = mask_by_noise(hide_padding_first(noise, padding), 0.5)
    assert mask.mask[0, 5:].all()
    assert torch.equal(hide_padding_first(noise, None), noise)
