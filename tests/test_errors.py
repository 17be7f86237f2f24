"""Errors are one line, whatever a file holds."""

import pytest

from crossdim.errors import ContractError, CrossdimError, ReadError, nearest


def test_an_error_names_the_file_the_reason_and_the_remedy():
    error = ReadError("scan.nii", "is empty (0 bytes)", "Copy it again")
    assert str(error) == "scan.nii: is empty (0 bytes). Copy it again."
    assert (error.subject, error.reason, error.remedy) == ("scan.nii", "is empty (0 bytes)", "Copy it again")


@pytest.mark.parametrize("kind", [ReadError, ContractError])
def test_every_error_is_a_value_error(kind):
    assert issubclass(kind, CrossdimError)
    assert issubclass(kind, ValueError)


def test_what_a_damaged_header_holds_cannot_break_the_line_or_fill_the_screen():
    text = str(ReadError("a.dcm", "holds no pixels (1.2\n\x1b[31m\x07" + "x" * 5000 + ")", "Name another"))
    assert text.isprintable()
    assert len(text) < 700
    assert text.endswith(". Name another.")


def test_the_nearest_name_is_suggested_and_otherwise_all_are_listed():
    assert nearest("warmupp", ["warmup", "epochs"]) == "Did you mean 'warmup'"
    assert nearest("zzz", ["b", "a"]) == "Use one of: a, b"
