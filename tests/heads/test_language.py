"""Placeholders, positions and masks of a language model's input."""

import pytest
import torch

from crossdim.errors import ContractError
from crossdim.heads.language import learned_tokens, mean_embedding, positions, splice, trimmed


def test_visual_tokens_take_the_placeholders_places_in_reading_order():
    embeds, features = torch.zeros(2, 4, 3), torch.arange(1.0, 13).reshape(2, 2, 3)
    places = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]]).bool()
    filled = splice(embeds, places, features, "volume")
    assert torch.equal(filled[places], features.flatten(0, 1))
    assert not filled[~places].any()
    assert not embeds.any(), "the input is left as it was"


def test_text_alone_is_handed_back():
    embeds = torch.rand(1, 3, 2)
    assert splice(embeds, torch.zeros(1, 3).bool(), None, "image") is embeds


@pytest.mark.parametrize("shown", [0, 1, 3])
def test_a_mismatch_names_both_counts(shown):
    features = torch.rand(shown, 2, 3)
    places = torch.tensor([[1, 1, 1, 1]]).bool()
    with pytest.raises(ContractError, match=f"2 <volume> placeholders in the text .*but {shown} volumes to show"):
        splice(torch.rand(1, 4, 3), places, features, "volume")


def test_gradients_reach_both_the_text_and_the_visual_tokens():
    embeds, features = torch.zeros(1, 3, 2, requires_grad=True), torch.zeros(1, 1, 2, requires_grad=True)
    splice(embeds, torch.tensor([[0, 1, 0]]).bool(), features, "image").sum().backward()
    assert embeds.grad[0, :, 0].tolist() == [1, 0, 1]
    assert features.grad.tolist() == [[[1, 1]]]


def test_positions_count_real_tokens_on_either_padding_side_and_after_a_cache():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert positions(mask, 5).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]
    assert positions(mask, 2).tolist() == [[1, 2], [2, 2]]


def test_the_first_token_is_never_predicted():
    assert learned_tokens(torch.tensor([[5, 6, -100], [-100, -100, 7]])) == 2


def test_padding_of_every_row_is_cut_on_both_sides():
    ids = torch.tensor([[0, 4, 5, 0, 0], [0, 0, 6, 7, 0]])
    mask = (ids > 0).long()
    cut, left = trimmed(ids, mask)
    assert cut.tolist() == [[4, 5, 0], [0, 6, 7]]
    assert left.tolist() == [[1, 1, 0], [0, 1, 1]]
    assert trimmed(ids, None)[1].tolist() == [[1] * 5] * 2
    assert trimmed(ids, torch.zeros_like(ids))[0].shape == (2, 1)


def test_the_mean_is_over_real_tokens_and_zero_where_there_are_none():
    embeds = torch.tensor([[[2.0], [4.0], [9.0]], [[1.0], [1.0], [1.0]]])
    mean = mean_embedding(embeds, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    assert mean.tolist() == [[3.0], [0.0]]
