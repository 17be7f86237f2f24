"""CT-RATE: chest CT with reports and questions (Hamamci et al. 2024), as a layout of folders, CSV and JSON.

Volumes lie in ``train/train_1/train_1_a/train_1_a_1.nii.gz``: patient, scan, reconstruction. Reports are CSV files with
VolumeName, Findings_EN and Impressions_EN; questions are JSON files, lists of ``{id, image, conversations, type}``,
with choices written ``(a) … (b) …``. The data set has no test part of its own: its validation part, on which results
are reported, is the test part here.

Written after the published description; the data were not at hand to try it on.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossdim.datasets.dialogue import Dialogue, Form, Turn
from crossdim.datasets.dialogues import (
    Asked,
    chosen,
    depends_on,
    gather,
    human_and_model,
    lettered_choices,
    read_json,
    text_of,
    told,
)
from crossdim.datasets.m3d_cap import question_for
from crossdim.datasets.manifest import Header, Manifest, Progress, Skipped, SplitName
from crossdim.datasets.table import read_rows
from crossdim.errors import ReadError, RecipeError

_PARTS: dict[str, SplitName] = {"train": "train", "valid": "test"}
_VOLUME = re.compile(r"(train|valid)_\d+_[a-z]+_\d+\.nii\.gz")
_MARKER = re.compile(r"\s*<image>\s*")
_STYLE = re.compile(r"</?(long_answer|short_answer|multiple_choice|report_generation|free_response)>")
"""What the authors put into a question to ask for a kind of answer."""

_NOTHING = {"", "nan", "not given.", "not given"}


def from_ct_rate(
    folder: str | os.PathLike[str],
    *,
    reports: Sequence[str] = (),
    questions: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of the volumes of CT-RATE that are on the disk, with their reports and questions.

    Reports and questions about volumes that are not there are counted in the notes, because few have all of them. A
    volume without either is left out.

    Args:
        folder: The folder with ``train`` or ``valid`` (or ``train_fixed``, ``valid_fixed``), at any depth below.
        reports: CSV files of reports; those below ``radiology_text_reports`` if left out.
        questions: JSON files of questions; those below ``vqa`` if left out.
        seed: Another one asks for the reports in other words.
        progress: Called after each volume.

    Raises:
        ReadError: If there is no volume, or a file of reports or questions cannot be used.
        RecipeError: If a row or a sample is not what it should be, naming it.
    """
    root = os.path.abspath(folder)
    volumes = _volumes(root)
    counted: Counter[str] = Counter()
    skipped: list[Skipped] = []
    asked = []
    for path in reports or sorted(map(str, Path(root).glob("**/radiology_text_reports/*.csv"))):
        asked += _reports(path, volumes, seed, counted)
    for path in questions or sorted(map(str, Path(root).glob("**/vqa/*.json"))):
        asked += _questions(path, volumes, counted, skipped)
    named = {one.files[0] for one in asked}
    counted["the volume has no report and no question, and is left out"] += len(set(volumes.values()) - named)
    header = Header(name="CT-RATE", root=root, source="CT-RATE")
    return gather(asked, header, notes=told(+counted), skipped=skipped, progress=progress)


def _volumes(root: str) -> dict[str, str]:
    """Return the volumes by their names."""
    if not os.path.isdir(root):
        raise ReadError(root, "is not a folder", "Give the folder that holds train or valid")
    found: dict[str, str] = {}
    for path in sorted(map(str, Path(root).rglob("*.nii.gz"))):
        name = os.path.basename(path)
        if not _VOLUME.fullmatch(name):
            continue
        if name in found:
            reason = f"'{name}' is in two places, {os.path.dirname(found[name])} and {os.path.dirname(path)}"
            raise RecipeError(root, reason, "Give the folder of one version of the data")
        found[name] = path
    if not found:
        reason = "holds no volume named like train_1_a_1.nii.gz or valid_1_a_1.nii.gz"
        raise ReadError(root, reason, "Give the folder that holds train or valid")
    return found


def _asked(place: str, file: str, id_: str, turns: tuple[Turn, ...]) -> Asked:
    part, number, *_ = os.path.basename(file).split("_")
    return Asked(place, (file,), Dialogue(id=id_, turns=turns), f"{part}_{number}", _PARTS[part], "volume")


def _reports(path: str, volumes: Mapping[str, str], seed: int, counted: Counter[str]) -> list[Asked]:
    asked = []
    for row, cells in read_rows(path, ("VolumeName", "Findings_EN", "Impressions_EN")):
        place, name = f"{path}, row {row}", cells["VolumeName"]
        if name not in volumes:
            counted["a report is of a volume that is not there"] += 1
            continue
        findings, impression = (_said(cells[column]) for column in ("Findings_EN", "Impressions_EN"))
        if not findings and not impression:
            counted["a report is empty"] += 1
            continue
        report = "\n".join(filter(None, (findings, f"Impression: {impression}" if impression else "")))
        turn = Turn(question=question_for(name, seed), answer=report, form="report", type="report",
                    depends_on=depends_on(report))  # fmt: skip
        asked.append(_asked(place, volumes[name], "report", (turn,)))
    return asked


def _said(cell: str) -> str:
    return "" if cell.casefold() in _NOTHING else cell


def _questions(path: str, volumes: Mapping[str, str], counted: Counter[str], skipped: list[Skipped]) -> list[Asked]:
    stem = os.path.splitext(os.path.basename(path))[0]
    asked = []
    for number, sample in enumerate(read_json(path, list, "a file of questions"), 1):
        if not isinstance(sample, dict) or not isinstance(sample.get("image"), str):
            raise RecipeError(f"{path}, sample {number}", "has no 'image'", "Name the volume, as train_1_a_1.nii.gz")
        name = os.path.basename(sample["image"])
        id_ = text_of(sample.get("id"), f"{path}, sample {number}", "id") or str(number)
        place = f"{path}, sample {number} ('{id_}')"
        if name not in volumes:
            counted["a dialogue is about a volume that is not there"] += 1
            continue
        turns = _turns(sample, place)
        if turns is None:
            skipped.append(Skipped(place, "its answer is none of its choices"))
            continue
        asked.append(_asked(place, volumes[name], f"{stem}/{number}/{id_}", turns))
    return asked


def _turns(sample: Mapping[str, Any], place: str) -> tuple[Turn, ...] | None:
    """Return the turns, or None where an answer is none of its choices."""
    given = sample.get("type")
    types = given if isinstance(given, list) else [given]
    turns = []
    for number, (text, answer) in enumerate(human_and_model(sample, place)):
        kind = text_of(types[min(number, len(types) - 1)] if types else "", place, "type")
        text = _STYLE.sub(" ", _MARKER.sub(" ", text)).strip()
        if not text:
            raise RecipeError(place, f"turn {number + 1} asks nothing", "Add the question, or take the sample out")
        question, choices = lettered_choices(text)
        choice = chosen(answer, choices) if choices and answer else ""
        if choices and (choice is None or not question or len(set(choices)) < len(choices)):
            return None
        form: Form = "closed" if choices else "report" if "report" in kind else "open"
        depending = depends_on(question, answer, *choices)
        turns.append(Turn(question=question, answer=choice or answer, choices=choices, form=form, type=kind,
                          depends_on=depending))  # fmt: skip
    return tuple(turns)
