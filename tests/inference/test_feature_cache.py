"""Features on disk: found by content, trusted only as they were written, limited in size."""

import os
import threading
import time

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from crossdim.inference.feature_cache import (
    FeatureCache,
    FileHashes,
    contract_hash,
    default_folder,
    feature_key,
    weights_hash,
)
from crossdim.transforms.contract import PreprocessingContract, VolumeContract

KEYS = [f"{number:064x}" for number in range(9)]
CONTRACT = PreprocessingContract(volume=VolumeContract(size=(8, 16, 16)), source="a test")


def features(number=0):
    return {"tokens_3d": torch.full((1, 4, 3), float(number)), "tokens_2d": torch.ones(1, 2, 4, 3)}


def test_what_was_stored_is_loaded_and_nothing_else_is(tmp_path):
    cache = FeatureCache(tmp_path)
    assert cache.load(KEYS[0]) is None
    cache.store(KEYS[0], features(7))
    found = cache.load(KEYS[0])
    assert found.keys() == {"tokens_3d", "tokens_2d"}
    assert torch.equal(found["tokens_3d"], features(7)["tokens_3d"])
    assert cache.load(KEYS[1]) is None
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEYS[0]}.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "turn a bit", "empty", "another's"])
def test_a_damaged_entry_is_not_used_and_is_replaced(tmp_path, damage):
    cache = FeatureCache(tmp_path)
    cache.store(KEYS[0], features(1))
    path = tmp_path / f"{KEYS[0]}.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "turn a bit":
        content[-3] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        cache.store(KEYS[1], features(2))
        path.write_bytes((tmp_path / f"{KEYS[1]}.safetensors").read_bytes())
    assert cache.load(KEYS[0]) is None
    cache.store(KEYS[0], features(3))
    assert float(cache.load(KEYS[0])["tokens_3d"][0, 0, 0]) == 3


def test_the_entries_unused_for_longest_go_first_and_nothing_of_others_is_touched(tmp_path):
    cache = FeatureCache(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"the user's own" * 1000)
    (tmp_path / ".profile").write_bytes(b"the user's own")
    os.utime(tmp_path / ".profile", (0, 0))
    half_written = tmp_path / f".{'a' * 32}.crossdim"
    half_written.write_bytes(b"")
    os.utime(half_written, (0, 0))
    for number in range(3):
        cache.store(KEYS[number], features(number))
        os.utime(tmp_path / f"{KEYS[number]}.safetensors", (1000 + number, 1000 + number))
    assert cache.load(KEYS[0]) is not None  # used just now
    size = (tmp_path / f"{KEYS[0]}.safetensors").stat().st_size
    FeatureCache(tmp_path, limit_gib=3.5 * size / 2**30).store(KEYS[3], features(3))
    assert [cache.load(key) is not None for key in KEYS[:4]] == [True, False, True, True]
    assert {path.name for path in tmp_path.iterdir()} >= {"weights.safetensors", ".profile"}
    assert not half_written.exists()


def test_a_limit_of_zero_keeps_nothing(tmp_path):
    cache = FeatureCache(tmp_path / "none", limit_gib=0)
    cache.store(KEYS[0], features())
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_is_said_once_and_does_no_harm(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = FeatureCache(tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match=r"features cannot be kept in .*set CROSSDIM_CACHE to another"):
        cache.store(KEYS[0], features())
    cache.store(KEYS[0], features())
    assert cache.load(KEYS[0]) is None


def test_several_threads_share_a_folder(tmp_path):
    def work(number):
        cache = FeatureCache(tmp_path)
        for _ in range(20):
            cache.store(KEYS[0], features(5))
            found = cache.load(KEYS[0])
            results.append(found is not None and float(found["tokens_3d"][0, 0, 0]) == 5)

    results: list[bool] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEYS[0]}.safetensors"]


def test_the_folder_is_the_users_cache_unless_the_environment_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("CROSSDIM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "crossdim" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert default_folder() == tmp_path / "me" / ".cache" / "crossdim" / "features"
    monkeypatch.setenv("CROSSDIM_CACHE", str(tmp_path / "mine"))
    assert FeatureCache().folder == tmp_path / "mine"


def test_a_hash_follows_the_content_and_not_the_name(tmp_path):
    first, second = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(first, np.arange(8))
    np.save(second, np.arange(8))
    hashes = FileHashes()
    assert hashes.of([str(first)]) == hashes.of([str(second)])
    assert hashes.of([str(first)]) != hashes.of([f"{first}#1"])
    np.save(second, np.arange(8)[::-1])  # at once, and of the same size
    assert hashes.of([str(first)]) != hashes.of([str(second)])


def test_a_folder_counts_with_every_file_and_a_pair_with_both(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    for name in ("1.dcm", "2.dcm"):
        (series / name).write_bytes(name.encode())
    hashes = FileHashes()
    before = hashes.of([str(series)])
    (series / "2.dcm").write_bytes(b"3.dcm")
    assert hashes.of([str(series)]) != before
    nibabel.save(nibabel.Nifti1Pair(np.zeros((2, 2, 2), np.float32), np.eye(4)), tmp_path / "scan.hdr")
    both = [hashes.of([str(tmp_path / f"scan.{ending}")]) for ending in ("hdr", "img")]
    nibabel.save(nibabel.Nifti1Pair(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / "scan.hdr")
    after = [hashes.of([str(tmp_path / f"scan.{ending}")]) for ending in ("hdr", "img")]
    assert both[0] == both[1] != after[0] == after[1]


def test_a_file_that_has_not_changed_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "scan.npy"
    path.write_bytes(b"values")
    os.utime(path, (1000, 1000))
    monkeypatch.setattr(time, "time", lambda: path.stat().st_ctime + 10)
    hashes = FileHashes()
    first = hashes.of([str(path)])
    monkeypatch.setattr("builtins.open", lambda *arguments: pytest.fail("was read again"))
    assert hashes.of([str(path)]) == first


def test_contract_weights_and_their_use_each_change_the_key():
    tower = nn.Linear(3, 2)
    known = weights_hash({"vision3d": tower, "vision2d": None}, {"layer": -1})
    assert weights_hash({"vision3d": tower, "vision2d": None}, {"layer": -2}) != known
    with torch.no_grad():
        tower.bias[1] += 1e-6
    assert weights_hash({"vision3d": tower, "vision2d": None}, {"layer": -1}) != known
    other = CONTRACT.model_copy(update={"volume": VolumeContract(size=(8, 16, 16), antialias=False)})
    assert contract_hash(other) != contract_hash(CONTRACT)
    assert contract_hash(CONTRACT.model_copy(update={"source": "other words"})) == contract_hash(CONTRACT)
    arguments = ("files", "contract", "weights", torch.float32)
    keys = {feature_key(*arguments), feature_key(*arguments[:3], torch.bfloat16), feature_key("f", *arguments[1:])}
    assert len(keys) == 3


def test_half_precision_is_kept_as_it_is(tmp_path):
    cache = FeatureCache(tmp_path)
    values = {"tokens_3d": torch.randn(2, 3, dtype=torch.float32).to(torch.bfloat16)}
    cache.store(KEYS[0], values)
    assert torch.equal(cache.load(KEYS[0])["tokens_3d"], values["tokens_3d"])
