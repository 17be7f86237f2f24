"""Trainers of detectors: they may average the weights, and measure boxes on the validation split."""

from dataclasses import dataclass
from math import isnan
from pathlib import Path

from accelerate.utils import gather_object

from crossdim.errors import RecipeError
from crossdim.metrics.detection_protocol import Protocol
from crossdim.training.averaging import MovingAverage
from crossdim.training.detection_data import DetectionDataset
from crossdim.training.detection_evaluation import ScenePrediction, measure, predicted, scores_of
from crossdim.training.selection import SelectingTrainer, Validation
from crossdim.training.trainer import RunTrainer


class AveragingTrainer(RunTrainer):
    """A trainer that may keep a moving average of the weights.

    Attributes:
        average: What is kept; None keeps the weights themselves.
    """

    average: MovingAverage | None = None

    def keep_average(self, decay: float) -> None:
        """Follow the weights from here on.

        Args:
            decay: Share of the average that a step leaves.
        """
        self.average = MovingAverage(self.network, decay)
        self.add_callback(self.average)

    def settle(self) -> None:
        """Put the average of the last step into the model."""
        if self.average is not None:
            self.average.put()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            self.average.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.average is not None and checkpoint is not None:
            self.average.load(Path(checkpoint))


@dataclass(frozen=True, kw_only=True)
class DetectionValidation(Validation):
    """The validation split of a detector.

    Attributes:
        dataset: The scenes.
        protocol: What is asked of a box.
    """

    dataset: DetectionDataset
    protocol: Protocol


class DetectionTrainer(AveragingTrainer, SelectingTrainer):
    """A trainer of a detector with a validation split; the average is what is measured and selected."""

    validation: DetectionValidation

    def measure_validation(self) -> dict[str, float]:
        """Return the loss and the scores on the validation split.

        Raises:
            RecipeError: The metric that counts cannot be computed on this split.
        """
        if self.average is None:
            return self._measured()
        with self.average.in_place():
            return self._measured()

    def _measured(self) -> dict[str, float]:
        validation = self.validation
        rows: list[tuple[int, float, list[ScenePrediction]]] = []
        for place, _, outputs in self.validation_outputs():
            draws = validation.batches[place]
            found = predicted(validation.dataset, draws, outputs.predictions, validation.protocol)
            rows.append((place, float(outputs.loss), found))
        rows = sorted(gather_object(rows), key=lambda row: row[0])
        found = [each for _, _, scenes in rows for each in scenes]
        loss = sum(loss * len(scenes) for _, loss, scenes in rows) / len(found)
        report = measure(found, validation.dataset.classes, validation.protocol, bootstrap=1)
        scores = {"loss": loss} | scores_of(report)
        if isnan(scores[validation.metric]):
            raise RecipeError(
                "'selection.metric'",
                f"'{validation.metric}' cannot be computed on a validation split without boxes",
                "Use 'loss', or a validation split with boxes",
            )
        return scores

    def settle(self) -> None:
        """Put the average of the best checkpoint into the model; the Trainer has put its weights there."""
        best = self.state.best_model_checkpoint
        if self.average is not None and best is not None:
            self.average.load(Path(best))
            self.average.put()
