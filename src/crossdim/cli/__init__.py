"""The `crossdim` command: a thin function per command; every import of a room happens inside its command.

An error a user can mend is one line on stderr and exit code 2; anything else is one line and exit code 1.
`--debug`, anywhere on the line, shows the traceback instead.
"""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from crossdim import __version__
from crossdim.cli import (
    asking,
    conversion,
    detection,
    evaluation,
    export,
    inspection,
    preparation,
    system,
    training,
    use,
)
from crossdim.cli.console import complain, examples
from crossdim.errors import CrossdimError


class _OneLineErrors(TyperGroup):
    """Runs a command and turns what it raises into one line, unless `--debug` is given."""

    def invoke(self, ctx: Any) -> Any:
        if ctx.params["debug"]:
            return super().invoke(ctx)
        sys.excepthook = _report_unexpected
        try:
            return super().invoke(ctx)
        except CrossdimError as error:
            complain(error)
            raise typer.Exit(2) from error


def _report_unexpected(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    complain(f"{kind.__name__}: {error} (add --debug for the traceback)")


app = typer.Typer(
    name="crossdim",
    cls=_OneLineErrors,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "crossdim demo",
        "crossdim inspect scans/",
        "crossdim doctor",
    ),
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"crossdim {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback when something goes wrong.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Models that look in two and three dimensions, from raw clinical files to predictions."""


inspection.register(app)
preparation.register(app)
training.register(app)
evaluation.register(app)
use.register(app)
detection.register(app)
asking.register(app)
conversion.register(app)
export.register(app)
system.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        arguments: What stands after `crossdim`; the process's own arguments by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:
        given = ["--debug", *(argument for argument in given if argument != "--debug")]
    typer.main.get_command(app)(given, prog_name="crossdim")
