"""The page on fidelity names functions and tests that exist."""

import ast
import re

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "explanation" / "fidelity.md").read_text(encoding="utf-8")


def names_in(path):
    """Return functions, classes and methods (as ``Class.method``) of a file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE))))
def test_every_function_on_the_page_exists(file, name):
    assert name in names_in(ROOT / "src" / "crossdim" / file)


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE))))
def test_every_test_on_the_page_exists(file, name):
    assert name in names_in(ROOT / "tests" / file)


def test_the_page_names_functions_and_tests():
    assert len(re.findall(r"`[\w/]+\.py:[\w.]+`", PAGE)) > 10
    assert len(re.findall(r"`[\w/]+\.py::\w+`", PAGE)) > 10
