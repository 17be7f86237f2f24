"""Checkpoints of 3DETR become folders that load, with a report that leaves no key out."""

import argparse
import json
from math import prod

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForObjectDetection

from crossdim.convert import convert_state_dict
from crossdim.convert.detr3d_file import convert_3detr
from crossdim.convert.report import REPORT_NAME
from crossdim.errors import ReadError, RecipeError
from crossdim.models import auto
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import SCANNET, SUNRGBD
from crossdim.transforms.contract import PreprocessingContract
from tests.parity import reference_detector as reference
from tests.parity.fixture import fill, uniform

assert auto

SUN = {
    "nqueries": 128,
    "preenc_npoints": 2048,
    "enc_dim": 256,
    "enc_nlayers": 6,
    "enc_ffn_dim": 128,
    "enc_nhead": 4,
    "enc_dropout": 0.1,
    "dec_dim": 256,
    "dec_nlayers": 8,
    "dec_ffn_dim": 256,
    "dec_nhead": 4,
    "dec_dropout": 0.1,
    "mlp_dropout": 0.3,
    "matcher_cls_cost": 1,
    "matcher_objectness_cost": 5,
    "matcher_center_cost": 5,
    "matcher_giou_cost": 3,
    "loss_no_object_weight": 0.1,
    "loss_sem_cls_weight": 1,
    "loss_angle_cls_weight": 0.1,
    "loss_angle_reg_weight": 0.5,
    "loss_center_weight": 5.0,
    "loss_size_weight": 1.0,
    "loss_giou_weight": 0,
    "num_semcls": 10,
    "num_angle_bin": 12,
}
"""The authors' arguments for SUN RGB-D."""

SMALL = SUN | {"nqueries": 9, "preenc_npoints": 30, "enc_dim": 64, "enc_nlayers": 3, "enc_nhead": 1, "enc_ffn_dim": 24}
SMALL |= {"dec_dim": 128, "dec_nlayers": 2, "dec_ffn_dim": 20, "dec_nhead": 2}
"""Other sizes, with heads that are 64 wide."""

Weights = dict[str, Tensor]


def weights_of(config) -> Weights:
    return {
        name: torch.from_numpy(fill(name, shape)) if shape else torch.zeros((), dtype=torch.int64)
        for name, shape in reference.official_keys(config)
    }


@pytest.fixture
def weights() -> Weights:
    return weights_of(SMALL)


def save(tmp_path, weights: Weights, arguments=None, prefix="module."):
    content = {"model": {prefix + name: tensor for name, tensor in weights.items()}, "epoch": 1079}
    content |= {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}}
    if arguments is not None:
        content["args"] = argparse.Namespace(**arguments, checkpoint_dir="out", ngpus=1)
    torch.save(content, tmp_path / "checkpoint_best.pth")
    return tmp_path / "checkpoint_best.pth"


def check_numbers(model: Detr3dForObjectDetection, weights: Weights, config) -> None:
    """Compare with an independent forward pass in float64."""
    points = torch.from_numpy(uniform("points", (2, 200, 3))) * torch.tensor([1.5, 1.2, 1.0])
    with torch.no_grad():
        found = model.double().eval()(points).predictions
    precise = {name: tensor.double() for name, tensor in weights.items()}
    for scene in range(2):
        expected = reference.detect(points[scene], precise, config)
        ours = {
            "sem_cls_logits": found.class_logits,
            "center_unnormalized": found.centers,
            "size_unnormalized": found.sizes,
            "angle_logits": found.angle_logits,
            "angle_residual_normalized": found.angle_residuals_normalized,
            "angle_continuous": -found.yaws,
        }
        for name, value in expected.items():
            torch.testing.assert_close(ours[name][scene], value, rtol=1e-6, atol=1e-6, msg=name)


def test_the_published_sizes_have_as_many_weights_as_the_authors_model():
    keys = reference.official_keys(SUN)
    learned = [
        shape for name, shape in keys if "running" not in name and "num_batches" not in name and "gauss" not in name
    ]
    assert sum(map(prod, learned)) == 8_299_625
    state = {name: torch.empty(shape, device="meta") for name, shape in keys}
    config, ours, report = convert_state_dict("pimae/detector", state, SUN)
    assert not report.unused
    assert not report.missing
    assert len(ours) == len(report.used) == len(keys)
    assert tuple(config.id2label.values()) == SUNRGBD


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_semcls": 18, "num_angle_bin": 1}, {"num_semcls": 4, "preenc_radius": 0.4, "preenc_nsample": 5}],
    ids=["sun", "scannet", "other"],
)
def test_a_converted_state_dict_gives_the_numbers_of_an_independent_forward_pass(changes):
    official = SMALL | changes
    weights = weights_of(official)
    config, state, report = convert_state_dict("pimae/detector", weights, {"detector": official})
    assert not report.unused
    model = Detr3dForObjectDetection(config)
    model.load_state_dict(state)
    check_numbers(model, weights, official)


def test_a_checkpoint_becomes_a_folder_that_gives_the_authors_numbers(tmp_path, weights):
    report = convert_3detr(save(tmp_path, weights, SMALL), tmp_path / "out")
    model = AutoModelForObjectDetection.from_pretrained(tmp_path / "out")
    assert isinstance(model, Detr3dForObjectDetection)
    assert model.config.num_queries == 9
    check_numbers(model, weights, SMALL)
    assert set(report.keys.used) == set(weights)
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert written["layout"] == "3DETR"
    assert not any("file does not say" in note for note in written["notes"])


def test_what_the_file_does_not_say_is_assumed_and_noted(tmp_path, weights):
    report = convert_3detr(save(tmp_path, weights, prefix=""), tmp_path / "out")
    config = AutoModelForObjectDetection.from_pretrained(tmp_path / "out").config
    assert (config.num_queries, config.giou_cost, config.dropout, config.num_attention_heads) == (128, 3, 0.1, 1)
    assert (config.decoder_num_attention_heads, config.points_num_hidden_layers) == (2, 3)
    assert any("enc_nhead 1" in note and "nqueries 128" in note for note in report.notes)
    assert any("SUN RGB-D" in note for note in report.notes)


def test_scannet_is_told_by_its_18_classes(tmp_path):
    report = convert_3detr(save(tmp_path, weights_of(SMALL | {"num_semcls": 18, "num_angle_bin": 1})), tmp_path / "out")
    config = AutoModelForObjectDetection.from_pretrained(tmp_path / "out").config
    assert tuple(config.id2label.values()) == SCANNET
    assert (config.num_queries, config.giou_weight, config.angle_bins, config.num_points) == (256, 1, 1, 40000)
    assert any("ScanNet" in note for note in report.notes)


def test_other_classes_are_numbered_and_noted(tmp_path):
    report = convert_3detr(save(tmp_path, weights_of(SMALL | {"num_semcls": 2})), tmp_path / "out")
    config = AutoModelForObjectDetection.from_pretrained(tmp_path / "out").config
    assert config.id2label == {0: "class 0", 1: "class 1"}
    assert any("Write their names into config.json" in note for note in report.notes)


def test_the_contract_is_the_authors_preprocessing(tmp_path, weights):
    convert_3detr(save(tmp_path, weights), tmp_path / "out")
    contract = PreprocessingContract.from_pretrained(tmp_path / "out")
    assert contract.scene.image is None
    points = contract.scene.points
    assert (points.drawn, points.kept, points.fewest) == (20000, 20000, 2048)


def test_heads_of_other_widths_are_asked_for(tmp_path):
    narrow = weights_of(SMALL | {"enc_dim": 40, "dec_dim": 40})
    path = save(tmp_path, narrow)
    with pytest.raises(RecipeError, match=r"from a width of 40, which is no multiple of 64\. Give it with --heads"):
        convert_3detr(path, tmp_path / "out")
    with pytest.raises(RecipeError, match="--heads 3: does not divide the width 40"):
        convert_3detr(path, tmp_path / "out", heads=3)
    convert_3detr(path, tmp_path / "out", heads=5)
    assert AutoModelForObjectDetection.from_pretrained(tmp_path / "out").config.decoder_num_attention_heads == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("pre_encoder.mlp_module.layer0.conv.weight"), "is no checkpoint of 3DETR: no 'pre_encoder"),
        (lambda w: w.pop("decoder.norm.weight"), "lacks 'decoder.norm.weight'"),
        (lambda w: w.pop("decoder.layers.1.norm3.bias"), "has nothing for 'detr3d.decoder.layers.1.norm3.bias'"),
        (
            lambda w: w.update({"encoder.interim_downsampling.mlp.weight": torch.zeros(3)}),
            "key 'encoder.interim_downsampling.mlp.weight': has no place in a detector of these sizes",
        ),
        (
            lambda w: w.update({"decoder.layers.0.self_attn.bias_k": torch.zeros(3)}),
            "key 'decoder.layers.0.self_attn.bias_k': has no place",
        ),
        (
            lambda w: w.update({"decoder.norm.bias": torch.zeros(3)}),
            "key 'decoder.norm.bias': has shape .3,. where the sizes ask for .128,.",
        ),
    ],
)
def test_a_checkpoint_of_another_design_is_refused(tmp_path, weights, change, message):
    change(weights)
    with pytest.raises(ReadError, match=message):
        convert_3detr(save(tmp_path, weights), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enc_type": "masked"}, "argument 'enc_type': is masked, and only vanilla can be converted"),
        ({"use_color": True}, "argument 'use_color': is True"),
        ({"enc_pos_embed": "fourier"}, "argument 'enc_pos_embed': is fourier"),
    ],
)
def test_arguments_of_another_design_are_refused(weights, changes, message):
    with pytest.raises(RecipeError, match=message):
        convert_state_dict("pimae/detector", weights, SMALL | changes)


def test_a_missing_argument_is_named(weights):
    lacking = {name: value for name, value in SMALL.items() if name != "dec_nhead"}
    with pytest.raises(RecipeError, match=r"argument 'dec_nhead': is missing\. Add it\. Did you mean 'enc_nhead'"):
        convert_state_dict("pimae/detector", weights, lacking)


def test_keys_of_something_else_are_reported(weights):
    weights["extra.weight"] = torch.zeros(2)
    assert convert_state_dict("pimae/detector", weights, SMALL)[2].unused == {
        "extra.weight": "3DETR has nothing of this name"
    }


def test_a_folder_that_exists_is_left_alone(tmp_path, weights):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(RecipeError, match="exists already"):
        convert_3detr(save(tmp_path, weights), tmp_path / "out")
