"""Masks are permutations with exact counts."""

from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.masking import (
    aligned_mask,
    block_noise,
    block_point_mask,
    hide_padding_first,
    kept_tokens,
    mask_by_noise,
    patches_hit,
    patches_of,
    random_point_mask,
)
from tests.parity.fixture import uniform


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


@settings(max_examples=40, deadline=None)
@given(groups=st.integers(2, 40), ratio=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_points_are_hidden_in_exact_number_at_random_or_as_a_block(groups, ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    noise, centers = torch.rand(3, groups, generator=generator), torch.randn(3, groups, 3, generator=generator)
    for mask in (random_point_mask(noise, ratio), block_point_mask(centers, noise, ratio)):
        assert mask.dtype == torch.bool
        assert (mask.sum(1) == int(ratio * groups)).all()


def test_a_block_is_the_middle_and_what_is_near_it():
    centers = torch.stack([torch.arange(6.0), torch.zeros(6), torch.zeros(6)], dim=1)[None]
    noise = torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.9, 0.5]])
    assert block_point_mask(centers, noise, 0.5).tolist() == [[False, False, False, True, True, True]]
    assert random_point_mask(noise, 0.5).tolist() == [[False, False, True, False, True, True]]


@pytest.mark.parametrize(
    "hide", [random_point_mask, lambda noise, ratio: block_point_mask(torch.rand(1, 3, 3), noise, ratio)]
)
def test_hiding_all_points_is_refused(hide):
    with pytest.raises(ContractError, match=r"mask ratio 1.0: outside \[0, 1\)"):
        hide(torch.rand(1, 3), 1.0)
    with pytest.raises(ContractError, match=r"mask ratio -0.5: outside \[0, 1\)"):
        aligned_mask(torch.zeros(1, 3, dtype=torch.bool), torch.rand(1, 3), -0.5, "uniform")


def test_points_fall_into_the_patches_that_show_them():
    u = torch.tensor([[0.0, 0.999, 0.5, 1.0, -0.01, 0.2, 0.2, torch.nan]])
    v = torch.tensor([[0.0, 0.999, 0.5, 0.5, 0.5, 1.0, 0.2, 0.2]])
    depths = torch.tensor([[1.0, 1, 1, 1, 1, 1, -1, 1]])
    place, inside = patches_of(u, v, (64, 96), (16, 16), depths)
    assert inside.tolist() == [[True, True, True, False, False, False, False, False]]
    assert place.tolist() == [[0, 23, 15, 0, 0, 0, 0, 0]]
    hit = patches_hit(place, inside, 24)
    assert hit.nonzero()[:, 1].tolist() == [0, 15, 23]
    assert not patches_hit(place, torch.zeros_like(inside), 24).any()
    assert patches_of(u, v, (64, 96), (16, 16))[1].sum() == 4


def test_the_released_convention_moves_a_point_by_less_than_a_pixel():
    edge = torch.tensor([[16.01 / 96]])
    middle = torch.tensor([[0.5]])
    ours, theirs = (
        patches_of(edge, middle, (64, 96), (16, 16), None, each)[0].item() for each in ("centre", "released")
    )
    assert (ours, theirs) == (13, 6)


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(2, 60), ratio=st.floats(0, 0.95), seed=st.integers(0, 99))
def test_aligned_masks_hide_or_show_what_is_hit(tokens, ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    noise, hit = torch.rand(2, tokens, generator=generator), torch.rand(2, tokens, generator=generator) < 0.4
    kept = ceil(tokens * (1 - ratio))
    for alignment, wrong in (("uniform", lambda mask: mask == 0), ("complement", lambda mask: mask == 1)):
        ids_keep, ids_restore, mask = aligned_mask(hit, noise, ratio, alignment)
        assert ids_keep.shape == (2, kept)
        assert (mask.sum(1) == tokens - kept).all()
        assert not mask.gather(1, ids_keep).any()
        assert torch.equal(ids_restore.sort(1).values, torch.arange(tokens).expand(2, -1))
        room = kept - (~hit).sum(1) if alignment == "uniform" else hit.sum(1) - kept
        assert torch.equal((hit & wrong(mask)).sum(1), room.clamp(min=0))


def released_uv(arrays: dict[str, np.ndarray], points: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the authors' normalised columns and rows of points, by the specification's formulas."""
    scale = arrays["pre.scale"].astype(np.float64)[:, None, None]
    x, depth, up = np.moveaxis(points @ arrays["pre.calib_Rtilt"] / scale**2, -1, 0)
    a, b, c = np.moveaxis(np.stack([x, -up, depth], -1) @ arrays["pre.calib_K"].transpose(0, 2, 1), -1, 0)
    u, v = np.round(a / c - 1) / 730, np.round(b / c - 1) / 530
    return torch.from_numpy(u), torch.from_numpy(v)


@pytest.mark.parametrize("alignment", ["uniform", "complement"])
def test_against_the_authors_aligned_masks(alignment):
    with np.load(Path(__file__).parent / "parity" / "pimae.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if name.startswith("pre.")}
    hidden = np.stack(
        [own[mask] for own, mask in zip(arrays["pre.center"], arrays["pre.mask_pc"].astype(bool), strict=True)]
    )
    u, v = released_uv(arrays, hidden)
    np.testing.assert_allclose(u, arrays[f"pre.{alignment}.align_u"], atol=1e-6)
    np.testing.assert_allclose(v, arrays[f"pre.{alignment}.align_v"], atol=1e-6)
    hit = patches_hit(*patches_of(u.float(), v.float(), (64, 96), (16, 16), None, "released"), 24)
    assert np.array_equal(hit, arrays[f"pre.{alignment}.hit"])
    noise = torch.from_numpy(uniform("input:image_noise", (2, 24)).astype(np.float32))
    mask = aligned_mask(hit, noise, 0.6, alignment)
    assert np.array_equal(mask.mask, arrays[f"pre.{alignment}.mask_img"])
    assert np.array_equal(mask.ids_restore, arrays[f"pre.{alignment}.ids_restore"])
    plain = mask_by_noise(noise, 0.6)
    assert np.array_equal(plain.ids_restore, arrays["pre.random.ids_restore"])
    assert np.array_equal(plain.mask, arrays["pre.random.mask_img"])
