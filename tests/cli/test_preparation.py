import json
import shutil

import numpy as np
import pytest
from PIL import Image

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.synthetic import make_volumes


@pytest.fixture
def eyes(tmp_path):
    """Return a folder of twelve different pictures, two each of six patients, in a folder for each class."""
    generator = np.random.default_rng(0)
    for index in range(12):
        folder = tmp_path / "eyes" / ("healthy" if index < 6 else "sick")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{index // 2}_{index % 2}.png")
    return tmp_path / "eyes"


FRACTIONS = ("--fractions", "0.34", "0.33", "0.33")


def test_a_folder_for_each_class_becomes_a_manifest_split_by_patient(crossdim, eyes, tmp_path):
    out = tmp_path / "eyes.jsonl"
    result = crossdim(
        "prepare", "folder", eyes, "--task", "disease", "--patient", "(p[0-9])_", *FRACTIONS, "--out", out
    )
    assert result.exit_code == 0, result.stderr
    manifest = Manifest.load(out)
    assert manifest.header.tasks["disease"].classes == ("healthy", "sick")
    assert {record.patient_id for record in manifest.records} == {f"p{index}" for index in range(6)}
    parts_of = {}
    for record in manifest.records:
        parts_of.setdefault(record.patient_id, set()).add(record.split)
    assert all(len(parts) == 1 for parts in parts_of.values())
    assert "12 images" in result.stdout
    assert "task disease  healthy: " in result.stdout


def test_the_same_seed_gives_the_same_manifest_and_another_seed_another(crossdim, eyes, tmp_path):
    hashes = []
    for seed in (0, 0, 1):
        result = crossdim(
            "prepare", "folder", eyes, "--seed", seed, *FRACTIONS, "--out", tmp_path / "m.jsonl", "--json"
        )
        hashes.append(json.loads(result.stdout)["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_table_with_an_ordinal_column(crossdim, eyes, tmp_path):
    rows = [f"healthy/p{i // 2}_{i % 2}.png;p{i // 2};{('none', 'mild')[i // 2 % 2]}" for i in range(6)]
    (tmp_path / "grades.csv").write_text("\n".join(["file;pid;grade", *rows]), encoding="utf-8")
    result = crossdim(
        "prepare", "table", tmp_path / "grades.csv", "--folder", eyes, "--path", "file", "--patient", "pid",
        "--label", "grade", "--ordinal", "grade=none,mild", "--out", tmp_path / "m.jsonl", "--json",
        *FRACTIONS,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["kinds"] == {"image": 6}
    assert summary["patients"] == 3
    assert sum(summary["labels"]["grade"]["mild"].values()) == 2
    assert Manifest.load(tmp_path / "m.jsonl").header.tasks["grade"].kind == "ordinal"


def test_an_ordinal_column_without_classes_is_refused(crossdim, tmp_path):
    result = crossdim("prepare", "table", "t.csv", "--path", "f", "--ordinal", "grade", "--out", tmp_path / "m.jsonl")
    assert result.exit_code == 2
    assert "--ordinal grade: names no classes. Write it as column=least,more,most." in result.stderr


def test_what_was_left_out_and_what_is_wrong_is_told(crossdim, eyes, tmp_path):
    for index in range(7):
        (eyes / "healthy" / f"broken{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    first, copy = eyes / "healthy" / "p0_0.png", eyes / "sick" / "copy.png"
    copy.write_bytes(first.read_bytes())
    result = crossdim("prepare", "folder", eyes, *FRACTIONS, "--out", tmp_path / "m.jsonl")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("left out") == 6
    assert "and 2 more; --json lists all" in result.stdout
    assert "copy.png" in result.stdout.replace("\n", "")


def test_without_the_audit_nothing_is_looked_for(crossdim, eyes, tmp_path):
    (eyes / "sick" / "copy.png").write_bytes((eyes / "healthy" / "p0_0.png").read_bytes())
    arguments = ("prepare", "folder", eyes, *FRACTIONS, "--out", tmp_path / "m.jsonl", "--json")
    assert json.loads(crossdim(*arguments).stdout)["findings"]
    assert json.loads(crossdim(*arguments, "--no-audit").stdout)["findings"] == []


def test_a_medmnist_file(crossdim, tmp_path):
    arrays = {}
    for seed, part in enumerate(("train", "val", "test")):
        generator = np.random.default_rng(seed)
        arrays[f"{part}_images"] = generator.integers(0, 255, (4, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(4, dtype=np.uint8)[:, None] % 2
    np.savez(tmp_path / "toymnist.npz", **arrays)
    result = crossdim("prepare", "medmnist", tmp_path / "toymnist.npz", "--out", tmp_path / "m.jsonl", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["parts"] == {"train": 4, "val": 4, "test": 4}


def test_a_decathlon_task(crossdim, tmp_path):
    volumes = make_volumes(tmp_path / "made", count=6, size=32)
    task = tmp_path / "Task99_Toy"
    for kind in ("images", "labels"):
        (task / kind).mkdir(parents=True)
        for record in volumes.records:
            shutil.copy(volumes.resolve(record)[0], task / kind)
    result = crossdim("prepare", "decathlon", task, "--validation", "0.5", "--out", tmp_path / "m.jsonl", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["parts"] == {"train": 3, "val": 3}


def test_the_real_idrid(crossdim, crossdim_data, tmp_path):
    result = crossdim(
        "prepare", "idrid", crossdim_data / "idrid", "--no-audit", "--out", tmp_path / "m.jsonl", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["kinds"] == {"image": 413}
