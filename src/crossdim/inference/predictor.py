"""Files to classes and features, through a trained encoder or classifier."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from os import PathLike, fspath
from typing import Literal, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.heads.classification import probabilities
from crossdim.models.pimae import PimaeForImageClassification, PimaeImageModel
from crossdim.models.uni4eye import Uni4EyeForImageClassification, Uni4EyeModel
from crossdim.readers import read_channels
from crossdim.samples import Prediction
from crossdim.tokens.grid import pair
from crossdim.transforms.collate import padding_mask
from crossdim.transforms.contract import Prepared, PreprocessingContract

Source = str | PathLike[str]
Progress = Callable[[int, int], None]
Encoder = Uni4EyeModel | PimaeImageModel
Classifier = Uni4EyeForImageClassification | PimaeForImageClassification


class Predictor:
    """A model and the preprocessing it was trained with.

    Attributes:
        model: Encoder or classifier, in evaluation mode.
        contract: Preprocessing; inputs that do not fit it are refused.
        name: What was loaded.
    """

    def __init__(self, model: Encoder | Classifier, contract: PreprocessingContract, name: str) -> None:
        self.model = model
        self.contract = contract
        self.name = name

    @property
    def encoder(self) -> Encoder:
        """The encoder alone."""
        if isinstance(self.model, Uni4EyeForImageClassification):
            return self.model.uni4eye
        return self.model.pimae if isinstance(self.model, PimaeForImageClassification) else self.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return tuple((self._classifier().config.id2label or {}).values())

    @overload  # a str is a sequence of str too; the first signature is meant for it
    def predict(self, path: Source, *, progress: Progress | None = None) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, path: Sequence[Source], *, progress: Progress | None = None) -> list[Prediction]: ...
    def predict(
        self, path: Source | Sequence[Source], *, progress: Progress | None = None
    ) -> Prediction | list[Prediction]:
        """Classify one file, or a list of files.

        Args:
            path: A file, a DICOM series folder, or ``file#selector``; or a list of them.
            progress: Called with (done, all) after each batch.

        Raises:
            ContractError: The model has no classifier, or a file does not fit the model's preprocessing.
            ReadError: A file cannot be read.
        """
        paths = [path] if isinstance(path, str | PathLike) else list(path)
        sources = [(fspath(item),) for item in paths]
        chances = self.probabilities(sources, progress=progress)
        found = [self._prediction(fspath(item), row) for item, row in zip(paths, chances, strict=True)]
        return found[0] if isinstance(path, str | PathLike) else found

    def _prediction(self, path: str, chances: Float[np.ndarray, " classes"]) -> Prediction:
        named = {name: float(chance) for name, chance in zip(self.classes, chances, strict=True)}
        label: str | tuple[str, ...] = max(named, key=lambda name: named[name])
        if self.model.config.problem == "multilabel":
            label = tuple(name for name, chance in named.items() if chance > 0.5)
        return Prediction(path, self.model.config.task, label, named)

    @overload
    def embed(
        self, path: Source, *, pooling: Literal["cls", "mean"] | None = None, progress: Progress | None = None
    ) -> Float[np.ndarray, " dim"]: ...
    @overload
    def embed(
        self, path: Sequence[Source], *, pooling: Literal["cls", "mean"] | None = None, progress: Progress | None = None
    ) -> Float[np.ndarray, "files dim"]: ...
    def embed(
        self,
        path: Source | Sequence[Source],
        *,
        pooling: Literal["cls", "mean"] | None = None,
        progress: Progress | None = None,
    ) -> Float[np.ndarray, " dim"] | Float[np.ndarray, "files dim"]:
        """Return the encoder's feature of one file ``(dim,)``, or of a list of files ``(files, dim)``, in float32.

        Args:
            path: A file, a DICOM series folder, or ``file#selector``; or a list of them.
            pooling: Class token or mean of the patch tokens; the model's own when left out.
            progress: Called with (done, all) after each batch.

        Raises:
            ContractError: A file does not fit the model's preprocessing.
            ReadError: A file cannot be read.
        """
        paths = [path] if isinstance(path, str | PathLike) else list(path)
        features = self.features([(fspath(item),) for item in paths], pooling=pooling, progress=progress)
        return features[0] if isinstance(path, str | PathLike) else features

    def features(
        self,
        sources: Sequence[Sequence[str]],
        *,
        pooling: Literal["cls", "mean"] | None = None,
        progress: Progress | None = None,
    ) -> Float[np.ndarray, "samples dim"]:
        """Return encoder features, float32.

        Args:
            sources: The files of each sample; several are co-registered channels.
            pooling: Class token or mean of the patch tokens; the model's own when left out.
            progress: Called with (done, all) after each batch.

        Raises:
            ContractError: The encoder was not trained for this pooling.
        """
        encoder = self.encoder
        if isinstance(encoder, PimaeImageModel) and pooling not in (None, encoder.config.pooling):
            raise ContractError(
                f"pooling '{pooling}'",
                f"is not what this classifier was trained with ({encoder.config.pooling})",
                "Leave it out",
            )

        def compute(values: Tensor, padding: Tensor | None) -> Tensor:
            found = encoder(values, padding_mask=padding)
            if isinstance(encoder, PimaeImageModel):
                return found.pooler_output
            return encoder.pool(found.last_hidden_state, padding, pooling)

        return self._run(sources, compute, progress)

    def probabilities(
        self, sources: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> Float[np.ndarray, "samples classes"]:
        """Return class probabilities, float32.

        Args:
            sources: The files of each sample; several are co-registered channels.
            progress: Called with (done, all) after each batch.

        Raises:
            ContractError: The model has no classifier.
        """
        model = self._classifier()

        def compute(values: Tensor, padding: Tensor | None) -> Tensor:
            return probabilities(model(values, padding_mask=padding).logits, model.config.problem)

        return self._run(sources, compute, progress)

    def _classifier(self) -> Classifier:
        if isinstance(self.model, Uni4EyeModel | PimaeImageModel):
            raise ContractError(
                self.name, "is an encoder without a classifier", "Fine-tune it first (crossdim finetune), or use embed"
            )
        return self.model

    @torch.inference_mode()
    def _run(
        self,
        sources: Sequence[Sequence[str]],
        compute: Callable[[Tensor, Tensor | None], Tensor],
        progress: Progress | None,
        batch_size: int = 16,
    ) -> Float[np.ndarray, "samples values"]:
        """Prepare, batch by shape, compute, and put the results back in the order of the sources."""
        device = self.model.device
        on_gpu = device.type == "cuda"
        results: dict[int, Tensor] = {}
        for places, values, padding in self._batches(sources, batch_size):
            with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
                answer = compute(values.to(device), None if padding is None else padding.to(device))
            results |= dict(zip(places, answer.float().cpu(), strict=True))
            if progress is not None:
                progress(len(results), len(sources))
        if not results:
            raise ContractError("list of files", "is empty", "Give at least one file")
        return torch.stack([results[place] for place in range(len(sources))]).numpy()

    def _batches(
        self, sources: Sequence[Sequence[str]], batch_size: int
    ) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
        waiting: dict[tuple[int, ...], list[tuple[int, Prepared]]] = {}
        for place, paths in enumerate(sources):
            prepared = self.contract.prepare(read_channels(paths))
            group = waiting.setdefault(tuple(prepared.tensor.shape), [])
            group.append((place, prepared))
            if len(group) == batch_size:
                yield self._stack(waiting.pop(tuple(prepared.tensor.shape)))
        for group in waiting.values():
            yield self._stack(group)

    def _stack(self, group: list[tuple[int, Prepared]]) -> tuple[list[int], Tensor, Tensor | None]:
        values = torch.stack([prepared.tensor for _, prepared in group])
        encoder = self.encoder
        if isinstance(encoder, PimaeImageModel):
            patch: tuple[int, ...] = pair(encoder.config.patch_size)
        else:
            patch = encoder.patch_embed.patch_of(values)
        size = tuple(values.shape[2:])
        padding = torch.stack([padding_mask(prepared.valid, size, patch) for _, prepared in group])
        return [place for place, _ in group], values, padding if bool(padding.any()) else None
