"""Small real files for the tests of this folder."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid


def png(path: Path, seed: int = 0, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return path


def nifti(path: Path, seed: int = 0, shape: tuple[int, ...] = (6, 7, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 900, shape, dtype=np.int16)
    nibabel.save(nibabel.nifti1.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def mask(path: Path, values: tuple[int, ...], shape: tuple[int, ...] = (6, 7, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros(shape, np.uint8)
    for place, value in enumerate(values):
        voxels[place, 2:4, 2:4] = value
    nibabel.save(nibabel.nifti1.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def series(folder: Path, patient: str = "Doe", slices: int = 4, number: int = 1, seed: int = 0) -> Path:
    """Write one MR series; file names do not follow the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    generator = np.random.default_rng([seed, number])
    for index in range(slices):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"{number}-{(index * 7) % slices:03d}-{index}.dcm"
        slice_ = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.PatientID, slice_.PatientName, slice_.Modality = patient, "Toy^Patient", "MR"
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, uid, frame
        slice_.SeriesNumber, slice_.InstanceNumber = number, index + 1
        slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [0, 0, 3 * index], [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = [1, 1], 3
        slice_.Rows = slice_.Columns = 8
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 0
        slice_.PixelData = generator.integers(0, 500, (8, 8), dtype=np.uint16).tobytes()
        pydicom.dcmwrite(path, slice_, enforce_file_format=True)
    return folder
