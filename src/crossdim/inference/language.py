"""Prompts with visual tokens through the language model: what is shared is read once, choices are weighed together.

The part of a prompt up to the 3D tokens of its first volume depends on the volume alone, so its keys and values are
computed once and copied for every question. Behind it, prompts of a batch are padded on their left; a mask with a gap
and positions counted over real tokens make this equal to reading each prompt by itself. (Where attention has a limited
reach the padding goes in front of everything.)
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, TextStreamer

from crossdim.errors import ContractError, RecipeError
from crossdim.fusion.features import VisualFeatures
from crossdim.inference.looking import computing
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.transforms.text import Encoded, Med2E3Processor

Stream = Callable[[str], None]
"""Called with each further piece of an answer."""

ROWS_AT_ONCE = 64
"""Choices that are weighed in one forward."""


@dataclass(frozen=True)
class Decoding:
    """How an answer is written.

    Attributes:
        temperature: None takes the most probable token each time; otherwise tokens are drawn, the higher the more
            variedly.
        top_p: Tokens are drawn from the most probable ones that hold this share together.
        beams: Answers that are followed at once; 1 follows one.
        seed: Of the drawing.
    """

    temperature: float | None = None
    top_p: float = 1.0
    beams: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise RecipeError(f"temperature {self.temperature}", "is not above 0", "Leave it out for greedy answers")
        if not 0 < self.top_p <= 1:
            raise RecipeError(f"top_p {self.top_p}", "is not above 0 and at most 1", "Give 1 to draw from all tokens")
        if self.beams < 1:
            raise RecipeError(f"beams {self.beams}", "is below 1", "Give at least 1")


GREEDY = Decoding()


@dataclass(frozen=True, eq=False)
class Prompt:
    """A question as tokens, and what it is about.

    Attributes:
        encoded: From the processor, ready to be answered.
        volumes: Places of its volumes among the features.
        images: Places of its images among the features.
    """

    encoded: Encoded
    volumes: tuple[int, ...]
    images: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Laid:
    """Prompts in the language model's width: what is shared, then padding, then what is each one's own.

    Attributes:
        embeds: What the language model reads.
        mask: False for padding.
        shared: Tokens at the start that depend on the first volume alone.
        first: The first volume of each prompt, as a number among the distinct ones; zeros where nothing is shared.
        scores: For each prompt the slice scores of each of its volumes.
    """

    embeds: Float[Tensor, "prompts tokens dim"]
    mask: Bool[Tensor, "prompts tokens"]
    shared: int
    first: tuple[int, ...]
    scores: tuple[tuple[list[float], ...], ...]


@dataclass(frozen=True)
class Written:
    """A generated answer.

    Attributes:
        text: Without special tokens.
        tokens: How many were generated.
        complete: Whether it ended by itself.
    """

    text: str
    tokens: int
    complete: bool


class PromptReader:
    """Reads prompts, weighs choices and writes answers.

    Args:
        model: In evaluation mode.
        processor: Of the same run.
    """

    def __init__(self, model: Med2E3ForConditionalGeneration, processor: Med2E3Processor) -> None:
        self.model, self.processor = model, processor
        self._windowed = _has_windows(model.config.get_text_config())

    def shared_ids(self, prompt: Prompt, visual: VisualFeatures) -> tuple[int, ...]:
        """Return the ids up to and including the 3D tokens of the first volume; empty if there are none.

        Args:
            prompt: Of one question.
            visual: Features of its volumes.
        """
        places = (prompt.encoded.input_ids == self.model.config.volume_token_id).nonzero()
        if visual.z_3d is None or self.model.config.fusion == "2d_only" or not len(places):
            return ()
        return tuple(prompt.encoded.input_ids[: int(places[0]) + visual.z_3d.shape[1]].tolist())

    def lay(self, prompts: Sequence[Prompt], visual: VisualFeatures) -> Laid:
        """Embed prompts with their visual tokens.

        Args:
            prompts: With the same shared ids.
            visual: Features of all their volumes and images.
        """
        device = self.model.device
        ids = [prompt.encoded.input_ids for prompt in prompts]
        volumes = [place for prompt in prompts for place in prompt.volumes]
        images = [place for prompt in prompts for place in prompt.images]
        asked = [prompt.encoded.question_ids for prompt in prompts for _ in prompt.volumes]
        with computing(self.model):
            question = None
            if asked and self.model.config.uses_question:
                real = pad_sequence([torch.ones_like(one) for one in asked], batch_first=True)
                question = self.model.encode_question(pad_sequence(asked, batch_first=True).to(device), real.to(device))
            embeds, scores = self.model.embed(
                pad_sequence(ids, batch_first=True, padding_value=self.processor.pad_token_id).to(device),
                _shown(visual, bool(volumes), bool(images)),
                torch.tensor(volumes, device=device) if volumes else None,
                question,
                torch.tensor(images, device=device) if images else None,
            )
            shared = len(self.shared_ids(prompts[0], visual))
            if self._windowed and len({len(one) for one in ids}) > 1:
                shared = 0  # a gap would count as distance, so prompts are padded in front of everything
            laid, mask = _aligned(embeds, [len(one) for one in ids], shared)
        numbers: dict[int, int] = {}
        first = tuple(numbers.setdefault(prompt.volumes[0], len(numbers)) if shared else 0 for prompt in prompts)
        return Laid(laid, mask, shared, first, _by_prompt(prompts, scores))

    def read_shared(self, laid: Laid) -> Any:
        """Return the language model's cache of what is shared, one row for each distinct first volume.

        Args:
            laid: Prompts; None is returned if they share nothing.
        """
        if not laid.shared:
            return None
        rows = [laid.first.index(number) for number in range(max(laid.first) + 1)]
        with computing(self.model):
            return self.model(
                inputs_embeds=laid.embeds[rows, : laid.shared], use_cache=True, logits_to_keep=1
            ).past_key_values

    def weigh(
        self, laid: Laid, answers: Sequence[Sequence[Int[Tensor, " _"]]], cache: Any = None
    ) -> list[Float[Tensor, " _"]]:
        """Return the log-likelihood of each possible answer to each prompt, its end included.

        Args:
            laid: The prompts.
            answers: For each prompt the tokens of its possible answers.
            cache: From :meth:`read_shared`; it is not changed.
        """
        with computing(self.model):
            read = self.model(
                inputs_embeds=laid.embeds[:, laid.shared :],
                attention_mask=laid.mask.long(),
                past_key_values=_rows_of(cache, laid.first),
                use_cache=True,
                logits_to_keep=1,
            )
            start = read.logits[:, -1].float().log_softmax(dim=-1)
            pairs = [(row, answer) for row, each in enumerate(answers) for answer in each]
            found: list[Tensor] = []
            for begin in range(0, len(pairs), ROWS_AT_ONCE):
                chunk = pairs[begin : begin + ROWS_AT_ONCE]
                found.append(self._likelihoods(chunk, start, laid.mask, read.past_key_values))
            return list(torch.cat(found).cpu().split([len(each) for each in answers]))

    def _likelihoods(
        self, pairs: Sequence[tuple[int, Tensor]], start: Tensor, mask: Tensor, cache: Any
    ) -> Float[Tensor, " pairs"]:
        device = self.model.device
        rows = torch.tensor([row for row, _ in pairs], device=device)
        ids = pad_sequence([answer for _, answer in pairs], batch_first=True).to(device)
        real = pad_sequence([torch.ones_like(answer, dtype=torch.bool) for _, answer in pairs], batch_first=True)
        real = real.to(device)
        chances = start[rows].gather(1, ids[:, :1])
        if ids.shape[1] > 1:
            logits = self.model(
                input_ids=ids[:, :-1],
                attention_mask=torch.cat([mask[rows], real[:, :-1]], dim=1).long(),
                past_key_values=_rows_of(cache, rows.tolist()),
                use_cache=True,
            ).logits
            further = logits.float().log_softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0]
            chances = torch.cat([chances, further], dim=1)
        return chances.masked_fill(~real, 0.0).sum(dim=1)

    def write(
        self,
        laid: Laid,
        most: int,
        decoding: Decoding = GREEDY,
        cache: Any = None,
        stream: Stream | None = None,
    ) -> list[Written]:
        """Write an answer to each prompt.

        Args:
            laid: The prompts.
            most: Tokens of an answer, at most.
            decoding: How.
            cache: From :meth:`read_shared`; it is not changed.
            stream: Gets the answer piece by piece; for one prompt.
        """
        end = self.processor.eos_token_id
        drawn = decoding.temperature is not None
        settings = GenerationConfig(
            max_new_tokens=most,
            do_sample=drawn,
            **({"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if drawn else {}),
            num_beams=decoding.beams,
            eos_token_id=end,
            pad_token_id=self.processor.pad_token_id,
        )
        pieces = _Pieces(self.processor.tokenizer, stream) if stream is not None and decoding.beams == 1 else None
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with computing(self.model), torch.random.fork_rng(devices, enabled=drawn):
            if drawn:
                torch.manual_seed(decoding.seed)
            rows = self.model.generate(
                inputs_embeds=laid.embeds,
                attention_mask=laid.mask.long(),
                past_key_values=None if decoding.beams > 1 else _rows_of(cache, laid.first),
                generation_config=settings,
                streamer=pieces,
            ).tolist()
        written = [self._written(row, end) for row in rows]
        if stream is not None and pieces is None:
            stream(written[0].text)
        return written

    def _written(self, ids: list[int], end: int) -> Written:
        complete = end in ids
        said = ids[: ids.index(end)] if complete else ids
        return Written(self.processor.decode(said), len(said), complete)

    def refuse_overflow(self, tokens: int, wanted: int | None, usual: int) -> int:
        """Return how many tokens an answer may have.

        Args:
            tokens: Of the prompt.
            wanted: As the user wishes; None for the usual number, or less where the model has less room.
            usual: If nothing is wished for.

        Raises:
            ContractError: There is no room for the answer.
        """
        room = self.processor.max_length - tokens
        if room < (wanted or 1):
            raise ContractError(
                "context overflow",
                f"the prompt has {tokens} tokens and the answer may have {wanted or 1}, and the model takes "
                f"{self.processor.max_length} together",
                "Ask a shorter question, give less history, or allow fewer new tokens",
            )
        return min(usual, room) if wanted is None else wanted


class _Pieces(TextStreamer):
    """Hands on text as soon as no later token can change it."""

    def __init__(self, tokenizer: Any, stream: Stream) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stream, self._begun = stream, False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand on a piece; spaces in front of the answer are none of it."""
        piece = text if self._begun else text.lstrip()
        if piece:
            self._begun = True
            self._stream(piece)


def _shown(visual: VisualFeatures, volumes: bool, images: bool) -> VisualFeatures | None:
    """Return the features that prompts show; None if they are text alone."""
    if not volumes:
        return VisualFeatures(images=visual.images) if images else None
    return visual if images else replace(visual, images=None)


def _aligned(embeds: Tensor, lengths: Sequence[int], shared: int) -> tuple[Tensor, Tensor]:
    """Move the padding of each row from its end to behind what is shared."""
    width = max(lengths)
    laid = embeds.new_zeros(len(lengths), width, embeds.shape[2])
    mask = torch.zeros(len(lengths), width, dtype=torch.bool, device=embeds.device)
    laid[:, :shared] = embeds[:, :shared]
    mask[:, :shared] = True
    for row, length in enumerate(lengths):
        own = length - shared
        laid[row, width - own :] = embeds[row, shared:length]
        mask[row, width - own :] = True
    return laid, mask


def _by_prompt(prompts: Sequence[Prompt], scores: Tensor | None) -> tuple[tuple[list[float], ...], ...]:
    if scores is None:
        return ((),) * len(prompts)
    rows = iter(scores.float().tolist())
    return tuple(tuple(next(rows) for _ in prompt.volumes) for prompt in prompts)


def _has_windows(config: Any) -> bool:
    """Return whether a language model's attention reaches back over a limited distance only."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None


def _rows_of(cache: Any, rows: Sequence[int]) -> Any:
    """Return a copy of a cache with these rows; the model appends to what it is given."""
    if cache is None:
        return None
    copied = copy.deepcopy(cache)
    copied.reorder_cache(torch.tensor(list(rows)))
    return copied
