"""What all commands share on the terminal: examples in a help text, progress on stderr, JSON on stdout."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

import typer

Item = TypeVar("Item")

Json = Annotated[bool, typer.Option("--json", help="Print the data as JSON, one object per line.")]
"""The option of every command whose output is data."""


def examples(*commands: str) -> str:
    """Return the text under a help page that shows commands to copy.

    Args:
        commands: Whole command lines.
    """
    return "\n\n".join(["**Examples**", *(f"- `{command}`" for command in commands)])


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


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield the items while a bar on stderr shows how many are done and how long the rest will take.

    Args:
        items: What is worked on.
        total: How many there are.
        what: What is done to them, as the bar's label.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=what)
