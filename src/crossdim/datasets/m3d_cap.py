"""M3D-Cap: volumes with reports (Bai et al. 2024, "M3D: advancing 3D medical image analysis with multi-modal LLMs").

``M3D_Cap.json`` is ``{split: [{"image": "….npy", "text": "….txt"}]}``. The arrays are in [0, 1] already, with the
display window of the pictures they were made from, and their first axis is the slice axis of any plane; a contract must
declare that (``RangeIntensity(declared="unit")``).

Differs from the authors' code: the questions that ask for a report are our own words, chosen by a hash of seed and file
rather than anew each time.
"""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.dialogues import Asked, Missing, depends_on, folder_patient, gather, read_json, told
from crossdim.datasets.manifest import Header, Manifest, Progress, Skipped, SplitName
from crossdim.datasets.scan import SPLIT_WORDS, absent_files, relative
from crossdim.errors import ReadError, RecipeError

QUESTIONS = (
    "What does this scan show?",
    "Describe this scan.",
    "Write the findings of this scan.",
    "Report on this volume.",
    "What would a radiologist write about this scan?",
    "Summarise what can be seen in this volume.",
    "Please give the findings for this study.",
    "Go through this scan and say what you find.",
    "Which findings does this volume contain?",
    "Dictate a report for this study.",
    "Put into words what these slices show.",
    "What is there to see in this study?",
)
"""Ways to ask for a report."""

_SHORTEST = 5
"""Characters of a report's section; what is shorter is taken for an empty one."""


def from_m3d_cap(
    path: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    missing: Missing = "refuse",
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of M3D-Cap, with its official parts; a case's folder is a patient.

    ``test100``, ``test500`` and ``test1k``, which are parts of ``test``, are read only where there is no ``test``: the
    largest of them then is.

    Args:
        path: ``M3D_Cap.json``.
        folder: Folder that its paths are relative to; its own if left out.
        seed: Another one asks for the reports in other words.
        missing: What to do about volumes and texts that are not there.
        progress: Called after each volume.

    Raises:
        ReadError: If the file cannot be used, or files are missing.
        RecipeError: If an entry is not what it should be, naming part and number.
    """
    place = os.path.abspath(path)
    root = os.path.abspath(folder if folder is not None else os.path.dirname(place))
    parts, ignored = _parts(place, read_json(place, dict, "M3D_Cap.json"))
    entries = [
        (f"{place}, {part}, entry {number}", split, *_files(f"{place}, {part}, entry {number}", entry, root))
        for part, (split, listed) in parts.items()
        for number, entry in enumerate(listed, 1)
    ]
    gone = absent_files(place, root, {where: (text,) for where, _, _, text in entries}, missing)
    asked, skipped = [], []
    for where, split, image, text in entries:
        report = "" if text in gone else report_of(_text(text))
        if not report:
            skipped.append(Skipped(where, f"its report {text} is {'not there' if text in gone else 'empty'}"))
            continue
        turn = Turn(question=question_for(relative(root, image), seed), answer=report, form="report", type="report",
                    depends_on=depends_on(report))  # fmt: skip
        dialogue = Dialogue(id=relative(root, text), turns=(turn,))
        asked.append(Asked(where, (image,), dialogue, folder_patient(root, image), split, "volume"))
    header = Header(name="M3D-Cap", root=root, source=f"M3D-Cap, {os.path.basename(place)}")
    notes = told(Counter({f"'{part}' is not read: it repeats a part of 'test'": 1 for part in ignored}))
    return gather(asked, header, missing=missing, notes=notes, skipped=skipped, progress=progress)


def report_of(text: str) -> str:
    """Return the report in a text of M3D-Cap.

    What follows ``study_findings:``; where that is shorter than five characters, what follows ``discussion:``; where
    that is, too, everything.

    Args:
        text: What the file holds.
    """
    lower = text.casefold()
    for section in ("study_findings:", "discussion:"):
        start = lower.find(section)
        if start >= 0 and len(text[start + len(section) :].strip()) >= _SHORTEST:
            return text[start + len(section) :].strip()
    return text.strip()


def question_for(sample: str, seed: int) -> str:
    """Return one of :data:`QUESTIONS`, always the same one for a sample and a seed.

    Args:
        sample: What the report is about.
        seed: Another one gives other questions.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}:{sample}".encode()).digest()[:8])
    return QUESTIONS[number % len(QUESTIONS)]


def _parts(place: str, content: dict[str, Any]) -> tuple[dict[str, tuple[SplitName, list[Any]]], list[str]]:
    """Return the lists to read with the part each belongs to, and the names of those that repeat others."""
    parts: dict[str, tuple[SplitName, list[Any]]] = {}
    subsets = []
    for name, listed in content.items():
        if not isinstance(listed, list):
            raise RecipeError(f"{place}, {name}", "is no list of entries", "Use the file as it was published")
        word = name.casefold()
        if word in SPLIT_WORDS:
            parts[name] = (SPLIT_WORDS[word], listed)
        elif word.startswith("test"):
            subsets.append(name)
        else:
            reason = f"'{name}' is no part of a data set"
            raise RecipeError(place, reason, "Name the parts train, validation and test")
    subsets.sort(key=lambda name: len(content[name]))
    if subsets and not any(split == "test" for split, _ in parts.values()):
        largest = subsets.pop()
        parts[largest] = ("test", content[largest])
    return parts, subsets


def _files(place: str, entry: object, root: str) -> tuple[str, str]:
    paths = [entry.get(field) for field in ("image", "text")] if isinstance(entry, dict) else []
    image, text = paths if paths else (None, None)
    if not isinstance(image, str) or not isinstance(text, str) or not image or not text:
        raise RecipeError(place, "has no 'image' or no 'text'", "Give the paths of the volume and of its report")
    return os.path.normpath(os.path.join(root, image)), os.path.normpath(os.path.join(root, text))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadError(path, f"is not UTF-8 text ({error})", "Save the report as UTF-8") from error
