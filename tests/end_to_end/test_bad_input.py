"""Bad input: one message that names the key, the value and the mend; nothing on disk is lost."""

from pathlib import Path

import pytest
import torch

from tests.processes import ROOT, forked


def refused(tmp_path: Path, *overrides: str) -> str:
    """The message of a command that must fail."""
    result = forked(ROOT / "train.py", f"output.root={tmp_path}", *overrides)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modle=gaussian", ["modle", "did you mean model"]),
        ("train.learning_rat=1", ["train.learning_rat", "did you mean train.learning_rate"]),
        ("model=gausian", ["model=gausian", "did you mean gaussian"]),
        ("decision.num_scenarios=many", ["decision.num_scenarios", "many", "an integer"]),
        ("train.decay=linear", ["train.decay=linear", "constant or cosine"]),
        ("seed=9-0", ["seed=9-0", "empty", "seed=0-9"]),
    ],
)
def test_wrong_key_choice_type_and_range(tmp_path: Path, override: str, words: list[str]) -> None:
    message = refused(tmp_path, "data=simulated", override)
    for word in words:
        assert word in message
    assert not list(tmp_path.rglob("summary.json"))


def test_pairs_that_make_no_sense_are_refused_with_the_list_of_those_that_do(
    tmp_path: Path,
) -> None:
    message = refused(tmp_path, "-m", "model=gaussian,deterministic", "grad=score", "seed=0,1")
    assert "model=deterministic grad=score" in message
    assert "model=diffusion grad=two_stage,reparam,score" in message
    assert not (tmp_path / "runs").exists()  # not even the gaussian half has begun


def test_corrupted_data_file_is_named_and_never_used_or_touched(tmp_path: Path) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    wrong = folder / "pjm_load_data_2008-11.txt"
    wrong.write_text("1 2 3\n")
    message = refused(tmp_path, f"data.root={folder}")
    assert wrong.name in message
    assert "sha256" in message
    assert wrong.read_text() == "1 2 3\n"
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda(tmp_path: Path) -> None:
    assert "device=cuda" in refused(tmp_path, "data=simulated", "device=cuda")
