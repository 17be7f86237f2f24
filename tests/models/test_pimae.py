"""The contract every PiMAE model keeps."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

import crossdim.models.auto  # noqa: F401
from crossdim.errors import ContractError
from crossdim.heads.point_reconstruction import RELEASED_MAP, chamfer_distance
from crossdim.masking import mask_by_noise
from crossdim.models.pimae import PimaeForImageClassification, PimaeForPreTraining, PimaeModel
from crossdim.models.pimae_config import PRESETS, PimaeConfig

SIZES = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "image_size": (32, 48),
    "patch_size": 8,
    "image_num_hidden_layers": 2,
    "image_intermediate_size": 48,
    "num_points": 64,
    "num_groups": 10,
    "group_size": 4,
    "points_num_hidden_layers": 1,
    "points_intermediate_size": 32,
    "joint_num_hidden_layers": 2,
    "joint_intermediate_size": 32,
    "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "image_decoder_num_hidden_layers": 1,
    "num_labels": 3,
}
CAMERA = torch.tensor([[60.0, 24, 0, 0], [0, 16, -60, 0], [0, 1, 0, 0]])
"""Looks along y at a frame of 32 x 48 pixels; z is up."""


def config(**overrides):
    return PimaeConfig(**{**SIZES, **overrides})


def scenes(batch=2, size=(32, 48), **more):
    """Return points in front of the camera, most of them in the image, and noise that decides the masks."""
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(batch, 64, 3, generator=generator) * torch.tensor([3, 2, 2]) + torch.tensor([-1.5, 2, -1])
    return {
        "points": points,
        "points_noise": torch.rand(batch, 10, generator=generator),
        "pixel_values": torch.rand(batch, 3, *size, generator=generator),
        "image_noise": torch.rand(batch, size[0] // 8 * size[1] // 8, generator=generator),
        "projection": CAMERA.expand(batch, 3, 4),
        "frame_size": torch.tensor([[32, 48]] * batch),
    } | more


def images(batch=2):
    return torch.rand(batch, 3, 32, 48)


def pretraining(**overrides):
    torch.manual_seed(0)
    return PimaeForPreTraining(config(**overrides))


OPTIONS = [
    {},
    {"mask_alignment": "uniform", "points_masking": "block", "chamfer": "l1", "norm_pix_loss": True},
    {"mask_alignment": "independent", "cross_modal_target": "pixels", "embed_hidden_points": True},
    {"cross_modal_target": "none", "points_decoder_num_hidden_layers": 1, "num_channels": 1},
    {"cross_modal_sampling": "upsampled", "cross_modal_axes": "vu", "pixel_convention": "released"},
]


def inputs_for(options):
    return scenes(pixel_values=torch.rand(2, options.get("num_channels", 3), 32, 48))


@pytest.mark.parametrize("options", OPTIONS)
def test_every_trainable_parameter_gets_a_gradient_from_one_step(options):
    model = pretraining(**options).train()
    model(**inputs_for(options)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("problem", ["multiclass", "multilabel", "ordinal"])
@pytest.mark.parametrize(("layers", "pooling"), [("image", "mean"), ("joint", "mean"), ("joint", "cls")])
def test_every_parameter_of_a_classifier_gets_a_gradient(problem, layers, pooling):
    model = PimaeForImageClassification(config(problem=problem, classifier_layers=layers, pooling=pooling))
    labels = torch.eye(3)[:2] if problem == "multilabel" else torch.tensor([0, 2])
    output = model(images(), labels=labels)
    output.loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert model.probabilities(output.logits).shape == (2, 3)


@pytest.mark.parametrize(("option", "value"), [
    ("dropout", 0.5),
    ("unit_m", 0.2),
    ("point_hidden_size", 8),
    ("points_decoder_drop_path_rate", 0.9),
    ("image_mask_ratio", 0.3),
    ("points_mask_ratio", 0.3),
    ("points_masking", "block"),
    ("mask_alignment", "uniform"),
    ("mask_alignment", "independent"),
    ("embed_hidden_points", True),
    ("cross_modal_target", "pixels"),
    ("cross_modal_sampling", "upsampled"),
    ("cross_modal_axes", "vu"),
    ("pixel_convention", "released"),
    ("chamfer", "l1"),
    ("norm_pix_loss", True),
    ("points_weight", 2.0),
    ("image_weight", 2.0),
    ("cross_modal_weight", 2.0),
])  # fmt: skip
def test_every_option_changes_the_loss_and_nothing_else_need_differ(option, value):
    plain = pretraining(dropout=0.1, points_decoder_drop_path_rate=0.1).train()
    other = pretraining(**{"dropout": 0.1, "points_decoder_drop_path_rate": 0.1, option: value}).train()
    weights = {k: v for k, v in plain.state_dict().items() if other.state_dict()[k].shape == v.shape}
    other.load_state_dict(weights, strict=False)
    losses = []
    for model in (plain, plain, other):
        model.load_state_dict(weights, strict=False)  # of batch normalisation too
        torch.manual_seed(0)
        output = model(**scenes())
        losses.append((output.loss.item(), output.losses["cross_modal"].item(), output.cross_modal_target.tolist()))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_centres_near_the_origin_are_an_option():
    cloud = scenes()["points"]
    cloud[:, 3] = torch.tensor([0.01, 0.01, 0.01])
    allowed, skipped = (PimaeModel(config(skip_points_near_origin=skip)).group(cloud) for skip in (False, True))
    assert (allowed.center_index == 3).any(dim=1).all()
    assert not (skipped.center_index == 3).any()


def test_the_loss_is_the_weighted_sum_of_its_parts():
    output = pretraining(points_weight=2.0, image_weight=0.5, cross_modal_weight=3.0)(**scenes())
    parts = output.losses
    assert list(parts) == ["points", "image", "cross_modal"]
    torch.testing.assert_close(output.loss, 2 * parts["points"] + 0.5 * parts["image"] + 3 * parts["cross_modal"])


def test_the_parts_are_measured_on_what_is_hidden():
    output = pretraining().eval()(**scenes())
    assert output.points_prediction.shape == output.points_target.shape == (2, 6, 4, 3)
    distance = chamfer_distance(output.points_prediction.flatten(0, 1), output.points_target.flatten(0, 1))
    torch.testing.assert_close(output.losses["points"], distance)
    hidden = output.encoded.image_mask.mask.bool()
    errors = (output.image_prediction - output.image_target)[hidden].square()
    torch.testing.assert_close(output.losses["image"], errors.mean())
    counts = output.cross_modal_counts.bool()
    assert 0 < counts.sum() < counts.numel()
    errors = (output.cross_modal_prediction - output.cross_modal_target)[counts].square()
    torch.testing.assert_close(output.losses["cross_modal"], errors.mean())


def test_complement_shows_the_patches_that_hidden_points_fall_into_and_uniform_hides_them():
    complement, uniform = (pretraining(mask_alignment=kind).eval()(**scenes()) for kind in ("complement", "uniform"))
    assert complement.hit.sum() > 4
    assert torch.equal(complement.hit, uniform.hit)
    assert not (complement.encoded.image_mask.mask.bool() & complement.hit).any()
    assert uniform.encoded.image_mask.mask.bool()[uniform.hit].all()
    assert pretraining(mask_alignment="independent")(**scenes()).hit is None


def test_no_gradient_of_the_cross_modal_loss_reaches_the_image_decoder():
    model = pretraining()
    loss = model(**scenes()).losses["cross_modal"]
    image_side = [*model.image_decoder.parameters(), *model.image_head.parameters()]
    point_side = [*model.points_decoder.parameters(), *model.cross_modal_head.parameters()]
    grads = torch.autograd.grad(loss, image_side + point_side, allow_unused=True)
    assert all(grad is None for grad in grads[: len(image_side)])
    used = [grad for grad in grads[len(image_side) :] if grad is not None]
    assert len(used) == len(point_side)


def test_points_behind_the_camera_or_outside_the_image_do_not_count():
    behind = scenes(points=scenes()["points"] * torch.tensor([1.0, -1, 1]))
    model = pretraining().eval()
    output = model(**behind)
    assert not output.hit.any()
    assert not output.cross_modal_counts.any()
    assert output.losses["cross_modal"] == 0
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    aside = scenes(projection=CAMERA.expand(2, 3, 4) + torch.tensor([[0, 5000.0, 0, 0], [0] * 4, [0] * 4]))
    assert pretraining().eval()(**aside).losses["cross_modal"] == 0


def test_released_points_outside_count_with_zeros_as_their_target():
    aside = scenes(projection=CAMERA.expand(2, 3, 4) + torch.tensor([[0, 5000.0, 0, 0], [0] * 4, [0] * 4]))
    for sampling in ("direct", "upsampled"):
        output = pretraining(pixel_convention="released", cross_modal_sampling=sampling).eval()(**aside)
        assert output.cross_modal_counts.all()
        assert not output.cross_modal_target.any()
        torch.testing.assert_close(output.losses["cross_modal"], output.cross_modal_prediction.square().mean())


def test_targets_are_the_features_of_the_patch_a_point_falls_on():
    inputs = scenes()
    output = pretraining(cross_modal_target="pixels").eval()(**inputs)
    u, v, inside = output.places
    column, row = (u * 48).long().clamp(0, 47), (v * 32).long().clamp(0, 31)
    nearest = torch.stack([image[:, r, c].T for image, r, c in zip(inputs["pixel_values"], row, column, strict=True)])
    smooth = torch.linspace(0, 1, 48).expand(2, 3, 32, 48)
    output = pretraining(cross_modal_target="pixels").eval()(**scenes(pixel_values=smooth))
    expected = (column / 47)[..., None].expand(-1, -1, 3)
    torch.testing.assert_close(output.cross_modal_target[inside], expected[inside], rtol=0, atol=0.02)
    assert nearest.shape == output.cross_modal_target.shape


def test_a_stretched_image_keeps_the_places_of_points():
    wide = scenes(size=(32, 96))
    assert torch.equal(pretraining()(**wide).places.u, pretraining()(**scenes()).places.u)


@pytest.mark.parametrize("size", [(8, 16), (40, 24), (64, 80)])
def test_images_of_any_size_work(size):
    output = pretraining()(**scenes(size=size))
    assert output.image_prediction.shape == (2, size[0] * size[1] // 64, 192)
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("missing", ["points", "image"])
def test_a_missing_modality_takes_its_losses_with_it(missing):
    keys = ("points", "points_noise") if missing == "image" else ("pixel_values", "image_noise")
    part = {key: scenes()[key] for key in keys}
    model = pretraining()
    output = model(**part)
    other = "image" if missing == "points" else "points"
    assert list(output.losses) == [other]
    output.loss.backward()
    branch = {"points": "point_", "image": "patch_embed"}
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert any(branch[missing] in name for name in without)
    assert not any(branch[other] in name for name in without)
    encoder = PimaeModel(config()).eval()
    alone = encoder(points=part.get("points"), pixel_values=part.get("pixel_values"))
    assert alone.pooler_output.shape == (2, 24)
    torch.testing.assert_close(alone.pooler_output, alone.last_hidden_state[:, 1:].mean(dim=1))


def test_the_feature_of_a_scene_is_the_mean_over_both_modalities():
    output = PimaeModel(config()).eval()(scenes()["points"], images())
    assert output.image_hidden_state.shape == (2, 24, 24)
    assert output.points_hidden_state.shape == (2, 10, 24)
    assert output.last_hidden_state.shape == (2, 35, 24)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, 1:].mean(dim=1))


def test_given_masks_are_used_and_given_noise_decides():
    model, inputs = pretraining().eval(), scenes()
    points_mask = torch.zeros(2, 10, dtype=torch.bool)
    points_mask[0, :3], points_mask[1, 5:8] = True, True
    image_mask = mask_by_noise(torch.rand(2, 24), 0.5)
    output = model(**inputs | {"points_mask": points_mask, "image_noise": image_mask})
    assert torch.equal(output.encoded.points_mask, points_mask)
    assert output.encoded.image_mask is image_mask
    assert output.points_prediction.shape[1] == 3
    visible = output.encoded.groups.take((~points_mask).nonzero()[:, 1].reshape(2, 7))
    torch.testing.assert_close(
        output.encoded.points_hidden_state,
        model.pimae.points_encoder(model.pimae.embed_points(visible) + model.pimae.points_embedding),
    )
    assert torch.equal(model(**inputs).loss, model(**inputs).loss)
    drawn = {key: value for key, value in inputs.items() if "noise" not in key}
    masks = [model(**drawn).encoded for _ in range(4)]
    assert any(not torch.equal(masks[0].points_mask, each.points_mask) for each in masks)
    assert any(not torch.equal(masks[0].image_mask.mask, each.image_mask.mask) for each in masks)


def test_hidden_groups_touch_nothing_but_the_statistics_of_the_released_way():
    released, ours = (pretraining(embed_hidden_points=value, dropout=0.0) for value in (True, False))
    torch.testing.assert_close(released.eval()(**scenes()).loss, ours.eval()(**scenes()).loss)
    released.train()(**scenes())
    ours.train()(**scenes())
    means = [model.pimae.point_tokens.first_conv[1].running_mean for model in (released, ours)]
    assert not torch.equal(*means)


def test_a_scene_does_not_depend_on_its_batch():
    model, both = pretraining().eval(), scenes(3)
    alone = {key: value[1:2] for key, value in both.items()}
    together, single = model(**both), model(**alone)
    for name in ("image_prediction", "points_prediction", "cross_modal_prediction", "cross_modal_target"):
        torch.testing.assert_close(getattr(together, name)[1:2], getattr(single, name), rtol=1e-4, atol=1e-5)
    pooled = together.encoded.pooler_output[1:2]
    torch.testing.assert_close(pooled, single.encoded.pooler_output, rtol=1e-4, atol=1e-5)


def test_the_order_of_points_matters_only_through_the_first_centre():
    model, points = PimaeModel(config()).eval(), scenes()["points"]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = points[:, order]
    expected = model(points).last_hidden_state
    found = model(shuffled, fps_start=int((order == 0).nonzero()))
    torch.testing.assert_close(found.last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(shuffled).last_hidden_state, expected)


def test_activation_checkpointing_changes_no_gradient():
    model = pretraining().train()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    gradients = []
    for enable in (False, True):
        model.load_state_dict(statistics, strict=False)
        if enable:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(model(**scenes()).loss, list(model.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_enlarged_map_is_never_built_by_default():
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
            return made

    largest = {}
    for sampling in ("direct", "upsampled"):
        model = pretraining(cross_modal_sampling=sampling)
        with Largest() as seen:
            model(**scenes()).loss.backward()
        largest[sampling] = seen.elements
    assert largest["upsampled"] >= 2 * 16 * RELEASED_MAP[0] * RELEASED_MAP[1] > 10 * largest["direct"]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_saved_model_loads_bit_for_bit_through_the_auto_classes(options, tmp_path):
    for auto, cls in (
        (AutoModel, PimaeModel),
        (AutoModelForPreTraining, PimaeForPreTraining),
        (AutoModelForImageClassification, PimaeForImageClassification),
    ):
        model = cls(config(**options, class_weights=[1.0, 2.0, 1.0]))
        model.save_pretrained(tmp_path / cls.__name__)
        again = auto.from_pretrained(tmp_path / cls.__name__)
        assert type(again) is cls
        assert again.config.to_diff_dict() == model.config.to_diff_dict()
        assert model.state_dict().keys() == again.state_dict().keys()
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
        )
    values = torch.rand(2, model.config.num_channels, 32, 48)
    labels = torch.tensor([0, 2])
    torch.testing.assert_close(again.eval()(values, labels=labels).loss, model.eval()(values, labels=labels).loss)


def test_a_classifier_takes_its_encoder_from_a_pretraining_checkpoint(tmp_path):
    pretrained = pretraining()
    pretrained.save_pretrained(tmp_path)
    for layers in ("image", "joint"):
        classifier = PimaeForImageClassification.from_pretrained(tmp_path, classifier_layers=layers)
        for name, value in classifier.pimae.state_dict().items():
            assert torch.equal(pretrained.pimae.state_dict()[name], value)
    encoder = PimaeModel.from_pretrained(tmp_path)
    for name, value in encoder.state_dict().items():
        assert torch.equal(pretrained.pimae.state_dict()[name], value)


def test_weights_are_drawn_as_released():
    torch.manual_seed(0)
    model = PimaeForPreTraining(PimaeConfig.preset("tiny", hidden_size=128))
    linear = model.pimae.image_encoder.layers[0].attention.qkv.weight
    assert linear.std().item() == pytest.approx(0.02, rel=0.05)
    detr = model.pimae.joint.layers[0].attention.qkv.weight
    assert detr.abs().max().item() == pytest.approx((6 / (128 + 384)) ** 0.5, rel=0.01)
    assert model.pimae.points_encoder.layers[0].attention.proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    patch = model.pimae.patch_embed
    assert patch.weight.abs().max().item() == pytest.approx((6 / (128 + 768)) ** 0.5, rel=0.01)
    assert 0 < patch.bias.abs().max() <= 768**-0.5
    assert model.image_mask_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert model.points_mask_token.std().item() == pytest.approx(0.02, rel=0.3)
    for name in ("image_decoder_embedding", "points_decoder_embedding", "image_head.bias", "pimae.joint.cls_token"):
        assert not model.get_parameter(name).any()
    assert torch.equal(model.pimae.point_tokens.first_conv[1].running_var, torch.ones(128))


def test_presets_have_the_published_sizes():
    assert sorted(PRESETS) == ["paper", "tiny"]
    model = PimaeForPreTraining(PimaeConfig.preset("paper"))
    # 8,713,312 trainable ones in the authors' code, less one class token and three norms that theirs never use.
    assert sum(p.numel() for p in model.parameters()) == 8_713_312 - 7 * 256
    assert PimaeConfig.preset("tiny", num_labels=5).num_labels == 5


def test_layers_of_a_classifier_are_counted():
    assert config().num_hidden_layers == 2
    assert config(classifier_layers="joint").num_hidden_layers == 4


@pytest.mark.parametrize("layers", ["image", "joint"])
def test_padding_changes_nothing_for_a_classifier(layers):
    model = PimaeForImageClassification(config(classifier_layers=layers)).eval()
    values, padding = images(), torch.zeros(2, 24, dtype=torch.bool)
    padding[:, 12:] = True
    expected = model(values, padding_mask=padding).logits
    values[:, :, 16:] = 9
    torch.testing.assert_close(model(values, padding_mask=padding).logits, expected)
    # Position codes of the upper half are those of an image of this size.
    torch.testing.assert_close(model(values[:, :, :16]).logits, expected, rtol=1e-4, atol=1e-5)


def test_groups_of_points_look_at_the_image():
    model, inputs = PimaeModel(config()).eval(), scenes()
    every = model.point_attention(inputs["points"], inputs["pixel_values"])
    assert every.shape == (2, 10, 24)
    assert ((every > 0) & (every < 1)).all()
    assert (every.sum(dim=2) < 1).all()
    groups = model.group(inputs["points"])
    chosen = model.point_attention(groups, inputs["pixel_values"], queries=torch.tensor([7]))
    torch.testing.assert_close(chosen[:, 0], every[:, 7])
    assert not torch.allclose(model.point_attention(groups, inputs["pixel_values"], layer=0), every)


def test_wrong_values_are_refused_by_name():
    with pytest.raises(ContractError, match="Did you mean 'hidden_size'"):
        PimaeConfig(hiden_size=12)
    with pytest.raises(ContractError, match="no such key"):
        PimaeConfig(num_hidden_layers=12)
    with pytest.raises(ContractError, match="Did you mean 'tiny'"):
        PimaeConfig.preset("tinny")
    with pytest.raises(ContractError, match="is not 2 positive numbers"):
        PimaeConfig(image_size=(4, 4, 4))
    with pytest.raises(ContractError, match="hides none or all of 10 groups"):
        config(points_mask_ratio=0.05)
    with pytest.raises(ContractError, match="need multiples of four"):
        config(hidden_size=22)
    with pytest.raises(ContractError, match="has no class token"):
        config(pooling="cls")
    with pytest.raises(Exception, match="mask_alignment"):
        config(mask_alignment="none")
    with pytest.raises(ContractError, match="do not match the 3 classes"):
        PimaeForImageClassification(config(class_weights=[1.0, 2.0]))


def test_wrong_inputs_are_refused():
    model, inputs = pretraining(), scenes()
    with pytest.raises(ContractError, match="neither points nor images"):
        model()
    with pytest.raises(ContractError, match="no tokens at all"):
        model.pimae()
    with pytest.raises(ContractError, match="nothing says where the points are"):
        model(points=inputs["points"], pixel_values=inputs["pixel_values"])
    with pytest.raises(ContractError, match="has 1 channels where this model takes 3"):
        model(pixel_values=torch.rand(1, 1, 32, 48))
    with pytest.raises(ContractError, match="not a multiple of the patch"):
        model(pixel_values=torch.rand(1, 3, 32, 50))
    with pytest.raises(ContractError, match="9 points"):
        model(points=inputs["points"][:, :9])
    with pytest.raises(ContractError, match="Hide equally many groups"):
        model(points=inputs["points"], points_mask=torch.eye(10, dtype=torch.bool)[:2].cumsum(1).bool())
    with pytest.raises(ContractError, match=r"hides \[0\] groups"):
        model(points=inputs["points"], points_mask=torch.zeros(2, 10, dtype=torch.bool))


def test_points_and_images_need_no_camera_where_nothing_crosses():
    model = pretraining(mask_alignment="independent", cross_modal_target="none")
    inputs = {key: scenes()[key] for key in ("points", "pixel_values")}
    assert list(model(**inputs).losses) == ["points", "image"]


def test_bf16_autocast_keeps_the_losses_and_the_geometry_in_float32():
    model, inputs = pretraining().eval(), scenes()
    expected = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs)
    assert all(loss.dtype == torch.float32 for loss in output.losses.values())
    assert torch.equal(output.encoded.groups.member_index, expected.encoded.groups.member_index)
    assert torch.equal(output.hit, expected.hit)
    assert torch.equal(output.places.u, expected.places.u)
    torch.testing.assert_close(output.loss, expected.loss, rtol=0.02, atol=0)


def test_a_bf16_model_takes_points_in_float32():
    model, inputs = pretraining().eval(), scenes()
    expected = model(**inputs)
    output = model.bfloat16()(**inputs)
    assert output.image_prediction.dtype == torch.bfloat16
    assert torch.equal(output.hit, expected.hit)
    torch.testing.assert_close(output.loss, expected.loss, rtol=0.05, atol=0)
    output.loss.backward()


def test_auto_config_finds_the_type(tmp_path):
    touched = config()
    touched.use_cache = False
    touched.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), PimaeConfig)


def test_two_steps_of_the_hugging_face_trainer_change_the_weights(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = pretraining()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    both = scenes(4)
    data = [{key: value[place] for key, value in both.items()} for place in range(4)]
    arguments = TrainingArguments(tmp_path, max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True)
    result = Trainer(model, arguments, train_dataset=data).train()
    assert result.global_step == 2
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_importing_the_models_loads_no_reader_and_no_plotting():
    code = (
        "import sys, crossdim.models.pimae; "
        "print([m for m in ('nibabel', 'pydicom', 'matplotlib', 'torchvision') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
