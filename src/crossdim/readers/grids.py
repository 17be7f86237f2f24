"""Images and volumes: the reader of each format, imported when it is met."""

from crossdim.errors import ReadError
from crossdim.readers.formats import Format
from crossdim.readers.inspection import Opened
from crossdim.readers.limits import Limits
from crossdim.readers.selector import no_selector


def open_grid(source: str, select: str | None, format_: Format, limits: Limits) -> Opened:
    """Read the header of a file with an image or a volume.

    Args:
        source: The file.
        select: What is chosen inside it.
        format_: As ``formats.detect`` says.
        limits: What is allowed.

    Raises:
        ReadError: If it is damaged or too large, holds several and none is chosen, or holds points.
        GeometryError: If its orientation contradicts itself.
    """
    match format_:
        case "picture":
            from crossdim.readers.image import open_image

            no_selector(source, select)
            return open_image(source, limits)
        case "tiff":
            from crossdim.readers.tiff import open_tiff

            return open_tiff(source, select, limits)
        case "nifti":
            from crossdim.readers.nifti import open_nifti

            return open_nifti(source, select, limits)
        case "dicom":
            from crossdim.readers.dicom import open_dicom

            return open_dicom(source, select, limits)
        case "npy":
            from crossdim.readers.array import open_npy

            return open_npy(source, select, limits)
        case "npz":
            from crossdim.readers.array import open_npz

            return open_npz(source, select, limits)
        case _:
            reason = "holds points, and is to be an image or a volume"
            raise ReadError(source, reason, "Give a file with pixels or voxels")
