"""The masked loss and its targets."""

import torch

from crossdim.heads.reconstruction import masked_mean_squared_error, normalise_patches


def test_only_hidden_tokens_count():
    prediction, target = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]]])
    assert masked_mean_squared_error(prediction, target, torch.tensor([[1.0, 1.0, 0.0]])).item() == 2.5


def test_a_mask_that_hides_nothing_gives_zero_and_not_nan():
    assert masked_mean_squared_error(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 2)).item() == 0


def test_the_loss_is_computed_in_float32_whatever_the_prediction_is():
    loss = masked_mean_squared_error(torch.ones(1, 2, 3, dtype=torch.bfloat16), torch.zeros(1, 2, 3), torch.ones(1, 2))
    assert loss.dtype == torch.float32


def test_normalised_patches_have_mean_zero_and_unit_unbiased_variance():
    patches = normalise_patches(torch.rand(2, 3, 50) * 7 + 2)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 3), rtol=1e-4, atol=1e-4)
    assert normalise_patches(torch.ones(1, 1, 8)).abs().max() == 0
