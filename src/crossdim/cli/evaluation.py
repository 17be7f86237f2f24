"""`crossdim evaluate`: a fine-tuned model measured on a part of a manifest, as JSON and as one page."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crossdim.cli.console import Device, Json, bar, examples, load_model, print_json, show_facts
from crossdim.errors import RecipeError

if TYPE_CHECKING:
    from crossdim.datasets.manifest import Manifest
    from crossdim.inference import Predictor


def register(app: typer.Typer) -> None:
    """Add this module's command.

    Args:
        app: The command line.
    """
    app.command(
        epilog=examples(
            "crossdim evaluate runs/grader graded.jsonl --split test",
            "crossdim evaluate runs/grader other_clinic.jsonl --split all --out external/",
        )
    )(evaluate)


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A fine-tuning run.")],
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest with labels for the model's task.")],
    split: Annotated[Literal["train", "val", "test", "all"], typer.Option(help="Part of the manifest.")] = "test",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For metrics.json and report.html; inside RUN if left out.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples by patient behind the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure a classifier: AUC, accuracy, F1, kappa and more, each with a 95 % interval by patient.

    Writes metrics.json, and report.html with the confusion matrix, the ROC curves and the calibration.
    """
    from crossdim.datasets.manifest import Manifest
    from crossdim.outputs.document import save_document
    from crossdim.outputs.files import write_atomic
    from crossdim.outputs.report import evaluation_report, interval_text
    from crossdim.training import evaluation as room

    predictor = load_model(model, device)
    whole = Manifest.load(manifest)
    task = predictor.model.config.task
    part = (whole if split == "all" else whole.split(split)).for_task(task)
    if not len(part):
        reason = f"has no record with a label for '{task}'"
        raise RecipeError(f"part '{split}' of {manifest}", reason, "Choose another part with --split")
    with bar(f"evaluating on {split}") as progress:
        report = room.evaluate(predictor, part, task, bootstrap, seed, progress)
    folder = out or model / "evaluations" / f"{manifest.stem}-{split}"
    write_atomic(folder / "metrics.json", json.dumps(report.to_dict(), indent=2) + "\n")
    title = f"{task}: {model.name} on {split} of {whole.header.name}"
    page = evaluation_report(report, title, _provenance(predictor, manifest, part, split))
    save_document(page, folder / "report.html")
    if as_json:
        print_json(report.to_dict())
        return
    show_facts(
        [
            ("task", task),
            ("cases", f"{report.cases} of {report.patients} patients"),
            *((name.replace("_", " "), interval_text(number)) for name, number in report.metrics.items()),
            *(("note", note) for note in report.notes),
            *(("look at", flag) for flag in report.flags),
            ("written", str(folder / "report.html")),
        ]
    )


def _provenance(predictor: "Predictor", manifest: Path, part: "Manifest", split: str) -> dict[str, str]:
    """Return what it takes to repeat the evaluation."""
    from crossdim.training.provenance import git_commit, versions

    return {
        "model": predictor.name,
        "manifest": str(manifest),
        "part": split,
        "manifest SHA-256": part.sha256,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "commit": git_commit() or "an installed copy",
        "command": shlex.join(["crossdim", *sys.argv[1:]]),
    }
