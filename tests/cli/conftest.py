import subprocess
import sys

import pytest
from typer.testing import CliRunner

from crossdim.cli import app


@pytest.fixture
def crossdim():
    """Return a function that runs a command line inside this process."""
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def process():
    """Return a function that runs a command line in a process of its own, as a shell would."""

    def run(*arguments, **options):
        command = [sys.executable, "-c", "from crossdim.cli import main; main()", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, **options)

    return run
