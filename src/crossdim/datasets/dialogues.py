"""What the readers of question data share: from dialogues that name files to a manifest with a record for each file.

A reader turns its format into :class:`Asked`, one for each dialogue; :func:`gather` opens every file once (its header
only) and puts the dialogues about the same files into one record. Records that share a file have one patient, so that
a split by patient never has the same volume on two sides.
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from crossdim.datasets.dialogue import Dependence, Dialogue
from crossdim.datasets.manifest import Header, Manifest, Progress, Record, Skipped, SplitName, source_of
from crossdim.datasets.scan import Kind, absent_files, in_order, kinds_of, relative
from crossdim.errors import ReadError, RecipeError

Missing = Literal["refuse", "skip"]
"""What to do about files that are not there: refuse the data set, or list them in the manifest's ``skipped``."""

_WORDS: dict[Dependence, str] = {
    "side": r"left|right|left-sided|right-sided|bilateral(ly)?|unilateral(ly)?|contralateral|ipsilateral|laterality"
    r"|hemi\w+",
    "place": r"where|located|location|upper|lower|middle|superior\w*|inferior\w*|anterior\w*|posterior\w*|lateral"
    r"|medial|above|below|beneath|quadrant|apex|apical|basal|base|top|bottom|slices?",
    "plane": r"plane|axial|transverse|coronal|sagittal|saggital|ap|pa",
    "size": r"sizes?|sized|large|larger|largest|small|smaller|smallest|enlarged?|enlargement|dilated|dilatation|volume"
    r"|thick\w*|diameter|mm|cm|ml",
    "intensity": r"hyper(intense|dense|attenuat\w+)|hypo(intense|dense|attenuat\w+)|iso(intense|dense)|density|dense"
    r"|denser|intensity|bright\w*|dark\w*|contrast|enhanc\w*|weighted|t1|t2|flair|phase|window|radiolucent"
    r"|radioopaque|radiopaque|lucen\w+",
}
_DEPENDENCES = {name: re.compile(rf"\b({words})\b", re.IGNORECASE) for name, words in _WORDS.items()}


_LISTS = (
    (re.compile(r"\s*\bChoices:\s*A\.\s*"), r"\s+{}\.\s+"),
    (re.compile(r"\s*(?:\bOptions:\s*)?\(a\)\s*", re.IGNORECASE), r"\s*\({}\)\s*"),
)
"""How a list of choices begins, and what stands before each further one."""


@dataclass(frozen=True)
class Asked:
    """A dialogue as a reader found it.

    Attributes:
        place: Where it stands, for errors: the file and the row, or the sample's id.
        files: Absolute path of each image or volume that it is about; none for text alone.
        dialogue: Its turns; its id is unique among all those about the same files.
        patient: Whose files they are.
        split: The part that the data set puts it into, if it has parts.
        kind: What the files are to be; None where the format does not say.
    """

    place: str
    files: tuple[str, ...]
    dialogue: Dialogue
    patient: str
    split: SplitName | None = None
    kind: Kind | None = None


def gather(
    asked: Sequence[Asked],
    header: Header,
    *,
    missing: Missing = "refuse",
    notes: Sequence[str] = (),
    skipped: Sequence[Skipped] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of dialogues, with one record for all that are about the same files.

    Args:
        asked: In the order of the data set.
        header: Its ``root`` must be absolute.
        missing: What to do about files that are not there.
        notes: What the reader decided on the way.
        skipped: What the reader had to leave out.
        progress: Called after each file.

    Raises:
        ReadError: If files are missing, or no dialogue is left.
        RecipeError: If two dialogues about the same files share an id, or are in different parts.
    """
    source, root = header.source or header.name, header.root
    gone = absent_files(source, root, {one.place: one.files for one in asked if one.files}, missing)
    there = dict.fromkeys(file for one in asked for file in one.files if file not in gone)
    kinds, unreadable = kinds_of(list(there), progress, intensity=False)
    why_not = dict.fromkeys(gone, "is not there") | {skip.path: skip.reason for skip in unreadable}
    groups: defaultdict[tuple[str, ...], list[Asked]] = defaultdict(list)
    for number, one in enumerate(asked):
        groups[one.files or (f"text {number}",)].append(one)
    records, left_out = [], list(skipped)
    patients = _united(groups)
    for files, about in groups.items():
        problem = _problem(about, kinds, why_not)
        if problem:
            count = f" ({len(about)} dialogues)" if len(about) > 1 else ""
            left_out.append(Skipped(about[0].place, f"{problem}{count}"))
        else:
            kind = kinds[files[0]] if about[0].files else "text"
            records.append(_record(about, kind, patients[about[0].patient], root))
    if not records:
        first = f"; first {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        reason = f"holds no dialogue that can be used ({len(left_out)} left out{first})"
        raise ReadError(source, reason, "Check the file and the folder that its paths are relative to")
    return Manifest(header, tuple(records), tuple(left_out), tuple(notes))


def depends_on(*texts: str) -> tuple[Dependence, ...]:
    """Return what an answer may depend on, by the words of question, choices and answer.

    Rather one too many than one too few: what is named here is not varied in training.

    Args:
        texts: Everything that is said.
    """
    together = " ".join(texts)
    return tuple(name for name, words in _DEPENDENCES.items() if words.search(together))


def lettered_choices(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a question without its choices, and the choices; none where it lists none.

    Args:
        text: Such as ``Which plane? Choices: A. axial B. coronal`` (M3D) or ``Which lobe? (a) upper (b) lower``
            (CT-RATE).
    """
    for opening, mark in _LISTS:
        start = opening.search(text)
        if start is None:
            continue
        choices, rest = [], text[start.end() :]
        for letter in "bcdefgh":
            ends = re.search(mark.format(letter), rest, re.IGNORECASE)
            if ends is None:
                break
            choices.append(rest[: ends.start()])
            rest = rest[ends.end() :]
        if choices:
            return text[: start.start()].strip(), tuple(choice.strip(" \n,;") for choice in (*choices, rest))
    return text.strip(), ()


def chosen(answer: str, choices: Sequence[str]) -> str | None:
    """Return the choice that an answer names by its letter, its text or both; None if it names none.

    Args:
        answer: Such as ``B. coronal``, ``(b) coronal``, ``B`` or ``coronal``.
        choices: To choose from.
    """
    same = {_plain(choice): choice for choice in reversed(choices)}
    if _plain(answer) in same:
        return same[_plain(answer)]
    lettered = re.match(r"\(?([a-h])(?:[.):]|$)\s*(.*)", answer.strip(), re.IGNORECASE | re.DOTALL)
    if lettered is None or ord(lettered[1].lower()) - ord("a") >= len(choices):
        return None
    choice = choices[ord(lettered[1].lower()) - ord("a")]
    return choice if _plain(lettered[2]) in ("", _plain(choice)) else None


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .").casefold()


def read_json(path: str | os.PathLike[str], holds: type[list] | type[dict], what: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        holds: Whether a list or an object is expected.
        what: What it is to be, for the error.

    Raises:
        ReadError: If it is absent, no JSON, or something else.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ReadError(path, "is not a file", "Check the path") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ReadError(path, f"is not JSON in UTF-8 ({error})", "Use the file as it was published") from error
    if not isinstance(content, holds):
        shape = "list" if holds is list else "object"
        raise ReadError(path, f"is not {what}: it holds no {shape} at the top", "Use the file as it was published")
    return content


def text_of(value: object, place: str, field: str) -> str:
    """Return a field that is to be text, stripped; a number counts as its digits, and None as nothing.

    Args:
        value: As JSON gave it.
        place: Where it stands, for the error.
        field: What it is called.

    Raises:
        RecipeError: If it is something else.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecipeError(place, f"'{field}' is {type(value).__name__}, not text", "Mend the file")
    return str(value).strip()


def human_and_model(sample: Mapping[str, Any], place: str) -> list[tuple[str, str]]:
    """Return what the human says and what the model replies, turn by turn; the last reply may be absent.

    Args:
        sample: With ``conversations``: parts ``{"from": "human", "value": text}`` and ``{"from": "gpt", …}`` in turn.
        place: Where it stands, for the error.

    Raises:
        RecipeError: If it has none, or they do not take turns.
    """
    conversation = sample.get("conversations")
    if not isinstance(conversation, list) or not conversation:
        raise RecipeError(place, "has no 'conversations'", 'Give [{"from": "human", "value": "..."}, ...]')
    said = []
    for number, part in enumerate(conversation):
        expected = ("human", "gpt")[number % 2]
        if not isinstance(part, dict) or part.get("from") != expected:
            found = part.get("from") if isinstance(part, dict) else type(part).__name__
            reason = f"part {number + 1} of its conversation is from '{found}', not from '{expected}'"
            raise RecipeError(place, reason, "Let human and gpt take turns, the human first")
        said.append(text_of(part.get("value"), place, "value"))
    if len(said) % 2:
        said.append("")
    return list(zip(said[::2], said[1::2], strict=True))


def folder_patient(root: str, file: str) -> str:
    """Return the folder that a file lies in, as the patient's id; a file in the root is a patient of its own.

    Args:
        root: Absolute folder.
        file: Absolute path.
    """
    place = PurePath(relative(root, source_of(file)))
    return place.parent.as_posix() if len(place.parts) > 1 else place.as_posix()


def told(counted: Counter[str]) -> tuple[str, ...]:
    """Return what happened how often, in words.

    Args:
        counted: What happened, with the number of times.
    """
    return tuple(f"{count} x {what}" for what, count in counted.most_common())


def _united(groups: dict[tuple[str, ...], list[Asked]]) -> dict[str, str]:
    """Return the name under which each patient goes: those whose records share a file are one."""
    parent: dict[str, str] = {}

    def first(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    owner: dict[str, str] = {}
    for files, about in groups.items():
        names = [one.patient for one in about] + [owner.setdefault(file, about[0].patient) for file in files]
        together = in_order({first(name) for name in names})
        for other in together[1:]:
            parent[other] = together[0]
    return {name: first(name) for name in parent}


def _problem(about: Sequence[Asked], kinds: dict[str, Kind], why_not: dict[str, str]) -> str | None:
    files = about[0].files
    for file in files:
        if file in why_not:
            return f"{file} {why_not[file]}"
    found = {kinds[file] for file in files}
    if len(found) > 1:
        return "its files are images and volumes"
    for one in about:
        if one.kind is not None and files and found != {one.kind}:
            return f"{files[0]} is not {'an image' if one.kind == 'image' else 'a volume'}, as '{one.place}' says"
    return None


def _record(about: Sequence[Asked], kind: Literal["image", "volume", "text"], patient: str, root: str) -> Record:
    first = about[0]
    for one in about:
        if one.split != first.split:
            reason = f"is in '{one.split}', and the same files are in '{first.split}' ({first.place})"
            raise RecipeError(one.place, reason, "Put all questions about a file into one part")
    names = Counter(one.dialogue.id for one in about)
    name, times = names.most_common(1)[0]
    if times > 1:
        place = next(one.place for one in reversed(about) if one.dialogue.id == name)
        raise RecipeError(place, f"the id '{name}' stands there {times} times", "Give every sample an id of its own")
    paths = [relative(root, file) for file in first.files]
    return Record(
        id=" + ".join(paths) or f"text {first.dialogue.id}",
        patient_id=patient,
        split=first.split,
        kind=kind,
        paths=tuple(paths[:1]),
        dialogues=tuple(one.dialogue for one in about),
        more=tuple((path,) for path in paths[1:]),
    )
