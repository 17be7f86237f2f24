"""Questions about anatomy with exact answers, from volumes whose structures are labelled.

Each case gives one or several volumes: the original, random fields of view of it, and, where there is no image or more
are asked for, volumes of random contrast made from the labels. What can be seen varies, so that questions cannot be
answered from their words: see :mod:`crossdim.datasets.anatomy_balance`. How truth is measured:
:mod:`crossdim.datasets.anatomy_views`.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from crossdim.datasets.anatomy_asking import TYPES, Asker, Sight
from crossdim.datasets.anatomy_balance import Candidate, balance
from crossdim.datasets.anatomy_cases import Case
from crossdim.datasets.anatomy_map import Anatomy, Handedness, take_apart
from crossdim.datasets.anatomy_seen import Frame, Rules, Seen, look, neighbours
from crossdim.datasets.anatomy_views import Views, draw_boxes
from crossdim.datasets.dialogue import Dialogue, Turn
from crossdim.datasets.labelmaps import Names, Structure, check_names, read_label_map, same_grid
from crossdim.datasets.manifest import Header, Manifest, Progress, Record
from crossdim.datasets.scan import relative
from crossdim.datasets.splits import Fractions, split_by_patient
from crossdim.datasets.synthetic_contrast import ContrastOptions, synthesise
from crossdim.errors import ReadError, RecipeError, nearest
from crossdim.geometry.affine import spacing_mm

_FINEST_MM = 2.0
"""Volumes of random contrast are made with voxels of this size at the finest, unless written with finer ones."""


@dataclass(frozen=True)
class AnatomyOptions:
    """What is asked, about which volumes.

    Attributes:
        names: What the label values stand for.
        types: Types of question.
        rules: When something counts as seen, and in which plane slices are counted.
        views: Random fields of view of each case (of each of its contrasts, where it has some).
        synthetic: Volumes of random contrast of each case; 0 asks about the images.
        contrast: How random they are.
        spacing_mm: Of the volumes that are written, along the file's (depth, height, width); None keeps it.
        seed: Seed of everything.
        fractions: Shares of train, val and test where cases tell no part.
        unnamed: Whether values without a name are refused or ignored.
        handedness: Whether maps that are mirrored by their names are refused, or named by geometry.
        texts_per_type: Different questions of a type, at most.
        open_per_volume: Open questions of a type about one volume, at most.
        name: What the data set is called.
    """

    names: Names
    types: tuple[str, ...] = TYPES
    rules: Rules = field(default_factory=Rules)
    views: Views = field(default_factory=Views)
    synthetic: int = 0
    contrast: ContrastOptions = field(default_factory=ContrastOptions)
    spacing_mm: tuple[float, float, float] | None = None
    seed: int = 0
    fractions: Fractions = (0.7, 0.1, 0.2)
    unnamed: Literal["refuse", "ignore"] = "refuse"
    handedness: Handedness = "refuse"
    texts_per_type: int = 48
    open_per_volume: int = 4
    name: str = "anatomy questions"

    def __post_init__(self) -> None:
        check_names(self.names, "names")
        if not self.names or not self.types:
            raise RecipeError("anatomy questions", "have no structure or no type to ask about", "Give names and types")
        for kind in self.types:
            if kind not in TYPES:
                raise RecipeError(f"question type '{kind}'", "is unknown", nearest(kind, TYPES))
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise RecipeError(f"spacing {self.spacing_mm}", "is not above 0", "Give millimetres such as 3 3 3")
        if self.synthetic < 0:
            raise RecipeError(f"synthetic {self.synthetic}", "is below 0", "Give 0 to ask about the images")


def build_anatomy_questions(
    cases: Sequence[Case],
    out: str | os.PathLike[str],
    options: AnatomyOptions,
    progress: Progress | None = None,
) -> Manifest:
    """Write the volumes that are asked about, and return the manifest of questions about them, split by patient.

    Args:
        cases: Labelled volumes.
        out: Folder of the volumes and of ``manifest.jsonl``, which is written too.
        options: What is asked.
        progress: Called after each case.

    Returns:
        The manifest; its ``notes`` say which questions were left out and why.

    Raises:
        ReadError: If a map is no label map, is empty, holds values without a name, or does not fit its image.
        GeometryError: If a map is mirrored by its names.
        RecipeError: If there is nothing to ask about.
    """
    root = Path(os.path.abspath(out))
    _check(cases, root)
    (root / "volumes").mkdir(parents=True, exist_ok=True)
    sights: list[Sight] = []
    notes: list[str] = []
    for done, case in enumerate(cases, 1):
        anatomy = _read(case, options)
        if anatomy.mirrored:
            what = "named by geometry" if not anatomy.doubtful else "not asked about"
            shown = ", ".join(anatomy.mirrored[:3]) + (", ..." if len(anatomy.mirrored) > 3 else "")
            notes.append(f"{case.id}: {shown} on the other side than named, and {what}")
        sights += _volumes(case, anatomy, root, options)
        if progress:
            progress(done, len(cases))
    header = Header(name=options.name, root=str(root), source=f"crossdim anatomy questions, seed {options.seed}")
    records = [Record(id=s.id, patient_id=s.patient_id, kind="volume", paths=(s.path,), split=s.split) for s in sights]
    manifest = Manifest(header, tuple(records), notes=tuple(notes))
    if cases[0].split is None:
        manifest = split_by_patient(manifest, options.fractions, options.seed)
    manifest = _with_questions(manifest, sights, options)
    manifest.save(root / "manifest.jsonl")
    return manifest


def _check(cases: Sequence[Case], root: Path) -> None:
    if not cases:
        raise RecipeError(root, "gets no cases", "Give at least one label map")
    twice = [name for name, times in Counter(case.id for case in cases).items() if times > 1]
    if twice:
        raise RecipeError(f"case '{twice[0]}'", "is there twice", "Give every case an id of its own")
    if len({case.split is None for case in cases}) > 1:
        raise RecipeError("cases", "some tell their part (train, val, test) and some do not", "Give all or none")


def _read(case: Case, options: AnatomyOptions) -> Anatomy:
    if case.image is None and not options.synthetic:
        raise RecipeError(case.labels, "has no image", "Give images, or ask for synthetic contrasts (synthetic 1)")
    label_map = read_label_map(case.labels, options.names, unnamed=options.unnamed)
    whole = case.image is not None and not options.synthetic
    return take_apart(label_map, whole=whole, handedness=options.handedness)


def _image(case: Case, anatomy: Anatomy) -> tuple[str, Num[np.ndarray, "depth height width"]]:
    """Return a case's image and its path; of a file with several volumes (modalities) the first."""
    from crossdim import readers
    from crossdim.samples import Volume

    path = os.path.abspath(case.image or "")
    found = readers.inspect(path, intensity=False)
    if found.needs_choice:
        path = f"{path}#{found.choices[0]}"
    noun = readers.read(path)
    if not isinstance(noun, Volume) or len(noun.voxels) != 1:
        raise ReadError(path, "is not a volume with one value a voxel", "Give grey 3D images")
    same_grid(anatomy.map, noun.voxels.shape[1:], noun.affine, path)
    return path, noun.voxels[0]


def _volumes(case: Case, anatomy: Anatomy, root: Path, options: AnatomyOptions) -> Iterator[Sight]:
    """Write a case's volumes and yield what is seen in each."""
    source, image = (None, None) if options.synthetic else _image(case, anatomy)
    seed = [options.seed, *case.id.encode()]
    boxes = [anatomy.domain] * max(1, options.synthetic)
    if options.views.count:
        wanted = replace(options.views, count=options.views.count * len(boxes))
        boxes = draw_boxes(anatomy, np.random.default_rng(seed), options.rules, wanted, options.spacing_mm)
    for number, box in enumerate(boxes):
        name = case.id if len(boxes) == 1 else f"{case.id}-{number:02d}"
        frame = Frame.of(box, anatomy.map.affine, options.spacing_mm)
        if source is not None and not options.views.count and options.spacing_mm is None:
            path = relative(str(root), source)
        else:
            path = f"volumes/{name}.nii.gz"
            generator = np.random.default_rng([*seed, number])
            values = _contrast(anatomy, frame, generator, options) if image is None else frame.cut(image)
            _save(root / path, frame.resample(values), frame.affine)
        yield _sight(case, name, path, anatomy, frame, options)


def _contrast(
    anatomy: Anatomy, frame: Frame, generator: np.random.Generator, options: AnatomyOptions
) -> Num[np.ndarray, "d h w"]:
    """Return a field of view in random contrast; both sides of the body look alike."""
    labels = frame.cut(anatomy.map.labels)
    step = np.minimum(spacing_mm(frame.affine), _FINEST_MM) / np.array(spacing_mm(anatomy.map.affine))
    size = np.minimum(labels.shape, np.ceil(np.array(labels.shape) / step)).astype(int)
    alike = np.arange(int(anatomy.map.labels.max()) + 1)
    first: dict[str, int] = {}
    for value, name in sorted(options.names.items()):
        if value < len(alike):
            alike[value] = first.setdefault(Structure.of(name).base, value)
    coarse = alike[frame.nearest(labels, size.tolist())]
    affine = Frame.of(frame.box, anatomy.map.affine, None).affine.copy()
    affine[:3, :3] *= np.array(labels.shape) / np.array(coarse.shape)
    return synthesise(coarse, affine, generator, options.contrast).voxels[0]


def _sight(case: Case, name: str, path: str, anatomy: Anatomy, frame: Frame, options: AnatomyOptions) -> Sight:
    seen: dict[str, Seen] = look(anatomy, frame, options.rules)
    wanted = "neighbour" in options.types
    return Sight(
        id=name,
        patient_id=case.patient_id,
        split=case.split,
        path=path,
        seen=seen,
        neighbours=neighbours(anatomy, frame, seen, options.rules) if wanted else {},
    )


def _with_questions(manifest: Manifest, sights: Sequence[Sight], options: AnatomyOptions) -> Manifest:
    """Return the manifest with the questions that are left after balancing."""
    splits = [record.split or "train" for record in manifest.records]
    asker = Asker.of(options.names, sights, splits, options.rules.plane, options.seed)
    kept, dropped = balance(asker.closed(options.types), options.seed, options.texts_per_type)
    asked: list[dict[str, list[Turn]]] = [{} for _ in sights]
    for closed in kept:
        asked[closed.record].setdefault(closed.type, []).append(_turn(closed, sights[closed.record]))
    for number, turn in asker.open(options.types, options.open_per_volume):
        asked[number].setdefault(turn.type, []).append(turn)
    if not any(asked):
        raise RecipeError(manifest.header.name, "leaves no question with more than one answer",
                          "Ask for more fields of view, more cases or other types")  # fmt: skip
    records = []
    silent = sum(not turns for turns in asked)
    for record, turns in zip(manifest.records, asked, strict=True):
        if turns:
            records.append(record.model_copy(update={"dialogues": tuple(_dialogues(turns))}))
        if not turns and record.paths[0].startswith("volumes/"):
            Path(manifest.absolute(record.paths[0])).unlink()
    told = (f"{silent} volumes left out: nothing can be asked about them for certain",) if silent else ()
    notes = (*manifest.notes, *dropped, *told)
    return replace(manifest, records=tuple(records), notes=notes)


def _turn(closed: Candidate, sight: Sight) -> Turn:
    return Turn(
        question=closed.question,
        answer=closed.answer,
        choices=closed.choices,
        form="closed",
        type=closed.type,
        extent_mm=sight.extent_mm(closed.about),
        depends_on=closed.depends_on,
    )


def _dialogues(turns: Mapping[str, Sequence[Turn]]) -> Iterator[Dialogue]:
    for kind in sorted(turns):
        for number, turn in enumerate(turns[kind]):
            yield Dialogue(id=f"{kind.replace(' ', '-')}-{number}", turns=(turn,))


def _save(path: Path, voxels: Num[np.ndarray, "depth height width"], affine: Float[np.ndarray, "4 4"]) -> None:
    """Write a NIfTI file whose index (i, j, k) is our (width, height, depth)."""
    import nibabel

    stored = voxels if voxels.dtype in (np.uint8, np.int16, np.float32) else voxels.astype(np.float32)
    image = nibabel.nifti1.Nifti1Image(stored.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    image.header.set_xyzt_units("mm")
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        nibabel.save(image, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
