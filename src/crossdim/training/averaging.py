"""A moving average of the weights, which is evaluated and kept instead of the weights themselves.

It is saved in every checkpoint beside the weights, so that a resumed run has the same average.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FILE_NAME = "average.safetensors"


class MovingAverage(TrainerCallback):
    """Follows the weights of a model, running statistics of its norms included.

    The decay rises with the steps, ``(1 + step) / (10 + step)`` up to the one given, so that the first weights, which
    are random, are soon forgotten.

    Args:
        model: What learns.
        decay: Share of the average that a step leaves.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._average = {name: value.detach().clone() for name, value in self._followed()}

    def _followed(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, value) for name, value in self._model.state_dict().items() if value.is_floating_point())

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Follow the weights by a step."""
        decay = min(self._decay, (1 + state.global_step) / (10 + state.global_step))
        for name, value in self._followed():
            self._average[name] = self._average[name].to(value.device).lerp_(value, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model for a while."""
        weights = {name: value.detach().clone() for name, value in self._followed()}
        self.put()
        try:
            yield
        finally:
            self._model.load_state_dict(weights, strict=False)

    def put(self) -> None:
        """Put the average into the model for good."""
        self._model.load_state_dict(self._average, strict=False)

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint.

        Args:
            folder: The checkpoint.
        """
        save_file({name: value.contiguous() for name, value in self._average.items()}, folder / FILE_NAME)

    def load(self, folder: Path) -> None:
        """Go on from the average of a checkpoint.

        Args:
            folder: The checkpoint.
        """
        self._average = load_file(folder / FILE_NAME)
