"""Label maps taken apart: the named structures, where they lie, and on which side of the body."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from crossdim.datasets.labelmaps import LabelMap, Side, Structure
from crossdim.errors import GeometryError
from crossdim.geometry.affine import to_patient_mm

Plane = Literal["axial", "coronal", "sagittal"]
Handedness = Literal["refuse", "geometry"]
Box = tuple[tuple[int, int, int], tuple[int, int, int]]
"""First index and the one behind the last along (depth, height, width)."""

Axes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Array axis and direction along x, y and z of the patient."""

PATIENT_AXIS: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The patient axis (x, y, z) that slices of a plane follow one another along."""


@dataclass(frozen=True, eq=False)
class Organ:
    """One structure of a whole label map.

    Attributes:
        value: Its label.
        structure: Its name; the side is the one it lies on.
        low: First index of its box along (depth, height, width).
        mask: Its voxels in the box.
        voxels: How many they are.
        x_mm: Its centre from left to right, RAS+.
    """

    value: int
    structure: Structure
    low: tuple[int, int, int]
    mask: Bool[np.ndarray, "d h w"]
    voxels: int
    x_mm: float


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A label map taken apart, once for all fields of view.

    Attributes:
        map: The label map.
        organs: The named structures in it, by name.
        domain: Box that fields of view are drawn from.
        axes: The array axes along the patient's.
        mirrored: Structures that lie on the other side than their name in the table says.
        doubtful: Those of them that nothing is asked about, because most others lie where they should.
    """

    map: LabelMap
    organs: Mapping[str, Organ]
    domain: Box
    axes: Axes
    mirrored: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()


def patient_axes(affine: Float[np.ndarray, "4 4"]) -> Axes:
    """Return, for each patient axis, the array axis nearest to it, and +1 or -1 for whether it runs the same way.

    Args:
        affine: From an index to patient millimetres, invertible.
    """
    from nibabel.orientations import io_orientation

    found = {int(along): (axis, int(sign)) for axis, (along, sign) in enumerate(io_orientation(affine))}
    return found[0], found[1], found[2]


def take_apart(label_map: LabelMap, *, whole: bool, handedness: Handedness = "refuse") -> Anatomy:
    """Find the structures of a label map, and on which side they lie.

    The midline is the mean of the middles between the two of each pair; without a pair, the middle of all that is
    labelled. Which side a structure lies on is told by its centre and the affine, never by its name.

    Args:
        label_map: The map.
        whole: Whether fields of view are drawn from the whole volume, not from the box around what is labelled.
        handedness: What is done if most structures lie on the other side than their names say: ``geometry`` gives
            them the names of the side that they lie on.

    Raises:
        GeometryError: If so, and it is to be refused.
    """
    from scipy.ndimage import find_objects

    labels, affine = label_map.labels, label_map.affine
    organs: list[Organ] = []
    boxes = find_objects(labels)
    for value, box in enumerate(boxes, 1):
        if box is None or value not in label_map.names:
            continue
        mask = labels[box] == value
        low = (box[0].start, box[1].start, box[2].start)
        centre = np.array([axis.mean() for axis in np.nonzero(mask)]) + low
        x_mm = float(to_patient_mm(centre, affine)[0])
        structure = Structure.of(label_map.names[value])
        organs.append(Organ(value, structure, low, mask, int(np.count_nonzero(mask)), x_mm))
    found = [box for box in boxes if box is not None]
    low = tuple(min(box[axis].start for box in found) for axis in range(3))
    high = tuple(max(box[axis].stop for box in found) for axis in range(3))
    sides = _sides(organs, _midline_mm(organs, affine, (low, high)))
    sided = [organ for organ in organs if organ.structure.side]
    mirrored = tuple(o.structure.name for o in sided if sides[o.value] not in (o.structure.side, None))
    doubtful: tuple[str, ...] = ()
    if len(mirrored) > len(sided) / 2:
        if handedness == "refuse":
            shown = ", ".join(mirrored[:3])
            reason = f"{len(mirrored)} of {len(sided)} structures lie on the other side than named ({shown})"
            remedy = "Mend the affine, or take the side from geometry (handedness 'geometry')"
            raise GeometryError(label_map.path, reason, remedy)
        organs = [_renamed(organ, sides.get(organ.value)) for organ in organs]
    else:
        doubtful = mirrored
    by_name = {organ.structure.name: organ for organ in organs}
    domain: Box = ((0, 0, 0), labels.shape) if whole else (low, high)
    return Anatomy(label_map, by_name, domain, patient_axes(affine), mirrored, doubtful)


def _midline_mm(organs: Sequence[Organ], affine: Float[np.ndarray, "4 4"], box: Box) -> float:
    by_name = {organ.structure.name: organ.x_mm for organ in organs}
    bases = {organ.structure.base for organ in organs if organ.structure.side}
    pairs = [(by_name.get(f"left {base}"), by_name.get(f"right {base}")) for base in sorted(bases)]
    middles = [(left + right) / 2 for left, right in pairs if left is not None and right is not None]
    if middles:
        return float(np.mean(middles))
    return float(to_patient_mm((np.array(box[0]) + np.array(box[1]) - 1) / 2, affine)[0])


def _sides(organs: Sequence[Organ], midline_mm: float) -> dict[int, Side | None]:
    """Return the side of each structure that has one; both of a pair never get the same."""
    sides: dict[int, Side | None] = {}
    sided = [organ for organ in organs if organ.structure.side]
    for organ in sided:
        partners = [o for o in sided if o.structure.base == organ.structure.base and o is not organ]
        middle = (organ.x_mm + partners[0].x_mm) / 2 if partners else midline_mm
        sides[organ.value] = "left" if organ.x_mm < middle else "right" if organ.x_mm > middle else None
    return sides


def _renamed(organ: Organ, side: Side | None) -> Organ:
    base = organ.structure.base
    named = Structure(f"{side} {base}", base, side) if side else organ.structure
    return Organ(organ.value, named, organ.low, organ.mask, organ.voxels, organ.x_mm)
