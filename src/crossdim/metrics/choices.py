"""Which of the offered choices an answer takes.

The authors' rule for closed questions asks whether the letter of the true choice and a full stop occur in the output.
It counts "A axial" as wrong and "B. see region A." as right for A. The robust rule reads the answer instead.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from string import ascii_uppercase
from typing import Literal, NamedTuple

from crossdim.metrics.wording import ARTICLES, TOKEN, plain, words

Rule = Literal["robust", "substring"]
"""``robust`` reads the answer; ``substring`` is the authors' rule: "A." (Med-2E3, M3D) or "(a)" (CT-RATE) occurs."""

ANNOUNCEMENT = (
    r"(?:(?:the|my)\s+)?(?:(?:correct|right|best|final|most\s+likely)\s+)?(?:answer|option|choice)\s*(?:is|:|=)*\s*"
    r"(?:(?:option|choice)\s+)?"
)
MARKED_LETTER = r"(?:\(\s*([a-z])\s*\)|\[\s*([a-z])\s*\]|([a-z])\s*\)|([a-z])\s*[.:](?=\s|$))"
LEADING_MARKED = re.compile(rf"\W*?(?:{ANNOUNCEMENT})?{MARKED_LETTER}", re.IGNORECASE)
LEADING_BARE = re.compile(rf"\W*(?i:{ANNOUNCEMENT})([A-Z])\b|\W*([A-Z])(?=\s)")
ALONE = re.compile(rf"\W*(?:{ANNOUNCEMENT})?([a-z])\W*", re.IGNORECASE)
ANYWHERE = re.compile(rf"\(\s*([a-z])\s*\)|(?i:{ANNOUNCEMENT})([A-Z])\b")
OWN_LABEL = re.compile(r"\s*\(?([A-Za-z])\s*[.):]\s*(?=\S)")

NEGATIONS = frozenset({"not", "no", "never", "neither", "nor", "without", "cannot"})
NEGATING_PHRASES = (("rather", "than"), ("instead", "of"))
NEGATION_REACH = 2
"""Words before a mention among which a negation denies it."""

CONTRADICTION = -1
"""In place of a choice's number: a letter and a text that name different choices."""

PRONOUN_LETTERS = frozenset("AI")
"""Letters that are words of their own, so that one of them before a text is no label."""


class _Mention(NamedTuple):
    """Where a choice is named: its number, its words from ``start`` to before ``stop``."""

    choice: int
    start: int
    stop: int


class _Word(NamedTuple):
    """A word, and whether punctuation separates it from the word before."""

    text: str
    apart: bool


def parse_choice(text: str, choices: Sequence[str], rule: Rule = "robust") -> str | None:
    """Return the choice that an answer takes, or None where that cannot be said.

    The robust rule reads, in this order: the text of a choice and nothing else; a letter that stands for a choice
    ("A", "A. axial", "(b)", "Answer: C", "b) left"); "yes" or "no" as the first word; the one choice whose text occurs
    (the longest of overlapping ones; case, punctuation and articles do not count) and is not denied ("not left"). A
    letter whose choice the rest of the answer contradicts is no answer.

    Args:
        text: What a model said.
        choices: What it could choose from; A is the first.
        rule: How to read it.
    """
    if rule == "substring":
        marked = [choice for choice in choices if _has_label(text, choices, choice)]
        return min(marked, key=lambda choice: _label_place(text, choices, choice)) if marked else None
    bare = _without_own_labels(choices)
    names = [words(choice) for choice in bare]
    place = _whole(text, bare)
    if place is None:
        place = _by_letter(re.sub(r"[*_`]", "", text).strip(), names)
    if place is None:
        place = _by_text(text, names)
    if place is None:
        letters = {_index(match) for match in ANYWHERE.finditer(text)}
        place = letters.pop() if len(letters) == 1 else None
    return choices[place] if place is not None and 0 <= place < len(choices) else None


def accepted(text: str, answer: str, choices: Sequence[str], rule: Rule = "robust") -> bool:
    """Return whether an answer counts as right.

    By the substring rule an answer that holds several letters is right for each of them, as in the authors' code.

    Args:
        text: What a model said.
        answer: The true choice.
        choices: What it could choose from.
        rule: How to read it.
    """
    if rule == "substring":
        return _has_label(text, choices, answer)
    return parse_choice(text, choices) == answer


def _labels(choices: Sequence[str], choice: str) -> tuple[str, ...]:
    return tuple(
        label
        for letter, each in zip(ascii_uppercase, choices, strict=False)
        if each == choice
        for label in (f"{letter}.", f"({letter.lower()})")
    )


def _has_label(text: str, choices: Sequence[str], choice: str) -> bool:
    return any(label in text for label in _labels(choices, choice))


def _label_place(text: str, choices: Sequence[str], choice: str) -> int:
    return min(text.find(label) for label in _labels(choices, choice) if label in text)


def _without_own_labels(choices: Sequence[str]) -> list[str]:
    """Return "A. axial", "B. coronal" as "axial", "coronal", if every choice carries its own letter."""
    found = [OWN_LABEL.match(choice) for choice in choices]
    if all(match and match[1].upper() == letter for match, letter in zip(found, ascii_uppercase, strict=False)):
        return [choice[match.end() :] for match, choice in zip(found, choices, strict=True) if match]
    return list(choices)


def _whole(text: str, choices: Sequence[str]) -> int | None:
    """Return the choice that is the whole text, sign by sign."""
    for simplify in (str.strip, lambda value: plain(value).strip()):
        equal = [place for place, choice in enumerate(choices) if simplify(choice) == simplify(text)]
        if len(equal) == 1:
            return equal[0]
    return None


def _index(match: re.Match[str]) -> int:
    letter = next(group for group in match.groups() if group)
    return ascii_uppercase.index(letter.upper())


def _by_letter(text: str, names: Sequence[tuple[str, ...]]) -> int | None:
    alone = ALONE.fullmatch(text)
    if alone:
        return _index(alone) if _index(alone) < len(names) else None
    marked, bare = LEADING_MARKED.match(text), LEADING_BARE.match(text)
    match = marked or bare
    if match is None or _index(match) >= len(names):
        return None
    place = _index(match)
    said = _by_text(text[match.end() :], names)
    if said is not None:
        return place if said == place else (CONTRADICTION if marked else said)
    return place if marked or match[1] or match[2] not in PRONOUN_LETTERS else None


def _by_text(text: str, names: Sequence[tuple[str, ...]]) -> int | None:
    said = _read(text)
    mentions = _mentions(said, names)
    if {("yes",), ("no",)} <= set(names) and mentions and mentions[0].start == 0 and mentions[0].stop == 1:
        return mentions[0].choice
    held = [mention for mention in mentions if not _denied(said, mention, mentions)]
    if len({mention.choice for mention in held}) == 1:
        return held[0].choice
    first = [mention for mention in held if mention.start == 0]
    if len(first) == 1 and first[0].stop < len(said) and said[first[0].stop].apart:
        return first[0].choice
    return None


def _read(text: str) -> list[_Word]:
    cleaned = plain(text)
    matches = list(TOKEN.finditer(cleaned))
    gaps = ["", *(cleaned[before.end() : after.start()] for before, after in pairwise(matches))]
    read, apart = [], False
    for match, gap in zip(matches, gaps, strict=False):
        apart = apart or bool(re.search(r"[.,;:!?\n]", gap))
        if match.group() not in ARTICLES:
            read.append(_Word(match.group(), apart))
            apart = False
    return read


def _mentions(said: Sequence[_Word], names: Sequence[tuple[str, ...]]) -> list[_Mention]:
    """Return where choices are named, without those inside a longer one, in reading order."""
    texts = tuple(word.text for word in said)
    found = [
        _Mention(choice, start, start + len(name))
        for choice, name in enumerate(names)
        for start in range(len(texts) - len(name) + 1)
        if name and texts[start : start + len(name)] == name
    ]

    def inside_a_longer(one: _Mention) -> bool:
        return any(
            other.start <= one.start and one.stop <= other.stop and other.stop - other.start > one.stop - one.start
            for other in found
        )

    return sorted((each for each in found if not inside_a_longer(each)), key=lambda each: each.start)


def _denied(said: Sequence[_Word], mention: _Mention, mentions: Sequence[_Mention]) -> bool:
    """Return whether one of the words shortly before a mention denies it, unless that word is a mention itself."""
    taken = {place for other in mentions for place in range(other.start, other.stop)}
    place = mention.start
    for _ in range(NEGATION_REACH):
        if place == 0 or said[place].apart or place - 1 in taken:
            return False
        place -= 1
        if said[place].text in NEGATIONS or said[place].text.endswith("n't"):
            return True
    return tuple(word.text for word in said[place : place + 2]) in NEGATING_PHRASES
