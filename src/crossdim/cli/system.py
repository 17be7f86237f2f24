"""`crossdim demo` and `crossdim doctor`: does it work here, and what does it do?"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdim.cli.console import DEMO_FOLDER, Json, examples, print_json, show_facts

if TYPE_CHECKING:
    from crossdim.doctor import Diagnosis


def register(app: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        app: The command line.
    """
    app.command(epilog=examples("crossdim demo", "crossdim demo --out my-demo"))(demo)
    app.command(epilog=examples("crossdim doctor", "crossdim doctor --no-self-test --json"))(doctor)


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything is written.")] = DEMO_FOLDER,
) -> None:
    """Tell the whole story on data that come with the installation: pre-train, fine-tune, evaluate, predict, report.

    Nothing is pre-computed and nothing is downloaded. A demo that was stopped goes on with the same folder.
    """
    from crossdim.demo import run

    run(out, say=typer.echo)


def doctor(
    self_test: Annotated[bool, typer.Option(help="Read, prepare and train on a toy (about five seconds).")] = True,
    as_json: Json = False,
) -> None:
    """Say what is installed, what this machine can do, and what to do where something is missing.

    The exit code is 1 if a check fails or a folder cannot be written to.
    """
    from crossdim.doctor import run

    diagnosis = run(self_test=self_test)
    if as_json:
        print_json(diagnosis)
    else:
        show_facts(_facts(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(1)


def _facts(diagnosis: "Diagnosis") -> Iterator[tuple[str, str]]:
    yield "System", f"{diagnosis.system}, {diagnosis.cpu_cores} cores"
    yield "Packages", ", ".join(f"{name} {version or '-'}" for name, version in diagnosis.versions.items())
    for device in diagnosis.devices:
        bf16 = "bf16" if device.bf16 else "no bf16"
        yield "Device", f"{device.kind}: {device.name}, {device.memory_gib:.1f} GiB, {bf16}"
    for extra in diagnosis.extras:
        state = f"missing {', '.join(extra.missing)}: {extra.command}" if extra.missing else "installed"
        yield f"Extra {extra.name}", state
    for folder in diagnosis.folders:
        state = f"{folder.free_gib:.0f} GiB free" if folder.writable else "not writable"
        yield f"Folder, {folder.purpose}", f"{folder.path}, {state}"
    for check in diagnosis.checks:
        word = "passed" if check.passed else "FAILED"
        yield f"Check {word}", f"{check.name} ({check.seconds:.1f} s): {check.detail}"
    for line in diagnosis.advice:
        yield "Advice", line
