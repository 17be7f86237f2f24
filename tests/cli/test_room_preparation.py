import json

from crossdim.datasets.manifest import Manifest


def test_rooms_are_drawn_and_counted_by_kind(crossdim, tmp_path):
    result = crossdim("prepare", "rooms", "--out", tmp_path / "rooms", "--count", 10, "--size", 48, 64, "--audit")
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "holds 10 scenes" in text
    assert "task room bathroom: train" in text
    assert "error" not in text
    manifest = Manifest.load(tmp_path / "rooms" / "manifest.jsonl")
    assert {record.kind for record in manifest.records} == {"scene"}
    assert manifest.records[0].scene.camera.size == (48, 64)


def test_seed_and_parts_are_those_that_were_asked_for(crossdim, tmp_path):
    common = ("prepare", "rooms", "--count", 5, "--size", 48, 48, "--fractions", 1, 0, 0, "--json")
    found = [json.loads(crossdim(*common, "--seed", seed, "--out", tmp_path / str(seed)).stdout) for seed in (1, 2)]
    assert found[0]["parts"] == {"train": 5}
    assert found[0]["sha256"] != found[1]["sha256"]


def test_too_few_rooms_are_one_line_on_stderr(crossdim, tmp_path):
    result = crossdim("prepare", "rooms", "--count", 2, "--out", tmp_path)
    assert result.exit_code == 2
    assert "count 2: is fewer than the 5 kinds of rooms" in result.stderr


def test_table_tops_are_drawn_and_pass_the_audit(crossdim, tmp_path):
    result = crossdim("prepare", "table-tops", "--out", tmp_path, "--count", 8, "--size", 60, 80, "--audit")
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "holds 8 scenes" in text
    assert "task category stacked_boxes: train" in text
    assert "error" not in text
    manifest = Manifest.load(tmp_path / "manifest.jsonl")
    assert {box.label for record in manifest.records for box in record.scene.boxes} == {"object"}


def test_the_seed_of_table_tops_is_the_one_that_was_asked_for(crossdim, tmp_path):
    common = ("prepare", "table-tops", "--count", 4, "--size", 48, 48, "--fractions", 1, 0, 0, "--json")
    found = [json.loads(crossdim(*common, "--seed", seed, "--out", tmp_path / str(seed)).stdout) for seed in (1, 2)]
    assert found[0]["parts"] == {"train": 4}
    assert found[0]["sha256"] != found[1]["sha256"]


def test_too_few_table_tops_are_one_line_on_stderr(crossdim, tmp_path):
    result = crossdim("prepare", "table-tops", "--count", 2, "--out", tmp_path)
    assert result.exit_code == 2
    assert "count 2: is fewer than the 4 kinds of table tops" in result.stderr
