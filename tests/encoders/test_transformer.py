"""The transformer over batches and over packed sequences."""

import pytest
import torch

from crossdim.encoders.transformer import Attention, TransformerEncoder, TransformerLayer, TransformerShape
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


def test_the_layers_of_3detr_are_a_choice_of_activation():
    torch.manual_seed(0)
    shape = TransformerShape(16, 1, 4, 32, layer_norm_eps=1e-5, activation="relu")
    layer, reference = TransformerLayer(shape), torch.nn.TransformerEncoderLayer(16, 4, 32, 0.0, norm_first=True)
    reference.self_attn.in_proj_weight, reference.self_attn.in_proj_bias = layer.attention.qkv.parameters()
    reference.self_attn.out_proj.weight, reference.self_attn.out_proj.bias = layer.attention.proj.parameters()
    reference.linear1, reference.linear2 = layer.mlp.fc1, layer.mlp.fc2
    reference.norm1, reference.norm2 = layer.norm1, layer.norm2
    tokens = torch.randn(2, 5, 16)
    torch.testing.assert_close(layer(tokens), reference(tokens.transpose(0, 1)).transpose(0, 1))


def test_dropout_works_in_training_only_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = TransformerLayer(TransformerShape(16, 1, 4, 32, activation="relu", dropout=0.3))
    tokens = torch.randn(1, 3, 16).expand(4000, -1, -1)
    dropped, plain = layer.train()(tokens), layer.eval()(tokens)
    assert dropped.std(dim=0).min() > 0.001
    torch.testing.assert_close(dropped.mean(dim=0), plain[0], rtol=0, atol=0.05)
    assert torch.equal(plain[0], plain[1])


@pytest.mark.parametrize("lengths", [None, [3] * 200])
def test_attention_weights_are_dropped_too_packed_or_not(lengths):
    torch.manual_seed(0)
    attention = Attention(TransformerShape(16, 1, 4, 32, dropout=0.5)).train()
    tokens = torch.randn(1, 3, 16).expand(200, -1, -1)
    mixed = attention(tokens if lengths is None else tokens.reshape(1, -1, 16), lengths).reshape(200, 3, 16)
    assert mixed.std(dim=0).min() > 0


def test_padded_tokens_are_not_looked_at():
    encoder, tokens = TransformerEncoder(SHAPE).eval(), torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 3 + [True] * 2] * 2)
    torch.testing.assert_close(encoder(tokens, padding_mask=padding)[:, :3], encoder(tokens[:, :3]))


def test_positions_are_added_before_every_layer():
    encoder, tokens, codes = TransformerEncoder(SHAPE), torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    first, second = encoder.layers
    torch.testing.assert_close(encoder(tokens, positions=codes), encoder.norm(second(first(tokens + codes) + codes)))


def test_an_encoder_without_a_norm_ends_with_its_last_layer():
    encoder, tokens = TransformerEncoder(SHAPE, norm=False), torch.randn(2, 5, 16)
    assert "norm.weight" not in encoder.state_dict()
    assert torch.equal(encoder(tokens), encoder.hidden_state(tokens))


def test_attention_weights_explain_the_output():
    attention, tokens = Attention(SHAPE), torch.randn(2, 5, 16)
    weights = attention.weights(tokens)
    values = attention.qkv(tokens)[..., 32:].reshape(2, 5, 4, 4).transpose(1, 2)
    torch.testing.assert_close(attention.proj((weights @ values).transpose(1, 2).flatten(2)), attention(tokens))
    assert torch.equal(attention.weights(tokens, queries=torch.tensor([3, 1])), weights[:, :, [3, 1]])
