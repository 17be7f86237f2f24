"""Choosing the best checkpoint on a validation split, and stopping when nothing gets better."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from crossdim.errors import RecipeError, nearest
from crossdim.heads.classification import Problem, probabilities
from crossdim.training.data import Batch, refuse_failures
from crossdim.training.schedule import Draw
from crossdim.training.trainer import Plan, RunTrainer
from crossdim.transforms.text import IGNORED

Scores = Callable[[Float[np.ndarray, "records classes"], Shaped[np.ndarray, "records ..."]], dict[str, float]]


@dataclass(frozen=True)
class Validation:
    """The validation split, as the model takes it.

    Attributes:
        dataset: Indexed by draws.
        batches: Every record once, in batches of one kind.
        collate: Samples → batch.
        metric: The one that counts; ``loss`` is always there.
        workers: Processes that prepare samples.
    """

    dataset: Dataset[Any]
    batches: Sequence[list[Draw]]
    collate: Callable[[list[Any]], Batch]
    metric: str = "loss"
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class ClassifierValidation(Validation):
    """The validation split of a classifier.

    Attributes:
        problem: What the classes are to one another.
        scores: (probabilities, labels) → metrics by name.
    """

    problem: Problem
    scores: Scores


class SelectingTrainer(RunTrainer):
    """A trainer that evaluates on a validation split; every process takes its share of the batches.

    Args:
        model: What learns.
        arguments: Of the Trainer.
        plan: Everything else.
        callbacks: Progress, early stopping.
        validation: The split.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        plan: Plan,
        callbacks: Sequence[TrainerCallback],
        validation: Validation,
    ) -> None:
        super().__init__(model, arguments, plan, callbacks, validation.dataset)
        self.validation = validation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the metrics on the validation split, and log them.

        Args:
            eval_dataset: Not used; the validation split is given once, at the start.
            ignore_keys: Not used.
            metric_key_prefix: In front of every metric's name.

        Raises:
            RecipeError: The metric that counts cannot be computed on this split or for this kind of problem.
        """
        found = self.measure_validation()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items() if not isnan(value)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure_validation(self) -> dict[str, float]:
        """Return the mean loss, and each part of it, over all labels of the validation split that are learned."""
        rows: list[tuple[int, dict[str, float], int]] = []
        for place, inputs, outputs in self.validation_outputs():
            losses = {"loss": float(outputs.loss)} | {
                name: float(loss) for name, loss in (outputs.losses or {}).items()
            }
            rows.append((place, losses, int((inputs["labels"] != IGNORED).sum())))
        rows = sorted(gather_object(rows), key=lambda row: row[0])
        names = dict.fromkeys(name for _, losses, _ in rows for name in losses)
        parts = {name: [(row[1][name], row[2]) for row in rows if name in row[1]] for name in names}
        return {
            name: sum(loss * count for loss, count in part) / max(1, sum(count for _, count in part))
            for name, part in parts.items()
        }

    def validation_outputs(self) -> Iterator[tuple[int, Batch, Any]]:
        """Yield this process's batches of the validation split: place among all, inputs, outputs."""
        validation = self.validation
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        loader = DataLoader(
            validation.dataset,
            batch_sampler=list(validation.batches)[rank::count],
            collate_fn=validation.collate,
            num_workers=validation.workers,
        )
        self.network.eval()
        for place, batch in enumerate(loader):
            refuse_failures(batch)
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = self.network(**inputs)
            yield rank + place * count, inputs, outputs


class ClassifierTrainer(SelectingTrainer):
    """A selecting trainer of a classifier.

    Args:
        model: What learns.
        arguments: Of the Trainer.
        plan: Everything else.
        callbacks: Progress, early stopping.
        validation: The split.
    """

    validation: ClassifierValidation

    def measure_validation(self) -> dict[str, float]:
        """Return the loss and the scores on the validation split.

        Raises:
            RecipeError: The metric that counts cannot be computed on this split or for this kind of problem.
        """
        chances, labels, loss = self.predict_validation()
        found = {"loss": loss} | self.validation.scores(chances, labels)
        metric = self.validation.metric
        if metric not in found:
            problem = self.validation.problem
            raise RecipeError(
                "'selection.metric'", f"'{metric}' is not a metric of {problem} tasks", nearest(metric, found)
            )
        if isnan(found[metric]):
            raise RecipeError(
                "'selection.metric'",
                f"'{metric}' cannot be computed on a validation split where classes are missing",
                "Use 'loss' or 'accuracy', or a larger validation split",
            )
        return found

    def predict_validation(
        self,
    ) -> tuple[Float[np.ndarray, "records classes"], Shaped[np.ndarray, "records ..."], float]:
        """Return probabilities, labels and the mean loss over the validation split, in the order of its batches."""
        rows: list[tuple[int, Tensor, Tensor, float]] = []
        for place, inputs, outputs in self.validation_outputs():
            chances = probabilities(outputs.logits, self.validation.problem)
            rows.append((place, chances.cpu(), inputs["labels"].cpu(), float(outputs.loss)))
        rows = sorted(gather_object(rows), key=lambda row: row[0])
        labels = torch.cat([row[2] for row in rows])
        loss = sum(row[3] * len(row[2]) for row in rows) / len(labels)
        return torch.cat([row[1] for row in rows]).numpy(), labels.numpy(), loss


class EarlyStopping(TrainerCallback):
    """Stops when the metric has not improved for some evaluations; reads the log, so it survives a resumption.

    Args:
        metric: Name without prefix.
        patience: Evaluations without improvement.
    """

    def __init__(self, metric: str, patience: int) -> None:
        self._key, self._patience = f"eval_{metric}", patience
        self._sign = -1.0 if metric == "loss" else 1.0

    def _exhausted(self, state: TrainerState) -> bool:
        values = [self._sign * line[self._key] for line in state.log_history if self._key in line]
        return bool(values) and len(values) - 1 - values.index(max(values)) >= self._patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop again if the run was stopped before and killed afterwards."""
        control.should_training_stop = control.should_training_stop or self._exhausted(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop when patience is at its end."""
        control.should_training_stop = control.should_training_stop or self._exhausted(state)
