"""Towers of other people: what goes in, and which tokens come out."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

import crossdim.models.auto  # noqa: F401
from crossdim.encoders.pretrained import (
    IMAGE_TOWERS,
    SliceView,
    encode_slices,
    slice_grid,
    slice_images,
    slice_size,
    slice_tokens,
    unused_parameters,
    volume_tokens,
)
from crossdim.errors import ContractError

SIZES = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "siglip_vision_model": {"image_size": 16, "patch_size": 8},
    "siglip2_vision_model": {"num_patches": 4, "patch_size": 8},
    "clip_vision_model": {"image_size": 16, "patch_size": 8},
    "dinov2": {"image_size": 16, "patch_size": 8},
    "dinov3_vit": {"image_size": 16, "patch_size": 8, "num_register_tokens": 3},
    "uni4eye": {"image_size": 16, "patch_size": 8, "volume_size": (4, 8, 8), "volume_patch_size": (2, 4, 4)},
}
NORMS = {"dinov2": "layernorm", "dinov3_vit": "norm", "uni4eye": "encoder.norm"}

each_family = pytest.mark.parametrize("family", FAMILIES)


def tower(family, **overrides):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family], **overrides})
    return AutoModel.from_config(config).eval()


def test_every_family_is_tested():
    assert set(FAMILIES) == set(IMAGE_TOWERS)


@each_family
@torch.no_grad()
def test_patch_tokens_come_in_raster_order_and_others_are_dropped(family):
    model, x = tower(family), torch.rand(2, 3, 16, 16)
    tokens = slice_tokens(model, x, layer=0)
    assert tokens.shape == (2, 4, 24)
    changed = x.clone()
    changed[:, :, 8:, :8] += 1
    moved = (slice_tokens(model, changed, layer=0) - tokens).abs().sum(-1) > 1e-6
    assert moved.tolist() == [[False, False, True, False]] * 2


@each_family
@torch.no_grad()
def test_the_last_layer_with_the_norm_is_the_towers_own_output(family):
    model, x = tower(family), torch.rand(2, 3, 16, 16)
    if family == "siglip2_vision_model":
        patches = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(2, 4, -1)
        mask, shapes = torch.ones(2, 4, dtype=torch.long), torch.tensor([[2, 2], [2, 2]])
        own = model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes).last_hidden_state
    else:
        own = model(x).last_hidden_state
    if family == "clip_vision_model":
        own = model.post_layernorm(own)
    assert torch.equal(slice_tokens(model, x, norm=True), own[:, own.shape[1] - 4 :])
    norm = model.get_submodule(NORMS.get(family, "post_layernorm"))
    torch.testing.assert_close(norm(slice_tokens(model, x)), own[:, own.shape[1] - 4 :])


@each_family
@torch.no_grad()
def test_an_earlier_layer_is_what_a_shorter_tower_gives(family):
    long, short = tower(family), tower(family, num_hidden_layers=1)
    own = long.state_dict()
    short.load_state_dict({name: own[name] for name in short.state_dict()})
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(slice_tokens(long, x, layer=-2), slice_tokens(short, x))


@each_family
def test_what_the_features_do_not_depend_on_is_named_and_nothing_else(family):
    for layer, norm in ((-1, False), (-1, True), (-2, False)):
        model = tower(family).train()
        slice_tokens(model, torch.rand(2, 3, 16, 16), layer, norm).square().sum().backward()
        unused = {id(p) for p in unused_parameters(model, "slices", layer, norm)}
        wrong = [name for name, p in model.named_parameters() if (p.grad is None) != (id(p) in unused)]
        assert wrong == []


@pytest.mark.parametrize("stem", ["separate", "inflated"])
def test_the_same_for_volumes(stem):
    model = tower("uni4eye", volume_stem=stem).train()
    volume_tokens(model, torch.rand(2, 1, 4, 8, 8)).square().sum().backward()
    unused = {id(p) for p in unused_parameters(model, "volumes")}
    assert [name for name, p in model.named_parameters() if (p.grad is None) != (id(p) in unused)] == []


@torch.no_grad()
def test_a_uni4eye_tower_equals_the_standalone_encoder_bit_for_bit():
    model = tower("uni4eye")
    images, volumes = torch.rand(3, 3, 24, 16), torch.rand(2, 1, 8, 8, 4)
    assert torch.equal(slice_tokens(model, images, norm=True), model(images).last_hidden_state[:, 1:])
    assert torch.equal(volume_tokens(model, volumes, norm=True), model(volumes).last_hidden_state[:, 1:])


@each_family
@torch.no_grad()
def test_a_grey_slice_fills_all_channels(family):
    model, grey = tower(family), torch.rand(2, 1, 16, 16)
    colour = slice_images(model.config, grey, SliceView())
    assert colour.shape == (2, 3, 16, 16)
    assert torch.equal(encode_slices(model, grey, SliceView()), slice_tokens(model, grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("family", "size", "seen"),
    [
        ("siglip_vision_model", (40, 24), (16, 16)),
        ("siglip2_vision_model", (40, 24), (16, 16)),
        ("clip_vision_model", (40, 24), (16, 16)),
        ("dinov2", (42, 24), (40, 24)),
        ("dinov3_vit", (3, 30), (8, 32)),
        ("uni4eye", (40, 24), (40, 24)),
    ],
)
@torch.no_grad()
def test_a_slice_of_another_size_is_resized_where_the_tower_needs_it(family, size, seen):
    model = tower(family)
    assert slice_size(model.config, size) == seen
    tokens = encode_slices(model, torch.rand(1, 1, *size), SliceView())
    rows, columns = slice_grid(model.config, size)
    assert tokens.shape == (1, rows * columns, 24)
    assert (rows, columns) == (seen[0] // 8, seen[1] // 8)


def test_intensities_are_normalised_only_if_that_is_asked_for():
    config, x = tower("clip_vision_model").config, torch.rand(1, 3, 16, 16)
    assert slice_images(config, x, SliceView()) is x
    torch.testing.assert_close(slice_images(config, x, SliceView(mean=0.5, std=0.5)), 2 * x - 1)
    mean = [0.1, 0.2, 0.3]
    torch.testing.assert_close(slice_images(config, x, SliceView(mean=mean)), x - torch.tensor(mean)[:, None, None])


@torch.no_grad()
def test_chunks_bound_what_a_tower_sees_at_once_and_change_nothing():
    model, x, seen = tower("siglip_vision_model"), torch.rand(7, 1, 16, 16), []
    model.register_forward_pre_hook(lambda _, __, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True)
    whole = encode_slices(model, x, SliceView())
    torch.testing.assert_close(encode_slices(model, x, SliceView(chunk=3)), whole, rtol=1e-5, atol=1e-6)
    assert seen == [7, 3, 3, 1]


def test_a_frozen_tower_builds_no_graph():
    model = tower("siglip_vision_model")
    assert encode_slices(model, torch.rand(2, 1, 16, 16), SliceView()).requires_grad
    model.requires_grad_(False)
    assert not encode_slices(model, torch.rand(2, 1, 16, 16), SliceView()).requires_grad


def test_images_with_a_wrong_number_of_channels_are_refused():
    with pytest.raises(ContractError, match="images of 2 channels: do not fit a tower of 3"):
        slice_images(tower("dinov2").config, torch.rand(1, 2, 16, 16), SliceView())


def test_a_family_without_an_adapter_is_refused():
    with pytest.raises(ContractError, match=r"tower of type 'siglip': cannot look at slices\. .*siglip"):
        slice_grid(AutoConfig.for_model("siglip"), (16, 16))
    with pytest.raises(ContractError, match="tower of type 'dinov2': cannot look at volumes"):
        volume_tokens(tower("dinov2"), torch.rand(1, 1, 4, 8, 8))


@each_family
@torch.no_grad()
def test_towers_run_in_bf16(family):
    model = tower(family).to(torch.bfloat16)
    tokens = encode_slices(model, torch.rand(2, 1, 24, 24), SliceView())
    assert tokens.dtype == torch.bfloat16
    assert tokens.isfinite().all()
