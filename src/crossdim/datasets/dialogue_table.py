"""A table (CSV) of questions about files, in columns of fixed names.

``volume`` and ``question`` are needed; ``answer``, ``choices`` (``yes|no``), ``type``, ``form``, ``patient``,
``split``, ``dialogue`` and ``extent`` are used if they are there.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import get_args

from pydantic import ValidationError

from crossdim.datasets.dialogue import Dialogue, ExtentMM, Form, Turn
from crossdim.datasets.dialogues import Asked, Missing, depends_on, gather
from crossdim.datasets.manifest import Header, Manifest, Progress
from crossdim.datasets.scan import relative
from crossdim.datasets.table import read_rows, split_named
from crossdim.errors import RecipeError, nearest

NEEDED = ("volume", "question")
OPTIONAL = ("answer", "choices", "type", "form", "patient", "split", "dialogue", "extent")

_FORMS: tuple[Form, ...] = get_args(Form)


def from_dialogue_table(
    table: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    separator: str = "|",
    missing: Missing = "refuse",
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of the questions of a table, one a row.

    Args:
        table: The file, in UTF-8, its columns split by comma, semicolon or tab. ``volume`` names a volume or an image,
            or several that are asked about together; an empty cell asks without a file. ``choices`` makes a question
            closed. Rows with the same ``dialogue`` and files are turns of one dialogue, in order; others stand alone.
            ``extent`` is where the answer is seen, as six numbers in RAS+ millimetres: x low, x high, y low, ….
        columns: What the columns are called in the table, where it is not their name here.
        folder: Folder that paths are relative to; the table's own if left out.
        separator: What stands between choices, and between several volumes.
        missing: What to do about files that are not there.
        progress: Called after each file.

    Raises:
        ReadError: If the table is not there or no UTF-8 text, or files are missing.
        RecipeError: If a column is missing, or a cell holds what it should not, naming row and column.
    """
    place = os.path.abspath(table)
    root = os.path.abspath(folder if folder is not None else os.path.dirname(place))
    called = _called(columns or {})
    named = [called[name] for name in OPTIONAL if name in (columns or {})]
    turns: defaultdict[tuple[str, tuple[str, ...]], list[Turn]] = defaultdict(list)
    first: dict[tuple[str, tuple[str, ...]], tuple[int, str, str]] = {}
    for number, row in read_rows(place, [*(called[name] for name in NEEDED), *named], [called[n] for n in OPTIONAL]):
        cells = {name: row[called[name]] for name in called}
        where = f"{place}, row {number}"
        files = tuple(os.path.normpath(os.path.join(root, path)) for path in _several(cells["volume"], separator))
        key = (cells["dialogue"] or f"row {number}", files)
        turns[key].append(_turn(cells, where, called, separator))
        earlier = first.setdefault(key, (number, cells["patient"], cells["split"]))
        if (cells["patient"], cells["split"]) != earlier[1:]:
            reason = f"belongs to the dialogue of row {earlier[0]}, with another patient or part"
            raise RecipeError(where, reason, "Give the turns of a dialogue the same patient and part")
    if not turns:
        raise RecipeError(place, "has no row below the names of its columns", "Give a table with one question a row")
    asked = []
    for (name, files), said in turns.items():
        number, patient, word = first[name, files]
        where = f"{place}, row {number}"
        owner = patient or (relative(root, files[0]) if files else name)
        split = split_named(word, f"{where}, column '{called['split']}'")
        asked.append(Asked(where, files, Dialogue(id=name, turns=tuple(said)), owner, split))
    title = os.path.splitext(os.path.basename(place))[0]
    header = Header(name=title, root=root, source=f"table {os.path.basename(place)}")
    return gather(asked, header, missing=missing, progress=progress)


def _called(columns: Mapping[str, str]) -> dict[str, str]:
    for name in columns:
        if name not in (*NEEDED, *OPTIONAL):
            raise RecipeError(f"column '{name}'", "has no meaning here", nearest(name, (*NEEDED, *OPTIONAL)))
    return {name: columns.get(name, name) for name in (*NEEDED, *OPTIONAL)}


def _several(cell: str, separator: str) -> list[str]:
    return [part.strip() for part in cell.split(separator) if part.strip()]


def _turn(cells: Mapping[str, str], where: str, called: Mapping[str, str], separator: str) -> Turn:
    if not cells["question"]:
        raise RecipeError(f"{where}, column '{called['question']}'", "is empty", "Ask something, or drop the row")
    choices = tuple(_several(cells["choices"], separator))
    form = cells["form"].casefold() or ("closed" if choices else "report" if cells["type"] == "report" else "open")
    if form not in _FORMS:
        raise RecipeError(f"{where}, column '{called['form']}'", f"'{form}' is no form", nearest(form, _FORMS))
    try:
        return Turn(
            question=cells["question"],
            answer=cells["answer"],
            choices=choices,
            form=form,
            type=cells["type"],
            extent_mm=_extent(cells["extent"], f"{where}, column '{called['extent']}'"),
            depends_on=depends_on(cells["question"], cells["answer"], *choices),
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(where, reason, "Mend the row") from error


def _extent(cell: str, place: str) -> ExtentMM | None:
    if not cell:
        return None
    try:
        numbers: Sequence[float] = [float(part) for part in cell.replace("|", " ").replace(";", " ").split()]
        x_low, x_high, y_low, y_high, z_low, z_high = numbers
    except ValueError as error:
        reason = f"'{cell}' is not six numbers"
        raise RecipeError(place, reason, "Write x low, x high, y low, y high, z low, z high, with spaces") from error
    return x_low, x_high, y_low, y_high, z_low, z_high
