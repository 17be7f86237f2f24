"""Every file that pydicom and nibabel ship for tests of unusual kinds: a noun or a crossdim error, nothing else."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_files

from crossdim.errors import CrossdimError
from crossdim.readers import find_readable, inspect, read
from crossdim.samples import Image, Volume

DICOM = sorted({Path(path) for path in get_testdata_files() if Path(path).is_file()})
NIBABEL = sorted(
    path for path in Path(nibabel.__file__).parent.rglob("tests/data/*") if path.is_file() and path.suffix != ".py"
)
DAMAGED = {
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "MR_truncated.dcm",
    "badVR.dcm",
    "emri_small_jpeg_2k_lossless_too_short.dcm",
    "no_meta.dcm",
}
"""Files with pixels that pydicom ships because they are damaged."""


def look(path):
    """Return the noun, or the error."""
    try:
        found = inspect(path)
        return read(f"{path}#0" if found.needs_choice else path)
    except CrossdimError as error:
        return error


@pytest.mark.parametrize("path", DICOM, ids=lambda path: path.name)
def test_every_file_of_pydicom_gives_a_noun_or_a_crossdim_error(path):
    result = look(path)
    assert isinstance(result, Image | Volume | CrossdimError)
    if isinstance(result, Image | Volume):
        values = result.pixels if isinstance(result, Image) else result.voxels
        headers = inspect(path, intensity=False)
        assert values.dtype.isnative
        assert (values.shape, values.dtype.name) == (headers.shape, headers.dtype)


def test_all_files_of_pydicom_with_whole_pixels_are_read():
    refused = set()
    for path in DICOM:
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if "Rows" in dataset and "PixelData" in pydicom.dcmread(path) and not isinstance(look(path), Image | Volume):
            refused.add(path.name)
    assert refused <= DAMAGED


@pytest.mark.parametrize("path", NIBABEL, ids=lambda path: path.name)
def test_every_file_of_nibabel_gives_a_noun_or_a_crossdim_error(path):
    assert isinstance(look(path), Image | Volume | CrossdimError)


def test_nibabels_nifti_files_hold_what_nibabel_reads():
    compared = 0
    for path in NIBABEL:
        if not path.name.endswith((".nii", ".nii.gz")) or not isinstance(volume := look(path), Volume):
            continue
        reference = nibabel.load(path)
        values = np.asanyarray(reference.dataobj)
        values = values[..., 0] if values.ndim == 4 else values
        if values.dtype.names is None:
            np.testing.assert_allclose(volume.voxels[0].transpose(2, 1, 0), values, rtol=1e-6)
        np.testing.assert_allclose(volume.affine[:, [2, 1, 0, 3]], reference.affine, atol=1e-4)
        compared += 1
    assert compared >= 6


def test_the_folders_that_pydicom_ships_are_searched_without_an_accident():
    folder = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    found = find_readable(folder)
    assert found
    assert all(isinstance(look(path), Image | Volume | CrossdimError) for path in found)
