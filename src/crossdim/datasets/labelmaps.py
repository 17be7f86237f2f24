"""Named label maps: which voxel belongs to which structure, and what the structures are called.

Names come from what public sets ship: a Decathlon ``dataset.json``, a table in text, CSV or XML (SynthSeg, FreeSurfer,
ITK-SNAP, AAL, BIDS), or plain JSON such as ``{"1": "anterior hippocampus"}``. A folder with one mask a structure
(TotalSegmentator) is a label map too; the files' names are the structures'. Value 0 is the background.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int32

from crossdim.datasets.scan import in_order
from crossdim.errors import CrossdimError, ReadError, RecipeError
from crossdim.geometry.affine import farthest_corner_mm, spacing_mm

Side = Literal["left", "right"]
Names = dict[int, str]
"""Label value to name; the background is not in it."""

_SIDE_WORDS: dict[str, Side] = {"left": "left", "right": "right", "lh": "left", "rh": "right"}
_SIDE_LETTERS: dict[str, Side] = {"l": "left", "r": "right"}
_REMEDY = 'Give a table of values and names, or JSON such as {"1": "liver"}'
_INDEX_COLUMNS = ("index", "value", "label", "id", "intensity")
_NAME_COLUMNS = ("name", "structure", "region", "structures", "labelname", "label_name")
_SAME_PLACE = 0.1
"""Share of a voxel that masks of one folder may be apart."""


@dataclass(frozen=True)
class Structure:
    """What a label stands for.

    Attributes:
        name: As questions say it, the side first: ``left thalamus``.
        base: The name without its side.
        side: Left or right where the name says so.
    """

    name: str
    base: str
    side: Side | None = None

    @classmethod
    def of(cls, raw: str) -> "Structure":
        """Return the structure that a name in a table or of a file stands for.

        Args:
            raw: Such as ``Left-Thalamus``, ``kidney_left``, ``Hippocampus_L`` or ``ctx-lh-insula``.
        """
        words = [word for word in re.split(r"[\s_\-]+", raw) if word]
        found = [place for place, word in enumerate(words) if word.lower() in _SIDE_WORDS]
        side: Side | None = None
        if len(found) == 1 and len(words) > 1:
            side = _SIDE_WORDS[words.pop(found[0]).lower()]
        elif len(words) > 1 and words[-1] in {"L", "R"}:
            side = _SIDE_LETTERS[words.pop().lower()]
        else:
            words = [word for word in re.split(r"[\s_]+", raw) if word]  # hyphens stay where no side was found
        base = " ".join(word.lower() if word[1:].islower() else word for word in words)
        return cls(f"{side} {base}" if side else base, base, side)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels of one volume.

    Attributes:
        labels: (depth, height, width); 0 is the background.
        affine: From an index to patient millimetres (RAS+).
        names: What the values stand for.
        path: Where it was read.
    """

    labels: Int32[np.ndarray, "depth height width"]
    affine: Float[np.ndarray, "4 4"]
    names: Names
    path: str


def read_label_map(
    path: str | os.PathLike[str], names: Mapping[int, str], *, unnamed: Literal["refuse", "ignore"] = "refuse"
) -> LabelMap:
    """Read a label map.

    Args:
        path: A volume of whole numbers, or a folder with one mask a structure (its files named as in ``names``).
        names: What the values stand for.
        unnamed: What is done where a map holds values that have no name: ``ignore`` keeps them, nameless.

    Raises:
        ReadError: If it is no label map, is empty, or holds values without a name.
    """
    labels, affine = _masks(Path(path), names) if os.path.isdir(path) else _whole_numbers(path)
    values = np.flatnonzero(np.bincount(labels.ravel()))
    found = [int(value) for value in values if value]
    if not found:
        raise ReadError(path, "holds no labelled voxel", "Check that it is the label map and not empty")
    nameless = [value for value in found if value not in names]
    if len(nameless) == len(found) or (nameless and unnamed == "refuse"):
        shown = ", ".join(map(str, nameless[:8])) + (", ..." if len(nameless) > 8 else "")
        reason = f"holds {len(nameless)} values that have no name ({shown})"
        raise ReadError(path, reason, "Name them, or ask about the named ones only (unnamed 'ignore')")
    return LabelMap(labels, affine, dict(names), os.fspath(path))


def _whole_numbers(
    path: str | os.PathLike[str],
) -> tuple[Int32[np.ndarray, "depth height width"], Float[np.ndarray, "4 4"]]:
    from crossdim import readers
    from crossdim.samples import Volume

    noun = readers.read(path)
    if not isinstance(noun, Volume) or len(noun.voxels) != 1:
        raise ReadError(path, "is not a volume with one value a voxel", "Give the label map")
    values = noun.voxels[0]
    low, high = values.min(), values.max()
    whole = values.dtype.kind in "iu" or bool(np.isfinite(values).all() and (values == np.rint(values)).all())
    if not whole or low < 0 or high > 2**20:
        reason = f"is no label map: its values ({low:g} to {high:g}) are not whole numbers from 0 to {2**20}"
        raise ReadError(path, reason, "Give the label map, not the image")
    return np.ascontiguousarray(values, dtype=np.int32), noun.affine


def _masks(
    folder: Path, names: Mapping[int, str]
) -> tuple[Int32[np.ndarray, "depth height width"], Float[np.ndarray, "4 4"]]:
    value_of = {Structure.of(name).name: value for value, name in names.items()}
    labels: Int32[np.ndarray, "depth height width"] | None = None
    affine = np.eye(4)
    for name, file in mask_files(folder).items():
        if name not in value_of:
            continue
        mask, its_affine = _whole_numbers(file)
        if labels is None:
            labels, affine = np.zeros(mask.shape, np.int32), its_affine
        if mask.shape != labels.shape:
            raise ReadError(file, f"is {mask.shape}, and other masks are {labels.shape}", "Give masks of one volume")
        if farthest_corner_mm(affine, its_affine, mask.shape) > _SAME_PLACE * min(spacing_mm(affine)):
            raise ReadError(file, "does not lie where the other masks lie", "Give masks of one volume")
        labels[mask > 0] = value_of[name]
    if labels is None:
        raise ReadError(folder, "holds no mask with a known name", "Give a folder with one .nii.gz a structure")
    return labels, affine


def mask_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the masks of a folder, by the name of their structure.

    Args:
        folder: Such as TotalSegmentator writes: ``kidney_left.nii.gz``, ``liver.nii.gz``.
    """
    files = (path for path in Path(folder).glob("*.nii*") if not path.name.startswith("."))
    return {Structure.of(re.sub(r"\.nii(\.gz)?$", "", path.name)).name: path for path in sorted(files)}


def mask_names(folders: Iterable[str | os.PathLike[str]]) -> Names:
    """Return a value for every structure that any of these folders has a mask of.

    Args:
        folders: Folders with one mask a structure.
    """
    found = {name for folder in folders for name in mask_files(folder)}
    return dict(enumerate(in_order(found), 1))


def read_names(path: str | os.PathLike[str]) -> Names:
    """Read what label values stand for.

    Args:
        path: ``dataset.json`` of a Decathlon task, plain JSON, XML (AAL, FSL), CSV or TSV with a header, or a text
            table whose lines begin with the value (SynthSeg, FreeSurfer, ITK-SNAP, AAL).

    Raises:
        ReadError: If it is none of these, or names nothing.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError(path, f"cannot be read as text ({type(error).__name__})", _REMEDY) from error
    start = text.lstrip()[:1]
    if start == "{":
        raw = _from_json(path, text)
    elif start == "<":
        raw = _from_xml(path, text)
    else:
        raw = _from_columns(text) or _from_lines(text)
    names = {value: Structure.of(name).name for value, name in raw.items() if value != 0 and name.strip()}
    if not names:
        raise ReadError(path, "names no label value", _REMEDY)
    check_names(names, path)
    return names


def check_names(names: Mapping[int, str], place: str | os.PathLike[str]) -> None:
    """Check that names tell structures apart.

    Args:
        names: Label value to name.
        place: Where they come from, for the error.

    Raises:
        RecipeError: If a name is given to two values, or a value is no label.
    """
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        values = sorted(value for value, name in names.items() if name == twice[0])
        raise RecipeError(place, f"calls values {values} '{twice[0]}' alike", "Give every value a name of its own")
    wrong = [value for value in names if value <= 0]
    if wrong:
        raise RecipeError(place, f"names value {wrong[0]}, and labels are above 0", "0 is the background")


def _from_json(path: str | os.PathLike[str], text: str) -> Names:
    try:
        content = json.loads(text)
        table = content["labels"] if isinstance(content.get("labels"), dict) else content
        items = table.items()
        if all(isinstance(value, int) for value in table.values()):  # nnU-Net: {"liver": 1}
            items = ((value, name) for name, value in items)
        return {int(value): str(name) for value, name in items if isinstance(name, str)}
    except (ValueError, AttributeError) as error:
        raise ReadError(path, f"is no JSON of values and names ({error})", _REMEDY) from error


def _from_xml(path: str | os.PathLike[str], text: str) -> Names:
    from xml.etree import ElementTree

    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ReadError(path, "declares entities, which are not read", _REMEDY)
    try:
        root = ElementTree.fromstring(text)
        names = {}
        for label in root.iter("label"):
            index = label.findtext("index")
            if index is not None:
                names[int(index)] = label.findtext("name") or ""
            elif "index" in label.attrib:  # FSL counts from 0, and its maps of maximal probability from 1
                names[int(label.attrib["index"]) + 1] = label.text or ""
        return names
    except (ElementTree.ParseError, ValueError) as error:
        raise ReadError(path, f"is no XML of labels ({error})", _REMEDY) from error


def _from_columns(text: str) -> Names:
    """Return what a CSV or TSV file with a header says; nothing if it is none."""
    header = text.lstrip().splitlines()[0] if text.strip() else ""
    separator = next((sign for sign in ("\t", ",", ";") if sign in header), None)
    if separator is None:
        return {}
    rows = list(csv.reader(text.strip().splitlines(), delimiter=separator))
    columns = [column.strip().lower() for column in rows[0]]
    name = next((columns.index(word) for word in _NAME_COLUMNS if word in columns), None)
    index = next((columns.index(word) for word in _INDEX_COLUMNS if word in columns), None)
    if name is None and index is None and rows[0][0].strip().isdigit():
        index, name = 0, 1  # no header
    elif name is None or index is None:
        return {}
    cells = [row for row in rows if len(row) > max(index, name) and row[index].strip().isdigit()]
    return {int(row[index]): row[name].strip() for row in cells}


def _from_lines(text: str) -> Names:
    """Return what lines say that begin with a value; columns of numbers behind the names (colours) are left out."""
    lines = [match for line in text.splitlines() if (match := re.match(r"\s*(\d+)\s+(\S.*?)\s*$", line))]
    quoted = {int(match[1]): found[1] for match in lines if (found := re.search(r'"([^"]*)"', match[2]))}
    if quoted:
        return quoted
    tails = [re.search(r"((?:\s+-?\d+(?:\.\d+)?)*)$", match[2]) for match in lines if int(match[1])]
    columns = min((len(tail[1].split()) for tail in tails if tail), default=0)
    full = {int(match[1]): match[2] for match in lines}
    short = {value: re.sub(rf"(?:\s+-?\d+(?:\.\d+)?){{{columns}}}$", "", name) for value, name in full.items()}
    return short if len(set(short.values())) == len(short) else full


def same_grid(labels: LabelMap, shape: tuple[int, ...], affine: Float[np.ndarray, "4 4"], image: str) -> None:
    """Check that a label map belongs to an image.

    Args:
        labels: The map.
        shape: (depth, height, width) of the image.
        affine: The image's.
        image: Its path, for the error.

    Raises:
        ReadError: If they differ in size or place.
    """
    wrong: CrossdimError | None = None
    if labels.labels.shape != shape:
        sizes = [" x ".join(map(str, size)) for size in (labels.labels.shape, shape)]
        wrong = ReadError(labels.path, f"is {sizes[0]}, and its image '{image}' is {sizes[1]}", "Resample the labels")
    elif farthest_corner_mm(labels.affine, affine, shape) > 0.5 * min(spacing_mm(affine)):
        reason = f"does not lie where its image '{image}' lies, by its affine"
        wrong = ReadError(labels.path, reason, "Mend the affine of one of the two, or resample the labels")
    if wrong:
        raise wrong
