"""Studies: resuming, sharing, early stops, failures, and who may be the winner."""

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from diffusion_dfl.errors import RunFailed, UserError
from diffusion_dfl.suite.search.space import Budget, Space
from diffusion_dfl.suite.search.study import Study, best_choice, chosen_costs
from diffusion_dfl.suite.search.trials import Outcome

SPACE = Space("conf/search/test.yaml", {"base": 3}, {"x": {"low": -1.0, "high": 1.0}})
PLENTY = Budget(trials=12, seconds=1e9)


class Place:
    """An instance that is only a name and an offset."""

    def __init__(self, number: int) -> None:
        self.number, self.name = number, f"fold {number}"


PLACES: list[Any] = [Place(number) for number in range(8)]


def parabola(changes: Mapping[str, Any], place: Any) -> Outcome:
    """Costs by c, instance effects far larger than those of x: only pairing sees x."""
    assert changes["base"] == 3
    cost = 10.0 * place.number + changes["x"] ** 2
    return Outcome({"1": cost + 0.5, "2": cost}, {"fit": 5.0})


def study(tmp_path: Path, space: Space = SPACE, data: str = "data") -> Study:
    return Study(tmp_path / "studies" / "test.journal", space, data)


def test_the_best_of_a_budget_is_found_and_the_worse_are_stopped_early(tmp_path: Path) -> None:
    found = study(tmp_path)
    found.begin({"x": 0.9})
    found.run(PLACES, parabola, PLENTY)
    assert len(found.trials) == PLENTY.trials
    assert found.trials[0].params["x"] == 0.9  # the preset goes first
    done = found.finished()
    assert done[0].user_attrs["chosen"] == "2"
    assert done[0].value == min(trial.value for trial in done)
    pruned = [one for one in found.trials if one.state == TrialState.PRUNED]
    assert pruned
    for one in pruned:
        assert 4 <= len(one.intermediate_values) < len(PLACES)
    np.testing.assert_allclose(
        chosen_costs(done[0]), [10.0 * k + done[0].params["x"] ** 2 for k in range(8)]
    )


def test_a_study_goes_on_where_it_was_and_draws_nothing_twice(tmp_path: Path) -> None:
    for trials in (3, 6, 9):
        study(tmp_path).run(PLACES, parabola, Budget(trials, 1e9))
    found = study(tmp_path).trials
    assert len(found) == 9
    assert len({one.params["x"] for one in found}) == 9
    study(tmp_path).run(PLACES, parabola, Budget(9, 1e9))
    assert len(study(tmp_path).trials) == 9


def test_seconds_are_a_budget_too_but_a_winner_is_one_of_four(tmp_path: Path) -> None:
    found, spent = study(tmp_path), Budget(12, 0.0)
    found.run(PLACES, parabola, spent)
    assert len(found.trials) == 4
    assert found.over(spent)
    found.run(PLACES, parabola, spent)
    assert len(found.trials) == 4


def test_trials_that_failed_were_no_rivals(tmp_path: Path) -> None:
    def fails_twice(changes: Mapping[str, Any], place: Any) -> Outcome:
        if len(found.trials) <= 2:
            raise RunFailed("loss nan")
        return parabola(changes, place)

    found = study(tmp_path)
    found.run(PLACES, fails_twice, Budget(12, 0.0))
    assert len(found.trials) == 6


def test_a_trial_that_crashes_is_counted_and_never_the_winner(tmp_path: Path) -> None:
    def sometimes(changes: Mapping[str, Any], place: Any) -> Outcome:
        if changes["x"] < 0.3:
            raise RunFailed("loss nan")
        return parabola(changes, place)

    found = study(tmp_path)
    found.begin({"x": 0.5})
    found.run(PLACES, sometimes, PLENTY)
    failed = [one for one in found.trials if one.state == TrialState.FAIL]
    assert failed
    assert failed[0].user_attrs["reason"] == "RunFailed: loss nan"
    assert len(found.trials) == PLENTY.trials
    assert all(one.params["x"] >= 0.3 for one in found.finished())


def test_a_cost_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    found = study(tmp_path)
    found.run(PLACES, lambda *_: Outcome({"1": float("nan")}, {}), Budget(1, 1e9))
    (trial,) = found.trials
    assert trial.state == TrialState.FAIL
    assert "fold 0: the cost is inf" in trial.user_attrs["reason"]


@pytest.mark.parametrize(
    ("space", "data", "told"),
    [
        (Space("conf/search/test.yaml", {"base": 4}, SPACE.knobs), "data", "another space"),
        (SPACE, "other", "another data"),
    ],
)
def test_a_study_of_another_space_or_other_data_is_refused(
    tmp_path: Path, space: Space, data: str, told: str
) -> None:
    study(tmp_path).run(PLACES, parabola, Budget(1, 1e9))
    with pytest.raises(
        UserError, match=f"test.journal is a study of {told}.*move the journal away"
    ):
        study(tmp_path, space, data)


@pytest.mark.slow
def test_a_killed_worker_s_trial_counts_as_failed_and_a_living_one_s_goes_on(
    tmp_path: Path,
) -> None:
    script = textwrap.dedent(
        f"""
        import os, sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from tests.suite.search.test_study import PLACES, PLENTY, parabola, study
        def killed(changes, place):
            if place.number == 2:
                os.kill(os.getpid(), 9)
            return parabola(changes, place)
        found = study(Path({str(tmp_path)!r}))
        found.begin({{"x": 0.01}})
        found.run(PLACES, killed, PLENTY)
        """
    )
    result = subprocess.run([sys.executable, "-c", script], check=False)
    assert result.returncode == -9
    found = study(tmp_path)
    assert [one.state for one in found.trials] == [TrialState.RUNNING]
    with found._alive():  # Another worker that lives keeps its own trial.
        found.run(PLACES, parabola, Budget(4, 1e9))
    states = [one.state for one in found.trials]
    assert states[0] == TrialState.FAIL
    assert len(states) == 4
    assert found.finished()[0].number != 0


def test_the_choice_is_one_that_all_instances_have_and_the_first_of_equals() -> None:
    costs = [{"1": 2.0, "2": 1.0, "3": 0.0}, {"1": 2.0, "2": 3.0}]
    assert best_choice(costs) == ("1", 2.0)
    assert best_choice([{"1": float("nan"), "2": 5.0}]) == ("2", 5.0)
    assert best_choice([{"1": float("nan")}])[1] == float("inf")


def test_workers_that_begin_together_draw_different_trials(tmp_path: Path) -> None:
    found = study(tmp_path)
    drawn = []
    with found._alive() as (place, _):
        assert place == 0
        study(tmp_path).run(PLACES, parabola, Budget(1, 1e9))
        drawn.append(found.trials[0].params["x"])
    alone = Study(tmp_path / "studies" / "alone.journal", SPACE, "data")
    alone.run(PLACES, parabola, Budget(1, 1e9))
    again = Study(tmp_path / "again" / "alone.journal", SPACE, "data")
    again.run(PLACES, parabola, Budget(1, 1e9))
    assert alone.trials[0].params["x"] == again.trials[0].params["x"] != drawn[0]


def test_a_worker_whose_trial_was_buried_while_it_was_silent_goes_on_with_another(
    tmp_path: Path,
) -> None:
    found = study(tmp_path)

    def buried(changes: Mapping[str, Any], place: Any) -> Outcome:
        if len(found.trials) == 1 and place.number == 1:
            study(tmp_path).study.tell(0, state=TrialState.FAIL)
        return parabola(changes, place)

    found.run(PLACES, buried, Budget(3, 1e9))
    assert found.trials[0].state == TrialState.FAIL
    assert len(found.finished()) >= 1
    assert len(found.trials) == 3


def test_the_study_is_over_when_the_last_worker_s_trial_is(tmp_path: Path) -> None:
    found = study(tmp_path)
    found.begin({"x": 0.5})

    def slow(changes: Mapping[str, Any], place: Any) -> Outcome:
        time.sleep(0.1)
        return parabola(changes, place)

    other = threading.Thread(target=study(tmp_path).run, args=(PLACES, slow, Budget(1, 1e9)))
    other.start()
    while not any("worker" in one.user_attrs for one in found.trials):
        time.sleep(0.01)
    study(tmp_path).run(PLACES, parabola, Budget(1, 1e9))
    assert [one.state for one in found.trials] == [TrialState.COMPLETE]
    other.join()
