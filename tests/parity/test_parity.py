"""Our public models against the authors' numbers, and the runner against fixtures it has not seen."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from crossdim.convert import convert_state_dict
from tests.conftest import ROOT
from tests.parity import pimae, reference_med2e3, reference_pimae
from tests.parity.fixture import Fixture, evaluate, fill, uniform
from tests.parity.reference import cut, write_fixture
from tests.parity.run import main

HERE = Path(__file__).parent
SHARED = HERE / "uni4eye.npz"
each_precision = pytest.mark.parametrize("precision", [[], ["--float64"]], ids=["float32", "float64"])

WIDE = {
    "img_size": [48, 80],
    "patch_size": 16,
    "in_chans": 3,
    "embed_dim": 60,
    "depth": 3,
    "num_heads": 5,
    "decoder_embed_dim": 24,
    "decoder_depth": 1,
    "decoder_num_heads": 3,
    "mlp_ratio": 3.0,
    "vol_size": [16, 24, 40],
    "patch_size3": [8, 4, 10],
    "in_chans3": 1,
    "batch2": 3,
    "batch3": 1,
    "mask_ratio": 0.4,
    "layer_norm_eps": 1e-5,
    "qkv_bias": True,
    "gelu": "exact (erf)",
}
SMALL = WIDE | {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "decoder_embed_dim": 16,
    "decoder_depth": 3,
    "decoder_num_heads": 4,
    "mlp_ratio": 4.0,
    "vol_size": [8, 8, 16],
    "patch_size3": [4, 4, 4],
    "batch2": 1,
    "batch3": 3,
    "mask_ratio": 0.8,
    "layer_norm_eps": 1e-6,
    "qkv_bias": False,
}

LLAMA = {
    "exp_id": 4,
    "llm_hf_type": "llama",
    "llm_max_length": 256,
    "llm_padding_side": "right",
    "vision3d_connector_type": "spatial_pooling_score15_mlp2x_gelu",
    "llm": {
        "vocab_size": 90,
        "hidden_size": 72,
        "intermediate_size": 100,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "siglip": {
        "hidden_size": 40,
        "intermediate_size": 56,
        "num_hidden_layers": 1,
        "num_attention_heads": 5,
        "image_size": 32,
        "patch_size": 8,
    },
    "bert": {
        "vocab_size": 50,
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 60,
        "max_position_embeddings": 20,
        "type_vocab_size": 2,
    },
    "m3d": {
        "img_size": [32, 32, 32],
        "patch_size": [4, 8, 8],
        "hidden_size": 36,
        "mlp_dim": 64,
        "num_layers": 3,
        "num_heads": 3,
        "pos_embed": "perceptron",
    },
    "q_len": [3, 7, 5],
    "q_max": 9,
    "parts": [(4, 6, 3), (1, 9, 5), (6, 2, 1)],
    "layer_norm_eps": {"3-D encoder": 1e-5, "SigLIP": 1e-6, "BERT": 1e-12},
    "llm_rms_norm_eps": 1e-6,
    "llm_rope_theta": 5000.0,
    "num_slices": 32,
    "temperature": 5,
}
FEW_SLICES = LLAMA | {
    "m3d": LLAMA["m3d"] | {"img_size": [16, 48, 48], "patch_size": [4, 12, 24], "num_layers": 1, "num_heads": 6},
    "siglip": LLAMA["siglip"] | {"image_size": 48, "patch_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4},
    "llm": LLAMA["llm"] | {"num_hidden_layers": 1, "num_key_value_heads": 6, "hidden_size": 48},
    "llm_max_length": 26,
    "q_len": [8],
    "parts": [(2, 11, 6)],
    "num_slices": 16,
}

DEEP = {
    "img_model": {
        "patch_size": 16,
        "encoder": {"trans_dim": 60, "depth": 1, "num_heads": 5, "mlp_ratio": 3.0},
        "decoder": {"trans_dim": 36, "depth": 1, "num_heads": 3, "mlp_ratio": 2.0},
    },
    "pc_model": {
        "group_size": 5,
        "num_group": 12,
        "loss": "cdl2",
        "transformer_config": {
            "mask_ratio": 0.5,
            "mask_type": "rand",
            "trans_dim": 60,
            "depth": 3,
            "drop_path_rate": 0.0,
            "num_heads": 3,
            "dim_feedforward": 40,
            "dropout": 0.0,
            "decoder_trans_dim": 36,
            "decoder_depth": 3,
            "decoder_num_heads": 2,
        },
    },
    "joint_model": {
        "hp_overlap_ratio": 0.0,
        "mask_ratio": 0.75,
        "pc2img": {"rgb": False, "feat": True},
        "encoder": {"trans_dim": 60, "depth": 1, "num_heads": 6, "dim_feedforward": 24, "dropout": 0.0},
        "decoder": {"trans_dim": 36, "depth": 2, "num_heads": 4, "mlp_ratio": 4.0},
    },
    "img_size": [48, 80],
    "npoints": 90,
    "batch": 3,
    "patch_size": 16,
}
FEW_POINTS = DEEP | {
    "img_model": {
        "patch_size": 8,
        "encoder": {"trans_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 4.0},
        "decoder": {"trans_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0},
    },
    "pc_model": {
        "group_size": 12,
        "num_group": 20,
        "loss": "cdl1",
        "transformer_config": {
            "mask_ratio": 0.35,
            "mask_type": "rand",
            "trans_dim": 32,
            "depth": 1,
            "drop_path_rate": 0.0,
            "num_heads": 4,
            "dim_feedforward": 24,
            "dropout": 0.0,
            "decoder_trans_dim": 16,
            "decoder_depth": 1,
            "decoder_num_heads": 1,
        },
    },
    "joint_model": {
        "hp_overlap_ratio": 1.0,
        "mask_ratio": 0.3,
        "pc2img": {"rgb": False, "feat": True},
        "encoder": {"trans_dim": 32, "depth": 2, "num_heads": 2, "dim_feedforward": 48, "dropout": 0.0},
        "decoder": {"trans_dim": 16, "depth": 1, "num_heads": 4, "mlp_ratio": 2.0},
    },
    "img_size": [56, 40],
    "npoints": 21,
    "batch": 1,
    "patch_size": 8,
}


@each_precision
def test_uni4eye_equals_the_authors_code(precision, capsys):
    code = main([str(SHARED), *precision])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(line for line in lines if line.endswith("FAIL"))
    assert lines[-1].startswith("passed: 43 ok, 0 FAIL, 39 not yet, 3 input")


@pytest.mark.parametrize(("config", "prefix"), [(WIDE, "hidden/3:"), (SMALL, "")], ids=["wide", "small"])
@each_precision
def test_uni4eye_equals_an_independent_forward_of_other_sizes(tmp_path, config, prefix, precision, capsys):
    code = main([str(write_fixture(tmp_path / "variant.npz", dict(config), prefix)), *precision])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(lines)
    assert lines[-1].startswith("passed: 43 ok, 0 FAIL, 0 not yet, 0 input")


@each_precision
def test_med2e3_equals_the_authors_code(precision, capsys):
    code = main([str(HERE / "med2e3.npz"), *precision])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(line for line in lines if line.endswith("FAIL"))
    assert lines[-1].startswith("passed: 38 ok, 0 FAIL, 0 not yet, 6 input")


@pytest.mark.parametrize(("config", "prefix"), [(LLAMA, "hidden/3:"), (FEW_SLICES, "")], ids=["llama", "few slices"])
@each_precision
def test_med2e3_equals_an_independent_forward_of_other_sizes(tmp_path, config, prefix, precision, capsys):
    path = reference_med2e3.write_fixture(tmp_path / "variant.npz", dict(config), prefix)
    code = main([str(path), *precision])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(lines)
    assert lines[-1].startswith("passed: 37 ok, 0 FAIL, 0 not yet, 6 input")


@each_precision
def test_pimae_equals_the_authors_code(precision, capsys):
    code = main([str(HERE / "pimae.npz"), *precision])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(line for line in lines if line.endswith("FAIL"))
    assert lines[-1].startswith("passed: 197 ok, 0 FAIL, 0 not yet, 29 input")


@pytest.mark.parametrize(("config", "prefix"), [(DEEP, "hidden/3:"), (FEW_POINTS, "")], ids=["deep", "few points"])
@each_precision
def test_pimae_equals_an_independent_forward_of_other_sizes(tmp_path, config, prefix, precision, capsys):
    path = reference_pimae.write_fixture(tmp_path / "variant.npz", dict(config), prefix)
    code = main([str(path), *precision])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(lines)
    assert lines[-1].startswith("passed: 88 ok, 0 FAIL, 0 not yet, 5 input")


@pytest.mark.parametrize("axes", ["uv", "vu"])
def test_pimae_can_predict_pixels_where_the_points_lie(tmp_path, axes):
    fixture = Fixture(reference_pimae.write_fixture(tmp_path / "variant.npz", dict(DEEP), ""))
    tables = {f"pre.sincos_{name}": fixture.stored(f"pre.sincos_{name}") for name in ("encoder", "decoder")}
    weights = {name: torch.from_numpy(value) for name, value in fixture.state_dict("pretrain", tables).items()}
    config, state, _ = convert_state_dict("pimae/pretrain", weights, fixture.config)
    kernel = torch.from_numpy(fill("pixels.weight", (3 * 5, 36))).double()
    state |= {"cross_modal_head.weight": kernel, "cross_modal_head.bias": torch.zeros(15)}
    changes = {"cross_modal_target": "pixels", "cross_modal_axes": axes}
    inputs = pimae.arguments(fixture, torch.float64)
    with torch.no_grad():
        output = pimae.built(config, state, torch.float64, **changes)(**inputs)
    images, places = inputs["pixel_values"], (output.places.u, output.places.v)
    target = reference_pimae.read_off(images, *(places if axes == "uv" else places[::-1]), reference_pimae.UPSAMPLED)
    guess = (output.points_features @ kernel.T).unflatten(2, (5, 3)).flatten(1, 2)
    expected = (guess - target.transpose(1, 2)).square().mean()
    torch.testing.assert_close(output.losses["cross_modal"], expected, rtol=1e-6, atol=0)


def test_the_runner_runs_as_a_module():
    command = [sys.executable, "-m", "tests.parity.run", "tests/parity/pimae.npz"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("passed")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_fixture(tmp_path_factory.mktemp("fixture") / "small.npz", dict(SMALL), "")


@pytest.fixture
def spoil(small, tmp_path, capsys):
    """Return a function that changes a fixture, runs it, and returns (exit code, the lines that fail)."""

    def run(change):
        js = json.loads(small.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(small) as archive:
            values = dict(archive)
        change(js, values)
        np.savez(tmp_path / "spoilt.npz", **values)
        (tmp_path / "spoilt.json").write_text(json.dumps(js), encoding="utf-8")
        code = main([str(tmp_path / "spoilt.npz")])
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1].startswith("FAILED" if code else "passed")
        return code, [line.split()[0] for line in lines if line.endswith("FAIL")]

    return run


@pytest.mark.parametrize(
    ("array", "place", "amount"),
    [
        ("dual2d.latent", (0, 1, 2), 1e-3),
        ("dual3d.ids_keep", (0, 0), 1),
        ("dual2d.edge_u8", (0, 0, 3, 3), 1),
        ("dual3d.grad_norm", (0,), 1e-2),
        ("dual2d.grad_norm", (0,), math.nan),
        ("dual2d.loss_norm_pix", (), 1e-3),
        ("dual2d.mask", (0, 0), math.nan),
    ],
)
def test_a_changed_value_fails_its_own_array_only(spoil, array, place, amount):
    def change(js, values):
        values[array] = values[array].copy()
        values[array].reshape(js["arrays"][array]["shape"])[place] += np.asarray(amount).astype(values[array].dtype)

    assert spoil(change) == (1, [array])


def test_a_part_that_is_not_stored_is_checked_by_its_norm(spoil):
    def change(js, values):
        js["arrays"]["dual2d.pred"]["l2"] *= 1.001

    assert spoil(change) == (1, ["dual2d.pred"])


def test_an_array_that_nothing_computes_fails(spoil):
    def change(js, values):
        js["arrays"]["dual2d.new"] = dict(js["arrays"]["dual2d.latent"])
        values["dual2d.new"] = values["dual2d.latent"]

    assert spoil(change) == (1, ["dual2d.new"])


def test_an_array_of_a_later_step_and_an_input_do_not_fail(spoil):
    def change(js, values):
        for name in ("pp2d.latent", "entropy.mask", "pp3d_conv.loss"):
            js["arrays"][name] = dict(js["arrays"]["dual2d.latent"])
        js["arrays"]["dual2d.task_id"] = {"compare": "input", "shape": [1], "stored": "full"}

    assert spoil(change) == (0, [])


def test_a_fixed_table_may_be_stored_in_part(spoil):
    def change(js, values):
        js["arrays"]["sincos.encoder"] |= {"stored": "strided", "stride": 3}
        values["sincos.encoder"] = values["sincos.encoder"].reshape(-1)[::3]

    assert spoil(change) == (0, [])


def test_a_value_of_another_shape_fails(spoil):
    def change(js, values):
        js["arrays"]["dual3d.latent"]["shape"] = [1, 2]

    assert spoil(change) == (1, ["dual3d.latent"])


def test_a_formula_that_gives_other_values_fails_before_anything_else(spoil):
    def change(js, values):
        js["formula_check"][0][2][0] += 1e-3

    code, failed = spoil(change)
    assert code == 1
    assert failed[0].startswith("formula:dual:")


def test_weights_that_do_not_fit_the_config_fail(spoil):
    def change(js, values):
        js["config"]["depth"] = 2

    code, failed = spoil(change)
    assert code == 1
    assert failed[0] == "spoilt.npz"


def test_an_unknown_system_fails(spoil):
    def change(js, values):
        js["system"] = "other"

    assert spoil(change) == (1, ["other"])


def test_the_formula_gives_the_stated_values_in_every_shared_fixture():
    assert [Fixture(HERE / f"{name}.npz").wrong_formula() for name in ("uni4eye", "med2e3", "pimae")] == [[], [], []]


def test_every_state_dict_of_the_shared_fixtures_can_be_filled():
    fixture = Fixture(HERE / "med2e3.npz")
    for group, keys in fixture.js["keys"].items():
        state = fixture.state_dict(group)
        assert {name: list(value.shape) for name, value in state.items()} == {name: shape for name, shape, _ in keys}


def test_descriptions_of_inputs_are_computed_with_the_prefix():
    description = (
        "float32(2 * C - 1), C = 3 + floor(4 * uniform('c', (1, 2, 1))) with every value repeated 2x3 times, here"
    )
    value = evaluate(description, "p:")
    assert value.dtype == np.float32
    assert value.shape == (1, 4, 3)
    coarse = 2 * (3 + np.floor(4 * uniform("p:c", (1, 2, 1)))) - 1
    assert np.array_equal(value, np.repeat(np.repeat(coarse, 2, axis=1), 3, axis=2))


def test_a_stored_input_is_returned_as_it_is():
    fixture = Fixture(SHARED)
    assert fixture.input("pp2d.task_id").tolist() == fixture.values["pp2d.task_id"].tolist()


def test_a_description_with_code_in_it_is_not_understood():
    with pytest.raises(ValueError, match="is not understood"):
        evaluate("float32(__import__('os').getcwd())", "")
    with pytest.raises(ValueError, match="no formula"):
        evaluate("as stored", "")


def test_patches_of_the_independent_forward_are_in_raster_order():
    image = torch.arange(math.prod((1, 2, 4, 4))).reshape(1, 2, 4, 4)
    assert cut(image, [2, 2])[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]
