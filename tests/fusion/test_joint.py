"""Several sets of tokens in one transformer."""

import pytest
import torch

from crossdim.encoders.transformer import TransformerShape
from crossdim.errors import ContractError
from crossdim.fusion.joint import JointEncoder

SHAPE = TransformerShape(hidden_size=16, num_layers=2, num_heads=4, intermediate_size=32)


def encoder(**options):
    torch.manual_seed(0)
    return JointEncoder(SHAPE, **options).eval()


def sets(*counts):
    return [torch.randn(2, count, 16) for count in counts]


@pytest.mark.parametrize("counts", [(5,), (5, 3), (1, 4, 2)])
@pytest.mark.parametrize("class_token", [True, False])
def test_sets_come_back_as_they_went_in(counts, class_token):
    hidden, parts = encoder(class_token=class_token)(sets(*counts))
    assert [part.shape for part in parts] == [(2, count, 16) for count in counts]
    assert torch.equal(torch.cat(parts, dim=1), hidden[:, class_token:])


def test_every_set_sees_the_others_and_the_class_token():
    model, (images, points) = encoder(), sets(4, 3)
    first = model([images, points]).sets[0]
    assert not torch.allclose(first, model([images, points.flip(2)]).sets[0])
    torch.nn.init.normal_(model.cls_token)
    assert not torch.allclose(first, model([images, points]).sets[0])


def test_the_final_norm_is_an_option():
    tokens = sets(4, 3)
    plain, normed = encoder()(tokens).hidden, encoder(norm=True)(tokens).hidden
    torch.testing.assert_close(normed, torch.nn.functional.layer_norm(plain, (16,), eps=1e-6))


def test_every_parameter_gets_a_gradient():
    model = encoder(norm=True)
    sum(part.square().sum() for part in model(sets(4, 3)).sets).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_padding_changes_nothing():
    model, (images, points) = encoder(), sets(4, 5)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[:, 3:] = True
    expected = model([images, points[:, :3]])
    found = model([images, points], [None, padding])
    torch.testing.assert_close(found.sets[0], expected.sets[0])
    torch.testing.assert_close(found.sets[1][:, :3], expected.sets[1])


def test_attention_is_a_share_of_all_that_a_token_looks_at():
    model, tokens = encoder(), sets(4, 3)
    over = [model.attention(tokens, of=1, over=place) for place in (0, 1)]
    rest = 1 - over[0].sum(dim=2) - over[1].sum(dim=2)
    assert (rest > 0).all()
    assert (rest < 1).all()
    alone = encoder(class_token=False)
    over = [alone.attention(tokens, of=0, over=place) for place in (0, 1)]
    torch.testing.assert_close(over[0].sum(dim=2) + over[1].sum(dim=2), torch.ones(2, 4))


def test_attention_is_that_of_the_layer_for_the_chosen_tokens():
    model, (images, points) = encoder(), sets(4, 3)
    chosen = model.attention([images, points], of=1, over=0, queries=torch.tensor([2, 0]), layer=0)
    layer = model.layers[0]
    hidden = torch.cat([model.cls_token.expand(2, -1, -1), images, points], dim=1)
    query, key, _ = layer.attention.qkv(layer.norm1(hidden)).reshape(2, 8, 3, 4, 4).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-1, -2) / 2).softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(chosen, weights[:, [7, 5], 1:5])
    assert not torch.allclose(chosen, model.attention([images, points], 1, 0, torch.tensor([2, 0]), layer=-1))


def test_nobody_looks_at_padding():
    model, tokens = encoder(), sets(4, 3)
    padding = torch.tensor([[False, False, True]] * 2)
    weights = model.attention(tokens, of=0, over=1, padding_masks=[None, padding])
    assert not weights[..., 2].any()
    assert weights[..., :2].all()


def test_wrong_sets_are_refused():
    model = encoder()
    with pytest.raises(ContractError, match="no tokens at all"):
        model([])
    with pytest.raises(ContractError, match="1 padding masks: for 2 sets"):
        model(sets(4, 3), [None])
    with pytest.raises(ContractError, match="set 2: there are 2"):
        model.attention(sets(4, 3), of=2, over=0)
    with pytest.raises(ContractError, match="layer 5: there are 2"):
        model.attention(sets(4, 3), of=0, over=0, layer=5)
