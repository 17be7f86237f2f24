"""M3D-VQA: questions about the volumes of M3D-Cap, by a language model from their reports (Bai et al. 2024).

A CSV file for each part, with the columns Image Path, Question Type (1 plane, 2 phase, 3 organ, 4 abnormality,
5 location), Question, Choice A to D, Answer and Answer Choice. The volumes are those of M3D-Cap, in [0, 1].

Differs from the authors' code: choices stay apart from the question, and how a model is shown them is the prompt's
matter; a row whose letter and answer contradict each other is left out and told.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Literal

from crossdim.datasets.dialogue import Dependence, Dialogue, Turn
from crossdim.datasets.dialogues import Asked, Missing, chosen, depends_on, folder_patient, gather
from crossdim.datasets.manifest import Header, Manifest, Progress, Skipped, SplitName
from crossdim.datasets.med2e3_json import M3D_TYPES
from crossdim.datasets.table import read_rows
from crossdim.errors import RecipeError

Ask = Literal["closed", "open", "both"]
"""Each row as a choice, as a question for free text, or as one of each."""

_LETTERS = ("A", "B", "C", "D")
_CHOICES = tuple(f"Choice {letter}" for letter in _LETTERS)
_NEEDED = ("Image Path", "Question Type", "Question", *_CHOICES, "Answer", "Answer Choice")
_ALWAYS: dict[str, tuple[Dependence, ...]] = {"plane": ("plane",), "location": ("side", "place")}
"""What answers of a type depend on whatever their words."""


def from_m3d_vqa(
    tables: Mapping[SplitName | None, Sequence[str]],
    *,
    folder: str | os.PathLike[str] | None = None,
    ask: Ask = "closed",
    missing: Missing = "refuse",
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of M3D-VQA tables; a case's folder is a patient.

    Args:
        tables: The CSV files of each part; None for files in no part.
        folder: Folder that their paths are relative to; the first file's own if left out.
        ask: How each row is asked.
        missing: What to do about volumes that are not there.
        progress: Called after each volume.

    Raises:
        ReadError: If a table cannot be used, or volumes are missing.
        RecipeError: If a cell holds what it should not, naming row and column.
    """
    files = [(split, os.path.abspath(path)) for split, paths in tables.items() for path in paths]
    root = os.path.abspath(folder if folder is not None else os.path.dirname(files[0][1]))
    asked: list[Asked] = []
    skipped: list[Skipped] = []
    for split, path in files:
        stem = os.path.splitext(os.path.basename(path))[0]
        for number, cells in read_rows(path, _NEEDED):
            place = f"{path}, row {number}"
            image = os.path.normpath(os.path.join(root, _filled(cells, "Image Path", place)))
            turn = _turn(cells, place)
            if turn is None:
                skipped.append(Skipped(place, f"its answer '{cells['Answer']}' is not choice {cells['Answer Choice']}"))
                continue
            owner = folder_patient(root, image)
            for form in ("closed", "open") if ask == "both" else (ask,):
                one = turn if form == "closed" else turn.model_copy(update={"form": "open", "choices": ()})
                dialogue = Dialogue(id=f"{stem} {number} {form}", turns=(one,))
                asked.append(Asked(f"{place} ({form})", (image,), dialogue, owner, split, "volume"))
    header = Header(name="M3D-VQA", root=root, source=f"M3D-VQA, {', '.join(os.path.basename(p) for _, p in files)}")
    return gather(asked, header, missing=missing, skipped=skipped, progress=progress)


def _turn(cells: Mapping[str, str], place: str) -> Turn | None:
    """Return the row as a choice, or None where its letter and its answer contradict each other."""
    type_ = M3D_TYPES.get(cells["Question Type"])
    if type_ is None:
        reason = f"'{cells['Question Type']}' is no type of question"
        raise RecipeError(f"{place}, column 'Question Type'", reason, "Give a number from 1 (plane) to 5 (location)")
    question, letter = _filled(cells, "Question", place), _filled(cells, "Answer Choice", place).strip(".").upper()
    if letter not in _LETTERS:
        raise RecipeError(f"{place}, column 'Answer Choice'", f"'{letter}' is none of A, B, C and D", "Give the letter")
    choices = [cells[column] for column in _CHOICES]
    answer = choices[_LETTERS.index(letter)]
    given = tuple(choice for choice in choices if choice)
    if not answer or len(given) < 2 or len(set(given)) < len(given) or chosen(cells["Answer"], [answer]) is None:
        return None
    dependence = {*_ALWAYS.get(type_, ()), *depends_on(question, *given)}
    ordered = tuple(sorted(dependence))
    return Turn(question=question, answer=answer, choices=given, form="closed", type=type_, depends_on=ordered)


def _filled(cells: Mapping[str, str], column: str, place: str) -> str:
    if not cells[column]:
        raise RecipeError(f"{place}, column '{column}'", "is empty", "Fill it in, or drop the row")
    return cells[column]
