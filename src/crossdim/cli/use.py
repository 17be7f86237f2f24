"""`crossdim predict` and `crossdim embed`: a trained model and new files or scenes."""

import os
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from crossdim.cli.console import Device, Json, bar, complain, examples, load_encoder, load_model, print_json
from crossdim.errors import CrossdimError, ReadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crossdim.inference import SceneEmbedder
    from crossdim.samples import Prediction, Scene

Answer = TypeVar("Answer")

Model = Annotated[Path, typer.Argument(metavar="RUN", help="A run, one of its checkpoints, or a converted model.")]
Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, DICOM series, or folders of them.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        app: The command line.
    """
    app.command(
        epilog=examples(
            "crossdim predict runs/grader photo.png",
            "crossdim predict runs/grader new_patients/ --json > predictions.jsonl",
        )
    )(predict)
    app.command(
        epilog=examples(
            "crossdim embed runs/pretrained scans/ --out features.npz",
            "crossdim embed runs/scenes kitchen/ office/image.png --out features.npz",
        )
    )(embed)


def predict(model: Model, paths: Paths, device: Device = None, as_json: Json = False) -> None:
    """Classify files with a fine-tuned model.

    A file that cannot be used is named on stderr, the others go on, and the exit code is 2.
    """
    predictor = load_model(model, device)
    answers, refused = ask_each(_sources(paths), predictor.predict, "predicting")
    if as_json:
        for prediction in answers.values():
            print_json(prediction)
    else:
        _show(list(answers.values()))
    report_refused(refused)


def embed(
    model: Model,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Files, DICOM series, or folders of them; for a model of scenes: scene folders, folders of frames, "
            "manifests, `manifest.jsonl#id`, images or points alone.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="NPZ", help="Arrays `features` (files, dim) and `paths` (files).")],
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write the encoder's feature of each file or scene, for your own analysis.

    What cannot be used is named on stderr and left out, and the exit code is 2.
    """
    import numpy as np

    from crossdim.inference import SceneEmbedder
    from crossdim.outputs.files import write_atomic

    encoder = load_encoder(model, device)
    if isinstance(encoder, SceneEmbedder):
        answers, refused = _embed_scenes(encoder, paths)
    else:
        answers, refused = ask_each(_sources(paths), encoder.embed, "embedding")
    if answers:
        features = np.stack(list(answers.values()))
        content = BytesIO()
        np.savez(content, features=features, paths=np.array(list(answers), dtype=np.str_))
        write_atomic(out, content.getvalue())
        if as_json:
            print_json({"path": str(out), "files": len(features), "dim": features.shape[1]})
        else:
            typer.echo(f"{out}: features {features.shape[0]} x {features.shape[1]}")
    report_refused(refused)


def _embed_scenes(
    encoder: "SceneEmbedder", paths: list[str]
) -> "tuple[dict[str, NDArray[np.float32]], list[CrossdimError]]":
    loads, broken = scenes_at(paths)
    answers, refused = ask_each(list(loads), lambda name: encoder.feature(loads[name]()), "embedding")
    return answers, [*broken, *refused]


def scenes_at(paths: Iterable[str]) -> "tuple[dict[str, Callable[[], Scene]], list[CrossdimError]]":
    """Return what reads every scene at every path, by ``path#name`` where a path holds several, and what went wrong.

    Args:
        paths: As ``find_scenes`` takes them.
    """
    from crossdim.datasets.scenes import find_scenes

    loads: dict[str, Callable[[], Scene]] = {}
    broken: list[CrossdimError] = []
    for path in paths:
        try:
            found = find_scenes(path)
        except CrossdimError as error:
            broken.append(error)
            continue
        loads |= {path if len(found) == 1 else f"{path}#{name}": load for name, load in found}
    return loads, broken


def _sources(paths: Iterable[str]) -> list[str]:
    """Return the files and series to read: a folder stands for everything in it."""
    from crossdim.readers import find_readable

    sources: list[str] = []
    for path in paths:
        found = find_readable(path) if os.path.isdir(path) else [path]
        if not found:
            raise ReadError(path, "holds no file that crossdim can read", "Check the folder, or name the files")
        sources += found
    return sources


def ask_each(
    sources: list[str], ask: Callable[[str], Answer], what: str
) -> tuple[dict[str, Answer], list[CrossdimError]]:
    """Ask about every file by itself, so that one bad file does not spoil the rest.

    Args:
        sources: What to ask about.
        ask: Answers, or raises.
        what: What is done, as the bar's label.
    """
    answers: dict[str, Answer] = {}
    refused: list[CrossdimError] = []
    with bar(what) as progress:
        for done, source in enumerate(sources, 1):
            try:
                answers[source] = ask(source)
            except CrossdimError as error:
                refused.append(error)
            progress(done, len(sources))
    return answers, refused


def report_refused(refused: list[CrossdimError]) -> None:
    """Name on stderr what could not be used, and end with exit code 2 if there is any.

    Args:
        refused: What went wrong.
    """
    for error in refused:
        complain(error)
    if refused:
        raise typer.Exit(2)


def _show(predictions: "list[Prediction]") -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    if not predictions:
        return
    table = Table(Column("path", overflow="fold"), "label", *predictions[0].probabilities)
    for prediction in predictions:
        label = prediction.label if isinstance(prediction.label, str) else ", ".join(prediction.label)
        chances = (f"{chance:.3f}" for chance in prediction.probabilities.values())
        table.add_row(Text(prediction.path), Text(label), *chances)
    Console(highlight=False).print(table)
