"""How close a generated text is to the true one, from 0 to 1 for each pair; an empty prediction is 0.

The numbers of the M3D and Med-2E3 evaluations: BLEU-1, ROUGE-1, METEOR, BERTScore as the ``evaluate`` library computes
them, ROUGE-L as in CT-RATE's scripts; beside them exact match and, where the true answer is a measurement, whether the
number is near enough.

Differs from the authors' code:

* METEOR's words come from NLTK's tokeniser, applied to sentences that we split ourselves, because NLTK's own splitter
  wants one more download. Only full stops inside an unusual sentence can come out differently.
* METEOR is absent where there is no WordNet; it is never computed without synonyms.
* Cases are scored alone and averaged (as there), so BLEU-1 is no corpus BLEU.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import nan
from typing import Any

from crossdim.metrics.wording import normalised, quantities, sentences

LONGEST_CACHED = 65_536
TOLERANCES = (0.10, 0.15)
"""Relative deviations within which a measurement counts as right; 15 % is what anatomy questions call a near tie."""


def exact_match(prediction: str, answer: str) -> float:
    """Return whether two texts have the same words (case, punctuation and articles ignored).

    Args:
        prediction: What a model said.
        answer: What is true.
    """
    return float(bool(prediction.strip()) and normalised(prediction) == normalised(answer))


def number_match(prediction: str, answer: str, tolerance: float) -> float:
    """Return whether every number is near the true one; NaN if the true answer has none.

    Numbers are compared in their order and there must be as many; mL, cm³ and mm³, mm and cm are converted. A predicted
    number without a unit is taken to be in the true one's.

    Args:
        prediction: What a model said.
        answer: What is true.
        tolerance: Largest deviation, as a share of the true value.
    """
    true, said = quantities(answer), quantities(prediction)
    if not true:
        return nan
    return float(
        len(said) == len(true)
        and all(
            one.kind in ("", other.kind) and abs(one.value - other.value) <= tolerance * abs(other.value) + 1e-9
            for one, other in zip(said, true, strict=True)
        )
    )


def bleu1(prediction: str, answer: str) -> float:
    """Return BLEU of single words (Papineni et al. 2002): clipped precision times the brevity penalty, unsmoothed.

    Tokens are those of ``mteval-v13a``, upper and lower case differ; computed by sacrebleu (Post 2018).

    Args:
        prediction: What a model said.
        answer: What is true.
    """
    return float(_bleu().sentence_score(prediction, [answer]).score) / 100 if prediction.strip() else 0.0


def rouge(prediction: str, answer: str) -> dict[str, float]:
    """Return ``rouge1`` and ``rougeL``: F of shared words and of the longest common subsequence (Lin 2004), unstemmed.

    Args:
        prediction: What a model said.
        answer: What is true.
    """
    scores = _rouge().score(answer, prediction)
    return {name: float(score.fmeasure) for name, score in scores.items()}


def meteor(prediction: str, answer: str, wordnet: Any) -> float:
    """Return METEOR with the weights of Lavie and Agarwal 2007 (alpha 0.9, beta 3, gamma 0.5): words, stems, synonyms.

    Args:
        prediction: What a model said.
        answer: What is true.
        wordnet: From :func:`crossdim.metrics.wordnet.open_wordnet`.
    """
    from nltk.translate.meteor_score import single_meteor_score

    said, true = _tokens(prediction), _tokens(answer)
    return float(single_meteor_score(true, said, wordnet=wordnet)) if said and true else 0.0


def text_scores(predictions: Sequence[str], answers: Sequence[str], wordnet: Any = None) -> dict[str, list[float]]:
    """Return every score of every pair, by name; without ``meteor`` if there is no WordNet.

    Args:
        predictions: What a model said.
        answers: What is true, one for each.
        wordnet: From :func:`crossdim.metrics.wordnet.open_wordnet`, or None.
    """
    scores: dict[str, list[float]] = {"exact": [], "bleu1": [], "rouge1": [], "rougeL": []}
    scores |= {tolerance_name(tolerance): [] for tolerance in TOLERANCES}
    if wordnet is not None:
        scores["meteor"] = []
    for prediction, answer in zip(predictions, answers, strict=True):
        for name, value in _pair_scores(prediction, answer, wordnet).items():
            scores[name].append(value)
    return scores


def tolerance_name(tolerance: float) -> str:
    """Return what :func:`number_match` is called in tables: ``within_15_percent``.

    Args:
        tolerance: As a share.
    """
    return f"within_{round(100 * tolerance)}_percent"


def _pair_scores(prediction: str, answer: str, wordnet: Any) -> dict[str, float]:
    scores = {"exact": exact_match(prediction, answer), "bleu1": bleu1(prediction, answer), **rouge(prediction, answer)}
    scores |= {tolerance_name(tolerance): number_match(prediction, answer, tolerance) for tolerance in TOLERANCES}
    return scores if wordnet is None else scores | {"meteor": meteor(prediction, answer, wordnet)}


@lru_cache(maxsize=1)
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(max_ngram_order=1, smooth_method="none", tokenize="13a", effective_order=True)


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)


@lru_cache(maxsize=LONGEST_CACHED)
def _tokens(text: str) -> tuple[str, ...]:
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return tuple(word for sentence in sentences(text) for word in tokenizer.tokenize(sentence))
