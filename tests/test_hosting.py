"""What a code host reads: CI on every Python there is a promise for, hooks, forms of issues."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def promised() -> list[str]:
    """Versions of Python by ``requires-python``."""
    first, end = re.fullmatch(
        r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]
    ).groups()  # type: ignore[union-attr]
    return [f"3.{minor}" for minor in range(int(first), int(end))]


def test_ci_runs_on_every_python_that_is_promised() -> None:
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == promised()
    assert job["steps"][-1] == {"run": ".ci/run"}


def test_make_builds_its_environment_with_the_python_of_the_job() -> None:
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert job["env"]["PYTHON"] == "python${{ matrix.python }}"
    assert re.search(r"^PYTHON \?=", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    (setup,) = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert setup["python-version"] == "${{ matrix.python }}"
    assert (ROOT / setup["cache-dependency-path"]).is_file()


def test_actions_are_pinned_by_major_version() -> None:
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"actions/[\w-]+@v\d+", name)] == []


@pytest.mark.parametrize("page", ["README.md", "docs/first_hour.md", "Makefile"])
def test_pages_name_the_pythons_that_are_promised(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    ranges = re.findall(r"Python (3\.\d+)(?:-| to )(3\.\d+)", text)
    assert ranges == [(promised()[0], promised()[-1])]


def test_tools_read_the_source_as_the_first_python_does() -> None:
    tools = PROJECT["tool"]
    assert tools["mypy"]["python_version"] == promised()[0]
    assert tools["ruff"]["target-version"] == "py" + promised()[0].replace(".", "")


def test_hooks_check_what_make_lint_checks() -> None:
    (local,) = read(".pre-commit-config.yaml")["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]]
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nlint: ")[1].split("\n\n")[0]
    linted = re.findall(r"\$\(BIN\)/(\w+(?: check| format)?)", recipe)
    assert hooks == linted


@pytest.mark.parametrize("path", [path for path in FORMS if path.name != "config.yml"])
def test_a_form_of_an_issue_asks_what_it_needs(path: Any) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    assert [part["attributes"]["label"] for part in form["body"]]
    assert len({part["id"] for part in form["body"]}) == len(form["body"])
    assert any(part.get("validations", {}).get("required") for part in form["body"])
    named = re.findall(r"\b(?:docs|results)/[\w/.]+\w", path.read_text(encoding="utf-8"))
    assert [one for one in named if not (ROOT / one).exists()] == []
