"""Position codes."""

import numpy as np
import torch
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from crossdim.tokens.positions import FourierPositions, GridPositions, interpolate_table, sincos_table


def test_image_codes_equal_mae_from_transformers():
    rows_then_columns = build_2d_sinusoidal_position_embedding(5, 5, 24, cls_token=True).numpy()
    expected = np.concatenate(
        [rows_then_columns[:, 12:], rows_then_columns[:, :12]], axis=1
    )  # as MAE's weights have it
    np.testing.assert_allclose(sincos_table((5, 5), 24).numpy(), expected, atol=1e-6)


def test_volume_codes_tell_every_place_apart_and_have_a_zero_class_row():
    table = sincos_table((3, 4, 5), 50)
    assert table.shape == (61, 50)
    assert not table[0].any()
    assert len(torch.unique(table, dim=0)) == 61
    assert not table[:, 48:].any()


def test_a_volume_code_moves_only_its_own_third_when_one_axis_moves():
    table = sincos_table((3, 4, 5), 48)[1:].reshape(3, 4, 5, 48)
    changed = (table[0, 0, 0] != table[0, 0, 1]).nonzero().flatten()
    assert changed.max() < 16
    changed = (table[0, 0, 0] != table[2, 0, 0]).nonzero().flatten()
    assert changed.min() >= 32


def test_a_table_is_kept_on_its_own_grid_and_interpolated_on_another():
    table = torch.rand(1, 1 + 2 * 2 * 2, 4)
    assert interpolate_table(table, (2, 2, 2), (2, 2, 2)) is table
    larger = interpolate_table(table, (2, 2, 2), (4, 4, 4))
    assert larger.shape == (1, 65, 4)
    assert torch.equal(larger[:, 0], table[:, 0])
    constant = torch.ones(1, 10, 4)
    torch.testing.assert_close(interpolate_table(constant, (3, 3), (5, 7)), torch.ones(1, 36, 4))


def test_kinds_give_sines_tables_or_nothing():
    positions = GridPositions(12, "none", (2, 2), "table", (2, 2, 2))
    assert positions((2, 2)) is None
    assert positions((2, 2, 2)).shape == (1, 9, 12)
    assert set(positions.state_dict()) == {"volume_table"}
    assert GridPositions(12, "sincos", (2, 2), "none", (2, 2, 2))((3, 1)).shape == (1, 4, 12)


def test_fourier_codes_are_sines_and_cosines_of_fixed_waves():
    torch.manual_seed(0)
    codes = FourierPositions(10)
    assert list(codes.state_dict()) == ["waves"]
    assert not list(codes.parameters())
    shares = torch.rand(2, 4, 3)
    angles = 2 * torch.pi * sum(shares[..., axis, None] * codes.waves[axis] for axis in range(3))
    expected = torch.cat([angles.sin(), angles.cos()], dim=-1)
    torch.testing.assert_close(codes(shares), expected)
    assert codes(shares.double()).dtype == torch.float64
