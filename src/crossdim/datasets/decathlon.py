"""Tasks of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022): volumes with masks.

The Decathlon labels voxels, not volumes. Records carry the path of the mask in ``extra["segmentation"]`` and no
class, which is what pre-training needs. The one thing about a whole volume that follows exactly from its mask is which
structures it holds; ``structures=True`` makes that a multi-label task (is there a tumour in this liver?).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crossdim.datasets.manifest import Header, Labels, Manifest, Progress, Record, Skipped, SplitName, Task
from crossdim.datasets.scan import values_of
from crossdim.datasets.splits import carve_validation
from crossdim.errors import ReadError, RecipeError

TASK = "structures"


@dataclass(frozen=True)
class _Description:
    """What ``dataset.json`` says, or what the plain layout shows."""

    name: str
    channels: tuple[str, ...]
    structures: Mapping[int, str]
    cases: tuple[tuple[str, str | None], ...]
    """Image and mask (None in the test part), relative to the task's folder."""


def from_decathlon(
    folder: str | os.PathLike[str],
    *,
    structures: bool = False,
    validation: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Return the manifest of one Decathlon task.

    Takes the official layout (``dataset.json``, ``imagesTr``, ``labelsTr``, ``imagesTs``) and a plain one (``images``
    and ``labels`` with the same file names). A 4D file becomes one volume with a channel per modality. The official
    test part, which has no masks, is the test part. The Decathlon tells no patients, so every case counts as one
    (two hippocampi can be one person's).

    Args:
        folder: The task's folder, such as ``Task04_Hippocampus``.
        structures: Whether to read every mask and make the task ``structures`` of it.
        validation: Share of the training part that becomes validation; 0 for none.
        seed: Seed of that choice.
        progress: Called after each case.

    Raises:
        ReadError: If the folder is neither layout, or ``dataset.json`` is damaged.
        RecipeError: If structures are asked for and the masks hold none.
    """
    root = Path(os.path.abspath(folder))
    about = _official(root) if (root / "dataset.json").is_file() else _plain(root)
    records, skipped, found = [], [], {}
    for done, (image, mask) in enumerate(about.cases, 1):
        case = Path(image).name.removesuffix(".gz").removesuffix(".nii")
        try:
            paths = _channel_paths(root, image, len(about.channels))
            if mask is not None and not (root / mask).is_file():
                raise ReadError(root / mask, "is missing", "Restore the mask")
            if structures and mask is not None:
                found[case] = _values(root / mask)
        except ReadError as error:
            skipped.append(
                Skipped(str(root / image), error.reason if error.subject == str(root / image) else str(error))
            )
        else:
            extra: dict[str, str | float | int] = {} if mask is None else {"segmentation": mask}
            if len(about.channels) > 1:
                extra["channels"] = ",".join(about.channels)
            split: SplitName = "test" if mask is None else "train"
            records.append(Record(id=case, patient_id=case, split=split, kind="volume", paths=paths, extra=extra))
        if progress:
            progress(done, len(about.cases))
    tasks: dict[str, Task] = {}
    if structures:
        tasks[TASK], labels = _structures(root, about.structures, found)
        records = [record.model_copy(update={"labels": labels.get(record.id, {})}) for record in records]
    header = Header(
        name=about.name, root=str(root), tasks=tasks, source="Medical Segmentation Decathlon (CC BY-SA 4.0)"
    )
    manifest = Manifest(header, tuple(records), tuple(skipped))
    stratify = TASK if structures else None
    return carve_validation(manifest, validation, seed, stratify) if validation else manifest


def _official(root: Path) -> _Description:
    file = root / "dataset.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        training = [(_clean(case["image"]), _clean(case["label"])) for case in about["training"]]
        test = [(_clean(case["image"] if isinstance(case, dict) else case), None) for case in about.get("test", [])]
        return _Description(
            name=str(about["name"]),
            channels=tuple(name for _, name in sorted(about["modality"].items(), key=lambda item: int(item[0]))),
            structures={int(value): name for value, name in about["labels"].items() if int(value)},
            cases=(*training, *test),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"is not a Decathlon description ({type(error).__name__}: {error})"
        raise ReadError(file, reason, "Use the file as it was published") from error


def _plain(root: Path) -> _Description:
    images = sorted(path for path in (root / "images").glob("*.nii*") if not path.name.startswith("."))
    if not images:
        reason = "holds neither dataset.json nor images/*.nii.gz"
        raise ReadError(root, reason, "Give the folder of one task, such as Task04_Hippocampus")
    cases = tuple((f"images/{path.name}", f"labels/{path.name}") for path in images)
    return _Description(name=root.name, channels=("0",), structures={}, cases=cases)


def _clean(path: str) -> str:
    return Path(path).as_posix()


def _channel_paths(root: Path, image: str, channels: int) -> tuple[str, ...]:
    """Return the image's path, or one per volume of a 4D file, from its header alone."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import SpatialImage

    file = root / image
    try:
        header = nibabel.load(file)
    except FileNotFoundError as error:
        raise ReadError(file, "is missing", "Restore it") from error
    except (ImageFileError, OSError, EOFError) as error:
        raise ReadError(file, f"cannot be read ({error})", "Download it again") from error
    shape = header.shape if isinstance(header, SpatialImage) else ()
    volumes = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or volumes != channels:
        reason = f"has shape {shape}, and dataset.json names {channels} modalities"
        raise ReadError(file, reason, "Check that the file belongs to this task")
    return (image,) if len(shape) == 3 else tuple(f"{image}#{index}" for index in range(volumes))


def _values(mask: Path) -> frozenset[int]:
    """Return the label values of a mask."""
    import numpy as np

    from crossdim import readers

    return frozenset(int(value) for value in np.unique(values_of(readers.read_channels([mask])))) - {0}


def _structures(
    root: Path, names: Mapping[int, str], found: Mapping[str, frozenset[int]]
) -> tuple[Task, dict[str, Labels]]:
    """Return the task, and each case's label."""
    values = sorted({*names, *(value for values in found.values() for value in values)})
    if not values:
        raise RecipeError(root, "its masks hold no structure to make a task of", "Leave out structures")
    task = Task(kind="multilabel", classes=tuple(names.get(value, f"structure {value}") for value in values))
    return task, {case: {TASK: tuple(values.index(value) for value in sorted(held))} for case, held in found.items()}
