"""The end of a fine-tuning run: the final model on the validation split, and once on the test split."""

import json
from datetime import UTC, datetime

from crossdim.inference import Predictor
from crossdim.metrics.classification import ClassificationReport, chance_baseline
from crossdim.outputs.files import write_atomic
from crossdim.outputs.report import headline
from crossdim.training.evaluation import evaluate, labels_of
from crossdim.training.labelled import Parts
from crossdim.training.progress import Announcer
from crossdim.training.provenance import RunFolder
from crossdim.training.recipe import FinetuneRecipe
from crossdim.training.reports import report_finetuning


def conclude(
    predictor: Predictor, parts: Parts, recipe: FinetuneRecipe, folder: RunFolder, announcer: Announcer
) -> dict[str, ClassificationReport]:
    """Evaluate the final model by split; write ``metrics.json`` and ``report.html``.

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
        announcer.say(f"{name}: {headline(reports[name])}")
    plain = {name: report.to_dict() for name, report in reports.items()}
    write_atomic(folder.path / "metrics.json", json.dumps(plain, indent=2) + "\n")
    report_finetuning(folder, parts.task, reports, _chance(parts, recipe))
    return reports


def _chance(parts: Parts, recipe: FinetuneRecipe) -> ClassificationReport | None:
    """Return what always stating the training split's frequencies gives on the split that the page is about."""
    part = parts.test if len(parts.test) else parts.val
    if not len(part):
        return None
    return chance_baseline(
        labels_of(parts.train, parts.task),
        labels_of(part, parts.task),
        [record.patient_id for record in part.records],
        parts.about.kind,
        parts.about.classes,
        bootstrap=recipe.bootstrap,
        seed=recipe.seed,
    )
