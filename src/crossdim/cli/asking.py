"""`crossdim ask` and `crossdim report`: a question about a volume, the answer, and the slices that mattered."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossdim.cli.console import DEMO_FOLDER, Device, Json, complain, examples, print_json, provenance
from crossdim.errors import CrossdimError, ReadError, RecipeError

if TYPE_CHECKING:
    from crossdim.inference import Answerer, Decoding
    from crossdim.samples import Answer

LEAVE = ("quit", "exit")
"""Words that end `--interactive`, besides the end of the input."""

Model = Annotated[
    str | None,
    typer.Option("--model", metavar="RUN", help="A run, a converted model, or hf:OWNER/NAME; the demo's if left out."),
]
Save = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write slices.png, answer.html and answer.json there.")
]
Cache = Annotated[bool, typer.Option(help="Keep what the model sees of a file on disk, for the next question.")]
Tokens = Annotated[int | None, typer.Option(min=1, metavar="TOKENS", help="Length of a written answer, at most.")]
Temperature = Annotated[float | None, typer.Option(help="Draw tokens, the higher the more freely; greedy if left out.")]
Beams = Annotated[int, typer.Option(min=1, help="Answers that are followed at once.")]
Seed = Annotated[int, typer.Option(help="Of the drawing.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands.

    Args:
        app: The command line.
    """
    app.command(
        epilog=examples(
            'crossdim ask scan.nii.gz "Is the left kidney larger?" --model runs/answers --choices yes,no',
            'crossdim ask dicom_series/ "What lies above the liver?" --model runs/answers --save out/',
            "crossdim ask scan.nii.gz --interactive --model runs/answers",
        )
    )(ask)
    app.command(
        epilog=examples(
            "crossdim report scan.nii.gz --model runs/answers",
            "crossdim report dicom_series/ --model runs/answers --save out/",
        )
    )(report)


def ask(
    words: Annotated[
        list[str], typer.Argument(metavar='VOLUME... "QUESTION"', help="Files or DICOM series, then the question.")
    ],
    model: Model = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B,...", help="What to choose from; give it several times for texts with commas."),
    ] = None,
    save: Save = None,
    interactive: Annotated[bool, typer.Option(help="Read questions from the input until it ends, or 'quit'.")] = False,
    follow_up: Annotated[
        bool, typer.Option(help="With --interactive: each question goes on from the ones before it.")
    ] = False,
    max_new_tokens: Tokens = None,
    temperature: Temperature = None,
    beams: Beams = 1,
    seed: Seed = 0,
    cache: Cache = True,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Ask a question about a volume or an image, or about several together.

    Prints the answer as it is written, or the probability of each choice, and the slices that mattered most.
    """
    sources, question = _sources_and_question(words, interactive)
    session = _Session(_load(model, device, cache), sources, save, as_json)
    session.writing = {"max_new_tokens": max_new_tokens, "decoding": _decoding(temperature, beams, seed)}
    offered = _choices(choices or ())
    if question is not None:
        session.ask(question, offered)
        return
    history: tuple[Answer, ...] = ()
    for number, asked in enumerate(_questions(), 1):
        try:
            answer = session.ask(asked, offered, history if follow_up else (), f"{number:02d}")
        except CrossdimError as error:
            complain(error)
        else:
            history = (*history, answer)


def report(
    volumes: Annotated[list[str], typer.Argument(metavar="VOLUME...", help="Files or DICOM series.")],
    model: Model = None,
    question: Annotated[
        str | None, typer.Option(help="How the report is asked for; as in training if left out.")
    ] = None,
    save: Save = None,
    max_new_tokens: Tokens = None,
    temperature: Temperature = None,
    beams: Beams = 1,
    seed: Seed = 0,
    cache: Cache = True,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write a report about a volume.

    It may be as long as the model has room for; a note says if it was cut off.
    """
    session = _Session(_load(model, device, cache), volumes, save, as_json)
    session.writing = {"max_new_tokens": max_new_tokens, "decoding": _decoding(temperature, beams, seed)}
    session.report(question)


def _decoding(temperature: float | None, beams: int, seed: int) -> "Decoding":
    from crossdim.inference import Decoding

    return Decoding(temperature=temperature, beams=beams, seed=seed)


def _sources_and_question(words: Sequence[str], interactive: bool) -> tuple[list[str], str | None]:
    """Tell the volumes from the question, which stands last."""
    from crossdim.readers.selector import split_selector

    if interactive:
        return list(words), None
    *sources, question = words
    if os.path.exists(split_selector(question)[0]):
        raise RecipeError(
            "question", f"is missing: '{question}' is a file", 'Put the question last: crossdim ask VOLUME "QUESTION"'
        )
    if not sources:
        raise RecipeError(
            f"question '{question}'", "is about no volume", 'Name one first: crossdim ask VOLUME "QUESTION"'
        )
    return sources, question


def _choices(given: Sequence[str]) -> tuple[str, ...]:
    parts = given[0].split(",") if len(given) == 1 else given
    return tuple(part.strip() for part in parts)


def _questions() -> Iterator[str]:
    """Yield the lines of the input until it ends; a terminal gets a prompt."""
    talks = sys.stdin.isatty()
    while True:
        if talks:
            typer.echo("? ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line or line.strip().lower() in LEAVE:
            return
        if line.strip():
            yield line.strip()


def _load(model: str | None, device: str | None, cache: bool) -> "Answerer":
    if model is None:
        from crossdim.demo.answers import FOLDER

        found = DEMO_FOLDER / FOLDER
        if not (found / "config.json").is_file():
            raise ReadError(
                "model",
                "none is given, and the demo has left none here",
                "Name one with --model: train it (crossdim instruct), convert it (crossdim convert med2e3), take one "
                "from a hub (hf:OWNER/NAME), or let the demo make one (crossdim demo)",
            )
        model = str(found)
        typer.echo(f"model: {model} (the demo's; give another with --model)", err=True)
    from transformers.utils import logging

    from crossdim.inference import load_answerer

    logging.disable_progress_bar()
    return load_answerer(model, device, "default" if cache else None)


class _Session:
    """Questions about the same files: asks, prints, saves."""

    def __init__(self, answerer: "Answerer", sources: Sequence[str], save: Path | None, as_json: bool) -> None:
        self.answerer, self.sources, self.save, self.as_json = answerer, list(sources), save, as_json
        self.writing: dict[str, Any] = {}
        self._warned = False

    def ask(self, question: str, choices: Sequence[str], history: "Sequence[Answer]" = (), name: str = "") -> "Answer":
        stream = None if self.as_json else _print_piece
        answer = self.answerer.ask(self.sources, question, choices, history=history, stream=stream, **self.writing)
        self._finish(answer, name)
        return answer

    def report(self, question: str | None) -> None:
        stream = None if self.as_json else _print_piece
        self._finish(self.answerer.report(self.sources, question=question, stream=stream, **self.writing), "")

    def _finish(self, answer: "Answer", name: str) -> None:
        from crossdim.outputs.answers import probability_lines, slice_lines

        if self.as_json:
            print_json(answer)
        else:
            typer.echo()
            for line in (*probability_lines(answer), *slice_lines(answer), *([""] if name else [])):
                typer.echo(line)
        if not answer.complete:
            complain(f"the answer was cut off after {answer.tokens} tokens; --max-new-tokens allows more")
        if not self._warned:
            self._warned = True
            for source in self.sources:
                for warning in self.answerer.look(source).warnings:
                    complain(f"{source}: {warning}")
        if self.save is not None:
            self._write(answer, self.save / name)

    def _write(self, answer: "Answer", folder: Path) -> None:
        from crossdim.inference.pages import answer_data, answer_page, slice_figures
        from crossdim.outputs.document import save_document
        from crossdim.outputs.files import write_atomic
        from crossdim.outputs.pictures import save_figure

        seen = [self.answerer.look(source) for source in self.sources]
        figures = slice_figures(answer, seen)
        known = provenance(self.answerer.name, self.answerer.processor.contract.source)
        for number, figure in enumerate(figures, 1):
            save_figure(figure, folder / (f"slices-{number}.png" if len(figures) > 1 else "slices.png"))
        save_document(answer_page(answer, seen, figures, known), folder / "answer.html")
        write_atomic(folder / "answer.json", json.dumps(answer_data(answer, known), indent=2) + "\n")
        if not self.as_json:
            typer.echo(f"written: {folder / 'answer.html'}")


def _print_piece(text: str) -> None:
    typer.echo(text, nl=False)
