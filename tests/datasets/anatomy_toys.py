"""A hand-made body of boxes whose every volume, place and neighbour is known by heart."""

import itertools
from pathlib import Path

import nibabel
import numpy as np

from crossdim.datasets.anatomy_asking import Asker, Sight
from crossdim.datasets.anatomy_map import Anatomy, take_apart
from crossdim.datasets.anatomy_seen import Frame, Rules, look, neighbours
from crossdim.datasets.labelmaps import LabelMap
from crossdim.geometry.affine import reorient, to_voxel

NAMES = {1: "left kidney", 2: "right kidney", 3: "liver", 4: "bladder", 5: "heart"}
SIZE = (24, 20, 16)
SPACING_MM = (1.0, 1.5, 2.0)
ORIGIN_MM = (-11.0, -14.0, -9.0)
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]  # fmt: skip

BOXES = {  # x, y, z: first voxel and the one behind the last
    1: ((3, 7), (4, 8), (2, 6)),
    2: ((17, 22), (4, 8), (2, 6)),
    3: ((13, 22), (2, 16), (7, 12)),
    4: ((10, 14), (8, 12), (0, 2)),
    5: ((8, 13), (9, 13), (13, 16)),
}
WHOLE = ((0, 24), (0, 20), (0, 16))


def ras_labels(boxes=BOXES):
    labels = np.zeros(SIZE, np.int32)
    for value, box in boxes.items():
        labels[tuple(slice(*span) for span in box)] = value
    return labels


def ras_affine():
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = ORIGIN_MM
    return affine


def label_map(code="RAS", labels=None, names=NAMES):
    turned, affine = reorient((ras_labels() if labels is None else labels)[None], ras_affine(), code)
    return LabelMap(np.ascontiguousarray(turned[0]), affine, dict(names), "toy.nii.gz")


def anatomy(code="RAS", handedness="refuse", labels=None) -> Anatomy:
    return take_apart(label_map(code, labels), whole=True, handedness=handedness)


def frame_of(body: Anatomy, box=WHOLE, wanted_mm=None) -> Frame:
    """Return the frame of a box in voxels of the RAS order, whatever the order of the map's axes."""
    edges = np.array(box, float).T - 0.5
    corners = to_voxel(edges * SPACING_MM + ORIGIN_MM, body.map.affine)
    low, high = np.rint(corners.min(axis=0) + 0.5).astype(int), np.rint(corners.max(axis=0) + 0.5).astype(int)
    return Frame.of((tuple(low.tolist()), tuple(high.tolist())), body.map.affine, wanted_mm)


def sight_of(body: Anatomy, box=WHOLE, rules=None, wanted_mm=None) -> Sight:
    frame, rules = frame_of(body, box, wanted_mm), rules or Rules()
    seen = look(body, frame, rules)
    return Sight("toy", "toy", "train", "toy.nii.gz", seen, neighbours(body, frame, seen, rules))


def asked(sight: Sight, *types, plane="axial") -> dict[str, str]:
    """Return every question about a sight, and its answer."""
    asker = Asker.of(NAMES, [sight], ["train"], plane, 0)
    closed = {candidate.question: candidate.answer for candidate in asker.closed(types)}
    return closed | {turn.question: turn.answer for _, turn in asker.open(types, 99)}


def save(path: Path, body: LabelMap) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored, affine = body.labels.transpose(2, 1, 0).astype(np.uint8), body.affine[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.nifti1.Nifti1Image(stored, affine), path)
    return str(path)
