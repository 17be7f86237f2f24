"""The transformer over batches and over packed sequences."""

import pytest
import torch

from crossdim.encoders.transformer import TransformerEncoder, TransformerLayer, TransformerShape
from crossdim.errors import ContractError

SHAPE = TransformerShape(hidden_size=16, num_layers=2, num_heads=4, intermediate_size=32)


def test_a_packed_sequence_equals_its_samples_one_by_one():
    torch.manual_seed(0)
    encoder = TransformerEncoder(SHAPE).eval()
    samples = [torch.randn(1, length, 16) for length in (5, 3, 5, 1, 3)]
    packed = encoder(torch.cat(samples, dim=1), [5, 3, 5, 1, 3])
    alone = torch.cat([encoder(sample) for sample in samples], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-6)


def test_a_packed_sequence_gives_every_parameter_its_gradient():
    encoder = TransformerEncoder(SHAPE)
    encoder(torch.randn(1, 7, 16), [4, 3]).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize(("batch", "lengths"), [(1, [3, 3]), (2, [7]), (1, [7, 0])])
def test_lengths_that_do_not_describe_the_sequence_are_refused(batch, lengths):
    with pytest.raises(ContractError, match="add up to"):
        TransformerEncoder(SHAPE)(torch.randn(batch, 7, 16), lengths)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ContractError, match="does not divide by the 3 attention heads"):
        TransformerShape(hidden_size=16, num_layers=1, num_heads=3, intermediate_size=32)


def test_stochastic_depth_drops_whole_samples_packed_or_not():
    torch.manual_seed(0)
    layer = TransformerLayer(SHAPE, drop_path_rate=0.5).train()
    tokens = torch.randn(64, 3, 16)
    change = (layer(tokens) - tokens).abs().sum((1, 2))
    assert 0 < (change == 0).sum() < 40
    packed = tokens.reshape(1, -1, 16)
    change = (layer(packed, [3] * 64) - packed).abs().reshape(64, -1).sum(1)
    assert 0 < (change == 0).sum() < 40
    layer.eval()
    assert ((layer(tokens) - tokens).abs().sum((1, 2)) > 0).all()
