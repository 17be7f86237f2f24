"""Which findings a generated report states: sentences, compared word by word.

A report that was assembled from known findings states each of them as one sentence. Its other sentences (what was
scanned, the technique) are framing: stating or leaving out one of those is neither right nor wrong. Every other
sentence of a prediction is a stated finding, so garbled and invented ones count against precision.

A measurement ("1.43 mL") is right within 15 %, since no model can be asked for the last digit; every other word and
number ("segment 4") must be the same.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from crossdim.metrics.wording import QUANTITY, Quantity, normalised, plain, quantities, sentences

TOLERANCE = 0.15
"""Largest deviation of a measurement, as a share of the true value; anatomy questions call less a near tie."""


@dataclass(frozen=True)
class FindingCounts:
    """Findings of one report.

    Attributes:
        hits: True ones that are stated.
        stated: Different findings that the prediction states.
        true: Different findings that hold.
    """

    hits: int
    stated: int
    true: int


def framing_sentences(answers: Sequence[str], findings: Sequence[Collection[str]]) -> frozenset[str]:
    """Return the normalised sentences of true reports that are not findings of any of them.

    Args:
        answers: True reports.
        findings: Of each, the sentences that are findings.
    """
    known = {normalised(finding) for each in findings for finding in each}
    return frozenset(normalised(sentence) for answer in answers for sentence in sentences(answer)) - known


def count_findings(prediction: str, findings: Collection[str], framing: Collection[str]) -> FindingCounts:
    """Count the findings of a predicted report; one stated sentence is taken for one true finding at most.

    Args:
        prediction: What a model wrote.
        findings: The true ones, each as the sentence that states it.
        framing: Normalised sentences that are no findings, from :func:`framing_sentences`.
    """
    true = {normalised(finding): finding for finding in findings}
    stated = {normalised(sentence): sentence for sentence in sentences(prediction)}
    stated = {words: sentence for words, sentence in stated.items() if words not in framing}
    equal = true.keys() & stated.keys()
    waiting = [_measured(sentence) for words, sentence in stated.items() if words not in equal]
    hits = len(equal)
    for finding in (_measured(sentence) for words, sentence in true.items() if words not in equal):
        near = next((said for said in waiting if _near(said, finding)), None)
        if near is not None:
            waiting.remove(near)
            hits += 1
    return FindingCounts(hits, len(stated), len(true))


def _measured(sentence: str) -> tuple[str, tuple[Quantity, ...]]:
    """Return a sentence with a mark in place of its numbers, and the numbers."""
    return QUANTITY.sub(" # ", plain(sentence)), quantities(sentence)


def _near(said: tuple[str, tuple[Quantity, ...]], true: tuple[str, tuple[Quantity, ...]]) -> bool:
    same_words = _marked_words(said[0]) == _marked_words(true[0]) and len(said[1]) == len(true[1])
    return same_words and all(_same(one, other) for one, other in zip(said[1], true[1], strict=True))


def _marked_words(marked: str) -> list[str]:
    return [normalised(part) for part in marked.split("#")]


def _same(said: Quantity, true: Quantity) -> bool:
    measurement = true.kind != "" or not true.value.is_integer()
    allowed = TOLERANCE * abs(true.value) if measurement else 0.0
    return said.kind == true.kind and abs(said.value - true.value) <= allowed + 1e-9
