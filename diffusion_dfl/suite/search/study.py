"""A study: trials of one stage of one row, in a journal that resumes and that workers share.

Trials are optuna's (TPE; Akiba et al., 2019). Every trial goes through the same instances in the same order.
After four of them (every fold once) it is held against the best trial so far on the same instances, and
stopped where it is worse by more than a standard error of the paired differences. (Optuna's own pruners
compare the best mean a trial ever told, over other instances, with the present one of the others.)
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from diffusion_dfl.errors import RunFailed, UserError
from diffusion_dfl.files import read_object
from diffusion_dfl.layers import SolverFailure
from diffusion_dfl.suite.runs.lease import EXPIRY, Held, Lease
from diffusion_dfl.suite.search.instances import Instance
from diffusion_dfl.suite.search.space import Budget, Space
from diffusion_dfl.suite.search.trials import Outcome

logger = logging.getLogger(__name__)

#: Changes of a trial, an instance -> what came of it.
Try = Callable[[Mapping[str, Any], Instance], Outcome]

# Instances a trial gets in any case: of two differences there is hardly a standard error.
_UNPRUNED_INSTANCES = 4
# Trials that a winner was held against, itself among them, however long they took.
_FEWEST_JUDGED = 4
_RANDOM_TRIALS = 5
# Between the seeds of two workers' samplers.
_PLACE = 100_000
# Seconds between looks at the last trials of other workers.
_LOOK = 1.0


class Study:
    """A study in its journal.

    Args:
        journal: file; made where it is not there.
        space: of its trials.
        data: digest of the instances.

    Raises:
        UserError: a journal of another space or other data.
    """

    def __init__(self, journal: Path, space: Space, data: str) -> None:
        self.journal, self.space = journal, space
        journal.parent.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        made = journal.exists()
        storage = JournalStorage(JournalFileBackend(str(journal)))
        if made:  # Reading writes nothing.
            self.study = optuna.load_study(study_name=journal.stem, storage=storage)
        else:
            self.study = optuna.create_study(
                study_name=journal.stem,
                storage=storage,
                direction="minimize",
                load_if_exists=True,
            )
        self.study.pruner = optuna.pruners.NopPruner()
        self._check("space", space.digest, f"{space.name} has changed since")
        self._check("data", data, "the data, the folds or the seeds are others now")

    def _check(self, name: str, now: str, reason: str) -> None:
        known = self.study.user_attrs.get(name)
        if known is None:
            self.study.set_user_attr(name, now)
        elif known != now:
            raise UserError(
                f"{self.journal} is a study of another {name} ({known}, now {now}): {reason}; its trials "
                "cannot be compared with new ones. Put it back, or move the journal away to begin again"
            )

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @property
    def spent(self) -> float:
        """Seconds of all trials so far."""
        return float(sum(trial.user_attrs.get("seconds", 0.0) for trial in self.trials))

    def finished(self) -> list[FrozenTrial]:
        """Trials that went through all instances, the best first."""
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return sorted(done, key=lambda trial: (trial.value, trial.number))

    def begin(self, *starts: Mapping[str, Any]) -> None:
        """Give a study without trials its first ones: values of its space."""
        if not self.trials:
            for start in starts:
                self.study.enqueue_trial(dict(start), skip_if_exists=True)

    def run(self, instances: Sequence[Instance], attempt: Try, budget: Budget) -> None:
        """Spend what is left of the budget, and wait for the last trials of other workers.

        Args:
            instances: of every trial, in order.
            attempt: one instance.
            budget: of the study, what was spent before included; workers that share it may each end a
                trial more.
        """
        with self._alive() as (place, worker):
            # A sampler begins with its seed: one that goes on must not draw again what was drawn, nor two
            # that begin together the same.
            self.study.sampler = optuna.samplers.TPESampler(
                seed=len(self.trials) + _PLACE * place,
                n_startup_trials=_RANDOM_TRIALS,
                multivariate=True,
                constant_liar=True,
            )
            while not self.over(budget):
                try:
                    self._trial(instances, attempt, worker)
                except UpdateFinishedTrialError:
                    logger.warning("a trial of this worker was counted as killed: it was silent")
        while self._running():
            time.sleep(_LOOK)

    def over(self, budget: Budget) -> bool:
        """Whether the budget is spent: its trials, or its seconds with four trials that did not fail."""
        self._running()
        states = [trial.state for trial in self.trials]
        tried = sum(state != TrialState.WAITING for state in states)
        judged = sum(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states)
        return tried >= budget.trials or (self.spent >= budget.seconds and judged >= _FEWEST_JUDGED)

    def _trial(self, instances: Sequence[Instance], attempt: Try, worker: str) -> None:
        began = time.process_time()
        trial = self.study.ask()
        trial.set_user_attr("worker", worker)
        changes = {**self.space.fixed, **self.space.suggest(trial)}
        outcomes: list[Outcome] = []
        state, reason = TrialState.COMPLETE, ""
        try:
            for number, instance in enumerate(instances):
                outcomes.append(attempt(changes, instance))
                trial.set_user_attr("seconds", time.process_time() - began)
                _, mean = best_choice([one.costs for one in outcomes])
                if not np.isfinite(mean):
                    raise RunFailed(f"{instance.name}: the cost is {mean}")
                trial.report(mean, number)
                logger.info(
                    "trial %d, %d of %d instances: %.5g",
                    trial.number,
                    number + 1,
                    len(instances),
                    mean,
                )
                if number + 1 < len(instances) and self._worse([one.costs for one in outcomes]):
                    state = TrialState.PRUNED
                    break
        except (RunFailed, SolverFailure, UserError, ValueError) as error:
            state, reason = TrialState.FAIL, f"{type(error).__name__}: {error}".splitlines()[0]
            trial.set_user_attr("reason", reason)
        # Once a trial: a journal keeps every word that was ever said.
        trial.set_user_attr("costs", [dict(one.costs) for one in outcomes])
        trial.set_user_attr("epochs", [dict(one.epochs) for one in outcomes])
        trial.set_user_attr("seconds", time.process_time() - began)
        values = None
        if state is TrialState.COMPLETE:
            chosen, values = best_choice([one.costs for one in outcomes])
            trial.set_user_attr("chosen", chosen)
        self.study.tell(trial, values, state=state)
        logger.info(
            "trial %d: %s %s %s",
            trial.number,
            state.name.lower(),
            reason,
            self.space.values(trial.params),
        )

    def _worse(self, costs: Sequence[Mapping[str, float]]) -> bool:
        """Whether a trial is behind the best one on the instances it has been through."""
        done = self.finished()
        if not done or len(costs) < _UNPRUNED_INSTANCES:
            return False
        best = done[0].user_attrs["costs"][: len(costs)]
        own, others = best_choice(costs)[0], best_choice(best)[0]
        gap = np.array([a[own] - b[others] for a, b in zip(costs, best, strict=True)])
        return bool(gap.mean() > gap.std(ddof=1) / len(gap) ** 0.5)

    @property
    def _workers(self) -> Path:
        return self.journal.parent / ".workers"

    @contextmanager
    def _alive(self) -> Iterator[tuple[int, str]]:
        """The first free place among the workers, held for as long as this one lives, on whatever host;
        and its name."""
        with ExitStack() as held:
            for place in itertools.count():
                folder = self._workers / str(place)
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    lease = held.enter_context(Lease(folder))
                except Held:
                    continue
                yield place, f"{place}-{lease.token}"
                return

    def _running(self) -> bool:
        """Whether a living worker is in a trial; trials of killed ones are counted as failed."""
        running = False
        for trial in self.trials:
            if trial.state != TrialState.RUNNING:
                continue
            worker = trial.user_attrs.get("worker")
            if _new(trial) if worker is None else self._lives(worker):
                running = True
                continue
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            logger.warning("trial %d was killed: it counts as failed", trial.number)
        return running

    def _lives(self, worker: str) -> bool:
        """Whether a worker still holds its place."""
        place, _, token = worker.partition("-")
        folder = self._workers / place
        if not folder.is_dir():
            return False
        try:
            with Lease(folder):
                return False
        except Held:
            return bool(read_object(folder / ".owner").get("token") == token)


def _new(trial: FrozenTrial) -> bool:
    """Whether a trial whose worker has not said its name yet may be about to."""
    began = trial.datetime_start
    return began is not None and abs((datetime.now() - began).total_seconds()) < EXPIRY


def best_choice(costs: Sequence[Mapping[str, float]]) -> tuple[str, float]:
    """The choice that all instances have with the least mean cost, and this mean.

    Of choices that cost the same the first.
    """
    shared = [name for name in costs[0] if all(name in one for one in costs)]
    means = {name: float(np.mean([one[name] for one in costs])) for name in shared}
    finite = {name: mean for name, mean in means.items() if np.isfinite(mean)}
    if not finite:
        return shared[0], float("inf")
    name = min(finite, key=finite.__getitem__)
    return name, finite[name]


def chosen_costs(trial: FrozenTrial) -> np.ndarray:
    """Costs of a finished trial's choice, an instance each."""
    name = trial.user_attrs["chosen"]
    return np.array([one[name] for one in trial.user_attrs["costs"]])
