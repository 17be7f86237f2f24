"""A classifier measured on the records of a manifest."""

import numpy as np
from jaxtyping import Float, Shaped

from crossdim.datasets.manifest import Manifest, Progress, Task
from crossdim.errors import RecipeError
from crossdim.inference import Predictor
from crossdim.metrics.classification import ClassificationReport, evaluate_classification
from crossdim.models.pimae import PimaeForImageClassification
from crossdim.training.labelled import as_images
from crossdim.training.selection import Scores


def labels_of(manifest: Manifest, task: str) -> Shaped[np.ndarray, "records ..."]:
    """Return class indices ``(records,)``, or 0/1 ``(records, classes)`` for multi-label tasks.

    Args:
        manifest: Records that all have a label for the task.
        task: Name of the task.
    """
    about = manifest.task(task)
    if about.kind != "multilabel":
        return np.array([record.labels[task] for record in manifest.records], dtype=np.int64)
    rows = np.zeros((len(manifest), len(about.classes)), dtype=np.int64)
    for row, record in zip(rows, manifest.records, strict=True):
        label = record.labels[task]
        assert isinstance(label, tuple)
        row[list(label)] = 1
    return rows


def scores_for(task: Task) -> Scores:
    """Return the function that measures a validation split, without intervals.

    Args:
        task: Kind and classes.
    """

    def scores(
        chances: Float[np.ndarray, "records classes"], labels: Shaped[np.ndarray, "records ..."]
    ) -> dict[str, float]:
        report = evaluate_classification(chances, labels.astype(np.int64), None, task.kind, task.classes, bootstrap=1)
        return {name: estimate.value for name, estimate in report.metrics.items()}

    return scores


def evaluate(
    predictor: Predictor,
    manifest: Manifest,
    task: str,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> ClassificationReport:
    """Measure a classifier on the records of a manifest that have a label for its task.

    Args:
        predictor: A fine-tuned model.
        manifest: Usually one split.
        task: Name of the task in the manifest.
        bootstrap: Resamples by patient behind the intervals.
        seed: Of the resamples.
        progress: Called with (done, all) after each batch.

    Raises:
        RecipeError: The manifest's classes are not the model's.
        ContractError: A record does not fit the model's preprocessing.
        ReadError: A file cannot be read.
    """
    labelled = manifest.for_task(task)
    if isinstance(predictor.model, PimaeForImageClassification):
        labelled = as_images(labelled)
    about = labelled.task(task)
    if about.classes != predictor.classes:
        raise RecipeError(
            f"task '{task}'",
            f"has the classes {list(about.classes)} where the model has {list(predictor.classes)}",
            "Evaluate on a task with the same classes in the same order",
        )
    chances = predictor.probabilities([labelled.resolve(record) for record in labelled.records], progress=progress)
    patients = [record.patient_id for record in labelled.records]
    return evaluate_classification(
        chances, labels_of(labelled, task), patients, about.kind, about.classes, bootstrap, seed
    )
