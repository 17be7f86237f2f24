"""The architecture as lists, enforced: who may import whom, what must stay light, and how large a part may grow.

The lists are those of ``docs/explanation/architecture.md``.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "crossdim"

GROUND = ("errors", "samples", "geometry")
SIDES = {
    "data": (*GROUND, "readers", "datasets", "transforms"),
    "model": (*GROUND, "tokens", "masking", "encoders", "fusion", "heads", "models"),
    "result": (*GROUND, "metrics", "outputs"),
}
"""Each side from left to right: a room imports only rooms to its left on its own side."""

TOP = ("inference", "training", "convert", "serving", "cli", "demo", "doctor", "__main__")
"""Where the sides meet: these may import any side and one another, without cycles."""

LIGHT = ("samples", "geometry", "readers", "datasets", "outputs")
"""Rooms that never load torch, so that `crossdim inspect` starts at once."""

SHARED_ROOMS = ("tokens", "fusion", "heads")
ONE_USER = {
    "crossdim.heads.gradients": "Uni4Eye: the gradient map that the second decoder reconstructs",
    "crossdim.heads.language": "Med-2E3: visual tokens in place of the placeholders of a language model",
}
"""Modules of shared rooms with a single user so far, each with the paper's name for what it holds."""

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 8
"""Of every function but the commands of `cli`, where a parameter is an option."""


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, and the crossdim modules that it imports anywhere in it."""

    name: str
    path: Path
    imports: frozenset[str]

    @property
    def room(self) -> str:
        return room_of(self.name)


def room_of(name: str) -> str:
    """Return the first component below ``crossdim`` (empty for the package itself)."""
    return name.split(".")[1] if "." in name else ""


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield every dotted crossdim name a file imports, at module level, in functions, and for typing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "crossdim")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: write the full name"
            if node.module and node.module.split(".")[0] == "crossdim":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def load_modules() -> dict[str, Module]:
    files = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
    modules = {}
    for name, path in files.items():
        targets = set()
        for target in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            targets.add(target if target in files else target.rpartition(".")[0])
        modules[name] = Module(name, path, frozenset(targets - {name}))
    return modules


MODULES = load_modules()


def each(modules: Iterable[Module]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", list(modules), ids=lambda module: module.name)


each_module = each(MODULES.values())
each_model = each(m for m in MODULES.values() if re.fullmatch(r"crossdim\.models\.(?!auto$)\w+", m.name))
each_shared_module = each(m for m in MODULES.values() if m.room in SHARED_ROOMS and m.path.name != "__init__.py")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def allowed_rooms(room: str) -> set[str]:
    """Return the rooms that ``room`` may import, itself included."""
    if room in TOP or room == "":
        return {*TOP, *(name for side in SIDES.values() for name in side)}
    return {name for side in SIDES.values() if room in side for name in side[: side.index(room) + 1]}


@each_module
def test_every_module_stands_in_a_room_of_the_architecture(module):
    assert module.room in {"", *TOP, *(room for side in SIDES.values() for room in side)}


@each_module
def test_a_room_imports_only_what_stands_to_its_left_on_its_own_side(module):
    allowed = allowed_rooms(module.room)
    wrong = {name for name in module.imports if name != "crossdim" and room_of(name) not in allowed}
    assert not wrong, f"{module.name} may import {sorted(allowed)}"


@each_module
def test_only_the_top_imports_the_package_itself(module):
    assert "crossdim" not in module.imports or module.room in TOP


def test_there_are_no_import_cycles():
    graph = {name: module.imports - {"crossdim"} for name, module in MODULES.items() if name != "crossdim"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(reversed(error.args[1]))}")


@each_model
def test_models_do_not_import_one_another(module):
    its_own = {f"{module.name}_config"}
    assert not {name for name in module.imports - its_own if room_of(name) == "models"}


@each_shared_module
def test_a_shared_module_has_two_users_or_the_papers_name_for_it(module):
    users = {other.name for other in MODULES.values() if module.name in other.imports}
    if module.name in ONE_USER:
        assert len(users) == 1, f"users: {sorted(users)}: it needs no exception any more, or has no user at all"
    else:
        assert len(users) >= 2, f"users: {sorted(users)}: move it to its user, or name it in ONE_USER"


def test_light_rooms_import_without_torch():
    names = sorted(module.name for module in MODULES.values() if module.room in LIGHT)
    program = (
        f"import sys, {', '.join(names)}\nprint([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@each_module
def test_files_functions_and_signatures_stay_small(module):
    lines = module.path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, f"{module.name} has {lines} lines"
    for function in functions(module.path):
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        parameters = [name for name in names if name not in {"self", "cls"}]
        assert len(parameters) <= MAX_PARAMETERS or module.room == "cli", f"{function.name} takes {parameters}"
        first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
        length = (function.end_lineno or first.lineno) - first.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{function.name} has {length} lines below its docstring"


def test_no_file_is_named_utils():
    banned = re.compile(r"^(utils?|helpers?|misc|common)(\.py)?$")
    assert not [path for path in SOURCE.rglob("*") if banned.match(path.name)]


def tracked_files() -> list[Path]:
    """Return the text files of the repository, or skip where there is no repository (an unpacked archive)."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository: an unpacked source archive")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in names.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def test_no_tracked_file_names_a_path_of_one_machine():
    machine_path = re.compile(r"(?<![\w.}*/-])/(?:home|Users|root|work|mnt|media|srv)/\w|[A-Z]:\\\\?Users|file:///\w")
    found = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if machine_path.search(line)
    }
    assert not found


def dependency_tree() -> set[str]:
    """Return every distribution that crossdim with all its extras needs, as far as it is installed here."""
    extras = tuple(metadata.metadata("crossdim").get_all("Provides-Extra") or ())
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting: list[tuple[str, frozenset[str]]] = [("crossdim", frozenset(extras))]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, requirements):
            environments = ({"extra": extra} for extra in ("", *wanted))
            if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen} - {"crossdim"}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def test_torchvision_is_not_in_the_dependency_tree():
    tree = dependency_tree()
    assert {"torch", "transformers", "pydicom", "pytest"} <= tree
    assert "torchvision" not in tree | set(pinned())


def test_every_dependency_is_pinned_in_the_constraints():
    brought_by_a_cuda_torch = re.compile(r"^(nvidia-|cuda-|triton|cusparselt)")
    missing = {name for name in dependency_tree() - set(pinned()) if not brought_by_a_cuda_torch.match(name)}
    assert not missing


def test_the_constraints_hold_plain_versions_only():
    assert all(re.fullmatch(r"\d+(\.\w+)*", version) for version in pinned().values())
