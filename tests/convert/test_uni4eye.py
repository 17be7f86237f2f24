"""Checkpoint files of every layout become folders that load, with a report that leaves no key out."""

import argparse
import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForPreTraining

from crossdim.convert import convert_state_dict
from crossdim.convert.keys import our_name
from crossdim.convert.uni4eye import REPORT_NAME, convert_uni4eye
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.models import auto
from crossdim.models.uni4eye import Uni4EyeForPreTraining, Uni4EyeModel
from crossdim.samples import Image, Origin
from crossdim.transforms.contract import PercentileIntensity, PreprocessingContract
from tests.parity.fixture import fill
from tests.parity.reference import layers, official_keys

assert auto

WIDTH, DEPTH, DECODER, PATCH = 192, 2, 32, 4
SIDE = 3
"""Patches along each axis of an image."""

Shapes = dict[str, tuple[int, ...]]


def stack(name: str, depth: int, width: int) -> Shapes:
    shapes = {}
    for block in (f"{name}.{place}" for place in range(depth)):
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linears |= {"mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width)}
        for linear, shape in linears.items():
            shapes |= {f"{block}.{linear}.weight": shape, f"{block}.{linear}.bias": shape[:1]}
    return shapes


def encoder(two: str = "", channels: int = 3) -> Shapes:
    shapes: Shapes = {"cls_token": (1, 1, WIDTH), f"pos_embed{two}": (1, 1 + SIDE**2, WIDTH)}
    shapes |= {
        f"patch_embed.proj{two}.weight": (WIDTH, channels, PATCH, PATCH),
        f"patch_embed.proj{two}.bias": (WIDTH,),
    }
    return shapes | stack("blocks", DEPTH, WIDTH) | {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}


def decoder(two: str = "", channels: int = 3) -> Shapes:
    shapes: Shapes = {"mask_token": (1, 1, DECODER), f"decoder_pos_embed{two}": (1, 1 + SIDE**2, DECODER)}
    shapes |= {"decoder_embed.weight": (DECODER, WIDTH), "decoder_embed.bias": (DECODER,)}
    shapes |= {"decoder_norm.weight": (DECODER,), "decoder_norm.bias": (DECODER,)}
    values = PATCH**2 * channels
    shapes |= {f"decoder_pred{two}.weight": (values, DECODER), f"decoder_pred{two}.bias": (values,)}
    return shapes | stack("decoder_blocks", 1, DECODER)


def dynamic_head() -> Shapes:
    tokens = SIDE**2
    controller = {"controller.weight": (tokens**2 + tokens, tokens + 8, 1), "controller.bias": (tokens**2 + tokens,)}
    return controller | {"mlp.weight": (2, 40), "mlp.bias": (2,)}


def volume_stem(positions: int, channels: int) -> Shapes:
    return {
        "pos_embed3": (1, 1 + positions, WIDTH),
        "patch_embed.proj3.weight": (WIDTH, channels, PATCH, PATCH, PATCH),
        "patch_embed.proj3.bias": (WIDTH,),
    }


def dual(positions: int = 112, channels: int = 3) -> Shapes:
    shapes = encoder("2") | decoder("2") | volume_stem(positions, channels)
    shapes |= {"decoder_pos_embed3": (1, 1 + positions, DECODER), "decoder_pos_embed31": (1, 1 + positions, DECODER)}
    shapes |= {"decoder_pos_embed21": (1, 1 + SIDE**2, DECODER), "mask_token1": (1, 1, DECODER)}
    shapes |= {"decoder_embed1.weight": (DECODER, WIDTH), "decoder_embed1.bias": (DECODER,)}
    shapes |= stack("decoder_blocks1", 1, DECODER)
    for name, values in (("pred3", PATCH**3), ("pred21", PATCH**2), ("pred31", PATCH**3)):
        shapes |= {f"decoder_{name}.weight": (values, DECODER), f"decoder_{name}.bias": (values,)}
    return shapes


def head_23d() -> Shapes:
    shapes = encoder("2") | decoder("2") | volume_stem(1372, 3) | dynamic_head()
    shapes |= {"decoder_pos_embed3": (1, 1373, DECODER)}
    return shapes | {"decoder_pred3.weight": (48, DECODER), "decoder_pred3.bias": (48,)}


def filled(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.from_numpy(fill(name, shape)) for name, shape in shapes.items()}


def save(tmp_path, weights: dict[str, Tensor], **arguments: object):
    path = tmp_path / "authors.pth"
    content = {"model": weights, "epoch": np.int64(3), "args": argparse.Namespace(device="cuda", **arguments)}
    torch.save(content, path)
    return path


def pre_trained(folder) -> tuple[Uni4EyeForPreTraining, dict]:
    model, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, Uni4EyeForPreTraining)
    return model.eval(), info


def official_encoder(weights: dict[str, Tensor], images: Tensor, two: str = "") -> Tensor:
    """The authors' encoder without a mask, by the reference forward."""
    tokens = F.conv2d(images, weights[f"patch_embed.proj{two}.weight"], weights[f"patch_embed.proj{two}.bias"], PATCH)
    x = torch.cat([weights["cls_token"].expand(len(images), -1, -1), tokens.flatten(2).transpose(1, 2)], 1)
    x = layers(x + weights[f"pos_embed{two}"], weights, "blocks", 3, 1e-6)
    return F.layer_norm(x, (WIDTH,), weights["norm.weight"], weights["norm.bias"], 1e-6)


LAYOUTS = {
    "dual, as released": (dual(), "Uni4Eye, dual-branch"),
    "dual, working stem": (dual(channels=1), "Uni4Eye, dual-branch"),
    "++ HEAD": (head_23d(), "Uni4Eye++, images and volumes"),
    "++ released": (encoder() | decoder() | dynamic_head(), "Uni4Eye++ as released, images only"),
    "mae pre-training": (encoder() | decoder(), "MAE, pre-training"),
    "mae encoder": (encoder(), "MAE, encoder"),
    "mae fine-tuned": (encoder() | {"head.weight": (5, WIDTH), "head.bias": (5,)}, "MAE, fine-tuned"),
    "uni4eye encoder": (encoder("2") | volume_stem(8, 1), "Uni4Eye, encoder"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_a_folder_that_loads(tmp_path, layout):
    shapes, name = LAYOUTS[layout]
    report = convert_uni4eye(save(tmp_path, filled(shapes)), tmp_path / "out")
    assert report.layout == name
    assert {*report.keys.used, *report.keys.unused} == set(shapes)
    assert not set(report.keys.used) & set(report.keys.unused)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["config.json", "contract.json", REPORT_NAME, "model.safetensors"]
    )
    automatic = AutoModelForPreTraining if report.architecture == "Uni4EyeForPreTraining" else AutoModel
    model, info = automatic.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert set(info["missing_keys"]) == set(report.keys.missing)
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    expected = set(model.state_dict())
    assert set(report.keys.used.values()) | set(report.keys.missing) == expected
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert len(written["sha256"]) == 64
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("layout", "two"), [("mae pre-training", ""), ("++ released", ""), ("dual, as released", "2")])
def test_the_converted_encoder_gives_the_authors_features(tmp_path, layout, two):
    weights = filled(LAYOUTS[layout][0])
    convert_uni4eye(save(tmp_path, weights), tmp_path / "out")
    model, _ = pre_trained(tmp_path / "out")
    contract = PreprocessingContract.from_pretrained(tmp_path / "out")
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE * PATCH, SIDE * PATCH), dtype=np.uint8)
    prepared = contract.prepare(Image(pixels, "uint8", Origin("image.png"))).tensor[None]
    theirs = torch.from_numpy(pixels.astype(np.float32) / 255)[None]
    if layout == "mae pre-training":
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        theirs = (theirs - mean[:, None, None]) / std[:, None, None]
    else:
        theirs = theirs.flip(1)  # They read images with OpenCV, as BGR.
    with torch.no_grad():
        ours = model.uni4eye(prepared).last_hidden_state
    torch.testing.assert_close(ours, official_encoder(weights, theirs, two), rtol=1e-4, atol=1e-4)


def test_a_reconstruction_comes_out_in_rgb(tmp_path):
    weights = filled(dual())
    convert_uni4eye(save(tmp_path, weights), tmp_path / "out")
    model, _ = pre_trained(tmp_path / "out")
    turned = model.intensity_decoder.image_head.bias.unflatten(0, (PATCH**2, 3))
    assert torch.equal(turned.flip(1).flatten(), weights["decoder_pred2.bias"])
    assert torch.equal(model.gradient_decoder.image_head.bias, weights["decoder_pred21.bias"])


def test_a_stem_of_three_channels_becomes_one_for_grey_volumes(tmp_path):
    weights = filled(dual())
    report = convert_uni4eye(save(tmp_path, weights), tmp_path / "out")
    assert report.keys.reshaped["patch_embed.proj3.weight"] == "summed over its 3 input channels"
    model, _ = pre_trained(tmp_path / "out")
    assert model.config.volume_size == (16, 28, 16)
    volume = torch.rand(1, 1, 8, 8, 8)
    theirs = F.conv3d(
        volume.expand(-1, 3, -1, -1, -1), weights["patch_embed.proj3.weight"], weights["patch_embed.proj3.bias"], PATCH
    )
    with torch.no_grad():
        ours = model.uni4eye.patch_embed(volume)
    torch.testing.assert_close(ours, theirs.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_the_dual_options_are_those_of_the_release(tmp_path):
    convert_uni4eye(save(tmp_path, filled(dual()), mask_ratio=0.6, norm_pix_loss=True), tmp_path / "out")
    config = pre_trained(tmp_path / "out")[0].config
    assert (config.mask_ratio, config.volume_mask_ratio, config.norm_pix_loss) == (0.6, 0.6, True)
    assert (config.shared_decoder_norm, config.gradient_target, config.edge_scale) == (True, "uint8", 1.0)
    assert config.image_positions == config.volume_positions == "table"


def test_the_second_gradient_recipe_is_recognised_by_its_three_maps(tmp_path):
    weights = filled(dual() | {"decoder_pred21.weight": (48, DECODER), "decoder_pred21.bias": (48,)})
    convert_uni4eye(save(tmp_path, weights), tmp_path / "out")
    assert pre_trained(tmp_path / "out")[0].config.gradient_target == "uint8_chw"


def test_tables_of_zeros_become_no_positions(tmp_path):
    weights = filled(dual(positions=30))
    for name in weights:
        if "pos_embed" in name:
            weights[name] = torch.zeros_like(weights[name])
    report = convert_uni4eye(save(tmp_path, weights), tmp_path / "out")
    config = pre_trained(tmp_path / "out")[0].config
    assert config.image_positions == config.volume_positions == "none"
    assert report.keys.unused["pos_embed3"] == "all zero: the same as no positions"


def test_the_head_of_another_brick_is_left_out_with_the_reason(tmp_path):
    report = convert_uni4eye(save(tmp_path, filled(head_23d())), tmp_path / "out")
    assert report.keys.unused["decoder_pred3.weight"].startswith("predicts patches of 48 values")
    assert "dynamic head" in report.keys.unused["controller.weight"]
    assert report.keys.unused["mlp.bias"].startswith("dead weight")
    assert any("encoder is exact, reconstructions are not" in note for note in report.notes)
    assert pre_trained(tmp_path / "out")[0].config.mask_ratio == 0.5


def test_an_inflated_stem_sees_equal_slices_as_a_grey_image(tmp_path):
    weights = filled(encoder())
    report = convert_uni4eye(save(tmp_path, weights), tmp_path / "out", inflate=True)
    assert report.keys.missing == ()
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    contract = PreprocessingContract.from_pretrained(tmp_path / "out")
    grey = torch.rand(1, 1, 8, 8)
    image = (grey - torch.tensor(contract.image.mean)[:, None, None]) / torch.tensor(contract.image.std)[:, None, None]
    volume = ((grey - contract.volume.mean[0]) / contract.volume.std[0])[:, :, None].expand(-1, -1, PATCH, -1, -1)
    with torch.no_grad():
        of_image, of_volume = model.patch_embed(image), model.patch_embed(volume)
    torch.testing.assert_close(of_volume, of_image, rtol=1e-4, atol=1e-4)


def test_a_volume_is_embedded_after_inflation_from_the_released_layout(tmp_path):
    weights = filled(encoder() | decoder() | dynamic_head())
    report = convert_uni4eye(save(tmp_path, weights), tmp_path / "out", inflate=True, volume_size=(8, 8, 8))
    assert set(report.keys.missing) == {"intensity_decoder.volume_head.weight", "intensity_decoder.volume_head.bias"}
    model, _ = pre_trained(tmp_path / "out")
    assert model.config.volume_size == (8, 8, 8)
    assert model.uni4eye(torch.rand(1, 1, 8, 8, 8)).last_hidden_state.shape == (1, 9, WIDTH)


def test_without_inflation_volumes_are_refused(tmp_path):
    report = convert_uni4eye(save(tmp_path, filled(encoder())), tmp_path / "out")
    assert set(report.keys.missing) == {"patch_embed.volume.weight", "patch_embed.volume.bias"}
    assert PreprocessingContract.from_pretrained(tmp_path / "out").volume is None


def test_volumes_are_z_scored_over_what_is_above_zero_as_in_the_authors_code(tmp_path):
    convert_uni4eye(save(tmp_path, filled(dual())), tmp_path / "out")
    contract = PreprocessingContract.from_pretrained(tmp_path / "out")
    assert contract.volume.zscore
    assert contract.volume.orientation is None
    assert contract.volume.intensity == PercentileIntensity(low=0.0, high=100.0)
    assert contract.image.mean is None


def test_position_tables_are_interpolated_to_another_image_size(tmp_path):
    report = convert_uni4eye(save(tmp_path, filled(encoder() | decoder())), tmp_path / "out", image_size=(16, 20))
    model, _ = pre_trained(tmp_path / "out")
    assert model.config.image_size == (16, 20)
    assert model.uni4eye.positions.image_table.shape == (1, 21, WIDTH)
    assert report.keys.reshaped["decoder_pos_embed"] == "interpolated from a grid of (3, 3) to (4, 5)"
    assert PreprocessingContract.from_pretrained(tmp_path / "out").image.size == (16, 20)


def test_half_precision_weights_become_float32(tmp_path):
    weights = {name: tensor.half() for name, tensor in filled(encoder()).items()}
    convert_uni4eye(save(tmp_path, weights), tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.cls_token.dtype == torch.float32
    assert torch.equal(model.cls_token, weights["cls_token"].float())


def test_a_mean_pooled_fine_tuning_gives_its_encoder(tmp_path):
    shapes = encoder() | {"fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,), "head.weight": (5, WIDTH)}
    del shapes["norm.weight"], shapes["norm.bias"]
    report = convert_uni4eye(save(tmp_path, filled(shapes)), tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, Uni4EyeModel)
    assert model.config.pooling == "mean"
    assert set(report.keys.unused) == {"fc_norm.weight", "fc_norm.bias", "head.weight"}
    assert torch.equal(model.encoder.norm.weight, torch.ones(WIDTH))


def test_grey_checkpoints_are_converted_without_statistics(tmp_path):
    convert_uni4eye(save(tmp_path, filled(encoder(channels=1))), tmp_path / "out")
    image = PreprocessingContract.from_pretrained(tmp_path / "out").image
    assert (image.channels, image.mean) == (1, None)


def test_a_converted_checkpoint_embeds_a_file(tmp_path):
    from PIL import Image as Picture

    from crossdim.inference import load

    convert_uni4eye(save(tmp_path, filled(encoder() | decoder())), tmp_path / "out")
    Picture.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(tmp_path / "image.png")
    assert load(tmp_path / "out", device="cpu").embed(tmp_path / "image.png").shape == (WIDTH,)


# Refusals.


def test_an_existing_folder_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match="exists already"):
        convert_uni4eye(save(tmp_path, filled(encoder())), tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    convert_uni4eye(save(tmp_path, filled(encoder())), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def changed(shapes: Shapes, **changes: tuple[int, ...] | None) -> Shapes:
    merged = shapes | {name.replace("__", "."): shape for name, shape in changes.items()}
    return {name: shape for name, shape in merged.items() if shape is not None}


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"weight": (2, 2)}, r"no 'patch_embed.proj.weight' \(it begins with weight\)"),
        (changed(encoder(), cls_token=None), "no 'cls_token'"),
        (changed(encoder(), **{"blocks.0.ls1.gamma": (WIDTH,)}), "'blocks.0.ls1.gamma': belongs to a layer of another"),
        (changed(encoder(), **{"blocks.3.norm1.weight": (WIDTH,)}), "lacks layer 2 of 'blocks'"),
        (changed(encoder(), **{"blocks.1.norm1.weight": None}), "has nothing for 'uni4eye.encoder.layers.1.norm1"),
        (changed(encoder(), **{"blocks.0.mlp.fc1.weight": None}), "lacks 'blocks.0.mlp.fc1.weight'"),
        (
            changed(encoder(), **{"blocks.1.mlp.fc1.weight": (7, WIDTH)}),
            r"has shape \(7, 192\) where the sizes ask for",
        ),
        (changed(encoder(), pos_embed=(1, 8, WIDTH)), "has 7 image positions, which form no square grid"),
        (encoder(channels=4), "takes images of 4 channels"),
        (changed(encoder() | decoder(), **{"decoder_embed.weight": (40, WIDTH)}), "decoder that is 40 wide"),
    ],
)
def test_a_file_that_is_no_uni4eye_or_mae_is_refused_with_the_reason(tmp_path, shapes, reason):
    with pytest.raises(ReadError, match=reason):
        convert_uni4eye(save(tmp_path, filled(shapes)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shapes", "options", "error", "reason"),
    [
        (changed(encoder(), cls_token=(1, 1, 96)), {}, RecipeError, "cannot be told from a width of 96"),
        (encoder(), {"heads": 5}, RecipeError, "heads 5: do not divide the width 192"),
        (dual(), {"inflate": True}, RecipeError, "for checkpoints without a stem for volumes"),
        (dual(positions=30), {}, RecipeError, "volume size: cannot be told from 30 volume positions"),
        (dual(), {"volume_size": (16, 16, 16)}, RecipeError, "has 64 patches where the checkpoint has 112 positions"),
        (encoder(), {"image_size": 18}, ContractError, "not a multiple of the patch"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_reason(tmp_path, shapes, options, error, reason):
    with pytest.raises(error, match=reason):
        convert_uni4eye(save(tmp_path, filled(shapes)), tmp_path / "out", **options)


def test_heads_and_volume_size_can_be_given(tmp_path):
    path = save(tmp_path, filled(dual(positions=30)))
    convert_uni4eye(path, tmp_path / "out", heads=6, volume_size=(8, 12, 20))
    config = pre_trained(tmp_path / "out")[0].config
    assert (config.num_attention_heads, config.volume_size) == (6, (8, 12, 20))


# State dicts.


CONFIG = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 3,
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 2,
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "mlp_ratio": 2.0,
    "vol_size": [4, 8, 8],
    "patch_size3": [4, 4, 4],
    "in_chans3": 1,
    "mask_ratio": 0.5,
    "qkv_bias": True,
}


def dual_weights() -> dict[str, Tensor]:
    return {name: torch.from_numpy(fill(name, tuple(shape))) for name, shape, _ in official_keys(CONFIG)}


def test_the_report_lists_used_and_unused_keys():
    weights = dual_weights() | {"extra": torch.ones(1)}
    config, state, report = convert_state_dict("uni4eye/dual", weights, CONFIG)
    assert set(report.unused) == {"decoder_pos_embed21", "decoder_pos_embed31", "extra"}
    assert set(report.used) == set(weights) - set(report.unused)
    assert sorted(report.used.values()) == sorted(state)
    assert report.missing == ()
    assert report.reshaped == {}
    assert Uni4EyeForPreTraining(config).load_state_dict(state).missing_keys == []


def test_the_report_lists_what_is_missing():
    weights = dual_weights()
    del weights["norm.bias"], weights["decoder_pred31.weight"]
    _, _, report = convert_state_dict("uni4eye/dual", weights, CONFIG)
    assert set(report.missing) == {"uni4eye.encoder.norm.bias", "gradient_decoder.volume_head.weight"}


def test_weights_of_other_sizes_are_refused():
    with pytest.raises(ReadError, match=r"'pos_embed2': has shape \(1, 5, 24\) where the sizes ask for \(1, 10, 24\)"):
        convert_state_dict("uni4eye/dual", dual_weights(), CONFIG | {"img_size": 12})


@pytest.mark.parametrize(
    ("system", "reason"),
    [
        ("uni4eye/duall", "is unknown. Did you mean 'uni4eye/dual'"),
        ("uni4eye/pp", "cannot be converted yet. Available now: uni4eye/dual"),
        ("uni4eye/entropy", "cannot be converted yet"),
    ],
)
def test_a_system_that_cannot_be_converted_says_which_can(system, reason):
    with pytest.raises(RecipeError, match=reason):
        convert_state_dict(system, {}, {})


def test_a_config_without_a_size_is_refused():
    broken = {key: value for key, value in CONFIG.items() if key != "embed_dim"}
    with pytest.raises(RecipeError, match="config key 'embed_dim': is missing"):
        convert_state_dict("uni4eye/dual", dual_weights(), broken)


def test_an_approximate_gelu_is_refused():
    with pytest.raises(RecipeError, match="only the exact one is known"):
        convert_state_dict("uni4eye/dual", dual_weights(), CONFIG | {"gelu": "tanh"})


def test_every_name_of_the_authors_has_one_name_of_ours():
    names = [name for name, _, _ in official_keys(CONFIG)]
    ours = [our_name(name, shared_norm=True) for name in names]
    found = [name for name in ours if name is not None]
    assert len(found) == len(set(found)) == len(names) - 2
