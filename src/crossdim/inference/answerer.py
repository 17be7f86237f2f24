"""Ask a volume a question: an answer, the probability of each choice, and how much every slice mattered."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, Literal

import torch

from crossdim.datasets.dialogue import Turn
from crossdim.errors import ContractError, RecipeError
from crossdim.inference.feature_cache import FeatureCache
from crossdim.inference.language import GREEDY, Decoding, Prompt, PromptReader, Stream, Written
from crossdim.inference.looking import REMEMBERED, Files, Looker, Seen, joined
from crossdim.inference.predictor import Progress, Source
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.samples import Answer
from crossdim.transforms.text import Med2E3Processor

USUAL_TOKENS = 256
"""Of an answer, at most, where nothing else is asked for; a report may fill the model's context."""

FILES_AT_ONCE = 8
"""Volumes or images that are looked at together."""


@dataclass(frozen=True)
class Question:
    """One question of an evaluation.

    Attributes:
        id: Unique; what its answer is found by.
        files: The volumes or images it is about, each with its files.
        turns: What was said before, with the true answers, then the question; its own answer is not looked at.
    """

    id: str
    files: tuple[Files, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, eq=False)
class Answered:
    """A question with what the model said.

    Attributes:
        question: As it was asked.
        answer: What the model said.
        seen: What the model saw, in the order of the question's files.
    """

    question: Question
    answer: Answer
    seen: tuple[Seen, ...]


class Answerer:
    """A model that answers questions, and the preprocessing and prompt it was trained with.

    Attributes:
        model: In evaluation mode.
        processor: Contract, tokenizer and prompt; inputs that do not fit it are refused.
        name: What was loaded.
    """

    def __init__(
        self,
        model: Med2E3ForConditionalGeneration,
        processor: Med2E3Processor,
        name: str,
        cache: FeatureCache | None = None,
    ) -> None:
        self.model, self.processor, self.name = model, processor, name
        self._looker = Looker(model, processor.contract, cache)
        self._reader = PromptReader(model, processor)
        self._shared: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def ask(
        self,
        source: Source | Sequence[Source | Sequence[Source]],
        question: str,
        choices: Sequence[str] = (),
        *,
        history: Sequence[Answer] = (),
        stream: Stream | None = None,
        max_new_tokens: int | None = None,
        decoding: Decoding = GREEDY,
    ) -> Answer:
        """Ask a question about a volume or image, or about several together.

        A file is looked at once: further questions about it only read the question.

        Args:
            source: A file, a DICOM series folder, or ``file#selector``; or a list of them, one for each volume or
                image. A volume whose channels are several files is a list inside the list.
            question: In the words of the training data, as far as possible.
            choices: What to choose from; each gets a probability. Without, the answer is written freely.
            history: Earlier answers that this question goes on from, for models trained on dialogues.
            stream: Called with each further piece of the answer.
            max_new_tokens: Length of a free answer, at most; ``Answer.complete`` says whether it ended by itself.
            decoding: How a free answer is written; greedy by default.

        Raises:
            ContractError: There is no question or no volume, a file does not fit the model's preprocessing, or all of
                it is more than the model can take.
            ReadError: A file cannot be read.
        """
        files = _files_of(source)
        turn = _turn(question, choices)
        turns = (*(_turn(said.question, tuple(said.probabilities), said.text) for said in history), turn)
        seen = tuple(self._looker.look(each) for each in files)
        prompt = self._prompt(turns, seen, _numbers(seen))
        visual = joined(seen)
        laid = self._reader.lay([prompt], visual)
        shared = self._shared_of(prompt, seen, laid)
        if choices:
            (likelihoods,) = self._reader.weigh(laid, [self._answers(turns, seen, prompt)], shared)
            answer = _chosen(turn, likelihoods.softmax(dim=0).tolist())
            if stream is not None:
                stream(answer.text)
        else:
            most = self._reader.refuse_overflow(len(prompt.encoded.input_ids), max_new_tokens, USUAL_TOKENS)
            answer = _written(turn, self._reader.write(laid, most, decoding, shared, stream)[0])
        return _complete(answer, seen, laid.scores[0])

    def report(
        self,
        source: Source | Sequence[Source | Sequence[Source]],
        *,
        question: str | None = None,
        stream: Stream | None = None,
        max_new_tokens: int | None = None,
        decoding: Decoding = GREEDY,
    ) -> Answer:
        """Write a report about a volume.

        Args:
            source: As for :meth:`ask`.
            question: How a report is asked for; as in training when left out.
            stream: Called with each further piece of the report.
            max_new_tokens: Length of the report, at most; left out, all that the model has room for.
            decoding: How it is written; greedy by default.

        Raises:
            ContractError: As for :meth:`ask`.
            ReadError: A file cannot be read.
        """
        wording = question or self.processor.report_question
        most = max_new_tokens
        if most is None:
            files = _files_of(source)
            seen = tuple(self._looker.look(each) for each in files)
            prompt = self._prompt((_turn(wording, ()),), seen, _numbers(seen))
            most = self._reader.refuse_overflow(len(prompt.encoded.input_ids), None, self.processor.max_length)
        return self.ask(source, wording, stream=stream, max_new_tokens=most, decoding=decoding)

    def look(self, source: Source | Sequence[Source]) -> Seen:
        """Return what the model sees of a volume or image: for pictures of it, and for the reader's warnings.

        Args:
            source: A file, a DICOM series folder, or ``file#selector``; or the files of its channels.

        Raises:
            ContractError: It does not fit the model's preprocessing.
            ReadError: It cannot be read.
        """
        return self._looker.look(_channels(source))

    def answer_each(
        self,
        questions: Sequence[Question],
        *,
        batch: int = 32,
        closed: Literal["weigh", "write"] = "weigh",
        max_new_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Answered]:
        """Answer many questions; each file is looked at once, and questions are read together.

        Args:
            questions: Those about the same files are best asked together, whatever their order.
            batch: Questions that are read at once.
            closed: Whether choices are weighed against each other, or an answer is written freely.
            max_new_tokens: Length of a free answer, at most.
            progress: Called with (done, all) after each batch.

        Yields:
            The answers; questions about the same files follow each other.

        Raises:
            ContractError: As for :meth:`ask`.
            ReadError: A file cannot be read.
        """
        done = 0
        for group in _grouped(questions, batch):
            sources = list(dict.fromkeys(files for question in group for files in question.files))
            looked = dict(zip(sources, self._looker.look_at(sources), strict=True))
            for found in self._answered(group, looked, batch, closed, max_new_tokens):
                done += 1
                yield found
            if progress is not None:
                progress(done, len(questions))

    def _answered(
        self,
        group: Sequence[Question],
        looked: Mapping[Files, Seen],
        batch: int,
        closed: Literal["weigh", "write"],
        most: int | None,
    ) -> Iterator[Answered]:
        visual = joined(list(looked.values()))
        places = dict(zip(looked, _numbers(looked.values()), strict=True))
        alike: dict[Any, list[tuple[Question, Prompt]]] = {}
        for question in group:
            seen = [looked[files] for files in question.files]
            prompt = self._prompt(question.turns, seen, [places[files] for files in question.files])
            weighs = closed == "weigh" and bool(question.turns[-1].choices)
            alike.setdefault((self._reader.shared_ids(prompt, visual), weighs), []).append((question, prompt))
        for (_, weighs), pairs in alike.items():
            for begin in range(0, len(pairs), batch):
                chunk = pairs[begin : begin + batch]
                laid = self._reader.lay([prompt for _, prompt in chunk], visual)
                shared = self._reader.read_shared(laid)
                if weighs:
                    answers = [self._answers(q.turns, [looked[f] for f in q.files], prompt) for q, prompt in chunk]
                    found = [
                        _chosen(question.turns[-1], likelihoods.softmax(dim=0).tolist())
                        for (question, _), likelihoods in zip(
                            chunk, self._reader.weigh(laid, answers, shared), strict=True
                        )
                    ]
                else:
                    longest = max(len(prompt.encoded.input_ids) for _, prompt in chunk)
                    room = self._reader.refuse_overflow(longest, most, self.processor.max_length)
                    written = self._reader.write(laid, room, GREEDY, shared)
                    found = [_written(q.turns[-1], each) for (q, _), each in zip(chunk, written, strict=True)]
                for (question, _), answer, scores in zip(chunk, found, laid.scores, strict=True):
                    about = tuple(looked[files] for files in question.files)
                    yield Answered(question, _complete(answer, about, scores), about)

    def _prompt(self, turns: Sequence[Turn], seen: Sequence[Seen], places: Sequence[int]) -> Prompt:
        volumes = tuple(place for place, each in zip(places, seen, strict=True) if each.kind == "volume")
        images = tuple(place for place, each in zip(places, seen, strict=True) if each.kind == "image")
        encoded = self.processor.encode(turns, len(volumes), len(images), generate=True)
        return Prompt(encoded, volumes, images)

    def _answers(self, turns: Sequence[Turn], seen: Sequence[Seen], prompt: Prompt) -> list[torch.Tensor]:
        """Return the tokens of each choice, as they were learned: behind the prompt, with the end."""
        volumes = sum(each.kind == "volume" for each in seen)
        found = []
        for choice in turns[-1].choices:
            answered = (*turns[:-1], turns[-1].model_copy(update={"answer": choice}))
            encoded = self.processor.encode(answered, volumes, len(seen) - volumes)
            start, stop = encoded.answer_spans[-1]
            assert start == len(prompt.encoded.input_ids), "an answer begins where its prompt ends"
            found.append(encoded.input_ids[start:stop])
        return found

    def _shared_of(self, prompt: Prompt, seen: Sequence[Seen], laid: Any) -> Any:
        """Return the cache of what is shared with earlier questions about the same volume, read now if need be."""
        if not laid.shared:
            return None
        first = seen[prompt.volumes[0]]
        key = (first.files, first.content, tuple(prompt.encoded.input_ids[: laid.shared].tolist()))
        if key not in self._shared:
            self._shared[key] = self._reader.read_shared(laid)
        self._shared.move_to_end(key)
        while len(self._shared) > REMEMBERED:
            self._shared.popitem(last=False)
        return self._shared[key]


def _channels(source: Source | Sequence[Source]) -> Files:
    return (fspath(source),) if isinstance(source, str | PathLike) else tuple(fspath(each) for each in source)


def _files_of(source: Source | Sequence[Source | Sequence[Source]]) -> tuple[Files, ...]:
    files = (_channels(source),) if isinstance(source, str | PathLike) else tuple(_channels(each) for each in source)
    if not files or not all(files):
        raise ContractError("question", "is about no volume: no file is given", "Give at least one volume or image")
    return files


def _turn(question: str, choices: Sequence[str], answer: str = "") -> Turn:
    if not question.strip():
        raise ContractError("question", "is empty", 'Ask something, such as "Is the left ventricle enlarged?"')
    given = tuple(choices)
    if given and (len(set(given)) < max(2, len(given)) or not all(choice.strip() for choice in given)):
        raise RecipeError(
            f"choices {list(given)}", "must be at least two, different, and not empty", "Give each choice once"
        )
    return Turn(question=question, answer=answer, choices=given, form="closed" if given else "open")


def _chosen(turn: Turn, chances: Sequence[float]) -> Answer:
    ranked = sorted(zip(turn.choices, chances, strict=True), key=lambda item: -item[1])
    return Answer((), turn.question, ranked[0][0], dict(ranked))


def _written(turn: Turn, written: Written) -> Answer:
    return Answer((), turn.question, written.text, tokens=written.tokens, complete=written.complete)


def _complete(answer: Answer, seen: Sequence[Seen], scores: Sequence[Sequence[float]]) -> Answer:
    """Add what was looked at, and each slice's score with its place in file and patient."""
    volumes = [each for each in seen if each.kind == "volume"]
    slices = tuple(each.slice_scores(of_volume) for each, of_volume in zip(volumes, scores, strict=False))
    paths = tuple(", ".join(each.files) for each in seen)
    return Answer(paths, answer.question, answer.text, answer.probabilities, slices, answer.tokens, answer.complete)


def _numbers(seen: Iterable[Seen]) -> list[int]:
    """Return the place of each volume among the volumes, and of each image among the images."""
    counted = {"volume": 0, "image": 0}
    numbers = []
    for each in seen:
        numbers.append(counted[each.kind])
        counted[each.kind] += 1
    return numbers


def _grouped(questions: Sequence[Question], batch: int) -> Iterator[list[Question]]:
    """Yield questions in groups of about a batch; all about the same files are in one group."""
    about: dict[tuple[Files, ...], list[Question]] = {}
    for question in questions:
        about.setdefault(question.files, []).append(question)
    group: list[Question] = []
    for each in about.values():
        group += each
        if len(group) >= batch or len({files for question in group for files in question.files}) >= FILES_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
