"""The searches of a task: a fit for every model, shared by its rows, then a decision stage for every row."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.search.instances import Instance, data_digest, instances
from diffusion_dfl.suite.search.space import Budget, Space, StageOfSearch, read_budget, read_space
from diffusion_dfl.suite.search.study import Study
from diffusion_dfl.suite.search.trials import Bench, Outcome, trial_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A stage of a row.

    Attributes:
        task, model, grad: of the row; a fit's grad is ``two_stage``.
        stage: ``fit`` or ``decision``.
        root: ``results/search``.
        overrides: further ``key=value`` of all trials: another source of data, say.
    """

    task: str
    model: str
    grad: str
    stage: StageOfSearch
    root: Path
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``power-diffusion-fit``, ``power-diffusion-reparam``."""
        last = "fit" if self.stage == "fit" else self.grad
        return f"{self.task}-{self.model}-{last}"

    @cached_property
    def config(self) -> DictConfig:
        """The present preset."""
        words = [f"task={self.task}", f"model={self.model}", f"grad={self.grad}"]
        held_out = ["fit.refit=false", "evaluation.test=false"]
        config = compose_config([*words, *held_out, *self.overrides])
        self.space.check(config)
        return config

    @cached_property
    def space(self) -> Space:
        return read_space(self.model, self.stage, self.task, self.grad)

    @property
    def budget(self) -> Budget:
        return read_budget(self.task)

    @property
    def fit(self) -> "Row | None":
        """The fit that a decision stage starts from; None for one that has none."""
        has_fit = self.stage == "decision" and "two_stage" in CELLS.get(self.model, ())
        return replace(self, grad="two_stage", stage="fit") if has_fit else None

    @property
    def journal(self) -> Path:
        """Where the study is."""
        return self.root / "studies" / f"{self.name}.journal"

    def study(self) -> Study:
        """The row's study, to be run or read.

        Raises:
            UserError: a study of another space or other data, or of a fit that is not there.
        """
        space = replace(
            self.space, fixed={**self.fitted, **self.space.fixed}, overrides=self.overrides
        )
        return Study(self.journal, space, data_digest(self.instances))

    @cached_property
    def instances(self) -> list[Instance]:
        return instances(self.config, self.budget.folds)

    @cached_property
    def fitted(self) -> dict[str, Any]:
        """What the search of the fit chose, but for the rule.

        Raises:
            UserError: it was not made.
        """
        if self.fit is None:
            return {}
        study = self.fit.study()
        done = study.finished()
        if not done:
            raise UserError(
                f"{self.name}: the fit of model={self.model} was not searched yet; run `make search task="
                f"{self.task} model={self.model}`"
            )
        return {**self.fit.fitted, **study.space.fixed, **study.space.values(done[0].params)}

    def run(self, bench: Bench, budget: Budget | None = None) -> Study:
        """Spend what is left of the budget."""
        study = self.begun()
        study.run(
            self.instances,
            lambda changes, instance: self.attempt(bench, changes, instance),
            budget or self.budget,
        )
        return study

    def begun(self) -> Study:
        """The study, whose first trials are the present preset and what won in the model's other rows."""
        study = self.study()
        study.begin(self.space.start(self.config), *self._won_elsewhere())
        return study

    def _won_elsewhere(self) -> Iterator[dict[str, Any]]:
        """What estimators of one gradient want is alike; a budget is short."""
        if self.stage == "fit":
            return
        for row in rows_of(self.task, self.model, self.root, self.overrides):
            if row.stage == "fit" or row.grad == self.grad or not row.journal.exists():
                continue
            study = row.study()
            for winner in study.finished()[:1]:
                values = study.space.values(winner.params)
                shared = {key: values[key] for key in values.keys() & self.space.knobs.keys()}
                yield self.space.start(trial_config(self.config, shared))

    def attempt(self, bench: Bench, changes: Mapping[str, Any], instance: Instance) -> Outcome:
        """One trial on one instance."""
        config = trial_config(self.config, changes)
        return bench.fit(config, instance) if self.stage == "fit" else bench.train(config, instance)

    def calibration(
        self, bench: Bench, study: Study, changes: Sequence[str] = ()
    ) -> dict[str, list[float]]:
        """Forecast scores of the winner of a fit, under its own rule, an instance each.

        Args:
            bench: where its fits are.
            study: of the fit.
            changes: ``key=value`` of the winner's configuration: another sampler, say.

        Raises:
            UserError: a key that there is not.
        """
        best = study.finished()[0]
        values = {**study.space.fixed, **study.space.values(best.params)}
        values["decision.bandwidth_scale"] = float(best.user_attrs["chosen"])
        for word in changes:
            key, _, value = word.partition("=")
            if not value or OmegaConf.select(self.config, key) is None:
                raise UserError(
                    f"--calibration {word}: expected a key of the configuration and its value, "
                    "as in model.num_sampling_steps=20"
                )
            values[key] = yaml.safe_load(value)
        config = trial_config(self.config, values)
        every = [bench.forecasts(config, instance) for instance in self.instances]
        return {name: [one[name] for one in every] for name in every[0]}

    def twin(self, bench: Bench, study: Study) -> list[Outcome]:
        """The winner's steps with decision weight 0 on every instance; nothing for a row without."""
        has_twin = self.fit is not None and "decision_weight" in self.config.grad
        if not has_twin or not study.finished():
            return []
        best = study.finished()[0]
        config = trial_config(self.config, {**study.space.fixed, **study.space.values(best.params)})
        if not config.grad.get("fit_weight"):
            return []
        epochs = int(best.user_attrs["chosen"])
        return [bench.twin(config, instance, epochs) for instance in self.instances]


def rows_of(task: str, model: str, root: Path, overrides: tuple[str, ...] = ()) -> list[Row]:
    """The searches of a model, in the order in which they need each other.

    Raises:
        UserError: no such model.
    """
    if model not in CELLS:
        raise UserError(f"model={model}: there is no such model to search; use {', '.join(CELLS)}")
    found = []
    for grad in CELLS[model]:
        stage: StageOfSearch = "fit" if grad == "two_stage" else "decision"
        found.append(Row(task, model, grad, stage, root, overrides))
    return found


def rows_named(words: Sequence[str], root: Path) -> list[Row]:
    """The searches that words like ``task=power model=diffusion grad=reparam`` name, as :func:`rows_of`.

    Raises:
        UserError: words that name none.
    """
    named = dict(word.split("=", 1) for word in words if "=" in word)
    if len(named) < len(words) or not {"task", "model"} <= named.keys():
        raise UserError(
            f"{' '.join(words)}: expected task=NAME model=NAME and, if one row is meant, grad=NAME"
        )
    row = ("task", "model", "grad")
    others = tuple(f"{key}={value}" for key, value in named.items() if key not in row)
    found = rows_of(named["task"], named["model"], root, others)
    wanted = named.get("grad")
    chosen = [one for one in found if wanted in (None, one.grad)]
    if not chosen:
        raise UserError(
            f"model={named['model']} grad={wanted}: there is no such row; its grads are "
            f"{', '.join(one.grad for one in found)}"
        )
    return chosen


def bench(root: Path, device: torch.device) -> Bench:
    """Where trials are tried; fits are kept in ``results/search/.cache``, which git does not keep."""
    return Bench(root / ".cache", device)
