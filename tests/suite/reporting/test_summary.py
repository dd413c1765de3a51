"""Table 1 in short, and how it gets into the README."""

from pathlib import Path

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.summary import BEGIN, END, in_columns, summary, with_block
from diffusion_dfl.suite.reporting.table1 import build
from tests.suite.reporting.records import frame_of, wanted
from tests.suite.reporting.records import summary as record


def test_a_row_a_method_with_the_papers_number_and_the_best_bold(tmp_path: Path) -> None:
    records = [
        record("gaussian", grad, seed, cost + 0.1 * seed)
        for grad, cost in (("two_stage", 3.0), ("reparam", 2.0))
        for seed in range(2)
    ]
    for one in records:
        one["test"]["baselines"] = {"saa": 4.0, "knn_saa": 3.5}
    table = build(frame_of(tmp_path, records), wanted())
    text = summary([table])
    assert "| Gaussian TS | 3.050 ± 0.050 [5.580] |" in text
    assert "| Gaussian reparameterization | **2.050 ± 0.050** [3.724] |" in text
    assert "Diffusion" not in text  # no run, no row
    assert "| Best plain baseline | 3.500 ± 0.000 |" in text
    assert "over 2 seeds" in text and "sample average of the nearest contexts" in text
    told = in_columns([table])
    assert "Gaussian reparameterization  *2.050 ± 0.050 [3.724]\n" in told
    assert "|" not in told


def test_a_block_is_replaced_and_nothing_else() -> None:
    text = f"# Title\n\n{BEGIN}\nold\n{END}\n\nmore\n"
    assert with_block(text, "new\n") == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nmore\n"
    assert with_block(with_block(text, "new\n"), "new\n") == with_block(text, "new\n")


@pytest.mark.parametrize("text", ["", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_readme_without_its_marks_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="needs the lines"):
        with_block(text, "new\n")
