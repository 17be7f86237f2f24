"""From questions about volumes to a model that answers them, by commands alone."""

import json

import pytest

from crossdim.training import instruct
from tests.training.dialogue_toys import PARTS, SHORT, write_dialogues

SETTINGS = [word for override in (*PARTS, *SHORT, "optimisation.steps=1") for word in ("--set", override)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dialogues(tmp_path_factory.mktemp("dialogues"))


def test_a_model_is_trained_by_a_recipe_and_gone_on_from(crossdim, data, tmp_path, monkeypatch):
    monkeypatch.setattr(instruct, "conclude_dialogues", lambda *arguments: None)
    first = crossdim("instruct", data, "--out", tmp_path / "one", "--recipe", "instruct-tiny", *SETTINGS)
    assert first.exit_code == 0, first.stderr
    assert "Finished" in first.stderr
    more = ("--set", "prompt.style=chat", "--set", "optimisation.steps=1", "--set", "logging.report_to=none")
    second = crossdim("instruct", data, "--from", tmp_path / "one", "--out", tmp_path / "two", *more, "--json")
    assert second.exit_code == 0, second.stderr
    assert json.loads(second.stdout) == {"run": str(tmp_path / "two")}


def test_the_language_model_is_named_on_the_command_line(crossdim, data, tmp_path):
    result = crossdim("instruct", data, "--out", tmp_path / "run", "--llm", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert "nowhere: is no causal language model in a folder or on a hub within reach" in result.stderr


def test_a_misspelt_key_is_refused_with_the_nearest_name(crossdim, data, tmp_path):
    result = crossdim("instruct", data, "--out", tmp_path / "run", "--set", "scoring.slice_weight=tgis")
    assert result.exit_code == 2
    assert "'scoring.slice_weight': is unknown. Did you mean 'slice_weights'" in result.stderr
