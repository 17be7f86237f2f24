"""Every example runs by itself, is short, and is numbered."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_LINES = 60


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_says_something(example, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CROSSDIM_CACHE", str(tmp_path_factory.mktemp("cache")))
    result = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_numbered_and_short(example):
    assert re.fullmatch(r"\d\d_\w+\.py", example.name)
    assert example.read_text(encoding="utf-8").count("\n") <= MAX_LINES
