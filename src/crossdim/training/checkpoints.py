"""Checkpoints that can be trusted after a kill at any moment.

Hugging Face's Trainer writes a checkpoint file by file. Here a checkpoint counts only when ``complete.json``, written
last, stands beside its files, and every file still has the size recorded there.
"""

import json
import re
import shutil
from pathlib import Path

from crossdim.outputs.files import write_atomic

MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)$")


def mark_complete(checkpoint: Path) -> None:
    """Declare a checkpoint complete by recording the size of each of its files.

    Args:
        checkpoint: Folder with everything written.
    """
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file())
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files if path.name != MARKER}
    write_atomic(checkpoint / MARKER, json.dumps(sizes, indent=1))


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint was finished and still is as it was then.

    A run in another process may delete the checkpoint while it is looked at: it is not complete then.

    Args:
        checkpoint: Folder to look at.
    """
    try:
        sizes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step in a checkpoint's name, -1 if it is none."""
    found = _NAME.match(checkpoint.name)
    return int(found.group(1)) if found else -1


def last_complete(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, None if there is none.

    Args:
        folder: Where the checkpoints are.
    """
    if not folder.is_dir():
        return None
    found = [path for path in folder.iterdir() if step_of(path) >= 0 and is_complete(path)]
    return max(found, key=step_of, default=None)


def remove_incomplete(folder: Path) -> list[Path]:
    """Delete half-written checkpoints and return what was deleted.

    Args:
        folder: Where the checkpoints are.
    """
    if not folder.is_dir():
        return []
    broken = sorted(path for path in folder.iterdir() if step_of(path) >= 0 and not is_complete(path))
    for path in broken:
        shutil.rmtree(path)
    return broken
