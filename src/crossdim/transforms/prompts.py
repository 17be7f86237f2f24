"""A dialogue as the text that a language model reads, in pieces: what is given, and what is to be learned.

The prompts are those of Med-2E3 (stage 1: :data:`caption`, stage 2: ``vicuna``) and the language model's own chat
template. Markers for volumes and images stay in the text; the processor turns them into placeholders.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from crossdim.datasets.dialogue import Turn
from crossdim.errors import ContractError

Prompt = Literal["vicuna", "caption", "chat"]
"""``vicuna``: the authors' template for stage 2; ``caption``: theirs for stage 1, the volume and then the answer;
``chat``: the tokenizer's own chat template."""

Choices = Literal["unlisted", "letters"]
"""How a closed question shows its choices: not at all (the question says them, or they are yes and no), or as M3D-VQA
does: ``question Choices: A. … B. …`` with the answer ``A. …``."""

VOLUME, IMAGE = "<volume>", "<image>"
MARKER = re.compile(f"({VOLUME}|{IMAGE})")

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

ChatTemplate = Callable[[list[dict[str, str]], bool], str]
"""(messages, whether an answer is to follow) → text."""


@dataclass(frozen=True)
class Piece:
    """A part of the text.

    Attributes:
        text: With markers.
        learned: Whether it is an answer, on which the loss falls.
        turn: Of an answer: its turn's place in the dialogue.
        ends: Whether the end-of-sequence token follows, learned as well.
    """

    text: str
    learned: bool = False
    turn: int = -1
    ends: bool = False


def asked(turn: Turn, choices: Choices) -> str:
    """Return the question as the model reads it.

    Args:
        turn: Question, and choices if it is closed.
        choices: Whether they are listed.
    """
    if choices == "unlisted" or not turn.choices:
        return turn.question
    listed = " ".join(f"{_letter(place)}. {choice}" for place, choice in enumerate(turn.choices))
    return f"{turn.question} Choices: {listed}"


def answered(turn: Turn, choices: Choices) -> str:
    """Return the answer as the model learns it.

    Args:
        turn: Its answer is one of the choices, if it has some.
        choices: Whether they are listed.
    """
    if choices == "unlisted" or turn.answer not in turn.choices:
        return turn.answer
    return f"{_letter(turn.choices.index(turn.answer))}. {turn.answer}"


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def pieces_of(
    prompt: Prompt, dialogue: Sequence[tuple[str, str]], lead: str, generate: bool, chat: ChatTemplate, eos: str
) -> list[Piece]:
    """Return a dialogue in pieces; if it is to be generated on, without its last answer.

    Args:
        prompt: Which template.
        dialogue: Question and answer of each turn; an empty answer is not learned.
        lead: Markers in front of the first question.
        generate: Whether the last answer is the model's to give.
        chat: The tokenizer's own template; called for ``chat`` only.
        eos: Text of the token that ends an answer.
    """
    if prompt == "caption":
        answers = [] if generate else [answer for _, answer in dialogue if answer]
        return [Piece(lead), *([Piece(" ".join(answers), True, len(dialogue) - 1)] if answers else [])]
    questions = [lead + question if place == 0 else question for place, (question, _) in enumerate(dialogue)]
    if prompt == "vicuna":
        return _vicuna(questions, [answer for _, answer in dialogue], generate)
    return _chat(questions, [answer for _, answer in dialogue], generate, chat, eos)


def _vicuna(questions: Sequence[str], answers: Sequence[str], generate: bool) -> list[Piece]:
    pieces = [Piece(f"{SYSTEM} ")]
    for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        pieces.append(Piece(f"USER: {question} ASSISTANT:"))
        if not (generate and place == len(questions) - 1):
            pieces.append(Piece(f" {answer}", bool(answer), place, ends=True))
    return pieces


def _chat(
    questions: Sequence[str], answers: Sequence[str], generate: bool, chat: ChatTemplate, eos: str
) -> list[Piece]:
    messages: list[dict[str, str]] = []
    pieces: list[Piece] = []
    seen = ""
    for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        messages.append({"role": "user", "content": question})
        given = _rest(chat(messages, True), seen)
        pieces.append(Piece(given))
        seen += given
        if generate and place == len(questions) - 1:
            break
        messages.append({"role": "assistant", "content": answer})
        closed = _rest(chat(messages, False), seen)
        seen += closed
        said, found, rest = closed.partition(eos)
        pieces.append(Piece(said if found else closed, bool(answer), place, ends=True))
        pieces.append(Piece(rest))
    return pieces


def _rest(text: str, start: str) -> str:
    if not text.startswith(start):
        raise ContractError(
            "chat template",
            "rewrites earlier turns when a later one is added, so answers cannot be told from questions",
            "Use prompt=vicuna (in a recipe: prompt.style=vicuna)",
        )
    return text[len(start) :]
