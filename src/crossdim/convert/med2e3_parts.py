"""Opens the folders of Med-2E3 and M3D-CLIP: weights by the authors' full names, and what the config files say.

The released folder has one folder for each part, whose weights carry no name of the part; here they get it back.
Weights may be one file or several with an index. Config files are plain JSON: nothing they name is imported.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from crossdim.convert.keys import Shape
from crossdim.convert.reading import Checkpoint, read_checkpoint
from crossdim.errors import ReadError

PARTS = {
    "llm": "llm.",
    "vision2d_model": "vision2d_model.vision2d_encoder.",
    "vision2d_connector": "vision2d_connector.",
    "vision3d_model": "vision3d_model.vision3d_encoder.",
    "vision3d_connector": "vision3d_connector.",
}
"""Folder of a part → what its weights are called in the whole model."""

CLIP_PREFIX = PARTS["vision3d_model"]
VIT_PREFIX = f"{CLIP_PREFIX}vision_encoder."

FILES = ("model.safetensors", "pytorch_model.bin", "pretrained_ViT.bin")
"""Names that a file of weights may have, the preferred one first."""

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LARGEST_JSON = 2**26
_WHOLE = "Give the folder as it was released, whole"


@dataclass
class Weights(Mapping[str, Tensor]):
    """Weights of one or several files by the authors' full names; a tensor is read when it is asked for.

    Attributes:
        shapes: Shape of every tensor.
        files: Where they come from, in order.
        not_tensors: Names among the weights whose value is no dense tensor.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    not_tensors: list[str] = field(default_factory=list)
    _places: dict[str, tuple[Checkpoint, str]] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> Tensor:
        checkpoint, key = self._places[name]
        return checkpoint[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def add(self, path: Path, prefix: str) -> None:
        """Open one more file.

        Args:
            path: A checkpoint.
            prefix: What its names are to begin with.

        Raises:
            ReadError: It is damaged, or holds a name that is there already.
        """
        checkpoint = read_checkpoint(path)
        self.files.append(path)
        self.not_tensors += [prefix + name for name in checkpoint.not_tensors]
        for key, shape in checkpoint.shapes.items():
            name = prefix + _plain(checkpoint.prefix + key, prefix)
            if name in self.shapes:
                raise ReadError(path, f"holds '{key}', which another file has already", _WHOLE)
            self.shapes[name] = shape
            self._places[name] = (checkpoint, key)


def _plain(name: str, prefix: str) -> str:
    """Return a name without what compilation and distributed training put into it, and without its part's name."""
    return name.replace("_orig_mod.", "").removeprefix("module.").removeprefix(prefix)


def add_part(weights: Weights, folder: Path, prefix: str) -> None:
    """Open the weights of a part.

    Args:
        weights: What they are added to.
        folder: The part's folder.
        prefix: What its names are to begin with.

    Raises:
        ReadError: There are none, or they are damaged.
    """
    for name in FILES:
        if (folder / name).is_file():
            weights.add(folder / name, prefix)
            return
    for name in _INDICES:
        if (folder / name).is_file():
            for file in _indexed(folder / name):
                weights.add(file, prefix)
            return
    raise ReadError(folder / "pytorch_model.bin", "does not exist", _WHOLE)


def _indexed(index: Path) -> list[Path]:
    """Return the files that an index names, all in its own folder."""
    names = read_json(index).get("weight_map")
    files = sorted(set(names.values())) if isinstance(names, dict) and all(map(_is_name, names.values())) else []
    if not files:
        raise ReadError(index, "names no files of this folder", "Download or copy it again")
    return [index.parent / name for name in files]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and Path(value).name == value and value not in ("", ".", "..")


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds.

    Args:
        path: The file.

    Raises:
        ReadError: It is missing, too large, damaged, or no JSON object.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ReadError(path, f"is larger than {_LARGEST_JSON} bytes", "Give the config file of the model")
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ReadError(path, "does not exist", _WHOLE) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ReadError(path, f"is no valid JSON ({error})", "Download or copy it again") from error
    if not isinstance(found, dict):
        raise ReadError(path, "is no JSON object", "Download or copy it again")
    return found


def leaves(tree: Any) -> dict[str, Any]:
    """Return the values of a nested JSON object by their own key, the outermost of a name first.

    Args:
        tree: What :func:`read_json` returned.
    """
    found: dict[str, Any] = {}
    waiting = [tree]
    while waiting:
        for key, value in waiting.pop(0).items():
            if isinstance(value, dict):
                waiting.append(value)
            else:
                found.setdefault(key, value)
    return found
