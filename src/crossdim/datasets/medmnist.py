"""MedMNIST v2 files (Yang et al., Scientific Data 2023): official parts and labels, 2D and 3D, any size.

An `.npz` holds `train_images`, `train_labels`, and the same for `val` and `test`; a part that is absent is left out.
The pictures stay in the file: records point into it (`retinamnist.npz#train/12`).
"""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossdim.datasets.manifest import SPLITS, Header, Labels, Manifest, Record, SplitName, Task
from crossdim.errors import ReadError, RecipeError

TASK = "label"

_ORGANS_2D = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)

_CLASSES: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    "chestmnist": (
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pleural",
        "hernia",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("no DR", "mild NPDR", "moderate NPDR", "severe NPDR", "PDR"),
    "breastmnist": ("malignant", "normal or benign"),
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "tissuemnist": (
        "collecting duct, connecting tubule",
        "distal convoluted tubule",
        "glomerular endothelial cells",
        "interstitial endothelial cells",
        "leukocytes",
        "podocytes",
        "proximal tubule segments",
        "thick ascending limb",
    ),
    "organamnist": _ORGANS_2D,
    "organcmnist": _ORGANS_2D,
    "organsmnist": _ORGANS_2D,
    "organmnist3d": (
        "liver",
        "kidney-right",
        "kidney-left",
        "femur-right",
        "femur-left",
        "bladder",
        "heart",
        "lung-right",
        "lung-left",
        "spleen",
        "pancreas",
    ),
    "nodulemnist3d": ("benign", "malignant"),
    "adrenalmnist3d": ("normal", "hyperplasia"),
    "fracturemnist3d": ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    "vesselmnist3d": ("vessel", "aneurysm"),
    "synapsemnist3d": ("inhibitory synapse", "excitatory synapse"),
}
"""Label names of the 18 official sets, in the order of their indices (medmnist 2.1, `INFO`; RetinaMNIST's grades are
given their clinical names)."""


def from_medmnist(path: str | os.PathLike[str]) -> Manifest:
    """Return the manifest of a MedMNIST file, with the official parts.

    The set is known by the beginning of the file's name (``retinamnist``, ``retinamnist_224``, ...), which gives the
    names of its classes. Any other `.npz` of the same layout works too; its classes are then numbers. MedMNIST gives
    no patients, so every sample counts as one; its makers split several sets by patient themselves.

    Args:
        path: The `.npz` file.

    Raises:
        ReadError: If it is no such file, holds no part, or images and labels do not match.
        RecipeError: If a label is outside the set's classes.
    """
    file = Path(os.path.abspath(path))
    known = next((name for name in sorted(_CLASSES, key=len, reverse=True) if file.stem.startswith(name)), None)
    shapes = _shapes(file)
    parts = [name for name in SPLITS if f"{name}_images" in shapes]
    if not parts:
        raise ReadError(file, f"holds {', '.join(sorted(shapes))}, and no train_images, val_images "
                        "or test_images", "Give a MedMNIST file")  # fmt: skip
    labels = {part: _labels(file, part, shapes) for part in parts}
    task = _task(known, labels)
    records = [
        Record(
            id=f"{part}/{row}",
            patient_id=f"{part}/{row}",
            split=part,
            kind=_kind(file, shapes[f"{part}_images"]),
            paths=(f"{file.name}#{part}/{row}",),
            labels=_label(task, labels[part][row]),
        )
        for part in parts
        for row in range(len(labels[part]))
    ]
    name = file.stem if known is None else known
    header = Header(name=name, root=str(file.parent), tasks={TASK: task}, source="MedMNIST v2")
    return Manifest(header, tuple(records))


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array, from the headers alone."""
    from crossdim.readers.array import npz_headers
    from crossdim.readers.limits import Limits, file_bytes

    file_bytes(str(file), Limits())
    return {name: header.shape for name, header in npz_headers(str(file)).items()}


def _labels(file: Path, part: SplitName, shapes: dict[str, tuple[int, ...]]) -> NDArray[np.integer]:
    """Return the part's labels ``(samples, labels per sample)``."""
    key = f"{part}_labels"
    if key not in shapes:
        raise ReadError(file, f"has {part}_images and no {key}", "Give a complete MedMNIST file")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            labels = arrays[key]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ReadError(f"{file}#{key}", f"cannot be read ({error})", "Download it again") from error
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2):
        reason = f"is {labels.dtype} of shape {labels.shape}, not whole numbers (samples, labels)"
        raise ReadError(f"{file}#{key}", reason, "Give a MedMNIST file")
    if len(labels) != shapes[f"{part}_images"][0]:
        reason = f"{shapes[f'{part}_images'][0]} images and {len(labels)} labels"
        raise ReadError(f"{file}#{part}", reason, "Download it again")
    return labels.reshape(len(labels), -1)


def _task(known: str | None, labels: dict[SplitName, NDArray[np.integer]]) -> Task:
    width = max(part.shape[1] for part in labels.values())
    if known is None:
        count = width if width > 1 else 1 + max(int(part.max(initial=0)) for part in labels.values())
        classes: tuple[str, ...] = tuple(str(index) for index in range(count))
    else:
        classes = _CLASSES[known]
    if width > 1:
        if width != len(classes):
            raise RecipeError(f"{known} labels", f"{width} a sample for {len(classes)} classes", "Rename the file")
        return Task(kind="multilabel", classes=classes)
    return Task(kind="ordinal" if known == "retinamnist" else "multiclass", classes=classes)


def _label(task: Task, row: NDArray[np.integer]) -> Labels:
    if task.kind == "multilabel":
        return {TASK: tuple(int(index) for index in np.flatnonzero(row))}
    return {TASK: int(row[0])}


def _kind(file: Path, shape: tuple[int, ...]) -> Literal["image", "volume"]:
    """Tell 2D ``(n, h, w)``, ``(n, h, w, 1|3)`` from 3D ``(n, d, h, w)``, ``(n, d, h, w, 1|3)``."""
    coloured = len(shape) > 3 and shape[-1] in (1, 3)
    dimensions = len(shape) - 1 - coloured
    if dimensions not in (2, 3):
        raise ReadError(file, f"its images have shape {shape}, which is neither 2D nor 3D", "Give a MedMNIST file")
    return "image" if dimensions == 2 else "volume"
