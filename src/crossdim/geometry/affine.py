"""Voxel indices and patient millimetres: spacing, orientation, and the way from one to the other.

An affine is a 4x4 matrix that maps a voxel index ``(depth, height, width, 1)`` to patient millimetres in RAS+ (x to
the right, y to the front, z to the head). Orientation codes name where depth, height and width point to, as three
letters of R/L, A/P and S/I: in ``SPL`` depth runs to the head, height to the back, width to the left.
"""

from os import PathLike

import numpy as np
from jaxtyping import Float, Num, Shaped

from crossdim.errors import GeometryError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From DICOM's millimetres (x to the left, y to the back) to RAS+."""

ASSUMED_AFFINE = np.array([[0.0, 0.0, -1.0, 0.0], [0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
"""For volumes whose file tells nothing: axial slices from the feet up in radiological view (``SPL``), 1 mm a voxel.

Contracts that ask for ``SPL`` then leave slices as slices, and upright."""

_AXIS_PAIRS = ("RL", "AP", "SI")


def spacing_mm(affine: Float[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Return the distance between neighbouring voxels along (depth, height, width), in millimetres.

    Args:
        affine: Index to patient millimetres.
    """
    depth, height, width = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return depth, height, width


def orientation_code(affine: Float[np.ndarray, "4 4"]) -> str:
    """Return where depth, height and width point to, such as ``SPL``; oblique axes count as the nearest one.

    Args:
        affine: Index to patient millimetres, invertible.
    """
    from nibabel.orientations import aff2axcodes  # nibabel takes half a second to import

    return "".join(aff2axcodes(affine))


def reorient(
    voxels: Shaped[np.ndarray, "channels depth height width"], affine: Float[np.ndarray, "4 4"], code: str
) -> tuple[Shaped[np.ndarray, "channels newdepth newheight newwidth"], Float[np.ndarray, "4 4"]]:
    """Permute and reverse axes until they point as asked; every voxel keeps its value and its place in the patient.

    Args:
        voxels: Of any type; the result is a view of them.
        affine: Index to patient millimetres, invertible.
        code: Where depth, height and width are to point to, such as ``SPL``.

    Raises:
        GeometryError: If the code is not one letter each of R/L, A/P and S/I.
    """
    if len(code) != 3 or any(sum(letter in pair for letter in code) != 1 for pair in _AXIS_PAIRS):
        raise GeometryError(
            f"orientation '{code}'", "is not one letter each of R/L, A/P and S/I", "Use a code such as 'SPL'"
        )
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    change = ornt_transform(io_orientation(affine), axcodes2ornt(code))
    turned = apply_orientation(np.moveaxis(voxels, 0, -1), change)
    return np.moveaxis(turned, -1, 0), affine @ inv_ornt_aff(change, voxels.shape[1:])


def to_patient_mm(
    indices: Num[np.ndarray, "*points 3"], affine: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "*points 3"]:
    """Return the patient millimetres (RAS+) of voxel indices.

    Args:
        indices: (depth, height, width), fractions allowed.
        affine: Index to patient millimetres.
    """
    return indices @ affine[:3, :3].T + affine[:3, 3]


def to_voxel(
    points_mm: Num[np.ndarray, "*points 3"], affine: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "*points 3"]:
    """Return the voxel indices (depth, height, width) of patient millimetres; fractions between voxel centres.

    Args:
        points_mm: In RAS+.
        affine: Index to patient millimetres, invertible.
    """
    return to_patient_mm(points_mm, np.linalg.inv(affine))


def shear_deg(affine: Float[np.ndarray, "4 4"]) -> float:
    """Return by how many degrees two axes miss a right angle, at most: 0 for a box, the tilt for a tilted gantry.

    Args:
        affine: Index to patient millimetres, invertible.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs((axes.T @ axes)[np.triu_indices(3, 1)])
    return float(np.degrees(np.arcsin(np.clip(cosines.max(), 0, 1))))


def farthest_corner_mm(
    first: Float[np.ndarray, "4 4"], second: Float[np.ndarray, "4 4"], size: tuple[int, ...]
) -> float:
    """Return how far, at most, two affines put the same voxel of a volume apart, in millimetres.

    The distance is largest at one of the eight corners, because it is a convex function of the index.

    Args:
        first: Index to patient millimetres.
        second: Index to patient millimetres.
        size: Voxels along (depth, height, width).
    """
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(size) - 1)
    return float(np.linalg.norm(to_patient_mm(corners, first) - to_patient_mm(corners, second), axis=1).max())


def check_affine(affine: Float[np.ndarray, "4 4"], subject: str | PathLike[str]) -> None:
    """Check that an affine can be inverted.

    Args:
        affine: Index to patient millimetres.
        subject: The file, for the error.

    Raises:
        GeometryError: If it holds numbers that are not finite, or flattens the volume.
    """
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all():
        reason = "its affine holds values that are not finite"
    elif not (lengths > 0).all() or abs(np.linalg.det(axes / lengths)) < 1e-3:
        reason = f"its affine flattens the volume (voxel axes {np.round(axes.T, 4).tolist()})"
    else:
        return
    raise GeometryError(subject, reason, "Convert the volume again from its source, or mend the header")
