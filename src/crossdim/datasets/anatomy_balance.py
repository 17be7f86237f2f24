"""Questions whose words do not tell the answer: equal numbers of every answer to the same words, in every part.

Whoever guesses from the words alone then gets exactly one over the number of answers right, by construction, whatever
the guesser. :func:`blind_accuracy` measures it all the same.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2

from crossdim.datasets.dialogue import Dependence, Turn
from crossdim.datasets.manifest import Manifest, SplitName

_MOST_ANSWERS = 12
"""Of more different answers to one question, the most frequent so many are kept."""


@dataclass(frozen=True)
class Blind:
    """What the words of questions alone are worth.

    Attributes:
        accuracy: Share of the test part's questions that are answered rightly without a look at the volume.
        chance: The same for a guess among the choices; 0 for open questions.
        questions: Number of questions in the test part.
    """

    accuracy: float
    chance: float
    questions: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A closed question about a volume, before it is known whether it is kept.

    Attributes:
        record: Number of the volume.
        split: Its part.
        type: Type of question.
        question: Its text.
        answer: The truth.
        about: The structures to look at.
        depends_on: What the answer depends on.
        choices: All answers there are, in the order they are shown in; :func:`balance` leaves those it keeps.
    """

    record: int
    split: SplitName
    type: str
    question: str
    answer: str
    about: tuple[str, ...]
    depends_on: tuple[Dependence, ...] = ()
    choices: tuple[str, ...] = ()


def rank(*parts: object) -> bytes:
    """Return a number to sort by that looks random and depends on nothing but the parts.

    Args:
        parts: Such as a seed and a text.
    """
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()


def balance(candidates: Iterable[Candidate], seed: int, texts_per_type: int) -> tuple[list[Candidate], tuple[str, ...]]:
    """Keep, for each question text and part, equally many of every answer.

    Of each text, the set of answers is kept that leaves most to learn in the training part; the choices are these
    answers. A text that the training part has one answer to is dropped, everywhere.

    Args:
        candidates: Closed questions with their answers.
        seed: Seed of what is left out.
        texts_per_type: Question texts kept of each type, at most: those asked most often in the training part.

    Returns:
        What is kept, in the order given, and what was dropped, by type.
    """
    by_text: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_text[candidate.type, candidate.question].append(candidate)
    kept: dict[tuple[str, str], list[Candidate]] = {}
    train_counts: Counter[tuple[str, str]] = Counter()
    for key, group in by_text.items():
        chosen = _balanced(group, seed)
        if chosen:
            kept[key] = chosen
            train_counts[key] = sum(candidate.split == "train" for candidate in chosen)
    order = sorted(kept, key=lambda key: (-train_counts[key], rank(seed, *key)))
    places: Counter[str] = Counter()
    wanted = set()
    for key in order:
        places[key[0]] += 1
        if places[key[0]] <= texts_per_type:
            wanted.add(key)
    result = [candidate for key in by_text if key in wanted for candidate in kept[key]]
    return result, _dropped(by_text, kept, wanted, result)


def _dropped(
    by_text: Mapping[tuple[str, str], Sequence[Candidate]],
    kept: Mapping[tuple[str, str], Sequence[Candidate]],
    wanted: set[tuple[str, str]],
    result: Sequence[Candidate],
) -> tuple[str, ...]:
    told = []
    turns_left = Counter(candidate.type for candidate in result)
    for kind in dict.fromkeys(kind for kind, _ in by_text):
        texts = [key for key in by_text if key[0] == kind]
        single = [key for key in texts if key not in kept]
        crowded = sum(key in kept and key not in wanted for key in texts)
        surplus = sum(len(by_text[key]) for key in texts) - turns_left[kind]
        if single:
            reason = (
                f"{kind}: {len(single)} of {len(texts)} questions dropped: the training part has one answer to them"
            )
            told.append(f"{reason}, such as '{single[0][1]}'")
        if crowded:
            told.append(f"{kind}: {crowded} of {len(texts)} questions dropped: more than are kept of a type")
        if surplus:
            told.append(
                f"{kind}: asked {turns_left[kind]} times, and {surplus} left out, so that answers are equally frequent"
            )
    return tuple(told)


def _balanced(group: Sequence[Candidate], seed: int) -> list[Candidate]:
    by_split: dict[SplitName, dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for candidate in group:
        by_split[candidate.split][candidate.answer].append(candidate)
    answers = _answers(Counter({answer: len(turns) for answer, turns in by_split["train"].items()}))
    if len(answers) < 2:
        return []
    chosen = []
    for split, turns in by_split.items():
        count = min(len(turns[answer]) for answer in answers)
        for answer in answers:
            order = sorted(turns[answer], key=lambda c: rank(seed, split, c.record, c.question))
            chosen += [replace(c, choices=_in_order(c.choices, answers)) for c in order[:count]]
    return chosen


def _in_order(choices: Sequence[str], answers: Sequence[str]) -> tuple[str, ...]:
    return tuple(choice for choice in choices if choice in answers) or tuple(answers)


def _answers(counts: Counter[str]) -> tuple[str, ...]:
    """Return the answers to keep: those that leave most bits to learn when all are cut to the rarest."""
    frequent = sorted(counts, key=lambda answer: (-counts[answer], answer))[:_MOST_ANSWERS]
    best = max(range(1, len(frequent) + 1), key=lambda n: n * counts[frequent[n - 1]] * log2(n), default=0)
    return tuple(sorted(frequent[:best])) if best > 1 else ()


def blind_accuracy(manifest: Manifest) -> dict[str, Blind]:
    """Return how often each type of question is answered rightly from its words alone.

    For each text, and for a text that the training part lacks for its type, the answer that is most frequent in the
    training part is given to the test part's questions.

    Args:
        manifest: With dialogues in the training and in the test part; without a test part, all is 0 of 0.
    """
    by_text: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    by_type: dict[str, Counter[str]] = defaultdict(Counter)
    for turn in _turns(manifest.split("train")):
        by_text[turn.type, turn.question][turn.answer] += 1
        by_type[turn.type][turn.answer] += 1
    right: Counter[str] = Counter()
    chance: defaultdict[str, float] = defaultdict(float)
    asked: Counter[str] = Counter()
    for turn in _turns(manifest.split("test")):
        counts = by_text.get((turn.type, turn.question)) or by_type[turn.type]
        guess = min(counts, key=lambda answer: (-counts[answer], answer), default=None)
        right[turn.type] += guess == turn.answer
        chance[turn.type] += 1 / len(turn.choices) if turn.choices else 0
        asked[turn.type] += 1
    kinds = dict.fromkeys((*by_type, *asked))
    return {k: Blind(right[k] / max(asked[k], 1), chance[k] / max(asked[k], 1), asked[k]) for k in sorted(kinds)}


def _turns(manifest: Manifest) -> Iterable[Turn]:
    return (turn for record in manifest.records for dialogue in record.dialogues for turn in dialogue.turns)
