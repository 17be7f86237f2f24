import os

import pytest

from crossdim.errors import RecipeError
from crossdim.outputs.files import write_atomic


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path):
    write_atomic(tmp_path / "new" / "a.txt", "ä")
    write_atomic(tmp_path / "new" / "a.txt", b"second")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"second"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


def test_a_place_that_is_a_folder_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RecipeError, match=r"report\.html: cannot be written"):
        write_atomic(tmp_path / "report.html", "x")
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecipeError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "a.txt", "x")
