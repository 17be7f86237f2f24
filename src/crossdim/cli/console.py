"""What all commands share on the terminal: examples in a help text, progress on stderr, JSON on stdout."""

import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from crossdim.inference import Detector, Predictor, SceneEmbedder

DEMO_FOLDER = Path("crossdim-demo")
"""Where `crossdim demo` writes, and where `crossdim ask` finds the demo's model."""

Json = Annotated[bool, typer.Option("--json", help="Print the data as JSON, one object per line.")]
"""The option of every command whose output is data."""

Device = Annotated[str | None, typer.Option(help="cpu or cuda; a GPU if there is one when left out.")]
"""The option of every command that runs a trained model."""


def examples(*commands: str) -> str:
    """Return the text under a help page that shows commands to copy.

    Args:
        commands: Whole command lines.
    """
    return "\n\n".join(["**Examples**", *(f"- `{command}`" for command in commands)])


def complain(error: BaseException | str) -> None:
    """Print one line on stderr that says what went wrong.

    Args:
        error: The error, or what to say.
    """
    typer.echo(f"crossdim: {' '.join(str(error).split())}", err=True)


def print_json(data: Any) -> None:
    """Print one JSON object on a line of its own; numbers that JSON lacks (NaN, infinity) become null.

    Args:
        data: A dataclass, or what JSON can hold.
    """
    typer.echo(json.dumps(_plain(data), allow_nan=False))


def _plain(data: Any) -> Any:
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {field.name: _plain(getattr(data, field.name)) for field in dataclasses.fields(data)}
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print lines of a name and what is to be said about it.

    Args:
        facts: Names and texts.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(name, Text(text))
    Console(highlight=False).print(table)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how much is done and how long the rest will take, while the block runs.

    Args:
        what: What is done, as the bar's label.

    Yields:
        A function to call with (how many are done, how many there are).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        task = display.add_task(what, total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


def provenance(model: str, contract: str) -> dict[str, str]:
    """Return what it takes to repeat a command's result.

    Args:
        model: What was loaded.
        contract: Where its preprocessing comes from.
    """
    from crossdim.training.provenance import git_commit, versions

    return {
        "model": model,
        "contract": contract,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "commit": git_commit() or "an installed copy",
        "command": shlex.join(["crossdim", *sys.argv[1:]]),
    }


def load_model(run: Path, device: str | None) -> "Predictor":
    """Load a trained model without the progress bars of the libraries below.

    Args:
        run: A run, one of its checkpoints, or a converted model.
        device: Where it runs; a GPU if there is one when None.
    """
    from transformers.utils import logging

    from crossdim.inference import load_predictor

    logging.disable_progress_bar()
    return load_predictor(run, device)


def load_encoder(run: Path, device: str | None) -> "Predictor | SceneEmbedder":
    """Load what gives features of files or of scenes, without the progress bars of the libraries below.

    Args:
        run: A run, one of its checkpoints, or a converted model.
        device: Where it runs; a GPU if there is one when None.
    """
    from transformers.utils import logging

    from crossdim import inference

    logging.disable_progress_bar()
    return inference.load_encoder(run, device)


def load_detector(run: Path, device: str | None) -> "Detector":
    """Load a detector of boxes, without the progress bars of the libraries below.

    Args:
        run: A run, one of its checkpoints, or a converted model.
        device: Where it runs; a GPU if there is one when None.
    """
    from transformers.utils import logging

    from crossdim import inference

    logging.disable_progress_bar()
    return inference.load_detector(run, device)
