"""Queries that look at one another and at a memory."""

import pytest
import torch
from torch import nn

from crossdim.encoders.cross_attention import CrossAttention, DecoderLayer, TransformerDecoder
from crossdim.encoders.transformer import TransformerShape

SHAPE = TransformerShape(16, 3, 4, 32, layer_norm_eps=1e-5, activation="relu")


def plain_attention(ours):
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    reference.in_proj_weight, reference.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    reference.out_proj.weight, reference.out_proj.bias = ours.proj.weight, ours.proj.bias
    return reference


def test_attention_equals_that_of_pytorch():
    torch.manual_seed(0)
    attention = CrossAttention(SHAPE)
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    torch.testing.assert_close(attention(query, key, value), plain_attention(attention)(query, key, value)[0])


def test_attention_works_without_biases():
    attention = CrossAttention(TransformerShape(16, 1, 4, 32, qkv_bias=False))
    assert attention.qkv.bias is None
    assert attention(torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)).shape == (2, 5, 16)


def test_positions_are_added_to_what_looks_and_what_is_looked_at_and_not_to_what_is_passed_on():
    torch.manual_seed(0)
    layer = DecoderLayer(SHAPE).eval()
    hidden, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    places, spots = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    first, second = plain_attention(layer.self_attention), plain_attention(layer.cross_attention)
    normed = layer.norm1(hidden)
    expected = hidden + first(normed + places, normed + places, normed)[0]
    expected = expected + second(layer.norm2(expected) + places, memory + spots, memory)[0]
    expected = expected + layer.mlp.fc2(layer.mlp.fc1(layer.norm3(expected)).relu())
    torch.testing.assert_close(layer(hidden, memory, places, spots), expected)


def test_a_decoder_norms_what_each_of_its_layers_puts_out():
    torch.manual_seed(0)
    decoder = TransformerDecoder(SHAPE).eval()
    memory, places, spots = torch.randn(2, 7, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    every = decoder(memory, places, spots)
    assert every.shape == (3, 2, 5, 16)
    hidden = torch.zeros(2, 5, 16)
    for number, layer in enumerate(decoder.layers):
        hidden = layer(hidden, memory, places, spots)
        torch.testing.assert_close(every[number], decoder.norm(hidden))


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_for_training_only(training):
    torch.manual_seed(0)
    shape = TransformerShape(16, 1, 4, 32, activation="relu", dropout=0.3)
    decoder = TransformerDecoder(shape).train(training)
    inputs = torch.randn(2, 7, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    assert torch.equal(decoder(*inputs), decoder(*inputs)) != training
