"""`crossdim evaluate`: a trained model measured on a part of a manifest, as JSON and as one page."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crossdim.cli.console import Device, Json, bar, examples, print_json, show_facts
from crossdim.errors import RecipeError

if TYPE_CHECKING:
    from crossdim.datasets.manifest import Manifest
    from crossdim.inference import Answerer, Detector, Predictor
    from crossdim.metrics.dialogues import Similarity


OtherClasses = Annotated[
    Literal["refuse", "leave_out"],
    typer.Option(help="Boxes: one of a class that the detector does not know is refused, or left out."),
]
Outside = Annotated[
    Literal["refuse", "keep"],
    typer.Option(help="Boxes: one outside of its scene's points is refused, or kept, as one that cannot be found."),
]
Oriented = Annotated[
    bool, typer.Option("--oriented", help="Boxes: let them suppress one another as they are turned, not upright.")
]
Tighten = Annotated[
    float | None,
    typer.Option(min=0, metavar="METRES", help="Boxes: fit each to the points in it and this near it."),
]


def register(app: typer.Typer) -> None:
    """Add this module's command.

    Args:
        app: The command line.
    """
    app.command(
        epilog=examples(
            "crossdim evaluate runs/grader graded.jsonl --split test",
            "crossdim evaluate runs/grader other_clinic.jsonl --split all --out external/",
            "crossdim evaluate runs/answers questions.jsonl --split test",
            "crossdim evaluate runs/answers other_clinic.jsonl --split all --training questions.jsonl",
            "crossdim evaluate runs/detector other_rooms.jsonl --split all --other-classes leave_out",
        )
    )(evaluate)


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run of finetune or instruct, or a converted model.")],
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="With labels for the model's task, boxes, or dialogues.")
    ],
    split: Annotated[Literal["train", "val", "test", "all"], typer.Option(help="Part of the manifest.")] = "test",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For metrics.json and report.html; inside RUN if left out.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples by patient or scene behind the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    closed: Annotated[
        Literal["weigh", "write"],
        typer.Option(help="Dialogues: weigh the choices of closed questions, or read a written answer."),
    ] = "weigh",
    rule: Annotated[
        Literal["robust", "substring"],
        typer.Option(help="Dialogues: how written closed answers are read; substring is the authors' rule."),
    ] = "robust",
    training: Annotated[
        Path | None,
        typer.Option(
            "--training",
            metavar="MANIFEST",
            help="Dialogues: whose training part the blind baseline and the slices' usual place are learned from; "
            "MANIFEST's own if left out.",
        ),
    ] = None,
    too_long: Annotated[
        Literal["refuse", "skip"],
        typer.Option(help="Dialogues: questions for which the model has no room are refused, or left out and counted."),
    ] = "refuse",
    bertscore: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|packaged",
            help="Dialogues: BERTScore by the encoder in a folder, or by the one of the extra bertscore.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Dialogues: questions that are read at once.")] = 32,
    other_classes: OtherClasses = "refuse",
    outside: Outside = "refuse",
    oriented: Oriented = False,
    tighten: Tighten = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure a classifier, a detector, or a model that answers questions; each number with a 95 % interval.

    A classifier: AUC, accuracy, F1, kappa and more. Answers: accuracy, text metrics, findings and slices, always beside
    a baseline that never looks and one that is shown another patient. A detector: average precision and recall of boxes
    in scenes. Writes metrics.json and report.html, and for answers and boxes predictions.jsonl.
    """
    from crossdim.inference import Answerer, Detector
    from crossdim.inference.loading import HUB

    if out is None and str(model).startswith(HUB):
        raise RecipeError(
            str(model), "is not on this disk, so nothing can be written inside it", "Name a folder (--out)"
        )
    loaded = _load(model, device)
    folder = out or model / "evaluations" / f"{manifest.stem}-{split}"
    if isinstance(loaded, Answerer):
        how = {"bootstrap": bootstrap, "seed": seed, "closed": closed, "batch": batch, "too_long": too_long}
        _evaluate_answers(loaded, (manifest, split, training), folder, how, (rule, bertscore), as_json)
    elif isinstance(loaded, Detector):
        boxes = {"bootstrap": bootstrap, "oriented": oriented, "tighten_m": tighten}
        _evaluate_boxes(loaded, (manifest, split), folder, (boxes, seed), (other_classes, outside), as_json)
    else:
        _evaluate_classes(loaded, (manifest, split), folder, (bootstrap, seed), as_json)


def _load(model: Path, device: str | None) -> "Predictor | Answerer | Detector":
    from transformers.utils import logging

    from crossdim.inference import SceneEmbedder, load, load_predictor

    logging.disable_progress_bar()
    loaded = load(model, device)
    return load_predictor(model, device) if isinstance(loaded, SceneEmbedder) else loaded


def _evaluate_classes(
    predictor: "Predictor", data: tuple[Path, str], folder: Path, drawing: tuple[int, int], as_json: bool
) -> None:
    from crossdim.datasets.manifest import Manifest
    from crossdim.outputs.document import save_document
    from crossdim.outputs.files import write_atomic
    from crossdim.outputs.report import evaluation_report, interval_text
    from crossdim.training import evaluation as room

    manifest, split = data
    whole = Manifest.load(manifest)
    task = predictor.model.config.task
    part = (whole if split == "all" else whole.split(split)).for_task(task)
    if not len(part):
        reason = f"has no record with a label for '{task}'"
        raise RecipeError(f"part '{split}' of {manifest}", reason, "Choose another part with --split")
    with bar(f"evaluating on {split}") as progress:
        report = room.evaluate(predictor, part, task, *drawing, progress)
    write_atomic(folder / "metrics.json", json.dumps(report.to_dict(), indent=2) + "\n")
    title = f"{task}: {Path(predictor.name).name} on {split} of {whole.header.name}"
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


def _evaluate_answers(
    answerer: "Answerer",
    data: tuple[Path, str, Path | None],
    folder: Path,
    how: dict[str, Any],
    measured: tuple[Literal["robust", "substring"], str | None],
    as_json: bool,
) -> None:
    from dataclasses import replace

    from crossdim.datasets.manifest import Manifest
    from crossdim.metrics.dialogues import Measures
    from crossdim.outputs.dialogues import dialogue_document, dialogue_headline
    from crossdim.outputs.document import save_document
    from crossdim.outputs.files import write_atomic
    from crossdim.training.dialogue_conclusion import example_pictures, write_predictions
    from crossdim.training.dialogue_evaluation import Evaluating, evaluate_dialogues

    manifest, split, learned_from = data
    rule, encoder = measured
    similarity, notes = _similarity(encoder)
    whole = Manifest.load(manifest)
    part = whole if split == "all" else whole.split(split)
    training = (whole if learned_from is None else Manifest.load(learned_from)).split("train")
    measures = Measures.available(rule, similarity)
    with bar(f"evaluating on {split}") as progress:
        found = evaluate_dialogues(answerer, part, training, Evaluating(**how), measures, progress=progress)
    found = replace(found, notes=(*found.notes, *notes))
    write_atomic(folder / "metrics.json", json.dumps(found.to_dict(), indent=2) + "\n")
    write_predictions(found, folder / "predictions.jsonl")
    title = f"{Path(answerer.name).name} on {split} of {whole.header.name}"
    pictures = example_pictures(answerer, part)
    page = dialogue_document(found.answers, title, _provenance(answerer, manifest, part, split), found.slices, pictures)
    save_document(page, folder / "report.html")
    if as_json:
        print_json(found.to_dict())
        return
    slices = found.slices.flags if found.slices is not None else ()
    show_facts(
        [
            ("questions", f"{found.answers.questions} about {found.answers.patients} patients"),
            ("result", dialogue_headline(found.answers, found.slices)),
            *(("note", note) for note in (*found.notes, *found.answers.notes)),
            *(("unavailable", f"{name}: {why}") for name, why in found.answers.unavailable.items()),
            *(("look at", flag) for flag in (*found.answers.flags, *slices)),
            ("written", str(folder / "report.html")),
        ]
    )


def _evaluate_boxes(
    detector: "Detector",
    data: tuple[Path, str],
    folder: Path,
    how: tuple[dict[str, Any], int],
    unknown: tuple[Literal["refuse", "leave_out"], Literal["refuse", "keep"]],
    as_json: bool,
) -> None:
    from crossdim.datasets.manifest import Manifest
    from crossdim.outputs.detection_report import detection_document, detection_headline
    from crossdim.outputs.document import save_document
    from crossdim.training.detection_conclusion import Unknown, evaluate_boxes, pictures_of, write_measured
    from crossdim.training.detection_evaluation import protocol_of
    from crossdim.training.recipe_detect import DetectionEvaluationSection

    (manifest, split), (protocol, seed) = data, how
    section = DetectionEvaluationSection(**protocol)
    whole = Manifest.load(manifest)
    part = whole if split == "all" else whole.split(split)
    with bar(f"evaluating on {split}") as progress:
        measured, left_out = evaluate_boxes(
            detector.model, detector.contract, part, section, Unknown(*unknown), seed, progress
        )
    report = measured.report
    counted = report.to_dict() | {"protocol": asdict(protocol_of(section))}
    write_measured(folder, counted, {split: measured})
    title = f"Boxes: {Path(detector.name).name} on {split} of {whole.header.name}"
    pictures = pictures_of(measured, section.pictures)
    page = detection_document(report, title, _provenance(detector, manifest, part, split), pictures)
    save_document(page, folder / "report.html")
    if as_json:
        print_json(counted)
        return
    show_facts(
        [
            ("result", detection_headline(report)),
            *(("left out", f"{count} {what}") for what, count in left_out.items()),
            ("written", str(folder / "report.html")),
        ]
    )


def _similarity(encoder: str | None) -> "tuple[Similarity | None, tuple[str, ...]]":
    """Return what computes BERTScore, and a note that names its model."""
    if encoder is None:
        return None, ()
    from crossdim.metrics.bertscore import LocalBertScore, packaged_model

    folder = packaged_model() if encoder == "packaged" else Path(encoder)
    return LocalBertScore(folder), (f"BERTScore by the encoder in {folder}; compare it with no other encoder's.",)


def _provenance(
    predictor: "Predictor | Answerer | Detector", manifest: Path, part: "Manifest", split: str
) -> dict[str, str]:
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
