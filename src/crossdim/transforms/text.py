"""Dialogues about volumes and images to tensors named as Med-2E3's arguments.

``<volume>`` and ``<image>`` become as many placeholders as the model has tokens for them; text is tokenised in the
pieces between them, so the part up to the question is the same for every question about a volume. The loss falls on
answers and on the token that ends them, in all turns, and on nothing else.

Differs from the authors' code: nothing is ever cut (theirs cut on the right at 768 tokens, answers included); any
number of volumes and images, with the numbers checked; text alone works; either padding side.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import ValidationError
from torch import Tensor

from crossdim.datasets.dialogue import ExtentMM, Turn
from crossdim.errors import ContractError
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.intensity import Part
from crossdim.transforms.prepared import Prepared
from crossdim.transforms.prompts import IMAGE, MARKER, VOLUME, Choices, Piece, Prompt, answered, asked, pieces_of

__all__ = ["DialogueSample", "Encoded", "Med2E3Processor", "Prompt", "slice_targets"]

FILE_NAME = "processor.json"
IGNORED = -100
"""Label of what is not learned, as in torch's cross-entropy."""

REPORT_QUESTION = "Describe the findings in this scan."

_REMEMBERED = 200_000
"""Texts whose tokens are kept; a question asked of every volume is tokenised once."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A dialogue as token ids.

    Attributes:
        input_ids: Text and placeholders.
        labels: The same where an answer is learned, -100 elsewhere.
        question_ids: What guides the slice scores: the questions of all turns.
        answer_spans: For each answer that is there, (start, stop) in ``input_ids``, its end token included.
        volumes: Volumes that are shown.
        images: Images that are shown.
    """

    input_ids: Int[Tensor, " tokens"]
    labels: Int[Tensor, " tokens"]
    question_ids: Int[Tensor, " question"]
    answer_spans: tuple[tuple[int, int], ...]
    volumes: int = 0
    images: int = 0


@dataclass(frozen=True, eq=False)
class DialogueSample:
    """What one record contributes to a batch: its volumes or images once, and the dialogues about them.

    Attributes:
        values: Each ``(channels, depth, height, width)`` or ``(channels, height, width)``, in the order in which every
            dialogue shows them.
        encoded: The dialogues.
        slice_targets: For each dialogue and volume the slices that are asked about, None where it is not known.
        padded: For each volume, True where a slice is padding; empty where none is.
    """

    values: tuple[Float[Tensor, "channels *size"], ...]
    encoded: tuple[Encoded, ...]
    slice_targets: tuple[tuple[Bool[Tensor, " slices"] | None, ...], ...] = ()
    padded: tuple[Bool[Tensor, " slices"], ...] = ()


class _Stored(Part):
    """``processor.json``."""

    prompt: Prompt
    choices: Choices
    volume_tokens: int
    image_tokens: int
    volume_token_id: int
    image_token_id: int
    max_length: int
    question_max_length: int
    eos: str
    report_question: str = REPORT_QUESTION


@dataclass(eq=False)
class Med2E3Processor:
    """What stands between files and questions on one side and the model on the other; saved in every checkpoint.

    Attributes:
        contract: How files become tensors.
        tokenizer: Of the language model.
        question_tokenizer: Of the question encoder; None reads questions with the language model's.
        prompt: The template.
        choices: How closed questions show their choices.
        volume_tokens: Tokens that a volume takes in the language model.
        image_tokens: Tokens that an image takes.
        volume_token_id: Placeholder of volumes in ``input_ids``; never embedded, so it may lie outside the vocabulary.
        image_token_id: The same for images.
        max_length: Most tokens of a dialogue, placeholders included.
        question_max_length: Most tokens of the question that guides the slice scores.
        eos: Text of the token that ends an answer; the tokenizer's own if empty.
        report_question: How a report is asked for; as the training data do, if they hold reports.
    """

    model_input_names: ClassVar[list[str]] = ["input_ids"]

    contract: PreprocessingContract
    tokenizer: Any
    question_tokenizer: Any = None
    prompt: Prompt = "vicuna"
    choices: Choices = "unlisted"
    volume_tokens: int = 512
    image_tokens: int = 256
    volume_token_id: int = -201
    image_token_id: int = -200
    max_length: int = 768
    question_max_length: int = 512
    eos: str = ""
    report_question: str = REPORT_QUESTION
    _known: dict[tuple[str, str], list[int]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.eos:
            if self.tokenizer.eos_token is None:
                raise ContractError("tokenizer", "has no end-of-sequence token", "State one (eos)")
            self.eos = self.tokenizer.eos_token
        found = self.tokenizer.convert_tokens_to_ids(self.eos)
        if found is None or found == self.tokenizer.unk_token_id:
            raise ContractError(f"eos '{self.eos}'", "is not a token of the tokenizer", "State another (eos)")
        if self.prompt == "chat" and self.tokenizer.chat_template is None:
            raise ContractError(
                "prompt 'chat'",
                "needs a chat template, and the language model's tokenizer has none",
                "Use prompt=vicuna (in a recipe: prompt.style=vicuna)",
            )
        self.eos_token_id: int = found
        first = self.tokenizer("a").input_ids[:1]
        self._bos = first if first and first == [self.tokenizer.bos_token_id] else []

    @property
    def pad_token_id(self) -> int:
        """What fills short rows; the attention mask hides it."""
        found = self.tokenizer.pad_token_id
        return self.eos_token_id if found is None else found

    def encode(self, turns: Sequence[Turn], volumes: int = 1, images: int = 0, generate: bool = False) -> Encoded:
        """Return a dialogue as token ids.

        Args:
            turns: At least one. An empty answer is not learned.
            volumes: How many it is about. Its text may say where each goes (``<volume>``); otherwise all stand in front
                of the first question.
            images: The same for images (``<image>``).
            generate: Whether the last answer is the model's to give.

        Raises:
            ContractError: There are more or fewer markers than volumes or images, an answer holds one, or the dialogue
                is longer than the model can take.
        """
        dialogue = [(asked(turn, self.choices), answered(turn, self.choices)) for turn in turns]
        lead = self._lead(dialogue, volumes, images)
        pieces = pieces_of(self.prompt, dialogue, lead, generate, self._chat, self.eos)
        ids, labels, spans = self._tokens_of(pieces)
        self._refuse_overflow(len(ids), volumes, images)
        return Encoded(
            input_ids=torch.tensor(ids, dtype=torch.long),
            labels=torch.tensor(labels, dtype=torch.long),
            question_ids=torch.tensor(self._question(turns) if volumes else [], dtype=torch.long),
            answer_spans=tuple(spans),
            volumes=volumes,
            images=images,
        )

    def _lead(self, dialogue: Sequence[tuple[str, str]], volumes: int, images: int) -> str:
        """Return the markers that go in front of the first question, after checking those that are there."""
        for _, answer in dialogue:
            if MARKER.search(answer):
                raise ContractError("answer", f"holds a placeholder ({VOLUME} or {IMAGE})", "Take it out of the answer")
        text = " ".join(question for question, _ in dialogue)
        lead = ""
        for marker, there, plural in ((VOLUME, volumes, "volumes"), (IMAGE, images, "images")):
            found = text.count(marker)
            if not found:
                lead += there * f"{marker}\n"
            elif found != there:
                raise ContractError(
                    "dialogue",
                    f"holds {found} {marker} placeholders for {there} {plural}",
                    f"Write {marker} once for each, or leave it out",
                )
        if self.prompt == "caption":
            return volumes * VOLUME + images * IMAGE
        return lead

    def _chat(self, messages: list[dict[str, str]], answer_follows: bool) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_follows)

    def _tokens_of(self, pieces: Sequence[Piece]) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        labels: list[int] = []
        spans: list[tuple[int, int]] = []
        text, context = "", ""
        lengths = {VOLUME: (self.volume_token_id, self.volume_tokens), IMAGE: (self.image_token_id, self.image_tokens)}
        for piece in pieces:
            if piece.turn < 0:
                text += piece.text
                continue
            context = self._add_given(text, lengths, ids, context)
            labels += [IGNORED] * (len(ids) - len(labels))
            start = len(ids)
            ids += self._continue(context, piece.text)
            ids += [self.eos_token_id] * piece.ends
            labels += ids[start:] if piece.learned else [IGNORED] * (len(ids) - start)
            spans.append((start, len(ids)))
            text, context = "", self.eos if piece.ends else piece.text
        self._add_given(text, lengths, ids, context)
        labels += [IGNORED] * (len(ids) - len(labels))
        return ids, labels, spans

    def _add_given(self, text: str, lengths: dict[str, tuple[int, int]], ids: list[int], context: str) -> str:
        """Append the tokens of text that is not learned; return what an answer would go on from."""
        for part in MARKER.split(text):
            if part in lengths:
                token, count = lengths[part]
                ids += [token] * count
                context = ""
            elif part:
                if not ids and not self._opens_itself(part):
                    ids += self._bos
                ids += self._continue(context, part)
                context = part
        return context

    def _opens_itself(self, text: str) -> bool:
        return bool(self._bos) and text.startswith(self.tokenizer.bos_token)

    def _continue(self, context: str, text: str) -> list[int]:
        """Return the tokens of a text as they are behind another one."""
        if not context or not text:
            return self.tokens(text)
        found = self._known.get((context, text))
        if found is None:
            head, whole = self.tokens(context), self.tokens(context + text)
            found = whole[len(head) :] if whole[: len(head)] == head else self.tokens(text)
            self._remember((context, text), found)
        return found

    def tokens(self, text: str) -> list[int]:
        """Return the language model's tokens of a text, without any added at its start or end.

        Args:
            text: Without markers.
        """
        found = self._known.get(("", text))
        if found is None:
            found = self.tokenizer(text, add_special_tokens=False).input_ids
            self._remember(("", text), found)
        return found

    def _remember(self, key: tuple[str, str], ids: list[int]) -> None:
        if len(self._known) < _REMEMBERED:
            self._known[key] = ids

    def _question(self, turns: Sequence[Turn]) -> list[int]:
        """Return the tokens that guide the slice scores: the questions of all turns, without markers."""
        text = " ".join(" ".join(MARKER.sub(" ", turn.question).split()) for turn in turns)
        if self.question_tokenizer is None:
            found = self.tokens(text)
        else:
            key = ("\0question", text)
            known = self._known.get(key)
            found = self.question_tokenizer(text).input_ids if known is None else known
            self._remember(key, found)
        if len(found) > self.question_max_length:
            raise ContractError(
                "context overflow",
                f"the questions have {len(found)} tokens together, and the question encoder reads "
                f"{self.question_max_length}",
                "Ask shorter questions, or fewer in one dialogue",
            )
        return found

    def _refuse_overflow(self, found: int, volumes: int, images: int) -> None:
        if found <= self.max_length:
            return
        shown = volumes * self.volume_tokens + images * self.image_tokens
        raise ContractError(
            "context overflow",
            f"the dialogue has {found} tokens ({shown} of {volumes} volumes and {images} images, {found - shown} of "
            f"text), and the model takes {self.max_length}",
            "Shorten the text, split the dialogue, or use a model with a larger max_length",
        )

    def decode(self, ids: Sequence[int] | Int[Tensor, " tokens"]) -> str:
        """Return the text of generated tokens, without special tokens and placeholders.

        Args:
            ids: Token ids.
        """
        plain = [int(token) for token in ids if int(token) not in (self.volume_token_id, self.image_token_id)]
        return self.tokenizer.decode(plain, skip_special_tokens=True).strip()

    def collate(self, samples: Sequence[DialogueSample], padding_side: str = "right") -> dict[str, Any]:
        """Stack samples into the arguments of ``Med2E3ForConditionalGeneration.forward``; every volume once.

        Args:
            samples: Records with their dialogues; one row of the batch for each dialogue.
            padding_side: ``right``, or ``left`` for generation.
        """
        encoded = [one for sample in samples for one in sample.encoded]
        batch: dict[str, Any] = {
            "input_ids": _pad([one.input_ids for one in encoded], self.pad_token_id, padding_side),
            "attention_mask": _pad([torch.ones_like(one.input_ids) for one in encoded], 0, padding_side),
            "labels": _pad([one.labels for one in encoded], IGNORED, padding_side),
        }
        for name, axes, counted in (("voxel_values", 4, "volumes"), ("pixel_values", 3, "images")):
            values = [value for sample in samples for value in sample.values if value.dim() == axes]
            if values:
                batch[name] = torch.stack(values)
            places = _places(samples, counted)
            if places:
                batch["volume_index" if counted == "volumes" else "image_index"] = torch.tensor(places)
        padded = [one for sample in samples for one in sample.padded]
        if padded:
            batch["padded_slices"] = torch.stack(padded)
        asking = [one.question_ids for one in encoded for _ in range(one.volumes)]
        if asking:
            batch["question_ids"] = _pad(asking, 0, "right")
            batch["question_mask"] = _pad([torch.ones_like(ids) for ids in asking], 0, "right")
            targets = [found for sample in samples for found in _targets(sample)]
            known = [found for found in targets if found is not None]
            if known:
                nothing = torch.full(known[0].shape, float("nan"))
                batch["slice_targets"] = torch.stack([nothing if found is None else found.float() for found in targets])
        return batch

    slice_targets = staticmethod(lambda prepared, extent_mm: slice_targets(prepared, extent_mm))

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write ``contract.json``, ``processor.json``, ``tokenizer/`` and, if it differs, ``question_tokenizer/``.

        Args:
            save_directory: Folder, made if need be.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        if self.question_tokenizer is not None:
            self.question_tokenizer.save_pretrained(folder / "question_tokenizer")
        stored = _Stored(**{name: getattr(self, name) for name in _Stored.model_fields})
        temporary = folder / f".{FILE_NAME}.{os.getpid()}"
        temporary.write_text(stored.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, folder / FILE_NAME)
        self.contract.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> "Med2E3Processor":
        """Load what :meth:`save_pretrained` wrote.

        Args:
            source: Folder of a run, a checkpoint or a converted model.

        Raises:
            ContractError: A file is missing or is not what it should be.
        """
        from transformers import AutoTokenizer

        folder = Path(source)
        try:
            stored = _Stored.model_validate_json((folder / FILE_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ContractError(folder / FILE_NAME, "does not exist", "Give the folder of a Med-2E3 model") from error
        except (ValidationError, json.JSONDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ContractError(folder / FILE_NAME, f"is not a processor ({reason})", "Take a whole copy") from error
        own = folder / "question_tokenizer"
        return cls(
            contract=PreprocessingContract.from_pretrained(folder),
            tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
            question_tokenizer=AutoTokenizer.from_pretrained(own) if own.is_dir() else None,
            **stored.model_dump(),
        )


def _places(samples: Sequence[DialogueSample], counted: str) -> list[int]:
    """Return which of the batch's volumes (or images) each placeholder shows, in reading order."""
    places: list[int] = []
    start = 0
    for sample in samples:
        there = max((getattr(one, counted) for one in sample.encoded), default=0)
        for one in sample.encoded:
            places += range(start, start + getattr(one, counted))
        start += there
    return places


def _targets(sample: DialogueSample) -> list[Bool[Tensor, " slices"] | None]:
    if sample.slice_targets:
        return [found for targets in sample.slice_targets for found in targets]
    return [None for one in sample.encoded for _ in range(one.volumes)]


def _pad(rows: Sequence[Int[Tensor, " _"]], value: int, side: str) -> Int[Tensor, "rows tokens"]:
    width = max(len(row) for row in rows)
    padded = torch.full((len(rows), width), value, dtype=torch.long)
    for place, row in enumerate(rows):
        padded[place, slice(width - len(row), None) if side == "left" else slice(0, len(row))] = row
    return padded


def slice_targets(prepared: Prepared, extent_mm: ExtentMM) -> Bool[Tensor, " slices"]:
    """Return which slices of a volume show what lies within an extent of the patient.

    A slice counts if its centre lies within the extent, measured along the patient axis that is nearest to the slice
    axis. Something thinner than a slice counts for the slice it lies in.

    Args:
        prepared: The volume as the contract made it, varied or not.
        extent_mm: (x low, x high, y low, y high, z low, z high) in RAS+ millimetres.
    """
    depth, height, width = prepared.size
    centres = np.stack([np.array([j, (height - 1) / 2, (width - 1) / 2]) for j in range(depth)])
    affine = cast("Float[np.ndarray, '4 4']", prepared.affine_mm)
    axis = int(np.abs(affine[:3, 0]).argmax())
    along = prepared.to_patient_mm(centres)[:, axis]
    low, high = extent_mm[2 * axis], extent_mm[2 * axis + 1]
    start, stop = prepared.valid[0]
    holds = np.arange(depth)
    data = (holds >= start) & (holds < stop)
    inside = (along >= low) & (along <= high) & data
    if not inside.any():
        half = abs(float(affine[axis, 0])) / 2
        inside = (along + half >= low) & (along - half <= high) & data
    return torch.from_numpy(inside)
