"""From files to what a model sees of them, once for all questions: in memory for the last ones, on disk for all."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.fusion.features import TowerFeatures, VisualFeatures
from crossdim.geometry.affine import ASSUMED_AFFINE
from crossdim.inference.feature_cache import FeatureCache, FileHashes, contract_hash, feature_key, weights_hash
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.readers import read_channels
from crossdim.readers.inspection import finite_range
from crossdim.samples import Image, SliceScore, Volume
from crossdim.transforms.contract import Prepared, PreprocessingContract

Files = tuple[str, ...]
"""Of one volume or image: several are its channels."""

REMEMBERED = 4
"""Volumes whose features stay in memory."""

SETTINGS = (
    "pool_size",
    *(f"vision{kind}_{key}" for kind in ("3d", "2d") for key in ("layer", "norm")),
    "vision2d_mean",
    "vision2d_std",
)
"""Keys of the config that the towers' features depend on."""

BOOKKEEPING = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})
"""Keys of a tower's config that change nothing."""

_ROWS = "rows"


@dataclass(frozen=True, eq=False)
class Seen:
    """A file as a model sees it.

    Attributes:
        files: Where it came from.
        kind: What it is.
        content: Hash of the files; empty where nothing is kept.
        prepared: The tensor, and the way back to the file.
        visual: Of this one volume or image, in the language model's width.
        warnings: What the reader said.
        placed: Whether the file says where in the patient it is.
    """

    files: Files
    kind: Literal["image", "volume"]
    content: str
    prepared: Prepared
    visual: VisualFeatures
    warnings: tuple[str, ...] = ()
    placed: bool = True

    def slice_scores(self, scores: Sequence[float]) -> tuple[SliceScore, ...]:
        """Return scores with the number of their slices in the file and their place in the patient.

        Args:
            scores: Of every slice that the model saw.
        """
        found = []
        for place, score in enumerate(scores):
            there = self.prepared.slice_in_file(place)
            found.append(SliceScore(float(score), there.index, there.axis, there.centre_mm))
        return tuple(found)


class Looker:
    """Files → features, through the contract.

    Args:
        model: In evaluation mode; its weights do not change any more.
        contract: Preprocessing.
        cache: Keeps the towers' features on disk; None keeps none.
    """

    def __init__(
        self, model: Med2E3ForConditionalGeneration, contract: PreprocessingContract, cache: FeatureCache | None
    ) -> None:
        self.model, self.contract, self.cache = model, contract, cache
        self._hashes = FileHashes()
        self._seen: OrderedDict[tuple[Files, str], Seen] = OrderedDict()
        self._weights: str | None = None

    def look(self, files: Files) -> Seen:
        """Return what the model sees of one volume or image, and remember it.

        Args:
            files: Its file, or those of its channels.

        Raises:
            ReadError: A file cannot be read.
            ContractError: It does not fit the contract, or there is nothing to see in it.
        """
        key = (files, self._hashes.of(files))
        if key not in self._seen:
            self._seen[key] = self._look([files], [key[1]])[0]
        self._seen.move_to_end(key)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return self._seen[key]

    def look_at(self, sources: Sequence[Files]) -> list[Seen]:
        """Return what the model sees of several, encoded together and not remembered.

        Args:
            sources: Different volumes or images.

        Raises:
            ReadError: A file cannot be read.
            ContractError: One does not fit the contract, or there is nothing to see in it.
        """
        contents = [self._hashes.of(files) if self.cache is not None else "" for files in sources]
        return self._look(sources, contents)

    def _look(self, sources: Sequence[Files], contents: Sequence[str]) -> list[Seen]:
        opened = [read_channels(files) for files in sources]
        for noun in opened:
            refuse_blank(noun)
        prepared = [self.contract.prepare(noun) for noun in opened]
        keys = [self._key(content) for content in contents]
        towers = [self._kept(key) for key in keys]
        missing = [place for place, tower in enumerate(towers) if tower is None]
        for place, encoded in self._encoded(missing, prepared, opened):
            towers[place] = encoded
            if self.cache is not None:
                self.cache.store(keys[place], _tensors(encoded))
        seen = []
        for place, (files, noun) in enumerate(zip(sources, opened, strict=True)):
            tower = towers[place]
            assert tower is not None
            with computing(self.model):
                visual = self.model.connect(tower.to(self.model.device))
            placed = isinstance(noun, Volume) and not np.array_equal(noun.affine, ASSUMED_AFFINE)
            seen.append(Seen(files, noun.kind, contents[place], prepared[place], visual, noun.warnings, placed))
        return seen

    def _key(self, content: str) -> str:
        if self.cache is None:
            return ""
        if self._weights is None:
            self._weights = towers_hash(self.model)
        return feature_key(content, contract_hash(self.contract), self._weights, compute_dtype(self.model))

    def _kept(self, key: str) -> TowerFeatures | None:
        found = None if self.cache is None else self.cache.load(key)
        if found is None:
            return None
        rows = int(found.pop(_ROWS))
        return TowerFeatures(rows=rows, **found)

    def _encoded(
        self, places: Sequence[int], prepared: Sequence[Prepared], nouns: Sequence[Image | Volume]
    ) -> Iterator[tuple[int, TowerFeatures]]:
        """Yield the towers' features of some files, encoded together by kind."""
        for kind in ("volume", "image"):
            chosen = [place for place in places if nouns[place].kind == kind]
            if not chosen:
                continue
            values = torch.stack([prepared[place].tensor for place in chosen]).to(self.model.device)
            with computing(self.model):
                if kind == "volume":
                    padded = torch.stack([prepared[place].padded_slices for place in chosen]).to(values.device)
                    together = self.model.encode_towers(values, padded_slices=padded)
                else:
                    together = self.model.encode_towers(None, values)
            for row, place in enumerate(chosen):
                yield place, _row(together, row)


def _tensors(tower: TowerFeatures) -> dict[str, Tensor]:
    named = {field.name: getattr(tower, field.name) for field in fields(tower)}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)} | {
        _ROWS: torch.tensor(tower.rows)
    }


def _row(tower: TowerFeatures, row: int) -> TowerFeatures:
    parts = {name: value[row : row + 1] for name, value in _tensors(tower).items() if name != _ROWS}
    return TowerFeatures(rows=tower.rows, **parts)


def joined(seen: Sequence[Seen]) -> VisualFeatures:
    """Return the features of several volumes and images as one batch, each kind in its order.

    Args:
        seen: Volumes and images of one model.
    """
    parts: dict[str, list[Tensor]] = {}
    for each in seen:
        for field in fields(each.visual):
            value = getattr(each.visual, field.name)
            if isinstance(value, Tensor):
                parts.setdefault(field.name, []).append(value)
    rows = max((each.visual.rows for each in seen), default=0)
    stacked = {name: values[0] if len(values) == 1 else torch.cat(values) for name, values in parts.items()}
    return VisualFeatures(rows=rows, **stacked)


def refuse_blank(noun: Image | Volume) -> None:
    """Refuse what shows nothing, whatever is asked about it.

    Args:
        noun: As it was read.

    Raises:
        ContractError: It is a volume of one slice, or holds one value only.
    """
    values = noun.voxels if isinstance(noun, Volume) else noun.pixels
    name = noun.origin.path
    if isinstance(noun, Volume) and min(values.shape[1:]) == 1:
        raise ContractError(
            name,
            f"is a volume of one slice ({' x '.join(map(str, values.shape[1:]))}), and one slice shows no volume",
            "Give the whole series, or the slice as an image (PNG, or one DICOM picture) to a model for images",
        )
    low, high = finite_range(values)
    if low == high:
        raise ContractError(name, f"holds one value only ({low:g}), so there is nothing to see", "Check the file")


@contextmanager
def computing(model: Med2E3ForConditionalGeneration) -> Iterator[None]:
    """Compute without gradients, on a GPU in bf16.

    Args:
        model: Where it is decides.
    """
    on_gpu = model.device.type == "cuda"
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
        yield


def compute_dtype(model: Med2E3ForConditionalGeneration) -> torch.dtype:
    """Return what features are computed in.

    Args:
        model: Where it is decides.
    """
    return torch.bfloat16 if model.device.type == "cuda" else model.dtype


def towers_hash(model: Med2E3ForConditionalGeneration) -> str:
    """Return a hash of all that the towers' features depend on, besides the input.

    Args:
        model: With its towers.
    """
    towers = {"vision3d": model.vision3d, "vision2d": model.vision2d}
    settings: dict[str, Any] = {key: getattr(model.config, key) for key in SETTINGS}
    for name, tower in towers.items():
        stated = {} if tower is None else tower.config.to_dict()
        settings[name] = {key: value for key, value in stated.items() if key not in BOOKKEEPING}
    return weights_hash(towers, settings)
