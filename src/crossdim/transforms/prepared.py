"""A file as the contract makes it: the tensor, the way back to the file's indices and to millimetres, the padding."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossdim.errors import ContractError
from crossdim.geometry.affine import to_patient_mm
from crossdim.transforms.resample import Extent


@dataclass(frozen=True)
class FileSlice:
    """The slice of the original file that a prepared slice shows.

    Attributes:
        axis: Axis of the noun's array behind the channels: 0 depth, 1 height, 2 width.
        index: Nearest slice along this axis, or None where the prepared slice is padding.
        position: The same before rounding.
        centre_mm: Centre of the prepared slice in the patient, RAS+ millimetres.
    """

    axis: int
    index: int | None
    position: float
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model's input and where it came from.

    Attributes:
        tensor: ``(channels, *size)``, float32.
        index_map: Homogeneous matrix from an index of the tensor, ``(height, width, 1)`` or
            ``(depth, height, width, 1)``, to an index of the noun's own array, as it was read.
        affine_mm: For volumes: matrix from an index of the tensor to patient millimetres (RAS+).
        valid: (start, stop) of the data along each axis; the rest is padding.
        fill: Value of padding in each channel.
        notes: What was done that a user may want to know.
    """

    tensor: Float[Tensor, "channels *size"]
    index_map: Float[np.ndarray, "n n"]
    affine_mm: Float[np.ndarray, "4 4"] | None
    valid: tuple[Extent, ...]
    fill: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial size of the tensor."""
        return tuple(self.tensor.shape[1:])

    @property
    def nbytes(self) -> int:
        """Memory that the tensor takes."""
        return self.tensor.nbytes

    @property
    def step(self) -> tuple[float, ...]:
        """Distance between neighbours along each axis: millimetres for volumes, original pixels for images."""
        matrix = self.index_map if self.affine_mm is None else self.affine_mm
        return tuple(float(length) for length in np.linalg.norm(matrix[:-1, :-1], axis=0))

    @property
    def padded_slices(self) -> Bool[Tensor, " depth"]:
        """True for every slice along the first axis that is padding."""
        start, stop = self.valid[0]
        places = torch.arange(self.size[0])
        return (places < start) | (places >= stop)

    def to_file_index(self, points: Float[np.ndarray, "*points axes"]) -> Float[np.ndarray, "*points axes"]:
        """Return positions in the noun's own array, as real numbers.

        Args:
            points: Positions in the tensor, in indices along its spatial axes.
        """
        return points @ self.index_map[:-1, :-1].T + self.index_map[:-1, -1]

    def from_file_index(self, points: Float[np.ndarray, "*points axes"]) -> Float[np.ndarray, "*points axes"]:
        """Return positions in the tensor: the inverse of :meth:`to_file_index`.

        Args:
            points: Positions in the noun's own array, in indices along its spatial axes.
        """
        return (points - self.index_map[:-1, -1]) @ np.linalg.inv(self.index_map[:-1, :-1]).T

    def to_patient_mm(self, points: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 3"]:
        """Return patient coordinates in RAS+ millimetres.

        Args:
            points: Positions in the tensor, ``(depth, height, width)``.

        Raises:
            ContractError: An image has no place in a patient.
        """
        return to_patient_mm(points, self._affine())

    def slice_in_file(self, depth: int) -> FileSlice:
        """Return which slice of the file a slice of the tensor shows.

        Args:
            depth: Index along the tensor's depth, in [0, depth).

        Raises:
            ContractError: An image has no slices, or the tensor has no such slice.
        """
        affine, size = self._affine(), self.size
        if not 0 <= depth < size[0]:
            raise ContractError(f"slice {depth}", f"is not one of the {size[0]} slices", f"Give 0 to {size[0] - 1}")
        centre = np.array([depth, (size[1] - 1) / 2, (size[2] - 1) / 2])
        axis = int(np.abs(self.index_map[:3, 0]).argmax())
        position = float(self.to_file_index(centre)[axis])
        start, stop = self.valid[0]
        place = to_patient_mm(centre, affine)
        return FileSlice(
            axis=axis,
            index=round(position) if start <= depth < stop else None,
            position=position,
            centre_mm=(float(place[0]), float(place[1]), float(place[2])),
        )

    def _affine(self) -> Float[np.ndarray, "4 4"]:
        if self.affine_mm is None:
            raise ContractError("image", "has no slices and no place in a patient", "Use to_file_index for its pixels")
        return self.affine_mm
