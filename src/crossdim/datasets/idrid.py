"""IDRiD, the Indian Diabetic Retinopathy Image Dataset (Porwal et al., Data 2018): grades, and lesion masks.

The set has no patient ids. What must not be divided is found by looking: 5 pairs of its 413 training photographs are
the same picture twice (some with different grades), and the pictures of its segmentation part are pictures of its
grading part under other names. Same pictures share a patient id; masks are attached to the graded record they belong
to. A segmentation picture that is not among the graded ones here is left out, because it may belong to the grading
test part; it is listed in ``skipped``.
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from crossdim.datasets.manifest import Header, Labels, Manifest, Progress, Record, Skipped, SplitName, Task
from crossdim.datasets.splits import carve_validation
from crossdim.errors import ReadError, RecipeError

GRADE = "dr_grade"
OEDEMA = "dme_risk"
TASKS = {
    GRADE: Task(kind="ordinal", classes=("no DR", "mild NPDR", "moderate NPDR", "severe NPDR", "PDR")),
    OEDEMA: Task(
        kind="ordinal",
        classes=("no hard exudates", "hard exudates away from the macula", "hard exudates near the macula"),
    ),
}
"""DR grade by the international scale; DME risk by exudates within one disc diameter of the macula's centre."""

_COLUMNS = {GRADE: "Retinopathy grade", OEDEMA: "Risk of macular edema"}
_LESIONS = {
    "MA": "microaneurysms",
    "HE": "haemorrhages",
    "EX": "hard_exudates",
    "SE": "soft_exudates",
    "OD": "optic_disc",
}
_SUBJECT = re.compile("segmentation|grading|localization", re.IGNORECASE)
"""What a part of the set is about, as its folders are named; the innermost folder that says so counts."""

_THUMBNAIL = 64
_SAME_PICTURE = 0.999
"""Correlation of two thumbnails from which they show one picture. Measured on the training part: same pictures
(scaled and compressed anew) 0.9997 and more, different ones 0.9976 and less."""


@dataclass(frozen=True)
class _Picture:
    path: Path
    part: SplitName

    @property
    def id(self) -> str:
        return f"{self.part}/{self.path.stem}"


def from_idrid(
    folder: str | os.PathLike[str],
    *,
    validation: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of IDRiD's graded photographs, with the paths of masks where the segmentation part is there.

    Takes the official folders (``B. Disease Grading``, ``A. Segmentation``, or the folder around them) and plainer
    ones (``grading/train/images``, ``segmentation/train/images``, ``labels/*.csv``). Training and test parts are the
    official ones; whichever is there is used. Tasks: ``dr_grade`` (0 to 4) and ``dme_risk`` (0 to 2), both ordinal.
    Masks are in ``extra["segmentation/hard_exudates"]`` and so on.

    Args:
        folder: Folder of the data set.
        validation: Share of the training part that becomes validation, stratified by grade; 0 for none.
        seed: Seed of that choice.
        progress: Called after each picture.

    Raises:
        ReadError: If tables or pictures are missing, or a table has other columns.
        RecipeError: If a table holds a grade that is none.
    """
    root = Path(os.path.abspath(folder))
    graded, segmented, masks = _find(root)
    labels = _grades(root)
    skipped = [
        Skipped(str(picture.path), "has no row in the table of grades")
        for picture in graded
        if picture.id not in labels
    ]
    graded = [picture for picture in graded if picture.id in labels]
    absent = sorted(labels.keys() - {picture.id for picture in graded})
    if absent:
        raise ReadError(root, f"{len(absent)} graded pictures are missing, first {absent[0]}", "Unpack the set again")
    thumbnails, unreadable = _thumbnails([*graded, *segmented], progress)
    skipped += unreadable
    graded = [picture for picture in graded if picture in thumbnails]
    segmented = [picture for picture in segmented if picture in thumbnails]

    same = _same(thumbnails, graded, graded)
    patients = {picture.id: graded[int(np.argmax(row))].id for picture, row in zip(graded, same, strict=True)}
    extra: defaultdict[str, dict[str, str | float | int]] = defaultdict(dict)
    for picture, row in zip(segmented, _same(thumbnails, segmented, graded), strict=True):
        if not row.any():
            skipped.append(Skipped(str(picture.path), "is none of the graded pictures here; it may be a test picture"))
        for index in np.flatnonzero(row):
            extra[graded[index].id].update(masks.get(picture.id, {}))

    records = tuple(
        Record(
            id=picture.id,
            patient_id=patients[picture.id],
            split=picture.part,
            kind="image",
            paths=(picture.path.relative_to(root).as_posix(),),
            labels=labels[picture.id],
            extra=extra[picture.id],
        )
        for picture in graded
    )
    header = Header(name="idrid", root=str(root), tasks=TASKS, source="IDRiD (CC BY 4.0)")
    manifest = Manifest(header, records, tuple(skipped))
    return carve_validation(manifest, validation, seed, stratify=GRADE) if validation else manifest


def _find(root: Path) -> tuple[list[_Picture], list[_Picture], Mapping[str, dict[str, str]]]:
    """Return graded pictures, pictures of the segmentation part, and masks by picture and lesion."""
    graded, segmented = [], []
    masks: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted(root.rglob("IDRiD_*")):
        below = path.relative_to(root).parts[:-1]
        part: SplitName = "test" if re.search(r"\btest", "/".join(below).lower()) else "train"
        subject = next((found[0] for name in (*reversed(below), root.name) if (found := _SUBJECT.search(name))), "")
        mask = re.fullmatch(r"(IDRiD_\d+)_(MA|HE|EX|SE|OD)\.(tiff?|png)", path.name)
        if subject.lower() == "segmentation" and mask:
            masks[f"{part}/{mask[1]}"][f"segmentation/{_LESIONS[mask[2]]}"] = path.relative_to(root).as_posix()
        elif path.suffix.lower() in (".jpg", ".jpeg", ".png") and subject.lower() == "segmentation":
            segmented.append(_Picture(path, part))
        elif path.suffix.lower() in (".jpg", ".jpeg", ".png") and subject.lower() == "grading":
            graded.append(_Picture(path, part))
    if not graded:
        reason = "holds no IDRiD_*.jpg in a folder whose name says grading"
        raise ReadError(root, reason, "Give the folder that holds 'B. Disease Grading' or 'grading'")
    return graded, segmented, masks


def _grades(root: Path) -> dict[str, Labels]:
    """Return the labels of each picture, from the tables of whichever parts are there."""
    tables = [path for path in sorted(root.rglob("*.csv")) if re.search(r"grading.*labels", path.name, re.IGNORECASE)]
    if not tables:
        raise ReadError(root, "holds no table '…Disease Grading…Labels.csv'", "Add it: it comes with the pictures")
    labels: dict[str, Labels] = {}
    for table in tables:
        part = "test" if "testing" in table.name.lower() else "train"
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
        columns = [name.strip() for name in rows[0]] if rows else []
        missing = [name for name in ("Image name", *_COLUMNS.values()) if name not in columns]
        if missing:
            raise ReadError(table, f"has no column '{missing[0]}'", "Use the table as it was published")
        for number, row in enumerate(rows[1:], 2):
            name = row[columns.index("Image name")].strip() if row else ""
            if name:
                labels[f"{part}/{name}"] = {
                    task: _grade(f"{table}, row {number}", row[columns.index(column)], len(TASKS[task].classes))
                    for task, column in _COLUMNS.items()
                }
    return labels


def _grade(place: str, cell: str, count: int) -> int:
    text = cell.strip()
    if not text.isdigit() or int(text) >= count:
        raise RecipeError(place, f"'{text}' is no grade from 0 to {count - 1}", "Use the table as it was published")
    return int(text)


def _thumbnails(
    pictures: Sequence[_Picture], progress: Progress | None
) -> tuple[dict[_Picture, Float[np.ndarray, "values"]], list[Skipped]]:
    """Return each picture as a small one, centred and of unit length, so that a dot product is a correlation."""
    from PIL import Image, UnidentifiedImageError

    thumbnails, skipped = {}, []
    for done, picture in enumerate(pictures, 1):
        try:
            with Image.open(picture.path) as image:
                image.draft("RGB", (2 * _THUMBNAIL, 2 * _THUMBNAIL))  # decodes a large JPEG small: 10 times as fast
                small = image.convert("RGB").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
        except (UnidentifiedImageError, OSError) as error:
            skipped.append(Skipped(str(picture.path), f"cannot be read ({error})"))
        else:
            values = np.asarray(small, dtype=np.float64).ravel()
            values -= values.mean()
            thumbnails[picture] = values / max(float(np.linalg.norm(values)), 1e-9)
        if progress:
            progress(done, len(pictures))
    return thumbnails, skipped


def _same(
    thumbnails: Mapping[_Picture, Float[np.ndarray, "values"]], left: Sequence[_Picture], right: Sequence[_Picture]
) -> Bool[np.ndarray, "left right"]:
    """Return which pictures on the left show what a picture on the right shows."""
    if not left or not right:
        return np.zeros((len(left), len(right)), dtype=bool)
    stacked = (np.stack([thumbnails[picture] for picture in side]) for side in (left, right))
    return np.matmul(next(stacked), next(stacked).T) >= _SAME_PICTURE
