"""Med-2E3's own data files: a JSON list of conversations about volumes (Shi et al., BIBM 2025).

A sample is ``{id, conversations: [{from: human|gpt, value}], vision3d: [files], vision2d: [files], question,
question_type}``. Where a file stands in a question is marked ``<image3d>`` or ``<image>``; the markers are taken out of
the text and only counted, because the model places its files itself.

Differs from the authors' code: several volumes a sample are allowed (there, exactly one); samples without ``question``
are allowed unless ``strict`` (there, a crash in the middle of training); a list of choices in a question's text becomes
choices.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossdim.datasets.dialogue import Dialogue, Form, Turn
from crossdim.datasets.dialogues import (
    Asked,
    Missing,
    chosen,
    depends_on,
    folder_patient,
    gather,
    human_and_model,
    lettered_choices,
    read_json,
    text_of,
    told,
)
from crossdim.datasets.manifest import Header, Manifest, Progress, Skipped, SplitName, source_of
from crossdim.datasets.scan import Kind, PatientRule, patient_rule
from crossdim.errors import RecipeError

M3D_TYPES = {"1": "plane", "2": "phase", "3": "organ", "4": "abnormality", "5": "location"}
"""The five types of M3D-VQA by their numbers."""

_MARKERS: tuple[tuple[str, Kind, re.Pattern[str]], ...] = (
    ("vision3d", "volume", re.compile(r"\s*<image3d>\s*")),
    ("vision2d", "image", re.compile(r"\s*<image>\s*")),
)


_LONGEST_ANSWER = 40
"""Words of an answer; what is longer and has no type of question is a report."""


@dataclass(frozen=True)
class Source:
    """One JSON file.

    Attributes:
        path: The file.
        split: The part that all its samples are in, or None.
        answers: The file of true answers, where they are kept apart (``[{id, answer, answer_choice}]``).
    """

    path: str
    split: SplitName | None = None
    answers: str | None = None


class _LeftOutError(Exception):
    """A sample that contradicts itself, with the reason."""


def from_med2e3(
    sources: Sequence[Source],
    *,
    folder: str | os.PathLike[str] | None = None,
    patient: str = "parent",
    strict: bool = False,
    missing: Missing = "refuse",
    name: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of Med-2E3 JSON files.

    Args:
        sources: The files; at least one.
        folder: Folder that their paths are relative to; the first file's own if left out.
        patient: ``parent``: the folder that a file lies in is a patient, as in M3D. Else as
            :func:`crossdim.datasets.scan.patient_rule` takes it.
        strict: Whether to refuse samples without ``question``, as the authors' code does, instead of taking the
            question from the conversation.
        missing: What to do about files that are not there.
        name: Name of the data set; the first file's if left out.
        progress: Called after each file of the data.

    Raises:
        ReadError: If a JSON file cannot be used, or files are missing.
        RecipeError: If a sample is not what it should be, naming its id.
    """
    first = os.path.abspath(sources[0].path)
    root = os.path.abspath(folder if folder is not None else os.path.dirname(first))
    whose = None if patient == "parent" else patient_rule(patient)
    asked: list[Asked] = []
    skipped: list[Skipped] = []
    counted: Counter[str] = Counter()
    for source in sources:
        answers = _answers(source.answers) if source.answers else None
        stem = os.path.splitext(os.path.basename(source.path))[0]
        seen: set[str] = set()
        for number, sample in enumerate(read_json(source.path, list, "a Med-2E3 data file"), 1):
            place, name_ = _named(source.path, number, sample, seen)
            files = {field: _files(sample, field, root, place) for field, _, _ in _MARKERS}
            about = files["vision3d"] or files["vision2d"]
            try:
                turns = _turns(sample, place, files, answers, strict, counted)
                if files["vision3d"] and files["vision2d"]:
                    raise _LeftOutError("is about volumes and images at once")
                owner = _owner(root, about, whose, f"text {name_}")
                if owner is None:
                    raise _LeftOutError(f"the rule '{patient}' finds no patient in '{about[0]}'")
            except _LeftOutError as problem:
                skipped.append(Skipped(place, str(problem)))
                continue
            kind: Kind | None = "volume" if files["vision3d"] else "image" if about else None
            id_ = f"{stem}/{name_}" if len(sources) > 1 else name_
            asked.append(Asked(place, about, Dialogue(id=id_, turns=turns), owner, source.split, kind))
        _all_used(source, answers, seen)
    title = name or os.path.splitext(os.path.basename(first))[0]
    header = Header(
        name=title, root=root, source=f"Med-2E3 JSON {', '.join(os.path.basename(s.path) for s in sources)}"
    )
    return gather(asked, header, missing=missing, notes=told(counted), skipped=skipped, progress=progress)


def _named(path: str, number: int, sample: object, seen: set[str]) -> tuple[str, str]:
    """Return a sample's place for errors, and its id."""
    if not isinstance(sample, dict):
        raise RecipeError(f"{path}, sample {number}", "is not an object", "Use the file as it was published")
    name = text_of(sample.get("id"), f"{path}, sample {number}", "id")
    if not name:
        raise RecipeError(f"{path}, sample {number}", "has no 'id'", "Give every sample an id of its own")
    if name in seen:
        raise RecipeError(f"{path}, sample '{name}'", "has the id of an earlier sample", "Give it an id of its own")
    seen.add(name)
    return f"{path}, sample '{name}'", name


def _owner(root: str, about: Sequence[str], whose: PatientRule | None, alone: str) -> str | None:
    if not about:
        return alone
    if whose is None or not os.path.exists(source_of(about[0])):  # what is absent is told later
        return folder_patient(root, about[0])
    return whose(root, root, about[0])


def _files(sample: Mapping[str, Any], field: str, root: str, place: str) -> tuple[str, ...]:
    given = sample.get(field) or []
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not all(isinstance(path, str) and path for path in given):
        raise RecipeError(place, f"'{field}' is no list of paths", f'Write it as "{field}": ["file"]')
    return tuple(os.path.normpath(os.path.join(root, path)) for path in given)


def _turns(
    sample: Mapping[str, Any],
    place: str,
    files: Mapping[str, tuple[str, ...]],
    answers: Mapping[str, Mapping[str, str]] | None,
    strict: bool,
    counted: Counter[str],
) -> tuple[Turn, ...]:
    pairs = human_and_model(sample, place)
    for field, _, marker in _MARKERS:
        found = sum(len(marker.findall(text)) for text, _ in pairs)
        if found != len(files[field]):
            sign = "<image3d>" if field == "vision3d" else "<image>"
            reason = f"has {found} markers {sign} in its questions, and {len(files[field])} files in '{field}'"
            raise RecipeError(place, reason, "Give one marker for every file")
    texts = [_without_markers(text) for text, _ in pairs]
    question = _without_markers(text_of(sample.get("question"), place, "question"))
    if not question and strict:
        raise RecipeError(place, "has no 'question'", "Add the text that guides the slices, or read it without strict")
    if not question:
        counted["the sample has no 'question', so its conversation's first question guides the slices"] += 1
    elif texts[0] and question not in texts[0]:
        counted["'question' differs from the conversation's first question, which is the one that is kept"] += 1
    texts[0] = texts[0] or question
    if not all(texts):
        reason = "has a turn without a question" if texts[0] else "has neither 'question' nor a question to the files"
        raise RecipeError(place, reason, "Add the question, or take the sample out")
    kind = text_of(sample.get("question_type"), place, "question_type")
    replies = [reply for _, reply in pairs]
    if answers is not None:
        own = answers.get(text_of(sample["id"], place, "id"))
        if own is None:
            raise RecipeError(place, "has no answer in the file of answers", "Give the answers of the same file")
        replies[-1], kind = own["answer"], kind or own["question_type"]
    return tuple(_turn(text, reply, M3D_TYPES.get(kind, kind)) for text, reply in zip(texts, replies, strict=True))


def _turn(text: str, answer: str, kind: str) -> Turn:
    question, choices = lettered_choices(text)
    if not choices:
        form: Form = "report" if not kind and len(answer.split()) > _LONGEST_ANSWER else "open"
        return Turn(question=text, answer=answer, form=form, type=kind, depends_on=depends_on(text, answer))
    choice = chosen(answer, choices) if answer else ""
    if choice is None or not question or len(set(choices)) < len(choices):
        raise _LeftOutError(f"its answer '{answer}' is none of its choices {list(choices)}, or those are not different")
    return Turn(
        question=question,
        answer=choice,
        choices=choices,
        form="closed",
        type=kind,
        depends_on=depends_on(question, *choices),
    )


def _without_markers(text: str) -> str:
    for _, _, marker in _MARKERS:
        text = marker.sub(" ", text)
    return text.strip()


def _answers(path: str) -> dict[str, dict[str, str]]:
    """Return the true answers by sample id; of closed ones the letter and the text."""
    found: dict[str, dict[str, str]] = {}
    for number, entry in enumerate(read_json(path, list, "a file of answers"), 1):
        place = f"{path}, entry {number}"
        if not isinstance(entry, dict) or entry.get("id") is None or entry.get("answer") is None:
            raise RecipeError(place, "has no 'id' or no 'answer'", "Give both")
        name = text_of(entry["id"], place, "id")
        if name in found:
            raise RecipeError(place, f"answers '{name}' a second time", "Give one answer a sample")
        answer, letter = (text_of(entry.get(field), place, field) for field in ("answer", "answer_choice"))
        found[name] = {
            "answer": f"{letter}. {answer}" if letter else answer,
            "question_type": text_of(entry.get("question_type"), place, "question_type"),
        }
    return found


def _all_used(source: Source, answers: Mapping[str, Mapping[str, str]] | None, seen: set[str]) -> None:
    unknown = sorted(set(answers or ()) - seen)
    if unknown:
        reason = f"answers '{unknown[0]}', which is no sample of {source.path} ({len(unknown)} such answers)"
        raise RecipeError(str(source.answers), reason, "Give the answers of the same file")
