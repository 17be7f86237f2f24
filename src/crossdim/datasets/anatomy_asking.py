"""What is asked about a field of view, with the answers, before questions that tell their answer are weeded out."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from crossdim.datasets.anatomy_balance import Candidate, rank
from crossdim.datasets.anatomy_map import Plane
from crossdim.datasets.anatomy_seen import ABSENT, EDGE, Direction, Seen
from crossdim.datasets.dialogue import Dependence, ExtentMM, Turn
from crossdim.datasets.labelmaps import Names, Structure
from crossdim.datasets.manifest import SplitName

QuestionType = Literal["presence", "side", "comparison", "volume", "neighbour", "slices", "count", "report"]
TYPES: tuple[QuestionType, ...] = get_args(QuestionType)

NEAR_TIE = 0.15
"""Two volumes that differ by less than this share of the larger one are not compared."""

_COUNT_LISTS = 24
_REPORT_SUBJECTS = 5
_REPORT_VOLUMES = 2
_WHERE: dict[Direction, str] = {
    "superior": "superior to", "inferior": "inferior to", "anterior": "anterior to", "posterior": "posterior to",
    "left": "to the left of", "right": "to the right of",
}  # fmt: skip


@dataclass(frozen=True)
class Sight:
    """One volume, and what is seen in it.

    Attributes:
        id: The volume's.
        patient_id: Whose it is.
        split: Its part, if it is told.
        path: Relative to the manifest's folder.
        seen: What of each structure of its map is shown; structures left out are absent.
        neighbours: What lies directly beside a structure in a direction.
    """

    id: str
    patient_id: str
    split: SplitName | None
    path: str
    seen: Mapping[str, Seen]
    neighbours: Mapping[tuple[str, Direction], str]

    def of(self, name: str) -> Seen:
        """Return what is shown of a structure.

        Args:
            name: Any structure of the data set.
        """
        return self.seen.get(name, ABSENT)

    def visible(self) -> list[str]:
        """Return the names of what is visible, in alphabetical order."""
        return sorted(name for name, seen in self.seen.items() if seen.status == "visible")

    def extent_mm(self, names: Iterable[str]) -> ExtentMM | None:
        """Return the box around what is visible of several structures.

        Args:
            names: Of the structures.
        """
        shown = [self.of(name) for name in names]
        boxes = [seen.extent_mm for seen in shown if seen.extent_mm is not None and seen.status == "visible"]
        if not boxes:
            return None
        low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
        x, y, z = [(float(low[i]), float(high[i + 1])) for i in (0, 2, 4)]
        return (*x, *y, *z)


@dataclass(frozen=True)
class Asker:
    """Everything that questions about one data set share.

    Attributes:
        names: The structures' names.
        sights: Its volumes.
        splits: The part of each volume.
        plane: The plane whose slices are counted.
        seed: Seed of what is drawn.
    """

    names: tuple[str, ...]
    sights: Sequence[Sight]
    splits: Sequence[SplitName]
    plane: Plane
    seed: int

    @classmethod
    def of(cls, names: Names, sights: Sequence[Sight], splits: Sequence[SplitName], plane: Plane, seed: int) -> "Asker":
        """Return what asks about these volumes.

        Args:
            names: What the label values stand for.
            sights: The volumes.
            splits: The part of each.
            plane: The plane whose slices are counted.
            seed: Seed of what is drawn.
        """
        found = {name for sight in sights for name in sight.seen} | set(names.values())
        return cls(tuple(sorted(found)), sights, splits, plane, seed)

    def closed(self, types: Sequence[str]) -> Iterator[Candidate]:
        """Yield every closed question with its answer.

        Args:
            types: Types of question.
        """
        asking: dict[str, Callable[[], Iterator[Candidate]]] = {
            "presence": self._presence, "side": self._side, "comparison": self._comparison,
            "volume": self._volume_class, "neighbour": self._neighbour, "count": self._count,
        }  # fmt: skip
        for kind in types:
            if kind in asking:
                yield from asking[kind]()

    def open(self, types: Sequence[str], most: int) -> Iterator[tuple[int, Turn]]:
        """Yield open questions and reports, each with the number of its volume.

        Args:
            types: Types of question.
            most: Questions of a type about one volume, at most.
        """
        for record, sight in enumerate(self.sights):
            visible = sorted(sight.visible(), key=lambda name: rank(self.seed, sight.id, name))[:most]
            for name in visible:
                if "volume" in types:
                    yield record, self._volume(sight, name)
                if "slices" in types and sight.of(name).slices:
                    yield record, self._slices(sight, name)
        if "report" in types:
            yield from self._reports()

    def _train(self) -> list[Sight]:
        return [sight for sight, split in zip(self.sights, self.splits, strict=True) if split == "train"]

    def _candidate(
        self,
        record: int,
        question: tuple[QuestionType, str],
        answer: str,
        about: tuple[str, ...],
        more: tuple[Dependence, ...],
        choices: tuple[str, ...] = (),
    ) -> Candidate:
        return Candidate(record, self.splits[record], *question, answer, about, _depends(about, more), choices)

    def _presence(self) -> Iterator[Candidate]:
        for record, sight in enumerate(self.sights):
            for name in self.names:
                if (status := sight.of(name).status) != "unclear":
                    question = f"Is the {name} visible in this scan?"
                    answer = "yes" if status == "visible" else "no"
                    yield self._candidate(record, ("presence", question), answer, (name,), ("size",), ("yes", "no"))

    def _pairs(self) -> list[str]:
        found = Counter(Structure.of(name).base for name in self.names if Structure.of(name).side)
        return sorted(base for base, count in found.items() if count == 2)

    def _side(self) -> Iterator[Candidate]:
        for record, sight in enumerate(self.sights):
            for base in self._pairs():
                both = f"left {base}", f"right {base}"
                statuses = [sight.of(name).status for name in both]
                if sorted(statuses) == ["absent", "visible"]:
                    answer = "left" if statuses[0] == "visible" else "right"
                    question = f"On which side is the {base} visible?"
                    yield self._candidate(record, ("side", question), answer, both, ("side", "size"), ("left", "right"))

    def _comparison(self) -> Iterator[Candidate]:
        for record, sight in enumerate(self.sights):
            for first, second in combinations(sight.visible(), 2):
                larger = _larger(sight, first, second)
                for a, b in ((first, second), (second, first)) if larger else ():
                    question = f"Which is larger in this scan, the {a} or the {b}?"
                    yield self._candidate(record, ("comparison", question), larger, (a, b), ("size",), (a, b))

    def _volume_class(self) -> Iterator[Candidate]:
        for name in self.names:
            volumes = [s.of(name).volume_ml for s in self._train() if s.of(name).status == "visible"]
            if len(volumes) < 6:
                continue
            low, high = (_rounded(float(cut)) for cut in np.quantile(volumes, (1 / 3, 2 / 3)))
            if not 0 < low < high:
                continue
            choices = f"less than {low:g} mL", f"{low:g} to {high:g} mL", f"more than {high:g} mL"
            question = f"What is the visible volume of the {name}: {choices[0]}, {choices[1]} or {choices[2]}?"
            for record, sight in enumerate(self.sights):
                seen = sight.of(name)
                near = any(abs(seen.volume_ml - cut) < NEAR_TIE / 2 * cut for cut in (low, high))
                if seen.status == "visible" and not near:
                    answer = choices[(seen.volume_ml > low) + (seen.volume_ml > high)]
                    yield self._candidate(record, ("volume", question), answer, (name,), ("size",), choices)

    def _neighbour(self) -> Iterator[Candidate]:
        for record, sight in enumerate(self.sights):
            for (name, direction), other in sorted(sight.neighbours.items()):
                question = f"What lies directly {_WHERE[direction]} the {name}?"
                about = (name,) if other == EDGE else (name, other)
                yield self._candidate(record, ("neighbour", question), other, about, ("place", "side"))

    def _count(self) -> Iterator[Candidate]:
        for names in self._lists():
            question = f"How many of the following are visible: {', '.join(f'the {name}' for name in names)}?"
            for record, sight in enumerate(self.sights):
                statuses = [sight.of(name).status for name in names]
                if "unclear" not in statuses:
                    answer = str(statuses.count("visible"))
                    yield self._candidate(record, ("count", question), answer, names, ("size",))

    def _lists(self) -> list[tuple[str, ...]]:
        """Return lists of three structures that are visible in some volumes of the training part and absent in some."""
        statuses: dict[str, Counter[str]] = defaultdict(Counter)
        for sight in self._train():
            for name in self.names:
                statuses[name][sight.of(name).status] += 1
        varied = [name for name in self.names if statuses[name]["visible"] and statuses[name]["absent"]]
        size = min(3, len(varied))
        if size < 2:
            return []
        generator = np.random.default_rng([self.seed, len(varied)])
        drawn = [generator.permutation(len(varied))[:size] for _ in range(_COUNT_LISTS)]
        return sorted({tuple(sorted(varied[place] for place in places)) for places in drawn})

    def _volume(self, sight: Sight, name: str) -> Turn:
        return Turn(
            question=f"What is the visible volume of the {name} in mL?",
            answer=millilitres(sight.of(name).volume_ml),
            type="volume in mL",
            extent_mm=sight.extent_mm([name]),
            depends_on=_depends((name,), ("size",)),
        )

    def _slices(self, sight: Sight, name: str) -> Turn:
        first, last = sight.of(name).slices or (0, 0)
        return Turn(
            question=f"In which {self.plane} slices, counted from 0, is the {name} visible?",
            answer=f"slice {first}" if first == last else f"slices {first} to {last}",
            type="slices",
            extent_mm=sight.extent_mm([name]),
            depends_on=_depends((name,), ("place", "plane")),
        )

    def _reports(self) -> Iterator[tuple[int, Turn]]:
        subjects, pairs = self._report_plan()
        for record, sight in enumerate(self.sights):
            findings = tuple(_findings(sight, self.names, subjects, pairs))
            if findings:
                yield (
                    record,
                    Turn(
                        question="Describe the anatomy in this scan.",
                        answer=" ".join(findings),
                        form="report",
                        type="report",
                        findings=findings,
                        depends_on=("side", "size"),
                    ),
                )

    def _report_plan(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return what reports speak about: what varies most in the training part."""
        told: dict[str, Counter[str]] = defaultdict(Counter)
        for sight in self._train():
            for base in sorted({Structure.of(name).base for name in self.names}):
                told[base][_presence_finding(sight, base, self.names)] += 1
            for first, second in combinations(sight.visible(), 2):
                told[f"{first}|{second}"][_larger(sight, first, second)] += 1
        bases = [key for key in told if "|" not in key and len(told[key]) > 1]
        pairs = [key for key in told if "|" in key and len(told[key]) > 1]

        def order(key: str) -> tuple[int, str]:
            counts = [count for finding, count in told[key].most_common() if finding]
            return (-counts[1] if len(counts) > 1 else 0, key)

        chosen = [key.split("|") for key in sorted(pairs, key=order)[:1]]
        return sorted(bases, key=order)[:_REPORT_SUBJECTS], [(a, b) for a, b in chosen]


def millilitres(volume: float) -> str:
    """Return a volume as answers say it.

    Args:
        volume: In millilitres.
    """
    digits = 2 if volume < 1 else 1 if volume < 100 else 0
    return f"{volume:.{digits}f} mL"


def _rounded(volume: float) -> float:
    return float(f"{volume:.2g}")


def _larger(sight: Sight, first: str, second: str) -> str:
    """Return the name of the larger of two, or nothing if that is a near tie."""
    a, b = sight.of(first).volume_ml, sight.of(second).volume_ml
    return "" if abs(a - b) < NEAR_TIE * max(a, b) else first if a > b else second


def _depends(about: Iterable[str], more: tuple[Dependence, ...]) -> tuple[Dependence, ...]:
    sided = any(Structure.of(name).side for name in about)
    return tuple(dict.fromkeys((*more, *(("side",) if sided else ()))))


def _presence_finding(sight: Sight, base: str, names: Sequence[str]) -> str:
    """Return the sentence that says whether, and on which side, something is visible; nothing if that is unclear."""
    if base in names:
        status = sight.of(base).status
        return "" if status == "unclear" else f"The {base} is {'' if status == 'visible' else 'not '}visible."
    sides = {side: sight.of(f"{side} {base}").status for side in ("left", "right")}
    if "unclear" in sides.values():
        return ""
    shown = [side for side, status in sides.items() if status == "visible"]
    where = "on both sides" if len(shown) == 2 else f"on the {shown[0]} side" if shown else ""
    return f"The {base} is visible {where}." if shown else f"The {base} is not visible."


def _findings(
    sight: Sight, names: Sequence[str], subjects: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> Iterator[str]:
    for base in subjects:
        if sentence := _presence_finding(sight, base, names):
            yield sentence
    for first, second in pairs:
        larger = _larger(sight, first, second) if {first, second} <= set(sight.visible()) else ""
        if larger:
            yield f"The {larger} is larger than the {second if larger == first else first}."
    shown = [n for base in subjects for n in (base, f"left {base}", f"right {base}") if sight.of(n).status == "visible"]
    for name in shown[:_REPORT_VOLUMES]:
        yield f"The visible volume of the {name} is {millilitres(sight.of(name).volume_ml)}."
