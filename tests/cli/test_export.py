"""`crossdim export` on a model that was saved."""

import json

import pytest

from tests.convert.test_plain_vit import pimae, save, scene_contract


@pytest.fixture
def run(tmp_path):
    return save(pimae(), tmp_path / "run", scene_contract())


def test_what_was_written_is_told_with_the_line_that_loads_it(crossdim, run, tmp_path):
    result = crossdim("export", "image-encoder", run, tmp_path / "vit")
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stdout.split())
    assert "images of 32 x 48 pixels" in told
    assert "4 x 3 patches, row by row, each 24 values" in told
    assert "timm.create_model(" in told
    files = {path.name for path in (tmp_path / "vit").iterdir()}
    assert files == {"README.md", "config.json", "contract.json", "model.safetensors"}


def test_as_json_it_is_what_the_config_holds(crossdim, run, tmp_path):
    result = crossdim("export", "image-encoder", run, tmp_path / "vit", "--image-size", 16, 32, "--json")
    printed = json.loads(result.stdout)
    assert printed.pop("out") == str(tmp_path / "vit")
    assert printed == json.loads((tmp_path / "vit" / "config.json").read_text())
    assert printed["model_args"]["img_size"] == [16, 32]


def test_a_size_that_the_patch_does_not_divide_is_one_line(crossdim, run, tmp_path):
    result = crossdim("export", "image-encoder", run, tmp_path / "vit", "--image-size", 16, 30)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "(16, 30): not a multiple of the patch (8, 16)" in result.stderr
    assert not (tmp_path / "vit").exists()


def test_what_was_exported_is_no_run(crossdim, run, tmp_path):
    crossdim("export", "image-encoder", run, tmp_path / "vit")
    result = crossdim("export", "image-encoder", tmp_path / "vit", tmp_path / "again")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
