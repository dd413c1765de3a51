"""docs/architecture.md and its picture are what the source says."""

from pathlib import Path

import pytest

from scripts.docsite import architecture, step
from tests.commands import ROOT

PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "architecture.svg"


@pytest.fixture(scope="module")
def graph() -> architecture.Graph:
    return architecture.read(ROOT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two packages, a module between them, and a script."""
    files = {
        "train.py": "import diffusion_dfl.upper.a\n",
        "scripts/one.py": "",
        "diffusion_dfl/__init__.py": "",
        "diffusion_dfl/between.py": "from diffusion_dfl.lower import thing\n",
        "diffusion_dfl/upper/__init__.py": '"""Upper: what stands\nabove.\n\nMore."""\n',
        "diffusion_dfl/upper/a.py": "from diffusion_dfl import between\n",
        "diffusion_dfl/lower/__init__.py": '"""What stands below."""\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_committed_table_is_what_the_imports_say(graph: architecture.Graph) -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = architecture.with_block(text, "packages", architecture.table(graph, PAGE.parent))
    assert made == text, "run `make architecture`"


def test_the_committed_picture_is_what_the_imports_say(graph: architecture.Graph) -> None:
    assert architecture.picture(graph) == PICTURE.read_text(encoding="utf-8"), (
        "run `make architecture`"
    )


@pytest.mark.slow
def test_the_committed_way_of_a_step_is_what_a_run_calls() -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = architecture.with_block(text, "step", step.table(step.way()))
    assert made == text, "run `make architecture`"


def test_arrows_say_all_that_is_imported(graph: architecture.Graph) -> None:
    arrows = graph.arrows()
    reduced = architecture.Graph(
        graph.meanings,
        {box: frozenset(b for a, b in arrows if a == box) for box in graph.imports},
        {},
    )
    assert all(reduced.reach(box) == graph.reach(box) for box in graph.imports)
    for arrow in arrows:
        fewer = {
            box: frozenset(b for a, b in arrows if a == box and (a, b) != arrow)
            for box in graph.imports
        }
        assert arrow[1] not in architecture.Graph({}, fewer, {}).reach(arrow[0])


def test_a_single_module_stands_for_what_it_imports(checkout: Path) -> None:
    graph = architecture.read(checkout)
    assert graph.imports["upper"] == {"lower"}
    assert graph.arrows() == [("train.py", "upper"), ("upper", "lower")]
    assert graph.meanings["upper"] == "What stands above."


def test_an_import_within_a_function_is_one_of_calls(checkout: Path) -> None:
    (checkout / "diffusion_dfl/lower/b.py").write_text(
        "def later():\n    import diffusion_dfl.upper.a\n"
    )
    graph = architecture.read(checkout)
    assert (graph.imports["lower"], graph.calls["lower"]) == (frozenset(), {"upper"})


def test_packages_that_import_each_other_are_refused(checkout: Path) -> None:
    (checkout / "diffusion_dfl/lower/b.py").write_text("import diffusion_dfl.upper.a\n")
    with pytest.raises(ValueError, match=r"^(upper|lower) imports itself"):
        architecture.read(checkout)


def test_a_package_without_a_docstring_or_a_place_is_named(checkout: Path) -> None:
    with pytest.raises(ValueError, match="give lower, upper a place"):
        architecture.picture(architecture.read(checkout))
    (checkout / "diffusion_dfl/lower/__init__.py").write_text("")
    with pytest.raises(ValueError, match=r"lower/__init__\.py does not say"):
        architecture.read(checkout)
