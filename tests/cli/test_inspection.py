import json
import re
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.readers.point_toys import BOXES, CAMERA, flat_depth, toy_points, write_ply, write_scene, xyz_table


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
    assert (
        f"--save: makes a picture of one file, and {clinic} holds 3. Name one, such as '{clinic / 'cut.nii'}'."
        in result.stderr
    )


def test_inspect_never_loads_torch(clinic):
    program = (
        "import sys; from crossdim.cli import app; app([*sys.argv[1:]], standalone_mode=False); "
        "print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules])"
    )
    arguments = ["inspect", str(clinic / "scan.nii"), "--save", str(clinic / "preview.png")]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def facts_of(result):
    assert result.exit_code in (0, 2), result.stderr
    lines = result.stdout.splitlines()
    names = ("a point every", "in view", *(line.split(None, 1)[0] for line in lines))
    return {name: line.removeprefix(name).strip() for line in lines for name in names if line.startswith(f"{name} ")}


def test_points_are_described_in_words(crossdim, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    table = xyz_table(toy_points(), intensity=np.zeros(40, np.float32))
    result = crossdim("inspect", write_ply(tmp_path / "a.ply", table))
    facts = facts_of(result)
    assert facts["kind"] == "points"
    assert facts["format"] == "PLY (binary)"
    assert facts["shape"] == "40 x 4 (points x columns)"
    assert facts["points"] == "40"
    assert facts["with"] == "intensity"
    assert facts["extent"].endswith(" m (x, y, z)")
    assert float(facts["a point every"].removesuffix(" m")) < 1
    assert "problem" not in facts


def test_a_scene_is_described_in_words(crossdim, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = crossdim("inspect", write_scene(tmp_path / "room", boxes=BOXES))
    facts = facts_of(result)
    assert result.exit_code == 0
    assert facts["kind"] == "scene"
    assert facts["format"] == "image + points + boxes"
    assert facts["camera"] == "30 x 40 pixels (height x width), sees 67.38 x 53.13 degrees"
    assert facts["in view"] == "100.0% of the points"
    assert facts["boxes"] == "1: 1 chair"


def test_json_has_the_facts_of_a_scene(crossdim, tmp_path):
    write_scene(tmp_path / "room", boxes=[{**BOXES[0], "label": "sofa"}, *BOXES, *BOXES], depth=flat_depth())
    found = json.loads(crossdim("inspect", tmp_path / "room", "--json").stdout)
    assert found["kind"] == "scene"
    assert found["scene"]["points"] == 1175
    assert found["scene"]["boxes"] == {"chair": 2, "sofa": 1}
    assert found["scene"]["camera"] == [30, 40]


def test_points_and_scenes_have_pictures(crossdim, tmp_path):
    for source in (write_ply(tmp_path / "a.ply", xyz_table(toy_points())), write_scene(tmp_path / "room", boxes=BOXES)):
        result = crossdim("inspect", source, "--save", tmp_path / "picture.png")
        assert result.exit_code == 0, result.stderr
        with Image.open(tmp_path / "picture.png") as picture:
            assert min(picture.size) > 100


def test_a_scene_that_contradicts_itself_is_shown_and_gives_exit_code_2(crossdim, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_scene(tmp_path / "room", size=(15, 20))
    result = crossdim("inspect", tmp_path / "room")
    assert result.exit_code == 2
    assert facts_of(result)["points"] == "40"
    assert "has 15 x 20 pixels (height x width), and its camera is of 30 x 40" in facts_of(result)["problem"]
    write_scene(tmp_path / "other")
    result = crossdim("inspect", tmp_path)
    assert result.exit_code == 2
    assert "2 scenes read, 1 with problems; 0 not readable" in result.stdout


def test_a_folder_of_scenes_and_points_gives_a_table(crossdim, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_scene(tmp_path / "room", boxes=BOXES)
    write_ply(tmp_path / "a.ply", xyz_table(toy_points()))
    write_ply(tmp_path / "b.ply", xyz_table(toy_points() * 1000))
    result = crossdim("inspect", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"room +scene .* 40 points, 1\.\d+ x 2\.\d+ x 0\.\d+ m, 100% in view, 1 box\b", result.stdout)
    assert "if these are millimetres, divide them by 1000" in result.stdout
    assert "2 clouds of points, 1 scene read, 1 with problems; 0 not readable" in result.stdout


def test_a_folder_of_frames_lists_them(crossdim, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "frames"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    (folder / "camera.json").write_text(json.dumps(CAMERA))
    for name in ("0001", "0002"):
        Image.fromarray(flat_depth()).save(folder / "depth" / f"{name}.png")
        Image.new("RGB", (40, 30)).save(folder / "rgb" / f"{name}.png")
    result = crossdim("inspect", folder)
    assert result.exit_code == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith(" #")] == ["#0001", "#0002"]
    assert "2 scenes read" in result.stdout
    assert facts_of(crossdim("inspect", f"{folder}#0002"))["points"] == "1175"


def test_a_manifest_gives_a_table_and_a_record_of_it_a_picture_with_its_boxes(crossdim, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("a", "b"):
        write_scene(tmp_path / "rooms" / name, boxes=BOXES)
    manifest = tmp_path / "rooms.jsonl"
    crossdim("prepare", "scenes", tmp_path / "rooms", "--fractions", "1", "0", "0", "--out", manifest)
    result = crossdim("inspect", manifest)
    assert result.exit_code == 0, result.stderr
    assert "2 scenes read, 0 with problems; 0 not readable" in result.stdout
    assert result.stdout.count("40 points") == result.stdout.count("1 box") == 2
    result = crossdim("inspect", f"{manifest}#b", "--save", tmp_path / "b.png")
    assert result.exit_code == 0, result.stderr
    assert (facts_of(result)["path"], facts_of(result)["boxes"]) == (f"{manifest}#b", "1: 1 chair")
    assert (tmp_path / "b.png").stat().st_size > 1000
    result = crossdim("inspect", manifest, "--save", tmp_path / "all.png")
    assert f"holds 2. Name one, such as '{manifest}#a'." in result.stderr
    result = crossdim("inspect", f"{manifest}#c")
    assert result.exit_code == 2
    assert "has no record 'c'" in result.stderr


def test_a_manifest_of_images_gives_their_files(crossdim, clinic):
    (clinic / "cut.nii").unlink()
    crossdim("prepare", "folder", clinic, "--fractions", "1", "0", "0", "--out", clinic / "all.jsonl")
    result = crossdim("inspect", clinic / "all.jsonl", "--json")
    assert result.exit_code == 0, result.stderr
    assert {json.loads(line)["kind"] for line in result.stdout.splitlines()} == {"image", "volume"}


def test_many_classes_of_boxes_are_counted(crossdim, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    boxes = [{**BOXES[0], "label": f"class {number}"} for number in range(9)]
    result = crossdim("inspect", write_scene(tmp_path / "room", boxes=boxes))
    assert facts_of(result)["boxes"].endswith("1 class 5 and 3 more classes")


def test_inspect_of_a_scene_never_loads_torch(tmp_path):
    program = (
        "import sys; from crossdim.cli import app; app([*sys.argv[1:]], standalone_mode=False); "
        "print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules])"
    )
    arguments = ["inspect", str(write_scene(tmp_path / "room", boxes=BOXES)), "--save", str(tmp_path / "preview.png")]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
