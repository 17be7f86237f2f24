"""The end of a fine-tuning run: the final model on the validation split, and once on the test split."""

import json
from datetime import UTC, datetime

from crossdim.inference import Predictor
from crossdim.metrics.classification import ClassificationReport
from crossdim.outputs.files import write_atomic
from crossdim.training.evaluation import evaluate
from crossdim.training.labelled import Parts
from crossdim.training.progress import Announcer
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe import FinetuneRecipe


def conclude(
    predictor: Predictor, parts: Parts, recipe: FinetuneRecipe, folder: RunFolder, announcer: Announcer
) -> dict[str, ClassificationReport]:
    """Evaluate the final model by split and write ``metrics.json``.

    ``run.json`` says when the test split was evaluated, before it is.

    Args:
        predictor: The final model.
        parts: The splits.
        recipe: Resamples and seed.
        folder: The run.
        announcer: Shows progress and results.
    """
    reports: dict[str, ClassificationReport] = {}
    for name, part in (("val", parts.val), ("test", parts.test)):
        if not len(part):
            continue
        if name == "test":
            folder.update(test_evaluated=datetime.now(UTC).isoformat(timespec="seconds"))
        with announcer.task(f"Evaluating on {name}") as advance:
            reports[name] = evaluate(predictor, part, parts.task, recipe.bootstrap, recipe.seed, advance)
        shown = "  ".join(
            f"{metric} {estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
            for metric, estimate in reports[name].metrics.items()
        )
        announcer.say(f"{name}: {shown}")
    plain = {name: report.to_dict() for name, report in reports.items()}
    write_atomic(folder.path / "metrics.json", json.dumps(plain, indent=2) + "\n")
    return reports
