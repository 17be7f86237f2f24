"""``run.json``: what a run was made of and what happened to it, enough to repeat it.

Every session (start, resumption) is listed; a run whose recipe, data or number of processes changed is refused, with
what changed.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crossdim.datasets.manifest import Manifest, source_of
from crossdim.errors import RecipeError
from crossdim.outputs.files import write_atomic
from crossdim.training.recipe import FinetuneRecipe, PretrainRecipe
from crossdim.training.recipe_detect import DetectRecipe
from crossdim.training.recipe_files import differences, load_recipe, recipe_text
from crossdim.training.recipe_instruct import InstructRecipe
from crossdim.training.recipe_pimae import PimaeRecipe

AnyRecipe = PretrainRecipe | FinetuneRecipe | InstructRecipe | PimaeRecipe | DetectRecipe

PACKAGES = ("crossdim", "torch", "transformers", "accelerate", "peft", "numpy", "nibabel", "pydicom")
FREE_TO_CHANGE = ("hardware.workers", "hardware.cache_gib", "logging.report_to", "logging.keep_checkpoints")
"""Recipe keys that a resumed run may change, because no number depends on them."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit crossdim itself was run from (``+changes`` if edited since), None for an installed copy."""
    folder = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A copy installed inside somebody else's repository must not report that repository's commit.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain", "--", ".") else commit


def hardware() -> dict[str, str | int | float]:
    """Return processor, memory and accelerators."""
    import psutil
    import torch

    facts: dict[str, str | int | float] = {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name(0)
        facts["accelerators"] = torch.cuda.device_count()
    return facts


def weights_hash(folder: Path) -> str:
    """Return a SHA-256 of the weights of a saved model, in one file or several.

    Args:
        folder: What ``save_pretrained`` wrote.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def stamp(manifest: Manifest) -> str:
    """Return a hash of the names, sizes and modification times of a manifest's files; reads none of them.

    Args:
        manifest: The data.
    """
    digest = hashlib.sha256(manifest.sha256.encode())
    for source in sorted(
        {source_of(path) for record in manifest.records for paths in manifest.resolve_all(record) for path in paths}
    ):
        for file in sorted(Path(source).iterdir()) if os.path.isdir(source) else [Path(source)]:
            if file.exists():
                state = file.stat()
                digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """A run's folder: its recipe, its ``run.json``, and whether it may be continued.

    Args:
        path: The folder; created with the first session.
        recipe: The resolved recipe.
        writes: Whether this process writes; the others of a distributed run only read.
    """

    def __init__(self, path: Path, recipe: AnyRecipe, writes: bool = True) -> None:
        self.path, self.recipe, self.writes = path.absolute(), recipe, writes
        self.checkpoints = self.path / "checkpoints"
        self.pictures = self.path / "pictures"
        self.log = self.path / "log.jsonl"
        self.facts: dict[str, Any] = {}
        """What else the numbers depend on: hashes of data, contract and encoder, number of processes."""
        self.notes: dict[str, Any] = {}
        """What else ``run.json`` keeps."""

    @property
    def document(self) -> dict[str, Any]:
        """The content of ``run.json``; empty before the first session."""
        file = self.path / "run.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @property
    def finished(self) -> bool:
        """Whether the run reached its end."""
        return self.document.get("status") == "finished"

    def refuse_other_recipe(self) -> None:
        """Refuse a folder that holds something else than a run of this recipe.

        Raises:
            RecipeError: The folder holds other files, another kind of run, or a run of another recipe.
        """
        if self.path.is_file():
            raise RecipeError(self.path, "is a file where a run's folder is needed", "Choose another folder")
        document = self.document
        if not document:
            self._refuse_other_files()
            return
        if document["kind"] != self.recipe.kind:
            raise RecipeError(self.path, f"holds a run of kind '{document['kind']}'", "Choose another folder")
        old = load_recipe(self.path / "recipe.yaml", type(self.recipe))  # type: ignore[type-var]
        self._refuse(differences(old, self.recipe, FREE_TO_CHANGE))

    def _refuse_other_files(self) -> None:
        if not self.path.is_dir():
            return
        # A run that was killed before its first session was recorded has left no more than these.
        own = {"recipe.yaml", "checkpoints"}
        names = sorted(entry.name for entry in self.path.iterdir())
        others = [name for name in names if not name.startswith(".") and name not in own]
        if others:
            raise RecipeError(
                self.path, f"holds other files and no run ({others[0]}, ...)", "Choose an empty or a new folder"
            )

    def refuse_other_facts(self, facts: dict[str, Any]) -> None:
        """Refuse a folder whose run depended on other data, another encoder or another number of processes.

        Args:
            facts: Of this run; kept for ``run.json``.

        Raises:
            RecipeError: Something differs.
        """
        self.facts = facts
        old = self.document.get("facts", facts)
        self._refuse([f"{name}: {old.get(name)} → {value}" for name, value in facts.items() if old.get(name) != value])

    def _refuse(self, changes: list[str]) -> None:
        if changes:
            raise RecipeError(
                self.path,
                f"holds a run that differs from this one ({'; '.join(changes)})",
                "Choose another folder, or undo the change to continue that run",
            )

    def open_session(self, step: int) -> None:
        """Record that a session starts.

        Args:
            step: Optimiser step it starts from.
        """
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        new: dict[str, Any] = {"kind": self.recipe.kind, "seed": self.recipe.seed, "facts": self.facts, "sessions": []}
        document = self.document or new
        session = {
            "from_step": step,
            "start": _now(),
            "end": None,
            "command": shlex.join(sys.argv),
            "versions": versions(),
            "commit": git_commit(),
            "hardware": hardware(),
        }
        document |= {"status": "running", "sessions": [*document["sessions"], session]} | self.notes
        write_atomic(self.path / "recipe.yaml", recipe_text(self.recipe))
        if self.log.is_file() and not self.log.read_bytes().endswith(b"\n"):
            with self.log.open("a", encoding="utf-8") as file:
                file.write("\n")  # closes a line that a kill cut short
        if step:
            self.append_log({"event": "resumed", "step": step})
        self._save(document)

    def close_session(self, status: str, **results: Any) -> None:
        """Record how a session ended.

        Args:
            status: ``finished``, or why it stopped.
            **results: What came out, as JSON.
        """
        if not self.writes:
            return
        document = self.document
        document["sessions"][-1]["end"] = _now()
        self._save(document | {"status": status} | results)

    def update(self, **facts: Any) -> None:
        """Add facts to ``run.json``.

        Args:
            **facts: As JSON.
        """
        if self.writes:
            self._save(self.document | facts)

    def _save(self, document: dict[str, Any]) -> None:
        write_atomic(self.path / "run.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def append_log(self, line: dict[str, Any]) -> None:
        """Append one line to ``log.jsonl`` and flush it.

        Args:
            line: Numbers and words of one moment.
        """
        if self.writes:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """Return the log, steps that were run twice (before and after a kill) once, as run last."""
        return read_log(self.log)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ``log.jsonl``; of a step that was run twice only what was logged last.

    A line cut short by a kill is left out.

    Args:
        path: The file.
    """
    lines: list[dict[str, Any]] = []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if line.get("event") == "resumed":
            lines = [earlier for earlier in lines if earlier.get("step", 0) <= line["step"]]
        else:
            lines.append(line)
    return lines
