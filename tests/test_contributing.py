"""CONTRIBUTING.md answers ten questions, each with a file and a test; the changelog has its form."""

import re

import pytest

from diffusion_dfl import __version__
from tests.commands import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(
    r"^\| (.*?) \| (.*) \| (.*) \|$",
    CONTRIBUTING.split("## Where do I change")[1].split("\n## ")[0],
    re.MULTILINE,
)[1:]


def test_there_are_ten_questions() -> None:
    assert len(QUESTIONS) == 10


@pytest.mark.parametrize(("question", "answer", "test"), QUESTIONS)
def test_a_question_is_answered_by_files_and_a_test_that_are_there(
    question: str, answer: str, test: str
) -> None:
    links = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", answer + test)
    for text, target in links:
        assert (ROOT / target).is_file(), target
        assert target.endswith((text, ".md")), f"{text} leads to {target}"
    assert len([target for _, target in links if not target.startswith("tests/")]) >= 1
    assert re.fullmatch(r"(?:\[test_\w+\.py\]\(tests/[\w/]+\.py\)(?:, |$))+", test)


def test_functions_that_an_answer_names_are_there() -> None:
    for name, target in re.findall(r"`(_\w+)` of \[[^\]]+\]\(([^)]+)\)", CONTRIBUTING):
        assert f"def {name}(" in (ROOT / target).read_text(encoding="utf-8")


def test_every_folder_of_the_code_map_is_there() -> None:
    named = re.findall(r"^\| (`[^|]+) \|", CONTRIBUTING, re.MULTILINE)
    folders = [folder for row in named for folder in re.findall(r"`([\w/]+/)`", row)]
    assert len(folders) >= 6
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_the_changelog_has_the_version_there_is_and_known_headings() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", text, re.MULTILINE)
    assert __version__ in versions
    assert versions == sorted(versions, reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Withdrawn"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_a_version_is_one_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    assert re.findall(r"diffusion_dfl-([\d.]+)-py3", page) == [__version__]
    assert f'git tag -a v{__version__} -m "Diffusion-DFL {__version__}"' in CONTRIBUTING
