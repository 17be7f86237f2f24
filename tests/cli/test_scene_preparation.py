import json

import pytest

from crossdim.datasets.manifest import Manifest
from tests.datasets import test_kitti, test_osd, test_scannet, test_sunrgbd
from tests.datasets.scene_toys import frames_folder, picture, scene_folder

HALVES = ("--fractions", "0.5", "0.5", "0")


def parts_of(path):
    return [record.split for record in Manifest.load(path).records]


def test_folders_of_ones_own_become_a_manifest(crossdim, tmp_path):
    frames_folder(tmp_path / "kitchen", count=2)
    frames_folder(tmp_path / "office", count=2, seed=5)
    scene_folder(tmp_path / "lab", seed=9)
    picture(tmp_path / "broken" / "depth.png")
    out = tmp_path / "out" / "scenes.jsonl"
    result = crossdim("prepare", "scenes", tmp_path, "--name", "mine", *HALVES, "--out", out)
    assert result.exit_code == 0, result.stderr
    manifest = Manifest.load(out)
    assert (manifest.header.name, manifest.header.split_seed) == ("mine", 0)
    assert "5 scenes" in result.stdout
    assert "has no camera.json" in result.stdout
    split_of = {}
    for record in manifest.records:
        split_of.setdefault(record.patient_id, set()).add(record.split)
    assert split_of.keys() == {"kitchen", "office", "lab"}
    assert all(len(parts) == 1 for parts in split_of.values())


def test_each_frame_can_be_a_place_of_its_own(crossdim, tmp_path):
    frames_folder(tmp_path / "desk", count=4)
    arguments = ("prepare", "scenes", tmp_path / "desk", *HALVES, "--out", tmp_path / "m.jsonl")
    result = crossdim(*arguments)
    assert result.exit_code == 2
    assert "1 patients cannot fill 2 parts" in result.stderr
    result = crossdim(*arguments, "--patient", "file", "--json")
    assert json.loads(result.stdout)["parts"] == {"train": 2, "val": 2}


def test_the_audit_reads_scenes(crossdim, tmp_path):
    for name in ("a", "b"):
        scene_folder(tmp_path / name, seed=3)
    arguments = ("prepare", "scenes", tmp_path, *HALVES, "--out", tmp_path / "m.jsonl", "--json")
    (finding,) = json.loads(crossdim(*arguments).stdout)["findings"]
    assert (finding["severity"], finding["problem"]) == ("error", "duplicate_across_splits")
    assert json.loads(crossdim(*arguments, "--no-audit").stdout)["findings"] == []


def test_sunrgbd_keeps_its_parts_and_raw_frames_are_drawn(crossdim, tmp_path):
    test_sunrgbd.trainval_frame(tmp_path, "000001")
    test_sunrgbd.trainval_frame(tmp_path, "005051")
    out = tmp_path / "sun.jsonl"
    result = crossdim("prepare", "sunrgbd", tmp_path, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert parts_of(out) == ["val", "train"]
    test_sunrgbd.raw_frame(tmp_path / "raw" / "a")
    test_sunrgbd.raw_frame(tmp_path / "raw" / "b", seed=1, room="kitchen")
    result = crossdim("prepare", "sunrgbd", tmp_path, "--layout", "raw", *HALVES, "--out", out)
    assert "task place  office: " in result.stdout
    assert sorted(parts_of(out)) == ["train", "val"]


def test_the_edition_of_sunrgbds_boxes_can_be_chosen(crossdim, tmp_path):
    test_sunrgbd.votenet_scene(tmp_path, "train", "005051")
    arguments = ("prepare", "sunrgbd", tmp_path, "--layout", "votenet", "--out", tmp_path / "m.jsonl")
    assert crossdim(*arguments).exit_code == 0
    result = crossdim(*arguments, "--labels", "v2")
    assert result.exit_code == 2
    assert "holds not the layout 'votenet'" in result.stderr


def test_kitti_takes_lists_or_draws(crossdim, tmp_path):
    for number in range(2):
        test_kitti.frame(tmp_path, f"{number:06d}")
    out = tmp_path / "kitti.jsonl"
    assert crossdim("prepare", "kitti", tmp_path, *HALVES, "--seed", 1, "--out", out).exit_code == 0
    assert sorted(parts_of(out)) == ["train", "val"]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "test.txt").write_text("000000\n000001\n")
    assert crossdim("prepare", "kitti", tmp_path, "--lists", lists, "--out", out).exit_code == 0
    assert parts_of(out) == ["test", "test"]


def test_osd_and_scannet_become_manifests(crossdim, tmp_path):
    test_osd.osd(tmp_path / "osd", *(test_osd.entry(f"learn{number}") for number in range(4)))
    out = tmp_path / "m.jsonl"
    assert crossdim("prepare", "osd", tmp_path / "osd", "--validation", 0.25, "--out", out).exit_code == 0
    assert sorted(parts_of(out)) == ["train", "train", "train", "val"]
    for name in ("scene0000_00", "scene0000_01", "scene0001_00"):
        test_scannet.scan(tmp_path / "scannet", name, seed=int(name[-1]))
    assert crossdim("prepare", "scannet", tmp_path / "scannet", *HALVES, "--out", out).exit_code == 0
    assert len({record.split for record in Manifest.load(out).records if record.patient_id == "scene0000"}) == 1


@pytest.mark.parametrize("name", ["scenes", "sunrgbd", "kitti", "osd", "scannet"])
def test_a_folder_without_the_data_set_is_one_line_and_exit_code_2(crossdim, tmp_path, name):
    result = crossdim("prepare", name, tmp_path, "--out", tmp_path / "m.jsonl")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert str(tmp_path) in result.stderr
    assert not (tmp_path / "m.jsonl").exists()
