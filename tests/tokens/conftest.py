"""The authors' arrays, for tests of single steps."""

from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def authors() -> dict[str, torch.Tensor]:
    """Return PiMAE's reference arrays by name."""
    with np.load(Path(__file__).parents[1] / "parity" / "pimae.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
