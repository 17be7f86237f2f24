"""Read a volume, prepare it as a model would see it, and find the way back to the patient.

Run: python examples/01_read_and_prepare.py
"""

import tempfile

import numpy as np

from crossdim import readers
from crossdim.datasets.synthetic import make_volumes
from crossdim.transforms.contract import PercentileIntensity, PreprocessingContract, VolumeContract

with tempfile.TemporaryDirectory() as folder:
    manifest = make_volumes(folder, count=6, size=32)
    path = manifest.resolve(manifest.records[0])[0]

    found = readers.inspect(path)
    print(f"{found.kind} {found.shape}, {found.spacing_mm} mm, {found.orientation}, problems: {found.problems}")

    volume = readers.read(path)
    contract = PreprocessingContract(
        volume=VolumeContract(
            size=(16, 32, 32),  # (depth, height, width)
            orientation="SPL",  # towards head, back and left, whatever way the file is turned
            fit="resize",
            channels=1,
            intensity=PercentileIntensity(),
        ),
        source="this example",
    )
    prepared = contract.prepare(volume)
    print(f"tensor {tuple(prepared.tensor.shape)}, holds data in {prepared.valid}")

    centre = np.array([8, 16, 16, 1])
    print("voxel of the file:  ", (prepared.index_map @ centre)[:3].round(1))
    print("mm in the patient:  ", (prepared.affine_mm @ centre)[:3].round(1))
    assert np.allclose(volume.affine @ prepared.index_map @ centre, prepared.affine_mm @ centre)
