import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def clinic(tmp_path):
    """Return a folder with an image, a volume, and a volume that was cut off."""
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    voxels = generator.normal(100, 20, (8, 9, 10)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.5, 3.0, 1.0])), tmp_path / "scan.nii")
    (tmp_path / "cut.nii").write_bytes((tmp_path / "scan.nii").read_bytes()[:1000])
    return tmp_path


def test_a_volume_is_described_in_words(crossdim, clinic, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = crossdim("inspect", clinic / "scan.nii")
    assert result.exit_code == 0, result.stderr
    facts = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert facts["kind"].strip() == "volume"
    assert facts["shape"].strip() == "1 x 10 x 9 x 8 (channels x depth x height x width)"
    assert facts["spacing"].strip() == "3 x 1.5 x 1 mm"


def test_json_has_the_same_facts(crossdim, clinic):
    result = crossdim("inspect", clinic / "scan.nii", "--json")
    found = json.loads(result.stdout)
    assert found["kind"] == "volume"
    assert found["shape"] == [1, 10, 9, 8]
    assert found["spacing_mm"] == [3.0, 1.5, 1.0]


def test_an_image_and_its_picture(crossdim, clinic, tmp_path):
    result = crossdim("inspect", clinic / "photo.png", "--save", tmp_path / "preview.png")
    assert result.exit_code == 0, result.stderr
    assert "3 x 20 x 30 (channels x height x width)" in result.stdout
    with Image.open(tmp_path / "preview.png") as picture:
        assert min(picture.size) > 100


def test_a_folder_gives_a_table_with_what_could_not_be_read(crossdim, clinic, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = crossdim("inspect", clinic)
    assert result.exit_code == 2
    assert "photo.png" in result.stdout
    assert "1 image, 1 volume read, 0 with problems; 1 not readable" in result.stdout
    assert f"{clinic / 'cut.nii'}: " in result.stdout.replace("\n", "")


def test_a_folder_gives_json_lines(crossdim, clinic):
    result = crossdim("inspect", clinic, "--json")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 2
    assert sorted(line.get("kind", "refused") for line in found) == ["image", "refused", "volume"]


def test_a_folder_of_a_thousand_files_takes_seconds(crossdim, tmp_path):
    for index in range(1000):
        Image.new("L", (4, 4), index % 256).save(tmp_path / f"{index:04d}.png")
    result = crossdim("inspect", tmp_path, "--json")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1000


def test_an_empty_folder_is_refused(crossdim, tmp_path):
    result = crossdim("inspect", tmp_path)
    assert result.exit_code == 2
    assert "holds no file that crossdim can read" in result.stderr


def test_a_picture_of_a_folder_is_refused(crossdim, clinic):
    result = crossdim("inspect", clinic, "--save", "preview.png")
    assert result.exit_code == 2
    assert f"--save: makes a picture of one file, and {clinic} holds 3. Name one file." in result.stderr


def test_inspect_never_loads_torch(clinic):
    program = (
        "import sys; from crossdim.cli import app; app([*sys.argv[1:]], standalone_mode=False); "
        "print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules])"
    )
    arguments = ["inspect", str(clinic / "scan.nii"), "--save", str(clinic / "preview.png")]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
