"""What frozen towers make of a file, kept on disk: the second question about a volume encodes nothing.

An entry is found by the content of the files, the preprocessing and the towers' weights, so whatever changes one of
them finds nothing and is computed. An entry is a safetensors file that carries a checksum of its tensors; what fails it
is not used, and replaced. Files are written under another name and renamed, and the ones unused for longest go when
there are too many.
"""

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from crossdim import __version__
from crossdim.readers.content import pair_member
from crossdim.readers.limits import Limits, file_bytes
from crossdim.readers.selector import split_selector
from crossdim.transforms.contract import PreprocessingContract

FOLDER_VARIABLE = "CROSSDIM_CACHE"
"""Environment variable that names another folder."""

FORMAT = 2
"""Counted up when what the tensors of an entry mean changes."""

GIB = 2**30
_SETTLED_SECONDS = 2.0
"""A file whose last change is longer ago than this shows any further change in its times."""

_STALE_SECONDS = 3600.0
"""A half-written file older than this belongs to a process that is gone."""

_ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.crossdim")
"""Nothing else in the folder is touched, whatever folder it is."""


def default_folder() -> Path:
    """Return where features are kept: ``CROSSDIM_CACHE``, or ``crossdim/features`` in the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossdim" / "features"


class FileHashes:
    """SHA-256 of files; one that has not changed since is not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int, int], str] = {}

    def of(self, paths: Iterable[str]) -> str:
        """Return one hash of everything that reading these paths looks at.

        A folder counts with every file directly in it, a NIfTI pair with both files; names do not count, selectors do.

        Args:
            paths: As ``readers.read_channels`` takes them.

        Raises:
            ReadError: There is no such file.
        """
        digest = hashlib.sha256()
        for path in paths:
            source, select = split_selector(path)
            contents = sorted(self._of_file(file) for file in _files_of(source))
            digest.update(json.dumps([contents, select]).encode())
        return digest.hexdigest()

    def _of_file(self, path: str) -> str:
        status = os.stat(path)
        key = (os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        found = self._known.get(key)
        if found is None:
            with open(path, "rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            # Times count in steps: a file changed a moment ago could change again without a new time.
            if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_SECONDS:
                self._known[key] = found
        return found


def _files_of(source: str) -> list[str]:
    if os.path.isdir(source):
        return [entry.path for entry in os.scandir(source) if entry.is_file() and not entry.name.startswith(".")]
    file_bytes(source, Limits())  # says what is wrong with a file that cannot be read
    pair = (pair_member(source, ending) for ending in (".hdr", ".img") if _is_pair(source))
    return list(dict.fromkeys([source, *(path for path in pair if path is not None)]))


def _is_pair(path: str) -> bool:
    return path.lower().removesuffix(".gz").endswith((".hdr", ".img"))


def contract_hash(contract: PreprocessingContract) -> str:
    """Return a hash of what a contract does; where its numbers come from does not count.

    Args:
        contract: Of the model.
    """
    return hashlib.sha256(contract.model_dump_json(exclude={"source"}).encode()).hexdigest()


def weights_hash(modules: Mapping[str, nn.Module | None], settings: Mapping[str, Any]) -> str:
    """Return a hash of weights and of how they are used.

    Args:
        modules: The towers, by name.
        settings: What else their features depend on; only what JSON can hold.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, module in sorted(modules.items()):
        for key, tensor in sorted(module.state_dict().items()) if module is not None else ():
            digest.update(f"{name}.{key}".encode())
            _add(digest, tensor)
    return digest.hexdigest()


def _add(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def feature_key(files: str, contract: str, weights: str, dtype: torch.dtype) -> str:
    """Return the name of an entry.

    Args:
        files: Hash of the content.
        contract: Hash of the preprocessing.
        weights: Hash of the towers.
        dtype: What is computed in.
    """
    return hashlib.sha256(json.dumps([FORMAT, __version__, files, contract, weights, str(dtype)]).encode()).hexdigest()


class FeatureCache:
    """Tensors by key, in a folder of limited size.

    Args:
        folder: Where; :func:`default_folder` when left out. Several processes may share it.
        limit_gib: The entries unused for longest are removed beyond this; 0 keeps nothing.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit_gib: int | float = 10.0) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        self.limit = int(limit_gib * GIB)
        self._complained = False

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Return an entry, or None if there is none that can be trusted.

        Args:
            key: Its name.
        """
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except (OSError, SafetensorError, ValueError):
            return None
        if metadata.get("key") != key or metadata.get("checksum") != _checksum(tensors):
            return None
        with suppress(OSError):
            os.utime(path)
        return tensors

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry; where nothing can be written a warning says so once.

        Args:
            key: Its name.
            tensors: To be kept.
        """
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = save(kept, {"key": key, "checksum": _checksum(kept)})
        if len(content) > self.limit:
            return
        path = self._path(key)
        temporary = path.with_name(f".{uuid4().hex}.crossdim")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            os.replace(temporary, path)
            self._shrink(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            if not self._complained:
                text = f"features cannot be kept in {self.folder} ({error.strerror}); set {FOLDER_VARIABLE} to another"
                warnings.warn(text, stacklevel=2)
            self._complained = True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _shrink(self, newest: Path) -> None:
        """Remove what was unused for longest, and what gone processes left half-written."""
        entries = []
        for entry in os.scandir(self.folder):
            with suppress(OSError):  # another process may have removed it
                status = entry.stat()
                if _TEMPORARY.fullmatch(entry.name) and time.time() - status.st_mtime > _STALE_SECONDS:
                    os.unlink(entry.path)
                elif _ENTRY.fullmatch(entry.name):
                    entries.append((entry.path == str(newest), status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, _, size, _ in entries)
        for _, _, size, path in sorted(entries):
            if total <= self.limit:
                return
            with suppress(OSError):
                os.unlink(path)
            total -= size


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        _add(digest, tensors[name])
    return digest.hexdigest()
