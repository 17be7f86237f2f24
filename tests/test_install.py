"""What an installation holds: the built archives, and the promises that hang on packaging."""

import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "crossdim"


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Return the names inside the source archive and inside the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(source) as file:
        source_names = {name.partition("/")[2] for name in file.getnames()}
    with zipfile.ZipFile(wheel) as file:
        return source_names, set(file.namelist())


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package_and_the_licence(archives):
    _, wheel = archives
    wanted = [path for path in SOURCE.rglob("*") if path.suffix in {".py", ".yaml", ".typed"}]
    assert SOURCE / "py.typed" in wanted
    assert not [path for path in wanted if path.relative_to(SOURCE.parent).as_posix() not in wheel]
    assert any(name.endswith("/LICENSE") for name in wheel)


@pytest.mark.slow
def test_the_wheel_holds_nothing_but_the_package(archives):
    _, wheel = archives
    assert {name.partition("/")[0] for name in wheel} == {
        "crossdim",
        f"crossdim-{metadata.version('crossdim')}.dist-info",
    }


@pytest.mark.slow
def test_the_source_archive_can_be_built_and_read(archives):
    source, _ = archives
    assert {"LICENSE", "README.md", "pyproject.toml", "src/crossdim/py.typed"} <= source


def test_the_version_is_stated_once_for_all():
    import crossdim

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert metadata.version("crossdim") == crossdim.__version__
    assert f"\nversion: {crossdim.__version__}\n" in citation


def test_the_licence_is_the_full_text_of_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert metadata.metadata("crossdim")["License-Expression"] == "Apache-2.0"
