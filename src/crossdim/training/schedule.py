"""Which samples each forward sees, as a function of the step.

Batch ``k`` of a run depends on the seed and on ``k`` only: nothing is remembered, so a resumed run, a run with workers
and a run on several processes see what an uninterrupted single one sees. A schedule covers the whole run (Hugging
Face's Trainer sees one long epoch), because epochs of images and epochs of volumes need not be equally long.

Processes take turns: with ``n`` of them, process ``p`` takes the batches ``p``, ``p + n``, ``p + 2n``, ...
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil, floor
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Kind = Literal["image", "volume", "text", "scene", "points"]
_STREAMS: dict[Kind, int] = {"image": 0, "volume": 1, "text": 3, "scene": 4, "points": 5}
_BATCHES = 2
"""What tells the random orders of a run apart: of each kind's records, and of the batches."""

PLURALS: dict[Kind, str] = {
    "image": "images", "volume": "volumes", "text": "texts", "scene": "scenes", "points": "clouds",
}  # fmt: skip
"""What several records of a kind are called."""


class Draw(NamedTuple):
    """One sample of one batch.

    Attributes:
        cycle: How often the run has been through the records of its kind before.
        place: Of the record in the manifest.
    """

    cycle: int
    place: int


class Stream:
    """Records in an endless order: one seeded permutation after the other.

    Args:
        indices: Places of the records in the manifest; at least one.
        seed: Of the permutations.
        kind: Records of different kinds with the same seed are shuffled differently.
    """

    def __init__(self, indices: Sequence[int], seed: int, kind: Kind) -> None:
        self.indices = np.asarray(indices, dtype=np.int64)
        self._seed = (seed, _STREAMS[kind])
        self._permutation = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return len(self.indices)

    def _shuffled(self, cycle: int) -> NDArray[np.int64]:
        return np.random.default_rng((*self._seed, cycle)).permutation(self.indices)

    def take(self, start: int, count: int) -> list[Draw]:
        """Return the draws at places ``start`` to ``start + count - 1``.

        Args:
            start: First place, from 0.
            count: Number of draws.
        """
        places = (divmod(place, len(self)) for place in range(start, start + count))
        return [Draw(cycle, int(self._permutation(cycle)[place])) for cycle, place in places]


class Schedule(Sampler[list[Draw]], ABC):
    """Every batch of a run, as a batch sampler for a DataLoader.

    Attributes:
        group: Batches per optimiser step, over all processes.
        steps: Optimiser steps of the run.
    """

    group: int = 1
    steps: int = 0

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimiser steps in a pass over the data."""

    @abstractmethod
    def batch(self, place: int) -> list[Draw]:
        """Return batch ``place`` of the run, over all processes.

        Args:
            place: From 0.
        """

    def set_length(self, epochs: float | None, steps: int | None) -> None:
        """Set the length of the run; exactly one of the two is given.

        Args:
            epochs: Passes over the data, may be a fraction.
            steps: Optimiser steps.
        """
        self.steps = steps if steps is not None else max(1, round(cast("float", epochs) * self.steps_per_epoch))

    def epoch_at(self, step: int) -> float:
        """Return the number of passes over the data after a number of optimiser steps."""
        return step / self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps * self.group

    def __iter__(self) -> Iterator[list[Draw]]:
        return (self.batch(place) for place in range(len(self)))


class MixedSchedule(Schedule):
    """Images and volumes together in every batch.

    A pass lasts until every record has been seen; the kind that is exhausted first starts over with a new permutation.

    Args:
        streams: Records of each kind that is there.
        sizes: Samples of each kind per batch; kinds without records or with size 0 are left out.
        group: Batches per optimiser step, over all processes.
    """

    def __init__(self, streams: dict[Kind, Stream], sizes: dict[Kind, int], group: int = 1) -> None:
        self.streams = {kind: stream for kind, stream in streams.items() if sizes[kind]}
        self.sizes = sizes
        self.group = group

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps until every record has been seen."""
        batches = max(ceil(len(stream) / self.sizes[kind]) for kind, stream in self.streams.items())
        return ceil(batches / self.group)

    def batch(self, place: int) -> list[Draw]:
        """Return batch ``place``: first its images, then its volumes."""
        return [
            draw
            for kind, stream in self.streams.items()
            for draw in stream.take(place * self.sizes[kind], self.sizes[kind])
        ]


class AlternatingSchedule(Schedule):
    """Whole epochs of volumes (even) and of images (odd), as in the authors' run.

    An epoch is as many full optimiser steps as the records of its kind fill (at least one); what is left over opens the
    next epoch of that kind.

    Args:
        streams: Records of both kinds.
        sizes: Samples per batch in epochs of each kind.
        group: Batches per optimiser step, over all processes.
    """

    ORDER: tuple[Kind, Kind] = ("volume", "image")

    def __init__(self, streams: dict[Kind, Stream], sizes: dict[Kind, int], group: int = 1) -> None:
        self.streams, self.sizes, self.group = streams, sizes, group

    def _epoch_steps(self, kind: Kind) -> int:
        return max(1, floor(len(self.streams[kind]) / (self.sizes[kind] * self.group)))

    @property
    def steps_per_epoch(self) -> int:
        """Mean of the two kinds' epochs, rounded up, so that an even number of epochs is exact or a step longer."""
        return ceil(sum(map(self._epoch_steps, self.ORDER)) / 2)

    def epoch_at(self, step: int) -> float:
        """Return the number of epochs (of either kind) after a number of optimiser steps."""
        first, second = map(self._epoch_steps, self.ORDER)
        pairs, rest = divmod(step, first + second)
        return 2 * pairs + (rest / first if rest < first else 1 + (rest - first) / second)

    def set_length(self, epochs: float | None, steps: int | None) -> None:
        """Set the length of the run; epochs count both kinds, as the authors' do."""
        if epochs is not None:
            first, second = map(self._epoch_steps, self.ORDER)
            pairs, rest = divmod(epochs, 2)
            tail = rest * first if rest < 1 else first + (rest - 1) * second
            steps = max(1, round(pairs * (first + second) + tail))
        super().set_length(None, steps)

    def batch(self, place: int) -> list[Draw]:
        """Return batch ``place``, all of one kind."""
        lengths = {kind: self._epoch_steps(kind) * self.group for kind in self.ORDER}
        pairs, rest = divmod(place, sum(lengths.values()))
        first = self.ORDER[0]
        kind, offset = (first, rest) if rest < lengths[first] else (self.ORDER[1], rest - lengths[first])
        size = self.sizes[kind]
        return self.streams[kind].take((pairs * lengths[kind] + offset) * size, size)


class SortedSchedule(Schedule):
    """Batches of one kind each, every record once a pass, in a seeded order; for fine-tuning, and for scenes.

    The last batch of a kind may be smaller than the others.

    Args:
        streams: Records of each kind that is there.
        sizes: Samples per batch of each kind.
        group: Batches per optimiser step, over all processes.
        seed: Of the order of the batches.
    """

    def __init__(self, streams: dict[Kind, Stream], sizes: dict[Kind, int], group: int = 1, seed: int = 0) -> None:
        self.streams, self.sizes, self.group, self.seed = streams, sizes, group, seed
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def _batches(self) -> int:
        return sum(ceil(len(stream) / self.sizes[kind]) for kind, stream in self.streams.items())

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in a pass; with several batches per step the last may reach into the next pass."""
        return ceil(self._batches / self.group)

    def _shuffled(self, epoch: int) -> list[tuple[Kind, int]]:
        batches = [
            (kind, start) for kind, stream in self.streams.items() for start in range(0, len(stream), self.sizes[kind])
        ]
        order = np.random.default_rng((self.seed, _BATCHES, epoch)).permutation(len(batches))
        return [batches[place] for place in order]

    def batch(self, place: int) -> list[Draw]:
        """Return batch ``place``, all of one kind."""
        epoch, rest = divmod(place, self._batches)
        kind, start = self._order(epoch)[rest]
        stream = self.streams[kind]
        count = min(self.sizes[kind], len(stream) - start)
        return stream.take(epoch * len(stream) + start, count)
