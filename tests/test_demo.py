"""The demo, as a user runs it."""

import json
import subprocess
import sys

import pytest

from crossdim import demo
from crossdim.errors import ReadError


def test_the_real_files_lie_inside_installed_packages():
    files = demo.real_files()
    assert {"retina.jpg", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"} <= set(files)
    assert all(path.is_file() for path in files.values())


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(ReadError, match=r"'skimage'.*is not installed.*pip install 'crossdim\[demo\]'"):
        demo.real_files()


@pytest.mark.slow
def test_the_demo_tells_its_story_and_leaves_a_report(tmp_path):
    command = [sys.executable, "-m", "crossdim", "demo", "--out", str(tmp_path / "demo")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line[0] for line in told.splitlines() if line[:1].isdigit()] == list("1234567")
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") >= 5
    assert "http-equiv" in page
    metrics = json.loads((tmp_path / "demo" / "pretrained" / "metrics.json").read_text(encoding="utf-8"))
    chance = 0.5
    assert metrics["test"]["metrics"]["auc"]["value"] > chance + 0.1
    answers = json.loads((tmp_path / "demo" / "answers" / "metrics.json").read_text(encoding="utf-8"))["test"]
    right = answers["answers"]["forms"]["closed"]["predictors"]
    assert right["model"]["micro"]["accuracy"]["low"] > right["blind"]["micro"]["accuracy"]["high"]
    assert answers["slices"]["scorers"]["model"]["micro"]["auroc"]["value"] > 0.9
    assert "A body that no run has seen" in told
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "5." in again
