"""Which findings a generated report states: sentences, compared word by word.

A report that was assembled from known findings states each of them as one sentence. Its other sentences (what was
scanned, the technique) are framing: stating or leaving out one of those is neither right nor wrong. Every other
sentence of a prediction is a stated finding, so garbled and invented ones count against precision.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from crossdim.metrics.wording import normalised, sentences


@dataclass(frozen=True)
class FindingCounts:
    """Findings of one report.

    Attributes:
        hits: Stated and true.
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
    """Count the findings of a predicted report.

    Args:
        prediction: What a model wrote.
        findings: The true ones, each as the sentence that states it.
        framing: Normalised sentences that are no findings, from :func:`framing_sentences`.
    """
    true = {normalised(finding) for finding in findings}
    stated = {normalised(sentence) for sentence in sentences(prediction)} - set(framing)
    return FindingCounts(len(true & stated), len(stated), len(true))
