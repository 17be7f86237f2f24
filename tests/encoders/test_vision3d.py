"""M3D-CLIP's encoder of volumes."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

import crossdim.models.auto  # noqa: F401
from crossdim.encoders.vision3d import VisionTransformer3D, VisionTransformer3DConfig
from crossdim.errors import ContractError

SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 24,
    "volume_size": (4, 8, 12),
    "volume_patch_size": (2, 4, 4),
}


def tower(**overrides):
    torch.manual_seed(0)
    return VisionTransformer3D(VisionTransformer3DConfig(**{**SIZES, **overrides})).eval()


def volumes(*size):
    return torch.rand(2, 1, *(size or (4, 8, 12)))


def test_the_defaults_are_the_published_sizes():
    with torch.device("meta"):
        model = VisionTransformer3D(VisionTransformer3DConfig())
    assert sum(p.numel() for p in model.parameters()) == 87_389_184
    assert model.position_embeddings.shape == (1, 2048, 768)


def test_patches_are_ordered_by_depth_then_row_then_column_within_and_without():
    model, x = tower(), volumes()
    patch = x[:, 0, 2:4, 0:4, 8:12].reshape(2, -1)
    expected = F.linear(patch, model.patch_embed.weight, model.patch_embed.bias) + model.position_embeddings[:, 8]
    torch.testing.assert_close(model.embed(x)[:, 6 + 2], expected)


def test_every_hidden_state_can_be_had_with_and_without_the_final_norm():
    model, x = tower(), volumes()
    last = model(x)
    assert last.shape == (2, 12, 12)
    assert torch.equal(last, model(x, layer=2))
    torch.testing.assert_close(model(x, norm=True), model.encoder.norm(last))
    torch.testing.assert_close(model(x, layer=0), model.embed(x))
    first = model.encoder.layers[0](model.hidden_state(x, layer=0))
    torch.testing.assert_close(model(x, layer=-2), first[:, 1:])


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(ContractError, match=f"layer {layer}: is not among the 2 layers"):
        tower()(volumes(), layer=layer)


def test_attention_has_no_bias_on_its_projections_unless_asked_for():
    assert not [name for name, _ in tower().named_parameters() if "qkv.bias" in name]
    assert [name for name, _ in tower(qkv_bias=True).named_parameters() if "qkv.bias" in name]


def test_volumes_of_another_size_read_the_position_table_between_its_rows():
    model = tower()
    assert model(volumes(8, 8, 12)).shape == (2, 24, 12)
    small = torch.rand(1, 1, 2, 4, 4)
    position = model.embed(small) - model.patch_embed(small.reshape(1, 1, -1))
    middle = model.position_embeddings.reshape(2, 2, 3, 12)[:, :, 1].mean(dim=(0, 1))
    torch.testing.assert_close(position[0, 0], middle, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "channels", "message"),
    [((5, 8, 12), 1, "not a multiple of the patch"), ((4, 8, 12), 2, "volumes of 2 channels")],
)
def test_volumes_that_do_not_fit_are_refused(size, channels, message):
    with pytest.raises(ContractError, match=message):
        tower()(torch.rand(1, channels, *size))


def test_sizes_that_are_not_three_numbers_are_refused():
    with pytest.raises(ContractError, match="are not both"):
        VisionTransformer3DConfig(volume_size=(4, 8))


def test_the_auto_classes_know_it_and_a_saved_one_comes_back(tmp_path):
    model, x = tower(), volumes()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(again, VisionTransformer3D)
    assert torch.equal(again(x), model(x))


def test_activation_checkpointing_changes_no_gradient():
    model, x = tower().train(), volumes()
    model(x).square().sum().backward()
    plain = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(x).square().sum().backward()
    assert set(plain) == {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(torch.equal(p.grad, plain[name]) for name, p in model.named_parameters() if name in plain)
