"""What the question alone gives away: the blind baseline of an evaluation.

A question that is answered well without looking says nothing about a model that looks (Agrawal et al. 2018, Goyal et
al. 2017). This predictor never looks: it says what was true most often in training for this very question, or failing
that for its type, or for its form.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from crossdim.metrics.wording import normalised


@runtime_checkable
class Asked(Protocol):
    """A question as a manifest holds it."""

    @property
    def question(self) -> str:
        """As it is asked."""
        ...

    @property
    def answer(self) -> str:
        """What is true; empty where it is not known."""
        ...

    @property
    def choices(self) -> Sequence[str]:
        """For closed questions: what to choose from."""
        ...

    @property
    def form(self) -> str:
        """``closed``, ``open`` or ``report``."""
        ...

    @property
    def type(self) -> str:
        """By which results are reported."""
        ...


class QuestionPrior:
    """Answers by frequency in training, from the most to the least particular group of questions.

    Args:
        turns: Questions and answers of the training split; those without an answer do not count.
    """

    def __init__(self, turns: Iterable[Asked]) -> None:
        self._counts: dict[tuple[str, ...], Counter[str]] = {}
        for turn in turns:
            for group in _groups(turn) if turn.answer else ():
                self._counts.setdefault(group, Counter())[turn.answer] += 1

    def __call__(self, turn: Asked) -> str:
        """Return the most frequent training answer; for closed questions the most frequent of the choices.

        Equally frequent answers: the one seen first. A closed question of whose choices none was ever true in training
        gets its first choice; an open one without any training answer gets the empty text.

        Args:
            turn: What is asked; its answer is not looked at.
        """
        for group in _groups(turn):
            counts = self._counts.get(group, Counter())
            if turn.form != "closed":
                if counts:
                    return counts.most_common(1)[0][0]
                continue
            by_words: Counter[str] = Counter()
            for answer, count in counts.items():
                by_words[normalised(answer)] += count
            best = max(turn.choices, key=lambda choice: by_words[normalised(choice)], default="")
            if by_words[normalised(best)]:
                return best
        return turn.choices[0] if turn.choices else ""


def question_prior(turns: Iterable[Asked]) -> QuestionPrior:
    """Return the question-only predictor of a training split.

    Args:
        turns: Its questions and answers.
    """
    return QuestionPrior(turns)


def _groups(turn: Asked) -> tuple[tuple[str, ...], ...]:
    return (turn.form, turn.type, normalised(turn.question)), (turn.form, turn.type), (turn.form,)
