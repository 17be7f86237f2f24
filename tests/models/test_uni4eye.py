"""The contract every Uni4Eye model keeps."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

import crossdim.models.auto  # noqa: F401
from crossdim.errors import ContractError
from crossdim.models.uni4eye import Uni4EyeForImageClassification, Uni4EyeForPreTraining, Uni4EyeModel
from crossdim.models.uni4eye_config import PRESETS, Uni4EyeConfig

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "volume_size": (8, 16, 12),
    "volume_patch_size": (4, 8, 6),
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "num_labels": 3,
}


def config(**overrides):
    return Uni4EyeConfig(**{**SIZES, **overrides})


def images(batch=2):
    return torch.rand(batch, 3, 32, 32)


def volumes(batch=2):
    return torch.rand(batch, 1, 8, 16, 12)


OPTIONS = [
    {},
    {"volume_stem": "inflated", "volume_positions": "none"},
    {"shared_decoder_norm": True, "norm_pix_loss": True, "gradient_target": "uint8"},
    {"gradient_target": "uint8_chw", "volume_masking": "block"},
    {"gradient_decoder": False, "qkv_bias": False},
    {"num_volume_channels": 2},
]


def volumes_for(cfg, batch=2):
    return torch.rand(batch, cfg.num_volume_channels, 8, 16, 12)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_trainable_parameter_gets_a_gradient_from_one_mixed_step(options):
    model = Uni4EyeForPreTraining(config(**options)).train()
    output = model(pixel_values=images(), voxel_values=volumes_for(model.config))
    output.loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("problem", ["multiclass", "multilabel", "ordinal"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("rank", [2, 3])
def test_every_parameter_a_classifier_uses_gets_a_gradient(problem, pooling, rank):
    model = Uni4EyeForImageClassification(config(problem=problem, pooling=pooling))
    labels = torch.eye(3)[:2] if problem == "multilabel" else torch.tensor([0, 2])
    model(images() if rank == 2 else volumes(), labels=labels).loss.backward()
    other = "patch_embed.volume" if rank == 2 else "patch_embed.image"
    without = [n for n, p in model.named_parameters() if other not in n and (p.grad is None or not p.grad.any())]
    assert without == []


def test_both_modalities_reach_the_shared_blocks_and_their_gradients_add_up():
    torch.manual_seed(0)
    model = Uni4EyeForPreTraining(config())
    inputs = {
        "pixel_values": images(),
        "voxel_values": volumes(),
        "noise": torch.rand(2, 16),
        "voxel_noise": torch.rand(2, 8),
    }
    shared = list(model.uni4eye.encoder.parameters())
    together = torch.autograd.grad(model(**inputs).loss, shared)
    image_only = {key: inputs[key] for key in ("pixel_values", "noise")}
    volume_only = {key: inputs[key] for key in ("voxel_values", "voxel_noise")}
    parts = [torch.autograd.grad(model(**part).loss, shared) for part in (image_only, volume_only)]
    for total, image, volume in zip(together, *parts, strict=True):
        assert image.abs().sum() > 0
        assert volume.abs().sum() > 0
        torch.testing.assert_close(total, image + volume, rtol=1e-4, atol=1e-6)


def test_the_weights_of_the_two_losses_are_the_lambdas_of_the_paper():
    model = Uni4EyeForPreTraining(config(intensity_weight=2.0, gradient_weight=0.5))
    output = model(pixel_values=images(), voxel_values=volumes())
    parts = output.losses
    expected = 2 * (parts["image/intensity"] + parts["volume/intensity"])
    expected = expected + 0.5 * (parts["image/gradient"] + parts["volume/gradient"])
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_saved_model_loads_bit_for_bit_through_the_auto_classes(options, tmp_path):
    for auto, cls in (
        (AutoModel, Uni4EyeModel),
        (AutoModelForPreTraining, Uni4EyeForPreTraining),
        (AutoModelForImageClassification, Uni4EyeForImageClassification),
    ):
        model = cls(config(**options, image_positions="table"))
        model.save_pretrained(tmp_path / cls.__name__)
        assert (tmp_path / cls.__name__ / "model.safetensors").is_file()
        again = auto.from_pretrained(tmp_path / cls.__name__)
        assert type(again) is cls
        assert again.config.to_diff_dict() == model.config.to_diff_dict()
        assert model.state_dict().keys() == again.state_dict().keys()
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
        )


def test_a_classifier_takes_its_encoder_from_a_pretraining_checkpoint(tmp_path):
    pretrained = Uni4EyeForPreTraining(config())
    pretrained.save_pretrained(tmp_path)
    classifier = Uni4EyeForImageClassification.from_pretrained(tmp_path)
    encoder = Uni4EyeModel.from_pretrained(tmp_path)
    for name, value in pretrained.uni4eye.state_dict().items():
        assert torch.equal(classifier.uni4eye.state_dict()[name], value)
        assert torch.equal(encoder.state_dict()[name], value)


@pytest.mark.parametrize("values", [images(3), volumes(3)])
def test_a_sample_does_not_depend_on_its_batch(values):
    model = Uni4EyeForImageClassification(config()).eval()
    torch.testing.assert_close(model(values).logits[1:2], model(values[1:2]).logits, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing_for_a_classifier():
    model = Uni4EyeForImageClassification(config(pooling="mean", volume_positions="none")).eval()
    whole = torch.zeros(2, 1, 8, 16, 12)
    whole[:, :, :4] = torch.rand(2, 1, 4, 16, 12)
    padding = torch.zeros(2, 8, dtype=torch.bool)
    padding[:, 4:] = True
    expected = model(whole[:, :, :4]).logits
    torch.testing.assert_close(model(whole, padding_mask=padding).logits, expected, rtol=1e-4, atol=1e-5)
    changed = whole.clone()
    changed[:, :, 4:] = 9
    torch.testing.assert_close(model(changed, padding_mask=padding).logits, expected, rtol=1e-4, atol=1e-5)
    hidden = model.uni4eye(whole, padding_mask=padding).last_hidden_state
    assert not hidden[:, 5:].any()


def test_samples_of_unequal_padding_share_a_batch():
    model = Uni4EyeModel(config()).eval()
    values, padding = volumes(), torch.zeros(2, 8, dtype=torch.bool)
    padding[1, 2:] = True
    both = model(values, padding_mask=padding).pooler_output
    torch.testing.assert_close(both[:1], model(values[:1]).pooler_output, rtol=1e-4, atol=1e-5)


def test_padded_tokens_never_count_in_the_loss():
    model = Uni4EyeForPreTraining(config()).eval()
    padding = torch.zeros(2, 8, dtype=torch.bool)
    padding[:, 5:] = True
    values, noise = volumes(), torch.rand(2, 8)
    target = torch.rand(2, 1, 8, 16, 12)
    loss = model(voxel_values=values, voxel_noise=noise, voxel_gradient_target=target, voxel_padding_mask=padding)
    other = values.clone()
    other[:, :, 4:, 8:] = 50  # the last two tokens: padding
    again = model(voxel_values=other, voxel_noise=noise, voxel_gradient_target=target, voxel_padding_mask=padding)
    torch.testing.assert_close(loss.loss, again.loss)


def test_however_much_is_padding_the_ratio_of_real_tokens_is_hidden():
    model = Uni4EyeForPreTraining(config(volume_size=(16, 32, 12))).eval()
    padding = torch.zeros(2, 32, dtype=torch.bool)
    padding[:, 8:] = True
    mask = model(voxel_values=torch.rand(2, 1, 16, 32, 12), voxel_padding_mask=padding).volume.mask
    assert (mask[:, :8].sum(1) == 6).all()
    assert mask[:, 8:].all()


def test_a_config_that_the_hugging_face_trainer_has_touched_loads_again(tmp_path):
    touched = config()
    touched.use_cache = False
    touched.save_pretrained(tmp_path)
    assert Uni4EyeConfig.from_pretrained(tmp_path).hidden_size == 24


def test_given_noise_decides_the_mask_and_absent_noise_draws_one():
    model = Uni4EyeForPreTraining(config()).eval()
    values, noise = images(), torch.rand(2, 16)
    first, second = model(pixel_values=values, noise=noise), model(pixel_values=values, noise=noise)
    assert torch.equal(first.loss, second.loss)
    assert first.image.mask.sum() == 2 * 12
    assert not torch.equal(model(pixel_values=values).image.mask, model(pixel_values=values).image.mask)


def test_other_sizes_than_the_tables_work():
    model = Uni4EyeModel(config(image_positions="table", volume_positions="table"))
    assert model(torch.rand(1, 3, 16, 48)).last_hidden_state.shape == (1, 13, 24)
    assert model(torch.rand(1, 1, 12, 16, 6)).last_hidden_state.shape == (1, 7, 24)


def test_activation_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    model = Uni4EyeForPreTraining(config()).train()
    inputs = {"pixel_values": images(), "noise": torch.rand(2, 16)}
    parameters = [p for n, p in model.named_parameters() if "volume" not in n]
    plain = torch.autograd.grad(model(**inputs).loss, parameters)
    model.activation_checkpointing_enable()
    checkpointed = torch.autograd.grad(model(**inputs).loss, parameters)
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))


def test_presets_have_the_published_sizes():
    assert sorted(PRESETS) == ["base", "large", "small", "tiny"]
    large = Uni4EyeConfig.preset("large", num_labels=2)
    assert (large.hidden_size, large.num_hidden_layers, large.num_attention_heads) == (1024, 24, 16)
    with torch.device("meta"):
        model = Uni4EyeForPreTraining(
            Uni4EyeConfig.preset("large", volume_size=(64, 112, 64), shared_decoder_norm=True)
        )
    # 364.1 M in the authors' code, less their frozen position tables (0.63 M values).
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 363.5


def test_wrong_values_are_refused_by_name():
    with pytest.raises(ContractError, match="Did you mean 'hidden_size'"):
        Uni4EyeConfig(hiden_size=12)
    with pytest.raises(ContractError, match="Did you mean 'small'"):
        Uni4EyeConfig.preset("smal")
    with pytest.raises(ContractError, match="is not 3 positive numbers"):
        Uni4EyeConfig(volume_size=(4, 4))
    with pytest.raises(Exception, match="volume_stem"):
        Uni4EyeConfig(volume_stem="shared")
    with pytest.raises(ContractError, match="neither images nor volumes"):
        Uni4EyeForPreTraining(config())()
    with pytest.raises(ContractError, match="do not match the 3 classes"):
        Uni4EyeForImageClassification(config(class_weights=[1.0, 2.0]))


def test_auto_config_finds_the_type(tmp_path):
    config().save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), Uni4EyeConfig)


def test_two_steps_of_the_hugging_face_trainer_change_the_weights(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = Uni4EyeForPreTraining(config())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = [{"pixel_values": images(1)[0], "voxel_values": volumes(1)[0]} for _ in range(4)]
    arguments = TrainingArguments(tmp_path, max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True)
    result = Trainer(model, arguments, train_dataset=data).train()
    assert result.global_step == 2
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_bf16_autocast_keeps_the_losses_in_float32():
    model = Uni4EyeForPreTraining(config())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(pixel_values=images(), voxel_values=volumes())
    assert all(loss.dtype == torch.float32 for loss in output.losses.values())


def test_importing_the_models_loads_no_reader_and_no_plotting():
    code = (
        "import sys, crossdim.models.uni4eye; "
        "print([m for m in ('nibabel', 'pydicom', 'matplotlib', 'torchvision') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
