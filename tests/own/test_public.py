"""The public surface: what `import diffusion_dfl` offers, and what it needs."""

import ast
import inspect
from importlib.resources import files
from pathlib import Path

import pytest

import diffusion_dfl as ddfl

ROOT = Path(__file__).resolve().parents[2]


def test_every_public_name_is_there_and_documented() -> None:
    for name in ddfl.__all__:
        value = getattr(ddfl, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
    assert set(ddfl.__all__) <= set(dir(ddfl))


def test_what_type_checkers_see_is_what_is_imported() -> None:
    tree = ast.parse((ROOT / "diffusion_dfl" / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == ddfl._HOME
    assert sorted([*seen, "__version__"]) == sorted(ddfl.__all__)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Gausian'"):
        ddfl.Gausian  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert files("diffusion_dfl").joinpath("py.typed").is_file()


def test_the_page_of_the_library_names_every_public_name() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    missing = [name for name in ddfl.__all__ if f"`{name}`" not in page]
    assert missing == []
