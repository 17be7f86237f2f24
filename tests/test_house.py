"""The house rules that tools can check: formatting, lint (docstrings and annotations included), types."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


def assert_clean(*command: str) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"


def test_every_file_is_formatted():
    assert_clean("ruff", "format", "--check", ".")


def test_every_file_passes_the_linter():
    assert_clean("ruff", "check", ".")


@pytest.mark.slow
def test_the_package_passes_the_type_checker():
    assert_clean("mypy")
