"""VQA-RAD: clinicians' questions about single radiology images (Lau et al., Scientific Data 2018).

``questions.json`` is a list of ``{qid, image_name, image_organ, question, answer, answer_type, question_type}``; the
pictures lie in ``images/``. All questions about an image, paraphrases included, are in one record, and images with the
same pixels belong to one patient: a split by patient is one by image, never by question. (The official test questions
are about images of the training part; a model can answer them without looking.)

The region (head, chest, abdomen) is the task ``organ``, so that a split can give each part its share.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.dialogues import Asked, depends_on, gather, read_json, text_of, told
from crossdim.datasets.manifest import Header, Labels, Manifest, Progress, Skipped
from crossdim.datasets.scan import absent_files, in_order, relative, task_of, values_of
from crossdim.errors import CrossdimError, RecipeError

TASK = "organ"

_TYPES = {
    "pres": "presence",
    "pos": "position",
    "abn": "abnormality",
    "attrib": "attribute",
    "atrib": "attribute",
    "color": "intensity",
}
"""Our words for theirs; the others are words already."""

_ARTICLES = {"a", "an", "the"}
_NO_CHOICE = {
    "of",
    "to",
    "in",
    "on",
    "at",
    "is",
    "are",
    "this",
    "just",
    "patient",
    "image",
    "top",
    "found",
    "non",
    "it",
}
"""Words that are no choice by themselves."""


def from_vqa_rad(folder: str | os.PathLike[str], *, progress: Progress | None = None) -> Manifest:
    """Return the manifest of VQA-RAD, in no parts yet: draw them by patient, which is by image.

    Closed questions that are answered by yes or no have these choices; others have the words on both sides of *or* if
    the answer is one of them, and are open otherwise. Answers are in small letters.

    Args:
        folder: The folder of the data set, with ``questions.json`` and ``images``.
        progress: Called after each image.

    Raises:
        ReadError: If the file of questions cannot be used, or images are missing.
        RecipeError: If a question is not what it should be, naming its qid.
    """
    root = os.path.abspath(folder)
    path = os.path.join(root, "questions.json")
    entries = read_json(path, list, "the file of questions")
    asked: list[tuple[Asked, str]] = []
    counted: Counter[str] = Counter()
    for number, entry in enumerate(entries, 1):
        cells = _cells(entry, path, number)
        place = f"{path}, qid {cells['qid']}"
        image = os.path.normpath(os.path.join(root, "images", cells["image_name"]))
        dialogue = Dialogue(id=cells["qid"], turns=(_turn(cells, counted),))
        asked.append((Asked(place, (image,), dialogue, image, kind="image"), cells["image_organ"].casefold()))
    absent_files(path, root, {one.place: one.files for one, _ in asked}, "refuse")
    same, broken = _by_content(sorted({one.files[0] for one, _ in asked}), progress)
    owned = [replace(one, patient=relative(root, same[one.files[0]])) for one, _ in asked if one.files[0] in same]
    header = Header(name="VQA-RAD", root=root, source="VQA-RAD (CC0)")
    manifest = gather(owned, header, notes=told(counted), skipped=broken)
    return _with_organs(manifest, {relative(root, one.files[0]): organ for one, organ in asked})


def choices_in(question: str, answer: str) -> tuple[tuple[str, ...], str] | None:
    """Return the choices that a question names around *or*, and the one that the answer is; None if there are none.

    Args:
        question: In the words of the data set.
        answer: In small letters.
    """
    options = _options(question.casefold())
    said = _words(answer)
    if len(set(options)) < max(len(options), 2) or any(_NO_CHOICE & set(option.split()) for option in options):
        return None
    meant = [
        option for option in options if set(option.split()) <= set(said) or (said and set(said) <= set(option.split()))
    ]
    return (tuple(options), meant[0]) if len(meant) == 1 else None


def _options(question: str) -> list[str]:
    """Return the words on both sides of *or*; with a comma before it, what stands between the commas too."""
    before, found, after = _or(question)
    if not found:
        return []
    listed = [_words(part) for part in before.rstrip(" ,").split(",")] if before.rstrip().endswith(",") else []
    left, right = _words(before), _words(after)
    if not left or not right:
        return []
    if len(listed) > 1:
        length = len(listed[-1])
        return [" ".join(listed[0][-length:]), *(" ".join(words) for words in listed[1:]), right[0]]
    if left[-1] in right[:3] and len(left) > 1:  # contrast ct or non-contrast ct
        return [" ".join(left[-2:]), " ".join(right[: right.index(left[-1]) + 1])]
    return [left[-1], right[0]]


def _or(question: str) -> tuple[str, str, str]:
    match = re.search(r"\s(or|vs\.?|versus)\s", question)
    return (question[: match.start()], match[1], question[match.end() :]) if match else (question, "", "")


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[\w'-]+", text.casefold()) if word not in _ARTICLES]


def _cells(entry: object, path: str, number: int) -> dict[str, str]:
    fields = ("qid", "image_name", "image_organ", "question", "answer", "answer_type", "question_type")
    if not isinstance(entry, dict):
        raise RecipeError(f"{path}, entry {number}", "is not an object", "Use the file as it was published")
    place = f"{path}, qid {entry['qid']}" if entry.get("qid") is not None else f"{path}, entry {number}"
    cells = {field: text_of(entry.get(field), place, field) for field in fields}
    for field in ("qid", "image_name", "question", "answer"):
        if not cells[field]:
            raise RecipeError(place, f"has no '{field}'", "Add it, or take the question out")
    if cells["answer_type"].casefold() not in ("closed", "open"):
        reason = f"'answer_type' is '{cells['answer_type']}', not CLOSED or OPEN"
        raise RecipeError(place, reason, "Use the file as it was published")
    return cells


def _turn(cells: Mapping[str, str], counted: Counter[str]) -> Turn:
    question = cells["question"]
    answer = " ".join(cells["answer"].casefold().split()).rstrip(".") or cells["answer"].casefold()
    word = cells["question_type"].casefold().split(",")[0].strip()
    type_ = _TYPES.get(word, word or "other")
    found = None
    if cells["answer_type"].casefold() == "closed":
        found = (("yes", "no"), answer) if answer in ("yes", "no") else choices_in(question, answer)
        if found is None:
            counted["a closed question does not name its choices, and is open here"] += 1
    if found is None:
        return Turn(question=question, answer=answer, type=type_, depends_on=depends_on(question, answer))
    choices, answer = found
    depending = depends_on(question, *choices)
    return Turn(question=question, answer=answer, choices=choices, form="closed", type=type_, depends_on=depending)


def _by_content(images: Sequence[str], progress: Progress | None) -> tuple[dict[str, str], list[Skipped]]:
    """Return the first image with the same pixels as each one, and those that cannot be read."""
    from crossdim import readers

    first: dict[str, str] = {}
    same: dict[str, str] = {}
    broken = []
    for done, image in enumerate(images, 1):
        try:
            pixels = values_of(readers.read_channels([image]))
        except CrossdimError as error:
            broken.append(Skipped(image, error.reason))
        else:
            digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
            same[image] = first.setdefault(digest, image)
        if progress:
            progress(done, len(images))
    return same, broken


def _with_organs(manifest: Manifest, organ_of: Mapping[str, Any]) -> Manifest:
    classes = in_order({organ for organ in organ_of.values() if organ})
    if len(classes) < 2:
        return manifest
    tasks = {TASK: task_of("VQA-RAD, 'image_organ'", "multiclass", classes)}
    labels: defaultdict[str, Labels] = defaultdict(dict)
    for path, organ in organ_of.items():
        if organ:
            labels[path][TASK] = classes.index(organ)
    records = tuple(record.model_copy(update={"labels": labels[record.paths[0]]}) for record in manifest.records)
    return replace(manifest, header=manifest.header.model_copy(update={"tasks": tasks}), records=records)
