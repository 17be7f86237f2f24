"""Fixtures shared by every room's tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before anything imports torch: workers that each start a thread on every core wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run: what fails here fails everywhere. HYPOTHESIS_PROFILE=default searches anew.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def crossdim_data() -> Path:
    """Return the folder of real data, or skip with the reason."""
    folder = Path(os.environ.get("CROSSDIM_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"CROSSDIM_DATA not found: {folder} is not a folder of real data")
    return folder
