"""The command of a run makes that run."""

import shlex

import pytest

from diffusion_dfl.suite.config.commands import command, start
from diffusion_dfl.suite.config.compose import compose_config, identify


@pytest.mark.parametrize(
    "words",
    [
        ["model=gaussian", "grad=reparam"],
        [
            "data=simulated",
            "scale=smoke",
            "model.width=8",
            "decision.curvature=saa",
            "grad=reparam",
        ],
        ["task=portfolio", "task.exclude=[AIG,HIG]", "seed=2"],
        ["task=synthetic", "task.p=0.8", "model=policy", "grad=policy"],
        ["task=power_released", "task.kink_mask=false"],
        ["task=portfolio", "data=csv", "data.file='no file, (1) $x.csv'"],
    ],
    ids=" ".join,
)
def test_the_command_makes_the_run_it_is_of(words: list[str]) -> None:
    identity = identify(compose_config(words))
    assert identify(compose_config(shlex.split(command(identity))[2:])) == identity


def test_a_command_starts_as_this_process_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv, expected in (
        (["train.py", "task=power"], "python train.py"),
        (["scripts/status.py", "--missing"], "python train.py"),
        (["/opt/pytest"], "python train.py"),
        (
            ["../suite/train.py", "task=mine", "--config-dir", "my_conf"],
            "python ../suite/train.py --config-dir my_conf",
        ),
        (
            ["../suite/scripts/status.py", "--config-dir", "my_conf", "--own"],
            "python ../suite/train.py --config-dir my_conf",
        ),
    ):
        monkeypatch.setattr("sys.argv", argv)
        assert start() == expected
