"""Small files of every kind, written on the fly."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SERIES = "1.2.826.0.1.3680043.8.498.1"


def grey(height: int = 6, width: int = 8) -> np.ndarray:
    return (np.arange(height * width, dtype=np.uint8) * 5).reshape(height, width)


def rgb(height: int = 6, width: int = 8) -> np.ndarray:
    first = grey(height, width)
    return np.stack([first, first[::-1], 255 - first], axis=-1)


def write_dicom(path: Path, pixels: np.ndarray | None, **attributes: Any) -> Path:
    """Write one DICOM file; attributes override those of a CT slice without a place, None removes one."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = SERIES
    dataset.SeriesNumber = 7
    if pixels is not None:
        signed = pixels.dtype.kind == "i"
        bits = 8 * pixels.dtype.itemsize
        samples = 3 if pixels.ndim == 3 and pixels.shape[-1] == 3 else 1
        frames = pixels.shape[0] if pixels.ndim - (samples == 3) == 3 else 1
        rows, columns = pixels.shape[-3:-1] if samples == 3 else pixels.shape[-2:]
        dataset.Rows, dataset.Columns = rows, columns
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(signed)
        dataset.SamplesPerPixel = samples
        dataset.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
        if samples == 3:
            dataset.PlanarConfiguration = 0
        if frames > 1:
            dataset.NumberOfFrames = frames
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, count: int = 4, step: float = 2.5, **attributes: Any) -> Path:
    """Write axial CT slices in an order of names that is not the order of their places; voxels tell their slice."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_slice(folder, number, position=(-10.0, -20.0, 5.0 + step * number), **attributes)
    return folder


def write_slice(folder: Path, number: int, *, position: tuple[float, ...], name: str = "", **attributes: Any) -> Path:
    pixels = np.full((5, 4), number, np.int16)
    pixels[0, 1], pixels[1, 0] = 100, 200
    defaults = {
        "ImagePositionPatient": list(position),
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [0.5, 0.75],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    return write_dicom(folder / (name or f"{9 - number}.dcm"), pixels, **{**defaults, **attributes})


def write_enhanced(path: Path, heights: list[float], **attributes: Any) -> Path:
    """Write one multi-frame file whose frames lie at these heights."""
    pixels = np.stack([np.full((5, 4), number, np.int16) for number in range(len(heights))])
    shared = pydicom.Dataset()
    orientation, measures, values = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    orientation.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing = [0.5, 0.75]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2, -1000, "HU"
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [values]
    frames = []
    for height in heights:
        frame, position = pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = [-10.0, -20.0, height]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    return write_dicom(
        path,
        pixels,
        SOPClassUID=EnhancedCTImageStorage,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **attributes,
    )
