"""Gradient maps."""

import torch

from crossdim.heads.gradients import image_gradient, luminance, volume_gradient


def test_a_unit_step_answers_at_most_one_in_both_dimensions():
    image = torch.zeros(1, 1, 16, 16)
    image[..., 8:] = 1
    volume = torch.zeros(1, 1, 12, 12, 12)
    volume[..., 6:] = 1
    for answer in (image_gradient(image) * 2, volume_gradient(volume)):
        torch.testing.assert_close(answer.max(), torch.tensor(1.0), rtol=1e-5, atol=1e-5)
    assert image_gradient(image)[..., :5].abs().max() < 1e-6


def test_a_constant_has_no_gradient_even_at_the_border():
    assert image_gradient(torch.full((1, 3, 9, 9), 0.7)).abs().max() < 1e-5
    assert volume_gradient(torch.full((1, 2, 6, 7, 8), 0.7)).abs().max() < 1e-5


def test_the_magnitude_of_a_volume_does_not_depend_on_which_axis_is_depth():
    volume = torch.rand(1, 1, 8, 9, 10)
    turned = volume_gradient(volume.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
    torch.testing.assert_close(volume_gradient(volume), turned, rtol=1e-5, atol=1e-6)


def test_the_rounded_recipe_is_whole_numbers_on_the_scale_of_the_authors():
    image = (torch.rand(2, 3, 16, 16) > 0.5).float()
    rounded = image_gradient(image, "uint8")
    assert torch.equal(rounded, rounded.round())
    assert 1 < rounded.max() <= 48
    assert (rounded / 48 - image_gradient(image)).abs().max() <= 1.1 / 48
    assert image_gradient(image, "uint8_chw").shape == image.shape


def test_luminance_weights_three_channels_and_averages_others():
    assert torch.allclose(luminance(torch.ones(1, 3, 2, 2)), torch.ones(1, 1, 2, 2))
    assert luminance(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)).item() == 2


def test_thin_volumes_have_a_gradient_too():
    assert volume_gradient(torch.rand(1, 1, 1, 8, 8)).isfinite().all()
    assert volume_gradient(torch.rand(1, 1, 2, 8, 8)).isfinite().all()
