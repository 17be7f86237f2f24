"""Dialogues of a manifest as training samples: each record's volumes once, and some of the dialogues about them.

Which dialogues are drawn, and how the volumes are varied, depends on (seed, cycle, place) only. A variation is left out
where it would make an answer false.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import Dataset

from crossdim.datasets.dialogue import Turn
from crossdim.datasets.manifest import Manifest, Record
from crossdim.errors import ContractError, CrossdimError, RecipeError
from crossdim.fusion.features import TowerFeatures
from crossdim.inference.looking import refuse_blank
from crossdim.readers import read_channels
from crossdim.training.data import Failure, RecordDataset
from crossdim.training.schedule import Draw, Kind
from crossdim.transforms.augment import Augmentation, LabelDependence, generator_for
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.text import DialogueSample, Encoded, Med2E3Processor, slice_targets


class Asked(NamedTuple):
    """A dialogue that can be learned from: the turns that have an answer."""

    id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class DialoguePart:
    """The records of a split that can be learned from.

    Attributes:
        manifest: Records with at least one answered question.
        dialogues: Of each record.
        left_out: What was left out and how often.
    """

    manifest: Manifest
    dialogues: tuple[tuple[Asked, ...], ...]
    left_out: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, manifest: Manifest) -> "DialoguePart":
        """Return what of a split can be learned from.

        Args:
            manifest: The split.
        """
        left_out: Counter[str] = Counter()
        records, found = [], []
        for record in manifest.records:
            asked = []
            for dialogue in record.dialogues:
                turns = tuple(turn for turn in dialogue.turns if turn.answer)
                left_out["questions without an answer"] += len(dialogue.turns) - len(turns)
                if turns:
                    asked.append(Asked(dialogue.id, turns))
            if asked:
                records.append(record)
                found.append(tuple(asked))
        return cls(Manifest(manifest.header, tuple(records)), tuple(found), +left_out)

    def fitting(self, processor: Med2E3Processor, too_long: Literal["refuse", "skip"]) -> "DialoguePart":
        """Return the same without dialogues that are longer than the model can take.

        Args:
            processor: Knows how long they are and may be.
            too_long: ``skip`` leaves them out, ``refuse`` refuses the data.

        Raises:
            ContractError: A dialogue does not fit, or one is too long and that is refused.
        """
        left_out = self.left_out.copy()
        records, found = [], []
        for record, dialogues in zip(self.manifest.records, self.dialogues, strict=True):
            kept = []
            for dialogue in dialogues:
                try:
                    processor.encode(dialogue.turns, *shown(record))
                except ContractError as error:
                    if error.subject != OVERFLOW or too_long == "refuse":
                        where = f"record '{record.id}', dialogue '{dialogue.id}': {error.subject}"
                        remedy = (
                            f"{error.remedy}, or set prompt.too_long=skip"
                            if error.subject == OVERFLOW
                            else error.remedy
                        )
                        raise ContractError(where, error.reason, remedy) from error
                    left_out["dialogues that are too long"] += 1
                else:
                    kept.append(dialogue)
            if kept:
                records.append(record)
                found.append(tuple(kept))
        return DialoguePart(Manifest(self.manifest.header, tuple(records)), tuple(found), left_out)

    def without_texts(self) -> "DialoguePart":
        """Return the same without records that have no file: nothing learns from them but the language model."""
        pairs = [
            (record, dialogues)
            for record, dialogues in zip(self.manifest.records, self.dialogues, strict=True)
            if record.kind != "text"
        ]
        left_out = self.left_out + Counter({"records without a file": len(self.dialogues) - len(pairs)})
        records = tuple(record for record, _ in pairs)
        return DialoguePart(Manifest(self.manifest.header, records), tuple(found for _, found in pairs), left_out)

    @property
    def depends_on(self) -> set[LabelDependence]:
        """What any of the answers depends on."""
        return {word for dialogues in self.dialogues for dialogue in dialogues for word in depends_on(dialogue.turns)}


OVERFLOW = "context overflow"


def shown(record: Record) -> tuple[int, int]:
    """Return how many volumes and how many images the dialogues of a record are about.

    Args:
        record: Of a manifest.
    """
    count = (1 if record.paths else 0) + len(record.more)
    return (0, count) if record.kind == "image" else (count, 0)


def depends_on(turns: Sequence[Turn]) -> set[LabelDependence]:
    """Return what the answers of a dialogue depend on.

    Args:
        turns: Of the dialogue.
    """
    return {word for turn in turns for word in turn.depends_on}


def refuse_falsifying(augmentation: Augmentation, part: DialoguePart) -> None:
    """Refuse a variation that would make answers false.

    Args:
        augmentation: The recipe's.
        part: The training split.

    Raises:
        RecipeError: An answer depends on what would be varied.
    """
    dependence = part.depends_on
    safe = augmentation.safe_for(dependence)
    wrong = [key for key, value in augmentation if value != getattr(safe, key)]
    if wrong:
        raise RecipeError(
            f"'augmentation.{wrong[0]}'",
            f"would make answers false: some depend on {', '.join(sorted(dependence))}",
            "Leave it out, or set falsifying=skip to vary only what stays true",
        )


def places_by_kind(manifest: Manifest) -> dict[Kind, list[int]]:
    """Return the places of images, volumes and texts; a kind without records is left out.

    Args:
        manifest: The records.
    """
    places: dict[Kind, list[int]] = {}
    for place, record in enumerate(manifest.records):
        places.setdefault(record.kind, []).append(place)
    return dict(sorted(places.items()))


def files_of(manifest: Manifest) -> tuple[Manifest, list[list[int]]]:
    """Return every volume and image of a manifest as a record of its own, and each record's places among them.

    Args:
        manifest: Records that may hold several, or share one.
    """
    known: dict[tuple[str, ...], int] = {}
    files: list[Record] = []
    places: list[list[int]] = []
    for record in manifest.records:
        groups = ((record.paths,) if record.paths else ()) + record.more
        for group in groups:
            if group not in known:
                known[group] = len(files)
                name = record.id if group == record.paths else f"{record.id} ({group[0]})"
                files.append(
                    Record(id=f"{name} [{len(files)}]", patient_id=record.patient_id, kind=record.kind, paths=group)
                )
        places.append([known[group] for group in groups])
    return Manifest(manifest.header.model_copy(update={"tasks": {}}), tuple(files)), places


@dataclass(frozen=True, eq=False)
class FeatureSample(DialogueSample):
    """A sample whose volumes or images were encoded before.

    Attributes:
        features: One for each volume or image.
    """

    features: tuple[TowerFeatures, ...] = ()


class AskedFiles(RecordDataset):
    """Volumes and images that are asked about; what shows nothing is refused, as it is when a model is asked."""

    def read(self, index: int) -> Prepared:
        """Return a record as the contract makes it, from its files.

        Args:
            index: Place in the manifest.

        Raises:
            ContractError: There is nothing to see in it.
        """
        noun = read_channels(self.manifest.resolve(self.manifest.records[index]))
        refuse_blank(noun)
        return self.contract.prepare(noun)


class DialogueDataset(Dataset[DialogueSample | Failure]):
    """Records with their dialogues, read, prepared, varied, and as token ids.

    Args:
        part: The records and dialogues.
        processor: Contract and tokenizer.
        seed: Of augmentation and drawn dialogues.
        augmentation: None prepares without variation.
        questions: Dialogues drawn about each record; 0 takes all.
        find_slices: Whether the slices that are asked about are needed.
        cache_bytes: Memory for prepared files.
    """

    def __init__(
        self,
        part: DialoguePart,
        processor: Med2E3Processor,
        seed: int,
        augmentation: Augmentation | None = None,
        questions: int = 0,
        find_slices: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        self.part, self.processor, self.seed = part, processor, seed
        self.augmentation, self.questions, self.find_slices = augmentation, questions, find_slices
        files, self.places = files_of(part.manifest)
        self.files = AskedFiles(files, processor.contract, {}, seed, cache_bytes=cache_bytes)
        self.features: Callable[[int], TowerFeatures] | None = None
        """What frozen towers say about a file, in place of the file."""
        self._known_targets: dict[tuple[int, str], tuple[Bool[Tensor, " slices"] | None, ...]] = {}

    @property
    def manifest(self) -> Manifest:
        """The records."""
        return self.part.manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, draw: Draw) -> DialogueSample | Failure:
        """Return the sample of a draw, or why it cannot be had."""
        try:
            return self._sample(draw)
        except CrossdimError as error:
            return Failure.of(error)

    def _sample(self, draw: Draw) -> DialogueSample:
        record, places = self.manifest.records[draw.place], self.places[draw.place]
        generator = generator_for(self.seed, draw.cycle, draw.place)
        dialogues = self._drawn(self.part.dialogues[draw.place], generator)
        encoded = tuple(self.encode(record, dialogue) for dialogue in dialogues)
        if self.features is not None:
            targets = tuple(self._known_targets[draw.place, dialogue.id] for dialogue in dialogues if self.find_slices)
            return FeatureSample((), encoded, targets, features=tuple(map(self.features, places)))
        prepared = [self.files.prepared(place) for place in places]
        if self.augmentation is not None:
            turns = [turn for dialogue in dialogues for turn in dialogue.turns]
            safe = self.augmentation.safe_for(depends_on(turns))
            prepared = [safe.vary(one, generator) for one in prepared]
        targets = tuple(_targets(record, dialogue, prepared) for dialogue in dialogues) if self.find_slices else ()
        padded = tuple(one.padded_slices for one in prepared) if record.kind == "volume" else ()
        return DialogueSample(tuple(one.tensor for one in prepared), encoded, targets, padded)

    def remember_targets(self) -> None:
        """Find the slices that are asked about once, so that no file is needed for them afterwards."""
        for place, record in enumerate(self.manifest.records if self.find_slices else ()):
            prepared = [self.files.prepared(file) for file in self.places[place]]
            for dialogue in self.part.dialogues[place]:
                self._known_targets[place, dialogue.id] = _targets(record, dialogue, prepared)

    def _drawn(self, dialogues: Sequence[Asked], generator: torch.Generator) -> Sequence[Asked]:
        order = torch.randperm(len(dialogues), generator=generator).tolist()
        chosen = order[: self.questions] if self.questions else order
        return [dialogues[place] for place in sorted(chosen)]

    def encode(self, record: Record, dialogue: Asked) -> Encoded:
        """Return a dialogue as token ids.

        Args:
            record: It is about this one.
            dialogue: One of the record's.
        """
        return self.processor.encode(dialogue.turns, *shown(record))


def _targets(
    record: Record, dialogue: Asked, prepared: Sequence[Prepared]
) -> tuple[Bool[Tensor, " slices"] | None, ...]:
    if record.kind != "volume":
        return ()
    extents = [turn.extent_mm for turn in dialogue.turns if turn.extent_mm is not None]
    if len(prepared) > 1 or not extents:
        return (None,) * len(prepared)  # among several volumes, an extent does not say whose it is
    found = torch.stack([slice_targets(prepared[0], extent) for extent in extents]).any(dim=0)
    return (found if bool(found.any()) else None,)


class CollateDialogues:
    """Turns samples into the model's arguments, features of frozen towers in place of volumes where they are kept.

    Args:
        processor: Stacks the rest.
    """

    def __init__(self, processor: Med2E3Processor) -> None:
        self._processor = processor

    def __call__(self, samples: Sequence[DialogueSample]) -> dict[str, Any]:
        """Stack the samples."""
        batch = self._processor.collate(samples)
        kept = [one for sample in samples if isinstance(sample, FeatureSample) for one in sample.features]
        return batch | ({"tower": TowerFeatures.cat(kept)} if kept else {})
