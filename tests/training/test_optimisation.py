import pytest

from crossdim.models.uni4eye import Uni4EyeConfig, Uni4EyeForImageClassification, Uni4EyeForPreTraining
from crossdim.training.optimisation import decays, layer_of, parameter_groups, scaled_learning_rate


def tiny(**more):
    return Uni4EyeConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        volume_size=16, volume_patch_size=8, decoder_hidden_size=8, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=16, **more,
    )  # fmt: skip


def test_decay_falls_on_matrices_and_kernels_only():
    model = Uni4EyeForPreTraining(tiny())
    names = {name for name, parameter in model.named_parameters() if not decays(name, parameter)}
    assert "uni4eye.cls_token" in names
    assert "intensity_decoder.mask_token" in names
    assert "uni4eye.encoder.layers.0.norm1.weight" in names
    assert "uni4eye.encoder.layers.1.mlp.fc1.bias" in names
    decayed = {name for name, _ in model.named_parameters()} - names
    assert {"uni4eye.patch_embed.volume.weight", "uni4eye.encoder.layers.0.attention.qkv.weight"} <= decayed
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("uni4eye.cls_token", 0),
        ("uni4eye.patch_embed.image.weight", 0),
        ("uni4eye.encoder.layers.0.norm1.bias", 1),
        ("uni4eye.encoder.layers.11.mlp.fc2.weight", 12),
        ("base_model.model.uni4eye.encoder.layers.3.attention.qkv.lora_A.default.weight", 4),
        ("uni4eye.encoder.norm.weight", 13),
        ("classifier.linear.weight", 13),
        ("intensity_decoder.layers.1.norm1.weight", 13),
    ],
)
def test_layers_are_counted_from_the_stem(name, layer):
    assert layer_of(name, 12) == layer


def test_layer_decay_slows_the_early_layers():
    model = Uni4EyeForImageClassification(tiny(num_labels=3))
    groups = parameter_groups(model.named_parameters(), 1.0, 0.05, layers=2, layer_decay=0.5)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    parameters = dict(model.named_parameters())
    assert rate[id(parameters["uni4eye.cls_token"])] == 0.125
    assert rate[id(parameters["uni4eye.encoder.layers.0.mlp.fc1.weight"])] == 0.25
    assert rate[id(parameters["uni4eye.encoder.layers.1.mlp.fc1.weight"])] == 0.5
    assert rate[id(parameters["classifier.linear.weight"])] == 1.0
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}


def test_frozen_parameters_are_in_no_group():
    model = Uni4EyeForImageClassification(tiny(num_labels=3))
    model.uni4eye.requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), 1.0, 0.05, layers=2)
    assert sum(len(group["params"]) for group in groups) == 2


def test_the_learning_rate_of_the_authors_run():
    assert scaled_learning_rate(1e-3, 64) == pytest.approx(2.5e-4)
