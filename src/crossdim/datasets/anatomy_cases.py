"""Labelled volumes on a disk, found and paired with their images: what questions about anatomy are made from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossdim.datasets.labelmaps import Names, mask_files, mask_names, read_names
from crossdim.datasets.manifest import SplitName
from crossdim.datasets.scan import in_order, patient_rule
from crossdim.errors import ReadError, RecipeError

_MASKS = "segmentations"
"""Folder of one case's masks, beside its image, in TotalSegmentator's data set."""


@dataclass(frozen=True)
class Case:
    """One labelled volume.

    Attributes:
        id: Unique; the volumes' names begin with it.
        patient_id: Cases of one patient never lie in different parts.
        labels: The label map: a file, or a folder with one mask a structure.
        image: The image of the same voxels, or None if there is none.
        split: The part it belongs to; given for all cases or for none.
    """

    id: str
    patient_id: str
    labels: str
    image: str | None = None
    split: SplitName | None = None


def find_cases(
    images: str | None, labels: str | None, names: str | None = None, patient: str = "file"
) -> tuple[list[Case], Names]:
    """Return the labelled volumes of a data set, and what their labels are called.

    Args:
        images: A folder of images; or a whole data set, and then ``labels`` may be None: a Decathlon task, a folder
            with ``images`` and ``labels``, or one of TotalSegmentator's layout (``case/ct.nii.gz``,
            ``case/segmentations/liver.nii.gz``). None if there are no images.
        labels: A folder of label maps, each named as its image is; or of folders with one mask a structure.
        names: Table of names; not needed where ``dataset.json`` or the masks' files tell them.
        patient: Whose a label map is: ``file``, ``folder`` or an expression, as ``prepare folder`` takes it.

    Raises:
        ReadError: If there is no label map, or a map lacks its image.
        RecipeError: If names are missing.
    """
    root = Path(labels or images or "")
    if labels is None and images is None:
        raise RecipeError("anatomy questions", "have no label maps", "Give a data set, or a folder of label maps")
    if not root.is_dir():
        raise ReadError(root, "is not a folder", "Give the folder of the label maps")
    described = root / "dataset.json"
    pairs = _pairs(Path(images) if images else None, Path(labels) if labels else None)
    if not pairs:
        raise ReadError(root, "holds no label map (.nii, .nii.gz, or a folder of masks)", "Check the folder")
    rule = patient_rule(patient)
    cases = []
    for name in in_order(pairs):
        image, label = pairs[name]
        owner = rule(str(root.absolute()), str(root.absolute()), str(label.absolute()))
        if owner is None:
            raise RecipeError(f"patient '{patient}'", f"finds no patient in '{label}'", "Mend the expression")
        whose = name if patient == "file" else owner
        cases.append(Case(name, whose, str(label), None if image is None else str(image)))
    folders = [case.labels for case in cases if Path(case.labels).is_dir()]
    if names is not None:
        return cases, read_names(names)
    if described.is_file():
        return cases, read_names(described)
    if folders:
        return cases, mask_names(folders)
    raise RecipeError(root, "does not tell what its label values are called", "Give a table of names (--names)")


def _pairs(images: Path | None, labels: Path | None) -> dict[str, tuple[Path | None, Path]]:
    """Return image and label map of each case, by its name."""
    if labels is None:
        if images is None:
            return {}
        totalsegmentator = sorted(path.parent for path in images.glob(f"*/{_MASKS}") if path.is_dir())
        if totalsegmentator:
            return {folder.name: (_image_beside(folder), folder / _MASKS) for folder in totalsegmentator}
        inside = next(
            (pair for pair in (("imagesTr", "labelsTr"), ("images", "labels")) if (images / pair[1]).is_dir()), None
        )
        if inside is None:
            reason = "holds neither labels, labelsTr nor case/segmentations"
            raise ReadError(images, reason, "Give the folder of the label maps too (--labels)")
        images, labels = images / inside[0], images / inside[1]
    maps = _volumes(labels) | {
        path.name: path for path in sorted(labels.iterdir()) if path.is_dir() and mask_files(path)
    }
    if images is None:
        return {name: (None, path) for name, path in maps.items()}
    found = _volumes(images)
    missing = [name for name in maps if _image_of(name, found) is None]
    if missing:
        reason = f"holds no image for {len(missing)} of {len(maps)} label maps, such as '{maps[missing[0]].name}'"
        raise ReadError(images, reason, "Name each image as its label map")
    return {name: (_image_of(name, found), path) for name, path in maps.items()}


def _image_beside(folder: Path) -> Path | None:
    found: Sequence[Path] = sorted(_volumes(folder).values())
    if len(found) > 1:
        raise ReadError(folder, f"holds {len(found)} volumes beside {_MASKS}", "Leave one, the image")
    return found[0] if found else None


def _image_of(name: str, images: dict[str, Path]) -> Path | None:
    """Return the image of a label map: of the same name, or nnU-Net's first channel."""
    return images.get(name) or images.get(f"{name}_0000")


def _volumes(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ReadError(folder, "is not a folder", "Check the path")
    files = (path for path in folder.glob("*.nii*") if path.is_file() and not path.name.startswith("."))
    return {re.sub(r"\.nii(\.gz)?$", "", path.name): path for path in sorted(files)}
