"""What a conversion says about itself, and the folder that it writes: whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdim import __version__
from crossdim.convert.keys import KeyReport
from crossdim.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from crossdim.transforms.contract import PreprocessingContract

REPORT_NAME = "conversion-report.json"


@dataclass(frozen=True)
class ConversionReport:
    """What was converted, what was assumed, and what became of every key.

    Attributes:
        checkpoint: Name of the file or folder.
        sha256: Hash of the file; of a folder's files, one after the other.
        layout: Whose layout it is, in words.
        architecture: Our class that loads the result.
        out: Folder that was written.
        notes: Every assumption and every change, one sentence each.
        keys: What became of every key.
        not_tensors: Names among the weights that hold no dense tensor.
    """

    checkpoint: str
    sha256: str
    layout: str
    architecture: str
    out: Path
    notes: tuple[str, ...]
    keys: KeyReport
    not_tensors: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``conversion-report.json`` holds it."""
        return {
            "crossdim": __version__,
            "checkpoint": self.checkpoint,
            "sha256": self.sha256,
            "layout": self.layout,
            "architecture": self.architecture,
            "notes": list(self.notes),
            "keys": self.keys.to_dict(),
            "not_tensors": list(self.not_tensors),
        }

    def write(self, folder: Path) -> None:
        """Write ``conversion-report.json``.

        Args:
            folder: Where to.
        """
        (folder / REPORT_NAME).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def hash_of(files: Sequence[str | PathLike[str]]) -> str:
    """Return the hash of one or several files, one after the other.

    Args:
        files: In order.
    """
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            if len(files) == 1:
                return hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_free(out: str | PathLike[str]) -> Path:
    """Return the folder to make, after checking that nothing is in its place.

    Args:
        out: Folder to make.

    Raises:
        RecipeError: It is there and not empty.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(out, "exists already and is not an empty folder", "Choose another folder, or remove it")
    return folder


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, which takes its name when everything is in it.

    Args:
        folder: Folder to make.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_model(
    folder: Path,
    config: "PreTrainedConfig",
    state: "Mapping[str, Tensor]",
    contract: "PreprocessingContract",
    report: ConversionReport,
) -> None:
    """Write ``config.json``, ``model.safetensors``, ``contract.json`` and the report.

    Args:
        folder: Where to.
        config: Of the model that the report names.
        state: Its weights.
        contract: Its preprocessing.
        report: Of the conversion.
    """
    from safetensors.torch import save_file

    config.architectures = [report.architecture]
    config.save_pretrained(folder)
    save_file(dict(state), folder / "model.safetensors", metadata={"format": "pt"})
    contract.save_pretrained(folder)
    report.write(folder)
