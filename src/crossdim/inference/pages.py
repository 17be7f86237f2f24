"""An answer to look at: the slices that mattered, a page, and what JSON can hold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from crossdim.geometry.affine import orientation_code
from crossdim.inference.looking import Seen
from crossdim.outputs.answers import answer_document, of_file
from crossdim.outputs.blocks import Document, Picture
from crossdim.outputs.pictures import Look, slice_scores_figure
from crossdim.samples import Answer, SliceScore

OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


def slice_figure(seen: Seen, slices: Sequence[SliceScore], title: str, truth: tuple[int, int] | None = None) -> Figure:
    """Draw how much every slice mattered, over the slices that mattered most, as the model saw them.

    Args:
        seen: The volume.
        slices: Scores of all slices that the model saw.
        title: Such as the question.
        truth: First and last slice, by their numbers in the file, where the answer is to be seen.
    """
    prepared = seen.prepared
    letters = None
    if seen.placed and prepared.affine_mm is not None:
        code = orientation_code(prepared.affine_mm)
        letters = (OPPOSITE[code[2]], code[2], OPPOSITE[code[1]], code[1])
    look = Look(pixel_mm=(prepared.step[1], prepared.step[2]), letters=letters)
    shown = of_file(slices)
    return slice_scores_figure(
        [prepared.tensor[0, place].numpy() for _, place in shown],
        [each.score for each, _ in shown],
        [each.index for each, _ in shown],
        title=title,
        truth=truth,
        look=look,
    )


def slice_figures(answer: Answer, seen: Sequence[Seen]) -> list[Figure]:
    """Return a figure for every volume whose slices were scored.

    Args:
        answer: What the model said.
        seen: What it was about, in order.
    """
    volumes = [each for each in seen if each.kind == "volume"]
    title = f"{answer.question} {answer.text}"
    return [slice_figure(each, slices, title) for each, slices in zip(volumes, answer.slices, strict=False)]


def answer_page(
    answer: Answer, seen: Sequence[Seen], figures: Sequence[Figure], provenance: Mapping[str, str]
) -> Document:
    """Return an answer as one page.

    Args:
        answer: What the model said.
        seen: What it was about, in order.
        figures: From :func:`slice_figures`.
        provenance: What it takes to repeat this.
    """
    caption = "Scores of the slices, and the best ones as the model saw them."
    pictures = [Picture.from_figure(figure, caption, "Slice scores and the best slices") for figure in figures]
    warnings = tuple(dict.fromkeys(warning for each in seen for warning in each.warnings))
    return answer_document(answer, pictures, provenance, warnings)


def answer_data(answer: Answer, provenance: Mapping[str, str]) -> dict[str, Any]:
    """Return an answer as plain data.

    Args:
        answer: What the model said.
        provenance: What it takes to repeat this.
    """
    return asdict(answer) | {"provenance": dict(provenance)}
