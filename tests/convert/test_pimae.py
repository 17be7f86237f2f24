"""Checkpoints of PiMAE become folders that load, with a report that leaves no key out."""

import json
from copy import deepcopy
from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForPreTraining

from crossdim.convert import convert_state_dict
from crossdim.convert.pimae_file import convert_pimae
from crossdim.convert.report import REPORT_NAME
from crossdim.errors import ReadError, RecipeError
from crossdim.models import auto
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.transforms.contract import PreprocessingContract
from tests.parity import reference_pimae as reference
from tests.parity.fixture import fill, uniform

assert auto

CONFIG = {
    "img_model": {
        "patch_size": 16,
        "encoder": {"trans_dim": 256, "depth": 3, "num_heads": 4, "mlp_ratio": 4.0},
        "decoder": {"trans_dim": 192, "depth": 2, "num_heads": 3, "mlp_ratio": 4.0},
    },
    "pc_model": {
        "group_size": 32,
        "num_group": 128,
        "loss": "cdl2",
        "transformer_config": {
            "mask_ratio": 0.6,
            "mask_type": "rand",
            "trans_dim": 256,
            "encoder_dims": 256,
            "depth": 3,
            "drop_path_rate": 0.1,
            "num_heads": 4,
            "dim_feedforward": 128,
            "dropout": 0.1,
            "decoder_trans_dim": 192,
            "decoder_depth": 2,
            "decoder_num_heads": 3,
        },
    },
    "joint_model": {
        "hp_overlap_ratio": 0.0,
        "mask_ratio": 0.6,
        "pc2img": {"rgb": False, "feat": True},
        "encoder": {"trans_dim": 256, "depth": 3, "num_heads": 4, "mlp_ratio": 4.0, "dim_feedforward": 128}
        | {"dropout": 0.1},
        "decoder": {"trans_dim": 192, "depth": 1, "num_heads": 3, "mlp_ratio": 4.0},
    },
    "npoints": 2048,
}
"""The authors' configuration, in their words."""

NEVER_READ = {"img_branch.cls_token", "img_branch.norm.weight", "img_branch.norm.bias", "norm.weight", "norm.bias"}
NEVER_READ |= {"pc_branch.MAE_encoder.norm.weight", "pc_branch.MAE_encoder.norm.bias"}
COMPUTED = {"img_branch.pos_embed", "img_branch.decoder_pos_embed"}

Weights = dict[str, Tensor]


def changed(config, changes):
    """Return a configuration with some keys changed, by their paths."""
    config = deepcopy(config)
    for path, value in changes.items():
        *places, last = path.split(".")
        holder = config
        for place in places:
            holder = holder[place]
        holder[last] = value
    return config


SMALL = changed(
    CONFIG,
    {f"{part}.trans_dim": 64 for part in ("img_model.encoder", "pc_model.transformer_config", "joint_model.encoder")}
    | {f"{part}.trans_dim": 64 for part in ("img_model.decoder", "joint_model.decoder")}
    | {f"{part}.num_heads": 1 for part in ("img_model.encoder", "img_model.decoder", "joint_model.encoder")}
    | {"joint_model.decoder.num_heads": 1, "pc_model.transformer_config.num_heads": 1}
    | {"pc_model.transformer_config.decoder_num_heads": 1, "pc_model.transformer_config.decoder_trans_dim": 64}
    | {"pc_model.group_size": 4, "img_model.encoder.depth": 1, "pc_model.transformer_config.depth": 2}
    | {"pc_model.transformer_config.dropout": 0.0, "joint_model.encoder.dropout": 0.0}
    | {"img_size": [48, 80], "patch_size": 16, "batch": 2, "npoints": 160}
    | {"img_model.encoder.mlp_ratio": 3.0, "joint_model.decoder.mlp_ratio": 2.0}
    | {"feature_map_upsampled_to": [256, 352]},
)
"""Other sizes, with heads that are 64 wide."""


def weights_of(config) -> Weights:
    rows, columns = (side // 16 for side in config["img_size"])
    weights = {}
    for name, shape, kind in reference.official_keys(config):
        if name in COMPUTED:
            weights[name] = torch.from_numpy(reference.sincos(rows, columns, shape[-1])).float()[None]
        elif kind.startswith("fixed:"):
            weights[name] = torch.zeros((), dtype=torch.int64)
        else:
            weights[name] = torch.from_numpy(fill(name, tuple(shape)))
    return weights


@pytest.fixture
def weights() -> Weights:
    return weights_of(SMALL)


def save(tmp_path, weights: Weights, prefix: str = "module."):
    content = {
        "base_model": {prefix + name: tensor for name, tensor in weights.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "epoch": 400,
        "metrics": {"acc": 0.0},
        "best_metrics": {},
    }
    torch.save(content, tmp_path / "ckpt-last.pth")
    return tmp_path / "ckpt-last.pth"


def scenes() -> dict[str, Tensor]:
    """What the authors' forward pass takes, under the names of the reference."""
    given = reference.scene_inputs(SMALL, "")
    arrays = reference.grouped(given["pre.points"], 128, 4)
    mask = reference.point_mask(SMALL, given | {"pre.center": arrays["center"]}, uniform("mask", (2, 128)))
    inputs = {name.removeprefix("pre."): value for name, value in given.items()} | arrays
    inputs |= {"images": reference.uniform("images", (2, 3, 48, 80)), "image_noise": uniform("noise", (2, 15))}
    return {name: torch.from_numpy(value).double() for name, value in inputs.items()} | {
        "mask_pc": torch.from_numpy(mask)
    }


def ours(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under our names: their pixels count from 1, their camera looks along y."""
    to_camera = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).double() @ inputs["calib_Rtilt"].transpose(1, 2)
    to_pixel = inputs["calib_K"] @ to_camera / inputs["scale"][:, None, None] ** 2
    to_pixel[:, :2] -= to_pixel[:, 2:]
    return {
        "points": inputs["points"],
        "pixel_values": inputs["images"],
        "projection": torch.nn.functional.pad(to_pixel, (0, 1)),
        "frame_size": torch.tensor([[530, 730]] * 2),
        "points_mask": inputs["mask_pc"],
        "image_noise": inputs["image_noise"],
    }


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_checkpoint_becomes_a_folder_that_gives_the_authors_numbers(tmp_path, weights, prefix):
    report = convert_pimae(save(tmp_path, weights, prefix), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["config.json", "contract.json", REPORT_NAME, "model.safetensors"]
    )
    assert json.loads((tmp_path / "out" / REPORT_NAME).read_text()) == json.loads(json.dumps(report.to_dict()))
    model, info = AutoModelForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert isinstance(model, PimaeForPreTraining)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = scenes()
    with torch.no_grad():
        output = model.double().eval()(**ours(inputs))
    theirs = reference.pretrain({name: value.double() for name, value in weights.items()}, SMALL, inputs, "random")
    torch.testing.assert_close(output.encoded.last_hidden_state, theirs["latent_joint"], rtol=1e-6, atol=1e-6)
    for name, loss in (("points", "loss_pc"), ("image", "loss_img"), ("cross_modal", "loss_xmodal")):
        torch.testing.assert_close(output.losses[name], theirs[loss], rtol=1e-6, atol=1e-6)


def test_every_key_of_a_checkpoint_is_used_or_has_a_reason(tmp_path, weights):
    keys = convert_pimae(save(tmp_path, weights | {"extra.weight": torch.ones(2)}), tmp_path / "out").keys
    assert set(keys.unused) == NEVER_READ | COMPUTED | {"extra.weight"}
    assert keys.unused["extra.weight"] == "PiMAE has nothing of this name"
    assert keys.unused["img_branch.pos_embed"] == "the sine-cosine table, which is computed"
    assert set(keys.used) == set(weights) - set(keys.unused)
    assert keys.missing == ()
    convolutions = {name for name, tensor in weights.items() if tensor.ndim == 3 and tensor.shape[-1] == 1}
    assert set(keys.reshaped) == convolutions


def test_sizes_come_from_shapes_and_what_they_do_not_tell_is_noted(tmp_path, weights):
    report = convert_pimae(save(tmp_path, weights), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["image_size"] == [48, 80]
    assert (config["group_size"], config["image_num_hidden_layers"], config["points_num_hidden_layers"]) == (4, 1, 2)
    assert (config["image_decoder_intermediate_size"], config["decoder_intermediate_size"]) == (192, 128)
    assert (config["mask_alignment"], config["cross_modal_axes"], config["pixel_convention"]) == (
        "independent",
        "vu",
        "released",
    )
    told = " ".join(report.notes)
    for word in ("1 heads are assumed in the encoders", "48 x 80", "2048 points, 128 groups", "BGR", "530 x 730"):
        assert word in told


def test_the_contract_is_the_authors_preprocessing(tmp_path, weights):
    convert_pimae(save(tmp_path, weights), tmp_path / "out")
    contract = PreprocessingContract.from_pretrained(tmp_path / "out")
    assert contract.scene is not None
    assert contract.scene.image == contract.image
    assert contract.image is not None
    assert (contract.image.size, contract.image.fit, contract.image.channel_order) == ((48, 80), "resize", "bgr")
    assert contract.image.mean == (0.485, 0.456, 0.406)
    assert contract.scene.points is not None
    assert (contract.scene.points.drawn, contract.scene.points.kept, contract.scene.points.fewest) == (20000, 2048, 128)


def test_a_narrower_network_of_groups_is_told_by_its_shapes(tmp_path, weights):
    network = "pc_branch.MAE_encoder.encoder."
    for name, tensor in weights.items():
        if name.startswith(network) and tensor.ndim:
            ends = [side if side in (1, 3) else side // 2 for side in tensor.shape]
            ends[0] = len(tensor) if name.startswith(f"{network}second_conv.3") else ends[0]
            weights[name] = tensor[tuple(slice(end) for end in ends)].clone()
    convert_pimae(save(tmp_path, weights), tmp_path / "out")
    model, info = AutoModelForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (model.config.point_hidden_size, model.config.unit_m) == (64, 1)
    assert model.pimae.point_tokens.second_conv[0].weight.shape == (256, 256)


@pytest.mark.parametrize("size", [[16, 96], [96, 16], [32, 48]])
def test_the_extent_of_images_is_read_from_the_table_of_positions(tmp_path, size):
    weights = weights_of(SMALL | {"img_size": size})
    convert_pimae(save(tmp_path, weights), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_size"] == size


def test_heads_of_other_widths_are_asked_for(tmp_path):
    sizes = {f"{part}.trans_dim": 80 for part in ("img_model.encoder", "pc_model.transformer_config")}
    sizes |= {"joint_model.encoder.trans_dim": 80, "pc_model.transformer_config.decoder_trans_dim": 48}
    path = save(tmp_path, weights_of(changed(CONFIG, sizes) | {"img_size": [32, 32], "patch_size": 16}))
    with pytest.raises(RecipeError, match=r"heads of the encoders: .* width of 80.*Give it with --heads"):
        convert_pimae(path, tmp_path / "out")
    with pytest.raises(RecipeError, match=r"heads of the decoders: .* width of 48.*Give it with --decoder-heads"):
        convert_pimae(path, tmp_path / "out", heads=5)
    with pytest.raises(RecipeError, match=r"--heads 7: does not divide the width 80"):
        convert_pimae(path, tmp_path / "out", heads=7)
    convert_pimae(path, tmp_path / "out", heads=5, decoder_heads=3)
    config = AutoModelForPreTraining.from_pretrained(tmp_path / "out").config
    assert (config.num_attention_heads, config.decoder_num_attention_heads) == (5, 3)


def test_a_checkpoint_without_a_cross_modal_head_becomes_a_model_without(tmp_path, weights):
    for end in ("weight", "bias"):
        del weights[f"increase_dim_feat.0.{end}"]
    report = convert_pimae(save(tmp_path, weights), tmp_path / "out")
    assert any("no head for the image's features" in note for note in report.notes)
    assert AutoModelForPreTraining.from_pretrained(tmp_path / "out").config.cross_modal_target == "none"


def without(*names):
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


def replaced(**tensors):
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return lambda weights: weights | named


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("decoder_norm.bias", "cls_token"), "lacks 'cls_token'"),
        (without("decoder_norm.bias"), "lacks 'decoder_norm.bias'"),
        (without("decoder_norm.bias", "decoder_norm.weight"), "lacks 'decoder_norm.weight' and 1 more"),
        (lambda weights: {"cls_token": weights["cls_token"]}, "is no checkpoint of PiMAE's pre-training: no 'img_"),
        (replaced(decoder_norm__bias=torch.ones(3)), r"'decoder_norm.bias': has shape \(3,\) .* ask for \(64,\)"),
        (replaced(cls_token=torch.ones(3)), r"has 'cls_token' of shape \(3,\)"),
        (
            replaced(blocks__layers__0__gate=torch.ones(3)),
            "'blocks.layers.0.gate': has no place among the layers of PiMAE",
        ),
        (lambda weights: weights | {"blocks.layers.4.norm1.bias": torch.ones(64)}, "lacks layer 3 of 'blocks.layers'"),
        (replaced(img_branch__pos_embed=torch.ones(1, 15, 64)), "15 positions that is not the sine-cosine table"),
        (replaced(img_branch__pos_embed=torch.ones(1, 15, 60)), "15 positions that is not the sine-cosine table"),
        (replaced(img_branch__decoder_pos_embed=torch.ones(1, 15, 64)), "other positions in its decoder than .* 3 x 5"),
        (replaced(img_branch__patch_embed__proj__weight=torch.ones(64, 1, 16, 16)), "takes images of 1 channels"),
        (replaced(pc_branch__increase_dim__0__bias=torch.ones(13)), "predicts no whole number of points"),
        (replaced(increase_dim_feat__0__bias=torch.ones(12)), r"predicts \(12,\) values for 4 points"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_the_name_of_the_key(tmp_path, weights, change, reason):
    path = save(tmp_path, change(weights))
    with pytest.raises(ReadError, match=reason):
        convert_pimae(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, weights):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match="exists already"):
        convert_pimae(save(tmp_path, weights), tmp_path / "out")


# State dicts.


def test_the_published_sizes_have_as_many_weights_as_the_authors_model():
    config = CONFIG | {"img_size": [256, 352], "patch_size": 16}
    keys = reference.official_keys(config)
    parameters = [shape for name, shape, _ in keys if not name.endswith(("running_mean", "running_var", "tracked"))]
    assert (len(keys), sum(prod(shape) for shape in parameters)) == (226, 8871008)
    converted, state, report = convert_state_dict("pimae/pretrain", weights_of(config), CONFIG)
    assert set(report.unused) == NEVER_READ | COMPUTED
    assert report.missing == ()
    assert converted.num_points == 2048
    assert PimaeForPreTraining(converted).load_state_dict(state).missing_keys == []


def test_the_report_lists_what_is_missing(weights):
    del weights["decoder_norm.bias"], weights["pc_branch.increase_dim.0.weight"]
    _, _, report = convert_state_dict("pimae/pretrain", weights, SMALL)
    assert set(report.missing) == {"joint_decoder.norm.bias", "points_head.weight"}


def test_sizes_may_lie_under_their_name_in_a_fixture(weights):
    config, _, _ = convert_state_dict("pimae/pretrain", weights, {"pretrain": SMALL, "detector": {}})
    assert config.hidden_size == 64


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"img_model.encoder": {}}, RecipeError, "config key 'img_model.encoder.trans_dim': is missing"),
        ({"pc_model": 3}, RecipeError, "config key 'pc_model.transformer_config.trans_dim': is missing"),
        (
            {"joint_model.encoder.trans_dim": 32},
            RecipeError,
            "'joint_model.encoder.trans_dim': is 32 where 'pc_model.transformer_config.trans_dim' is 64",
        ),
        ({"joint_model.encoder.dropout": 0.2}, RecipeError, "'joint_model.encoder.dropout': is 0.2"),
        ({"joint_model.hp_overlap_ratio": 0.5}, RecipeError, "is 0.5, which the authors' code refuses too"),
        ({"joint_model.pc2img": {"rgb": True, "feat": True}}, RecipeError, "asks for both features and pixels"),
        ({"pc_model.loss": "emd"}, RecipeError, "'pc_model.loss': is 'emd'"),
        ({"img_model.encoder.depth": 0}, ReadError, "'img_branch.blocks.0.norm1.weight': has no place among"),
        ({"pc_model.group_size": 5}, ReadError, r"has shape .* where the sizes ask for"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(weights, changes, error, reason):
    with pytest.raises(error, match=reason):
        convert_state_dict("pimae/pretrain", weights, changed(SMALL, changes))


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"joint_model.hp_overlap_ratio": 1.0}, "mask_alignment", "uniform"),
        ({"joint_model.hp_overlap_ratio": 0.0}, "mask_alignment", "independent"),
        ({"pc_model.loss": "cdl1"}, "chamfer", "l1"),
        ({"pc_model.transformer_config.mask_type": "block"}, "points_masking", "block"),
        ({"joint_model.pc2img": {"rgb": False, "feat": False}}, "cross_modal_target", "none"),
        ({"pc_model.transformer_config.num_heads": 2}, "points_num_attention_heads", 2),
    ],
)
def test_options_of_the_authors_become_ours(weights, changes, key, value):
    converted, _, _ = convert_state_dict("pimae/pretrain", weights, changed(SMALL, changes))
    assert getattr(converted, key) == value


def test_a_model_that_predicts_pixels_has_another_head(weights):
    config = changed(SMALL, {"joint_model.pc2img": {"rgb": True, "feat": False}})
    with pytest.raises(ReadError, match=r"'increase_dim_feat.0.weight': has shape \(256, 64, 1\) .* \(12, 64\)"):
        convert_state_dict("pimae/pretrain", weights, config)


def test_the_command_says_what_became_of_every_key(tmp_path, weights):
    from typer.testing import CliRunner

    from crossdim.cli import app

    path = str(save(tmp_path, weights))
    told = CliRunner().invoke(app, ["convert", "pimae", path, str(tmp_path / "told")])
    assert told.exit_code == 0, told.output
    assert "PimaeForPreTraining" in told.stdout
    assert "never read" in told.stdout
    printed = CliRunner().invoke(app, ["convert", "pimae", path, str(tmp_path / "printed"), "--json"])
    keys = json.loads(printed.stdout)["keys"]
    assert set(keys["used"]) | set(keys["unused"]) == set(weights)
    assert np.all([len(reason) > 10 for reason in keys["unused"].values()])
