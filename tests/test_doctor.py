from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from crossdim import doctor
from crossdim.doctor import Check, Device, Folder

PROCESSOR = Device("toy", "cpu", 16.0, bf16=True)
GPU = Device("toy", "cuda", 80.0, bf16=True)
WORKING = Folder("working", "here", writable=True, free_gib=10.0)


def advice(device=GPU, folders=(WORKING,), checks=()):
    return " | ".join(doctor.advise((device,), folders, checks))


def test_the_self_test_passes_on_this_installation():
    diagnosis = doctor.run()
    assert [check.detail for check in diagnosis.checks if not check.passed] == []
    assert len(diagnosis.checks) == 3
    assert diagnosis.healthy
    assert sum(check.seconds for check in diagnosis.checks) < 60


def test_without_the_self_test_nothing_is_checked():
    diagnosis = doctor.run(self_test=False)
    assert diagnosis.checks == ()
    assert diagnosis.versions["crossdim"] == metadata.version("crossdim")


def test_a_check_that_fails_is_reported_and_the_next_one_goes_on(monkeypatch):
    def broken() -> str:
        raise ImportError("libtorch.so:\ncannot open shared object file")

    monkeypatch.setattr(doctor, "_load_libraries", broken)
    first, *rest = doctor.run_checks()
    assert not first.passed
    assert first.detail == "ImportError: libtorch.so: cannot open shared object file"
    assert len(rest) == 2


def test_a_failed_check_or_a_read_only_folder_is_unhealthy():
    diagnosis = doctor.run(self_test=False)
    assert diagnosis.healthy
    assert not replace(diagnosis, checks=(Check("read", False, 0.1, "why"),)).healthy
    assert not replace(diagnosis, folders=(replace(WORKING, writable=False),)).healthy


def test_every_extra_is_listed_with_what_is_missing_and_how_to_get_it(monkeypatch):
    found = {extra.name: extra for extra in doctor.find_extras()}
    extras = {"bertscore", "demo", "docs", "points", "serve", "smollm", "tensorboard", "test"}
    assert set(found) == extras
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    missing = {extra.name: extra for extra in doctor.find_extras()}
    assert missing["demo"].missing == ("nilearn", "scikit-image")
    assert missing["demo"].command == "python -m pip install 'crossdim[demo]'"


def test_the_processor_is_always_a_device_and_comes_last():
    devices = doctor.find_devices()
    assert devices[-1].kind == "cpu"
    assert devices[-1].memory_gib > 0


def test_a_machine_without_a_gpu_is_advised_to_stay_small(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert advice(PROCESSOR) == "no GPU: use the tiny or small preset"
    assert "keep volumes small" in advice(replace(PROCESSOR, memory_gib=4.0))
    assert advice(GPU) == ""


def test_a_driver_without_a_cuda_torch_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "nvidia-smi")
    assert "torch sees no GPU" in advice(PROCESSOR)


def test_a_folder_that_cannot_be_written_to_or_is_full_is_named():
    assert "folder here cannot be written to" in advice(folders=(replace(WORKING, writable=False),))
    assert "less than 1 GiB is left" in advice(folders=(replace(WORKING, free_gib=0.2),))


def test_an_installed_torchvision_is_mentioned(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "0.1" if name == "torchvision" else None)
    assert "uninstall torchvision" in advice()


def test_a_folder_that_does_not_exist_yet_is_judged_by_the_one_above_it(tmp_path):
    looked = doctor._look_at("model cache", tmp_path / "not" / "yet")
    assert looked.writable
    assert looked.path == str(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()


def test_a_folder_where_no_file_can_be_made_is_not_writable(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert not doctor._look_at("working", tmp_path).writable


@pytest.mark.parametrize(("limit", "expected"), [("1073741824", 1.0), ("max", None)])
def test_the_memory_of_a_container_counts_when_it_is_less_than_the_machines(limit, expected, tmp_path, monkeypatch):
    file = tmp_path / "memory.max"
    file.write_text(limit + "\n", encoding="ascii")
    monkeypatch.setattr(doctor, "MEMORY_LIMIT", Path(file))
    machine = doctor.psutil.virtual_memory().total
    assert doctor.usable_memory() == (expected * doctor.GIBIBYTE if expected else machine)
