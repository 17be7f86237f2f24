"""The documentation keeps its word: its code runs, its links lead somewhere, its references are complete.

On a page, the ```bash and ```python blocks run from top to bottom in one empty folder, the Python ones in one
namespace. A comment right above a block takes it out, with the reason: ``<!-- not run: needs your own files -->``;
``<!-- command: test -->`` marks a command that ``.ci/run`` runs. A page that holds ``<!-- slow: why -->`` runs
with the slow tests.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
README_LINES = 200
SECONDS_PER_BLOCK = 600

BLOCK = re.compile(
    r"(?P<above>^[^\n]*\n)?(?P<indent>^ *)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S
)
NOT_RUN = re.compile(r"<!-- (?:not run: \S.*|command: \w+) -->")
SLOW = re.compile(r"<!-- slow: \S.* -->")


@dataclass(frozen=True)
class Block:
    """A piece of code on a page that is to be run."""

    language: str
    code: str
    line: int


def runnable_blocks(text: str) -> list[Block]:
    blocks = []
    for match in BLOCK.finditer(text):
        if match["language"] in {"bash", "python"} and not NOT_RUN.search(match["above"] or ""):
            code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
            blocks.append(Block(match["language"], code, text.count("\n", 0, match.start("code")) + 1))
    return blocks


def page_parameters() -> list:
    parameters = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if runnable_blocks(text):
            marks = [pytest.mark.slow] if SLOW.search(text) else []
            parameters.append(pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks))
    return parameters


def run_bash(block: Block) -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        env={**os.environ, "PATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=SECONDS_PER_BLOCK,
    )
    assert result.returncode == 0, f"{block.code}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("page", page_parameters())
def test_the_code_on_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("CROSSDIM_CACHE", str(tmp_path / "cache"))
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in runnable_blocks(page.read_text(encoding="utf-8")):
        if block.language == "bash":
            run_bash(block)
        else:
            source = "\n" * (block.line - 1) + block.code
            exec(compile(source, str(page), "exec"), namespace)


def test_a_block_is_run_unless_the_line_above_says_why_not():
    run, skipped = "```bash\nrun me\n```\n", "<!-- not run: a reason -->\n```bash\nnot me\n```\n"
    without_reason = "<!-- not run: -->\n```python\nme too\n```\n"
    assert [block.code for block in runnable_blocks(run + skipped + without_reason)] == ["run me\n", "me too\n"]


def test_an_indented_block_loses_its_indent_and_keeps_its_line():
    assert runnable_blocks("text\n\n    ```python\n    if True:\n        x = 1\n    ```\n") == [
        Block("python", "if True:\n    x = 1\n", 4)
    ]


def test_the_readme_is_short_and_its_links_lead_to_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= README_LINES
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_the_readme_prints_its_two_commands_as_one_line_each():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"<!-- command: (\w+) -->\n```bash\n([^\n]+)\n```", text)
    assert [name for name, _ in commands] == ["demo", "test"]
    assert all(line.startswith("python3 -m venv ") and "-c constraints.txt" in line for _, line in commands)


def test_every_module_has_its_entry_in_the_reference():
    source = ROOT / "src" / "crossdim"
    modules = {
        ".".join(("crossdim", *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__")
        for path in source.rglob("*.py")
        if path.read_text(encoding="utf-8").count("\ndef ") + path.read_text(encoding="utf-8").count("\nclass ")
    }
    public = {name for name in modules if not re.search(r"\.(_\w+|cli)(\.|$)", name)}
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").rglob("*.md"))
    documented = set(re.findall(r"^::: (\S+)$", pages, re.M))
    assert documented == public - {"crossdim"}


def test_the_command_reference_is_what_the_commands_say_of_themselves(tmp_path):
    written, kept = tmp_path / "cli.md", DOCS / "reference" / "cli.md"
    arguments = ["-m", "typer", "crossdim.cli", "utils", "docs", "--name", "crossdim", "--output"]
    subprocess.run([sys.executable, *arguments, written], check=True, capture_output=True)
    command = f"python {' '.join(arguments)} docs/reference/cli.md"
    assert written.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8"), f"run: {command}"


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
