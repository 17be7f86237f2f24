"""An answer as a page of its own, and as lines for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import PurePath

from crossdim.outputs.blocks import Block, Document, Facts, Paragraph, Picture, Section, Table, Warnings
from crossdim.samples import Answer, SliceScore

AXES = ("depth", "height", "width")
DISCLAIMER = "crossdim is a research tool and not a medical device: nothing it says is a diagnosis."
WHAT_SCORES_ARE = (
    "Scores are the shares of attention that the question gave to the slices; they add up to one. They say where the "
    "model looked, not why it answered as it did. Slices count from 0, as in the file's array; positions are in the "
    "patient (RAS+: right to left, back to front, foot to head)."
)


def top_slices(answer: Answer, count: int = 5, volume: int = 0) -> tuple[SliceScore, ...]:
    """Return the file's slices that mattered most, best first, without padding; equal scores in their order.

    Where the model saw a slice of the file more than once, its scores are added.

    Args:
        answer: With or without slice scores.
        count: How many, at most.
        volume: Of which of the volumes that were asked about.
    """
    if volume >= len(answer.slices):
        return ()
    seen = [whole for whole, _ in of_file(answer.slices[volume])]
    return tuple(sorted(seen, key=lambda each: -each.score)[:count])


def of_file(slices: Sequence[SliceScore]) -> list[tuple[SliceScore, int]]:
    """Return the score of each of the file's slices, and which of the model's slices shows it best; without padding.

    Where the model saw a slice of the file several times, its scores are added; the place is the best one's.

    Args:
        slices: Of one volume, as the model saw it.
    """
    groups: dict[int, list[int]] = {}
    for place, each in enumerate(slices):
        if each.index is not None:
            groups.setdefault(each.index, []).append(place)
    merged = []
    for places in groups.values():
        best = max(places, key=lambda place: slices[place].score)
        merged.append((replace(slices[best], score=sum(slices[place].score for place in places)), best))
    return merged


def slice_lines(answer: Answer, count: int = 5) -> tuple[str, ...]:
    """Return the best slices of every volume as lines for a terminal.

    Args:
        answer: With or without slice scores.
        count: How many of each volume, at most.
    """
    lines = []
    for volume in range(len(answer.slices)):
        if len(answer.slices) > 1:
            lines.append(f"{_name(answer, volume)}:")
        best = top_slices(answer, count, volume)
        highest = max((each.score for each in best), default=0.0)
        width = max((len(str(each.index)) for each in best), default=1)
        for each in best:
            bar = "█" * max(1, round(12 * each.score / highest)) if highest > 0 else ""
            lines.append(f"slice {each.index:>{width}}  {each.score:.3f}  {bar:<12}  {place_text(each)}")
    return tuple(lines)


def probability_lines(answer: Answer) -> tuple[str, ...]:
    """Return the probability of every choice as lines for a terminal, most probable first.

    Args:
        answer: Of a closed question, or any other.
    """
    width = max(map(len, answer.probabilities), default=0)
    return tuple(f"{choice:<{width}}  {probability:6.1%}" for choice, probability in _ranked(answer))


def place_text(score: SliceScore) -> str:
    """Return where a slice is in the patient: ``x −3.0, y 12.5, z 40.0 mm``.

    Args:
        score: Of the slice.
    """
    return ", ".join(f"{axis} {_mm(value)}" for axis, value in zip("xyz", score.position_mm, strict=True)) + " mm"


def answer_document(
    answer: Answer,
    pictures: Sequence[Picture] = (),
    provenance: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    count: int = 5,
) -> Document:
    """Return an answer as a report, for :func:`crossdim.outputs.document.save_document`.

    Args:
        answer: What the model said.
        pictures: Of the slice scores, drawn by ``slice_scores_figure``, in the volumes' order.
        provenance: Model, weights, contract, versions, ...
        warnings: What a reader must know of the input, such as a reader's warnings.
        count: Slices in each table.
    """
    said: list[Block] = [
        Facts(
            {"question": answer.question, "answer": answer.text or "(nothing)", "asked about": ", ".join(answer.paths)}
        )
    ]
    alarms = list(warnings)
    if not answer.complete:
        alarms.append("The answer was cut off: there was no room for more tokens.")
    if alarms:
        said.append(Warnings(tuple(alarms)))
    if answer.probabilities:
        rows = tuple((choice, f"{probability:.1%}") for choice, probability in _ranked(answer))
        said.append(Table("Probability of each choice, among those that were offered", ("choice", "probability"), rows))
    sections = [Section("Question and answer", tuple(said))]
    tables = [_slice_table(answer, volume, count) for volume in range(len(answer.slices))]
    if tables or pictures:
        notes = (Paragraph(WHAT_SCORES_ARE),) if tables else ()
        sections.append(Section("Slices that mattered", (*pictures, *tables, *notes)))
    if provenance:
        sections.append(Section("Provenance", (Facts({name: str(value) for name, value in provenance.items()}),)))
    sections.append(Section("Not for patients", (Paragraph(DISCLAIMER),)))
    data = {"answer": asdict(answer), "provenance": dict(provenance or {})}
    return Document(answer.question, answer.text or "(nothing)", tuple(sections), data)


def _slice_table(answer: Answer, volume: int, count: int) -> Table:
    best = top_slices(answer, count, volume)
    axis = AXES[best[0].axis] if best else AXES[0]
    seen = len(of_file(answer.slices[volume]))
    rows = tuple((f"{each.index}", f"{each.score:.3f}", *(_mm(value) for value in each.position_mm)) for each in best)
    caption = f"{_name(answer, volume)}: the {len(best)} best of {seen} slices along {axis}"
    return Table(caption, (f"slice ({axis})", "score", "x (mm)", "y (mm)", "z (mm)"), rows)


def _ranked(answer: Answer) -> list[tuple[str, float]]:
    return sorted(answer.probabilities.items(), key=lambda item: -item[1])


def _name(answer: Answer, volume: int) -> str:
    return PurePath(answer.paths[volume]).name if volume < len(answer.paths) else f"volume {volume + 1}"


def _mm(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "\N{MINUS SIGN}")
