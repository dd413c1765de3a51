"""What training and evaluation say while they go on: a function is told, a terminal shows a bar."""

import io
import sys
from functools import partial
from typing import Any

import pytest
import torch

import diffusion_dfl as ddfl
from diffusion_dfl.progress import TerminalBar, listening
from tests.training.problems import RULE, WHOLE, task

torch.set_num_threads(1)
SMALL = partial(ddfl.GaussianPredictor, width=8, layers=1)
Told = list[tuple[str, int, int, dict[str, float]]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[list[str]]:
        """The words of every line that was ended, as it stood last."""
        return [line.split("\r")[-1].split() for line in self.getvalue().split("\n")[:-1]]


def trained(progress: Any, **options: Any) -> ddfl.Fitted:
    given = {"decision": RULE, "fit": WHOLE, "train": WHOLE, "device": "cpu", **options}
    return ddfl.train(task(), SMALL, ddfl.Reparam(6), progress=progress, **given)


def test_a_function_is_told_every_epoch_of_every_stage_and_all_rows() -> None:
    told: Told = []
    fitted = trained(lambda *words: told.append(words))
    assert [words[:3] for words in told] == [
        (stage, epoch, 3) for stage in ("fit", "train") for epoch in range(4)
    ]
    assert {name: tuple(w[1:4:2] for w in told if w[0] == name) for name in fitted.history} == dict(
        fitted.history
    )
    told.clear()
    rows = len(task().dataset.train)
    fitted.evaluate("train", num_large=4000, progress=lambda *words: told.append(words))
    assert [words[0] for words in told] == ["evaluate"] * len(told) and len(told) > 1
    assert [done for _, done, _, _ in told] == sorted(done for _, done, _, _ in told)
    assert told[-1] == ("evaluate", rows, rows, {})


@pytest.mark.usefixtures("every_epoch")
def test_what_the_function_raises_stops_training_and_the_same_call_goes_on(tmp_path: Any) -> None:
    def stop(stage: str, done: int, total: int, values: Any) -> None:
        if (stage, done) == ("train", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(stop, directory=tmp_path)
    told: Told = []
    again = trained(lambda *words: told.append(words), directory=tmp_path)
    assert [done for stage, done, *_ in told if stage == "train"] == [2, 3]
    whole = trained(False)
    assert again.history == whole.history


def test_a_terminal_has_a_line_a_stage_and_a_pipe_none(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trained(True).evaluate(num_large=6)
    assert capfd.readouterr() == ("", "")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    quiet = trained(False)
    quiet.evaluate(num_large=6, progress=False)
    assert screen.getvalue() == ""
    fitted = trained(True)
    fitted.evaluate(num_large=6)
    lines = screen.lines()
    assert [(words[0], words[2]) for words in lines] == [
        ("fit", "3/3"),
        ("train", "3/3"),
        ("evaluate", f"{len(task().dataset.test)}/{len(task().dataset.test)}"),
    ]
    assert (
        lines[1][-1] == f"validation_score={fitted.history['train'][-1][1]['validation_score']:.4g}"
    )
    assert fitted.history == quiet.history


def test_a_stage_that_stops_early_and_one_that_fails_end_their_line() -> None:
    screen = Terminal()
    bar = TerminalBar(screen)
    bar("fit", 2, 60, {"validation_score": 1.0})
    bar("train", 0, 5, {})
    bar.close()
    assert [words[0] for words in screen.lines()] == ["fit", "train"]
    bar.close()
    assert len(screen.lines()) == 2


def test_what_is_no_listener_is_refused_before_training() -> None:
    with pytest.raises(TypeError, match="progress='bar': expected a function"):
        trained("bar")
    with pytest.raises(TypeError), listening(None):  # type: ignore[arg-type]
        pass
