"""What every command has in common: help, examples, one-line errors, exit codes, a quick start."""

import os
import re
import signal
import subprocess
import sys

import pytest
import typer

from crossdim import __version__
from crossdim.cli import app
from crossdim.cli.console import bar, print_json
from crossdim.errors import ReadError

HEAVY = ("torch", "transformers", "sklearn", "scipy", "matplotlib", "nibabel", "pydicom", "numpy")


def command_lines(command, prefix=()):
    """Yield every command below a group as the words that call it."""
    for name, child in getattr(command, "commands", {}).items():
        yield (*prefix, name)
        yield from command_lines(child, (*prefix, name))


COMMANDS = [(), *command_lines(typer.main.get_command(app))]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_page_shows_examples_of_its_own_command(crossdim, words):
    result = crossdim(*words, "--help")
    assert result.exit_code == 0
    _, _, examples = result.stdout.partition("Examples")
    lines = re.findall(r"• (crossdim .*)", examples)
    assert lines
    assert all(line.startswith(" ".join(("crossdim", *words))) for line in lines)


def test_help_appears_within_half_a_second_and_loads_nothing_heavy(process):
    """Processor time is counted: what an idle machine takes, also while other tests keep this one busy."""
    seconds = []
    for _ in range(3):
        before = os.times()
        assert process("--help").returncode == 0
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5
    program = f"import sys, crossdim.cli; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_version_is_told(crossdim):
    assert crossdim("--version").stdout == f"crossdim {__version__}\n"


def test_an_unknown_command_names_the_nearest_and_exits_with_2(crossdim):
    result = crossdim("inspekt")
    assert result.exit_code == 2
    assert "Did you mean 'inspect'?" in result.stderr


def test_a_users_error_is_one_line_on_stderr_and_exit_code_2(process):
    result = process("inspect", "no/such/file.nii.gz")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("crossdim: no/such/file.nii.gz: ")


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_the_traceback_wherever_it_stands(process, place):
    words = ["inspect", "no/such/file.nii.gz"]
    words.insert(0 if place == "first" else 2, "--debug")
    result = process(*words)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert ReadError.__name__ in result.stderr


@pytest.mark.parametrize(("error", "code"), [("OSError('disk\\nfull')", 1), ("KeyboardInterrupt()", 130)])
def test_other_failures_are_short_too(error, code):
    program = (
        "import typer; from crossdim import cli\n"
        "@cli.app.command()\n"
        f"def fail() -> None: raise {error}\n"
        "cli.main(['fail'])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == code
    expected = "crossdim: OSError: disk full (add --debug for the traceback)\n" if code == 1 else ""
    assert result.stderr == expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_an_interrupt_from_the_keyboard_ends_with_130():
    program = (
        "import signal, time; from crossdim import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "@cli.app.command()\n"
        "def wait() -> None: print('ready', flush=True); time.sleep(60)\n"
        "cli.main(['wait'])"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"Traceback" not in stderr


def test_json_has_null_where_a_number_is_not_finite(capsys):
    print_json({"low": float("nan"), "sizes": (1, 2), "inner": {"high": float("inf")}})
    assert capsys.readouterr().out == '{"low": null, "sizes": [1, 2], "inner": {"high": null}}\n'


def test_progress_goes_to_stderr_only(capsys):
    with bar("counting") as progress:
        progress(1, 3)
        progress(3, 3)
    assert capsys.readouterr().out == ""


def test_the_doctor_speaks_and_prints_json(crossdim):
    told, printed = crossdim("doctor", "--no-self-test"), crossdim("doctor", "--no-self-test", "--json")
    assert told.exit_code == printed.exit_code == 0
    assert "Packages" in told.stdout
    assert '"cpu_cores": ' in printed.stdout


def test_an_unhealthy_installation_gives_exit_code_1(crossdim, monkeypatch):
    from crossdim import doctor

    read_only = doctor.Folder("working", "somewhere", writable=False, free_gib=10.0)
    monkeypatch.setattr(doctor, "find_folders", lambda: (read_only,))
    result = crossdim("doctor", "--no-self-test")
    assert result.exit_code == 1
    assert "somewhere, not writable" in result.stdout
