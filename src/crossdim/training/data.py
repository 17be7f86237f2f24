"""Records of a manifest as training samples, and samples as batches with the models' arguments.

A sample depends on (seed, cycle, place) only, where the cycle counts how often the run has been through its kind:
augmentation and mask noise come from one generator per sample, so workers, processes and resumption change nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from crossdim.datasets.manifest import Manifest, Record
from crossdim.errors import CrossdimError, ReadError, RecipeError
from crossdim.readers import read_channels
from crossdim.training.schedule import Draw, Kind
from crossdim.transforms.augment import Augmentation, generator_for
from crossdim.transforms.collate import Sample
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.scenes import PreparedScene

Batch = dict[str, Any]
Patches = dict[Kind, tuple[int, ...]]

AT_A_TIME = 64
"""Records in hand at most while all are checked."""


@dataclass(frozen=True)
class Failure:
    """A record that could not be prepared; carried to the main process, where it is raised with its own words."""

    error: type[CrossdimError]
    subject: str
    reason: str
    remedy: str

    @classmethod
    def of(cls, error: CrossdimError) -> "Failure":
        """Take an error apart, because errors with three words do not travel between processes."""
        return cls(type(error), error.subject, error.reason, error.remedy)


def refuse_failures(batch: Batch) -> None:
    """Raise the first failure of a batch.

    Args:
        batch: What the collate function returned.
    """
    failure = batch.get("failure")
    if failure is not None:
        raise failure.error(failure.subject, failure.reason, failure.remedy)


Ready = TypeVar("Ready", Prepared, PreparedScene)


class KeptRecords(Dataset[Any], ABC, Generic[Ready]):
    """The records of a manifest as samples, each a function of (seed, draw) alone.

    What the contract makes of a file never changes, so it is kept in memory until the budget is used up.

    Args:
        manifest: The records.
        contract: How files become tensors.
        seed: Of everything random.
        cache_bytes: Memory for prepared records.
    """

    def __init__(
        self, manifest: Manifest, contract: PreprocessingContract, seed: int = 0, cache_bytes: int = 0
    ) -> None:
        self.manifest, self.contract, self.seed = manifest, contract, seed
        self._budget = cache_bytes
        self._cache: dict[int, Ready] = {}
        self._full = False

    def __len__(self) -> int:
        return len(self.manifest)

    def __getstate__(self) -> dict[str, Any]:
        """Travel to a spawned worker without what is in memory."""
        return vars(self) | {"_cache": {}, "_budget": 0}

    @property
    def full(self) -> bool:
        """Whether the memory is used up."""
        return self._full

    def prepared(self, index: int) -> Ready:
        """Return a record as the contract makes it, from memory if it is there.

        Args:
            index: Place in the manifest.
        """
        found = self._cache.get(index)
        if found is None:
            found = self.read(index)
            self.keep(index, found)
        return found

    @abstractmethod
    def read(self, index: int) -> Ready:
        """Return a record as the contract makes it, from its files.

        Args:
            index: Place in the manifest.
        """

    def keep(self, index: int, prepared: Ready) -> None:
        """Put a record into memory if there is room.

        Args:
            index: Place in the manifest.
            prepared: What :meth:`read` returned.
        """
        self._full = prepared.nbytes > self._budget
        if not self._full:
            self._budget -= prepared.nbytes
            self._cache[index] = prepared

    def keep_no_more(self) -> None:
        """Leave the memory as it is, because several workers would each fill it."""
        self._budget = 0

    def __getitem__(self, draw: Draw) -> Any:
        """Return the sample of a draw, or why it cannot be had (a :class:`Failure`)."""
        try:
            return self._sample(draw)
        except CrossdimError as error:
            return Failure.of(error)

    @abstractmethod
    def _sample(self, draw: Draw) -> Any:
        """Return the sample of a draw."""


class RecordDataset(KeptRecords[Prepared]):
    """Images and volumes, read, prepared by the contract, varied, and with noise for the mask.

    Args:
        manifest: The records.
        contract: How files become tensors.
        patches: Patch of each kind, for the number of tokens.
        seed: Of augmentation and noise.
        augmentation: None prepares without variation.
        task: Whose labels are given, or None.
        cache_bytes: Memory for prepared records.
    """

    def __init__(
        self,
        manifest: Manifest,
        contract: PreprocessingContract,
        patches: Patches,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        task: str | None = None,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(manifest, contract, seed, cache_bytes)
        self.patches, self.augmentation = patches, augmentation
        self.task_name = task
        self.task = None if task is None else manifest.task(task)

    def read(self, index: int) -> Prepared:
        """Return a record as the contract makes it, from its files.

        Args:
            index: Place in the manifest.
        """
        record = self.manifest.records[index]
        return self.contract.prepare(read_channels(self.manifest.resolve(record)))

    def _sample(self, draw: Draw) -> Sample:
        record = self.manifest.records[draw.place]
        prepared = self.prepared(draw.place)
        generator = generator_for(self.seed, draw.cycle, draw.place)
        if self.augmentation is not None:
            prepared = self.augmentation.vary(prepared, generator)
        return Sample.of(prepared, self.patches[kind_of(record)], generator, self._label(draw.place))

    def _label(self, index: int) -> Tensor | None:
        if self.task is None or self.task_name is None:
            return None
        label = self.manifest.records[index].labels[self.task_name]
        if isinstance(label, int):
            return torch.tensor(label)
        return torch.zeros(len(self.task.classes)).index_fill(0, torch.tensor(label, dtype=torch.long), 1.0)


def kind_of(record: Record) -> Kind:
    """Return whether a record is an image or a volume.

    Args:
        record: Of a manifest.

    Raises:
        RecipeError: If it is text, which has no pixels to learn from, or a scene.
    """
    if record.kind == "text":
        reason = "is text without a file, and this training is on images and volumes"
        raise RecipeError(f"record '{record.id}'", reason, "Take it out of the manifest, or train on its dialogues")
    if record.kind == "scene":
        reason = "is a scene, and this training is on images and volumes"
        raise RecipeError(f"record '{record.id}'", reason, "Take it out, or train on scenes: crossdim pretrain pimae")
    return record.kind


def indices_by_kind(manifest: Manifest) -> dict[Kind, list[int]]:
    """Return the places of the images and of the volumes; a kind without records is left out.

    Args:
        manifest: The records.

    Raises:
        RecipeError: If a record is text without a file.
    """
    places: dict[Kind, list[int]] = {}
    for index, record in enumerate(manifest.records):
        places.setdefault(kind_of(record), []).append(index)
    return dict(sorted(places.items()))


def spread_evenly(places: Sequence[int], count: int) -> list[int]:
    """Return up to ``count`` of the places, evenly spread, first and last among them.

    Args:
        places: To choose from.
        count: At most this many.
    """
    if len(places) <= count:
        return list(places)
    return [places[round(float(place))] for place in np.linspace(0, len(places) - 1, count)]


def check_records(
    dataset: KeptRecords[Any],
    threads: int = 1,
    until_full: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Prepare every record once, so that a damaged file is known before training and not in the middle of it.

    Args:
        dataset: Fills its memory on the way.
        threads: Files that are read at a time.
        until_full: Stop when its memory is full.
        progress: Called with (done, all) after each record.

    Raises:
        ReadError: Some records cannot be prepared; names the first ones with their reasons.
    """

    def attempt(index: int) -> Any:
        try:
            return dataset.read(index)
        except CrossdimError as error:
            return error

    problems, remedies = list[str](), set[str]()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(dataset), AT_A_TIME):
            part = range(start, min(start + AT_A_TIME, len(dataset)))
            for index, found in zip(part, pool.map(attempt, part), strict=True):
                if isinstance(found, CrossdimError):
                    problems.append(f"{dataset.manifest.records[index].id}: {found.reason}")
                    remedies.add(found.remedy)
                else:
                    dataset.keep(index, found)
            if progress is not None:
                progress(part.stop, len(dataset))
            if until_full and dataset.full:
                break
    if problems:
        remedy = remedies.pop() if len(remedies) == 1 else "Mend these files"
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ReadError(
            f"data '{dataset.manifest.header.name}'",
            f"{len(problems)} of {len(dataset)} records cannot be used ({shown})",
            f"{remedy}, or take these records out of the folder or manifest",
        )


class Collate:
    """Turns samples into a batch, or into the first failure among them.

    Args:
        stack: :func:`crossdim.transforms.collate.collate_pretraining`, ``collate_classification``, or a processor's.
    """

    def __init__(self, stack: Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        self._stack = stack

    def __call__(self, samples: Sequence[Any]) -> Batch:
        """Stack the samples."""
        for sample in samples:
            if isinstance(sample, Failure):
                return {"failure": sample}
        return dict(self._stack(samples))
