"""The benchmarks of a training step write what they promise, on sizes that measure nothing."""

import argparse
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from benchmarks import memory

    return memory


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from benchmarks import training

    monkeypatch.setattr(training, "one_thread", lambda: None)
    return training


def test_live_bytes_are_those_of_the_tensors_that_are_there(memory: ModuleType) -> None:
    before = torch.randn(50)
    with memory.LiveBytes() as live:
        kept = before + 1  # 200 bytes
        assert live.held == 200
        view = kept[10:]
        kept.add_(view.sum())  # a scalar comes and goes
        assert live.held == 200
        for _ in range(5):
            torch.zeros(1000)
        assert (live.held, live.peak) == (200, 4200)
        del kept
        assert live.held == 200  # the view keeps it
        del view
        assert live.held == 0


@pytest.mark.slow
def test_memory_is_counted_alike_on_real_and_on_meta_tensors(
    memory: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = argparse.Namespace(width=64, steps=20, timesteps=10, output=tmp_path)
    memory.run(arguments)
    record = json.loads((tmp_path / "memory.json").read_text())
    assert (tmp_path / "memory.md").read_text() in capsys.readouterr().out
    goals = {goal["goal"]: goal["met"] for goal in record["goals"]}
    assert goals["score on real / on meta tensors, exactly 1"]
    full, checkpointed, ten, one = [
        count["saved"] for count in record["counts"] if count["name"].startswith("reparam")
    ]
    assert full > ten > checkpointed > one
    # Whatever the steps save: 20 of them twice as much as 10, but for what all share.
    assert full == pytest.approx(2 * ten, rel=0.05)
    assert all(count["live"] >= count["saved"] for count in record["counts"])


@pytest.mark.slow
def test_the_training_benchmark_splits_a_step_into_parts_that_add_up(
    training: ModuleType, tmp_path: Path
) -> None:
    arguments = argparse.Namespace(data="simulated", repeats=1, scale="smoke", output=tmp_path)
    training.run(arguments)
    record = json.loads((tmp_path / "training.json").read_text())
    assert [case["name"] for case in record["cases"]] == list(training.CASES)
    for case in record["cases"]:
        step = case["step_seconds"]
        parts = [step[name] for name in ("sampling", "solving", "surrogate", "optimiser")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(step["total"])
        assert case["name"] in (tmp_path / "training.md").read_text()
    assert set(record["other_steps_seconds"]) == set(training.OTHERS)
    assert str(ROOT) not in json.dumps(record)


def test_the_floor_counts_every_product_once(training: ModuleType) -> None:
    """Operations of the products against a count by hand."""
    layers = [torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)]

    def operations(backward: bool) -> int:
        products = training._products(layers, 7, backward)
        for left, right, out in products:
            assert (left @ right).shape == out.shape
        return sum(left.shape[0] * left.shape[1] * right.shape[1] for left, right, _ in products)

    forward = 7 * (3 * 5 + 5 * 2)
    assert operations(False) == forward
    # Weights of both layers, inputs of the second.
    assert operations(True) == 2 * forward + 7 * 5 * 2
