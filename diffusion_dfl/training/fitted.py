"""A trained predictor with its decision rule: decisions for new contexts, scenarios, metrics."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffusion_dfl.data.frames import numbers
from diffusion_dfl.errors import UserError
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DecisionMaker, Predictor
from diffusion_dfl.predictors.decision_maker import Decided
from diffusion_dfl.programs.numbers import as_tensor
from diffusion_dfl.progress import Listener
from diffusion_dfl.sizes import check_sizes
from diffusion_dfl.solvers import Status
from diffusion_dfl.tasks import Evaluation, Task
from diffusion_dfl.tasks.rule import LayerRule, rows_at_once
from diffusion_dfl.training.comparison import belongs, note
from diffusion_dfl.training.experiment import Experiment
from diffusion_dfl.training.interface import Interface
from diffusion_dfl.training.loop import Progress
from diffusion_dfl.training.rule import DecisionRule
from diffusion_dfl.training.steps import Part, Steps, nowhere
from diffusion_dfl.training.streams import torch_stream

Array = NDArray[np.float64]

#: Stage -> its epochs, ``(number, values)`` each; validation before the first is epoch 0.
History = Mapping[str, Sequence[tuple[int, dict[str, float]]]]


@dataclass(frozen=True)
class Decisions:
    """Decisions for N contexts.

    Attributes:
        decision: ``(N, n)`` float64, raw units; NaN in the rows that were not solved.
        status: ``(N,)`` int64 of :class:`~diffusion_dfl.solvers.Status`; for a policy, whether its
            decision could be projected on the feasible set.
        refused: ``(N,)`` bool, contexts that were not finite and went to no solver.
        scenarios: ``(N, M, d_y)`` float64, raw units, what the decisions were made from, where it was
            asked for; NaN in the refused rows.
    """

    decision: Array
    status: NDArray[np.int64]
    refused: NDArray[np.bool_]
    scenarios: Array | None = None

    def __len__(self) -> int:
        return len(self.status)

    @property
    def made(self) -> NDArray[np.bool_]:
        """``(N,)``, whether there is a decision."""
        return ~self.refused & (self.status == int(Status.SOLVED))

    @property
    def sentences(self) -> list[str]:
        """The status of every row in words."""
        return [self.outcome(row)[1] for row in range(len(self))]

    def outcome(self, row: int) -> tuple[str, str]:
        """Status of a row in a word, and in a sentence."""
        if self.refused[row]:
            return "refused", "refused: a feature is missing or not finite"
        status = Status(int(self.status[row]))
        return status.name.lower(), status.sentence


@dataclass(frozen=True)
class Fitted:
    """A trained predictor with its decision rule: fresh from training, or from a run that was kept.

    Attributes:
        predictor: in evaluation mode, with the best weights.
        rule: how decisions are made.
        interface: names of what goes in and comes out, and the program.
        seed, device: of the training.
        task: what it was trained on; None for one that was kept, whose data was not asked for.
        validation_cost: mean decision cost on the validation rows, by their weights if they have any,
            of the training that held them out; None where none did (``refit`` with epochs that were all
            given), and for one that was kept.
        fit, train: how the stages went; None for one that was not made here.
        history: of the epochs of every stage that was made here.
    """

    predictor: DecisionMaker
    rule: DecisionRule
    interface: Interface
    seed: int
    device: torch.device
    task: Task | None = None
    validation_cost: float | None = None
    fit: Progress | None = None
    train: Progress | None = None
    history: History = field(default_factory=dict)

    def __post_init__(self) -> None:
        belongs(self.predictor, self.rule)

    @property
    def layer(self) -> DecisionLayer:
        """A decision layer of the rule."""
        return self.rule.layer(self.interface.program)

    @property
    def num_scenarios(self) -> int:
        """M; 1 for a predictor that is not stochastic."""
        return self.rule.num_scenarios if self.predictor.stochastic else 1

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the d_x contexts, in the predictor's order."""
        return self.interface.features

    @property
    def decision_names(self) -> tuple[str, ...]:
        """Names of the n decisions, the columns of a table of them."""
        return self.interface.decisions

    def decide(
        self, contexts: ArrayLike | Tensor | pd.DataFrame, as_judged: bool = False
    ) -> Decisions:
        """Decisions for new contexts, by the rule that was trained; the same every time.

        That of a row depends on its place, not on the rows after it. A task that is ``pooled`` has
        one decision, made for the first row.

        Args:
            contexts: ``(N, d_x)`` in raw units; of a data frame, the context columns by name.
            as_judged: whether the last rows, which are fewer than are decided at once, get the noise
                that an evaluation of exactly these N rows draws for them. It depends on N.

        Raises:
            UserError: another number of columns, columns that are missing or a value that is no
                finite number.
        """
        values = self._contexts(contexts)
        parts = list(self.stream([values], as_judged))
        size = len(self.decision_names)
        return Decisions(
            np.concatenate([np.empty((0, size)), *(part.decision for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.status for part in parts)]),
            np.concatenate([np.empty(0, np.bool_), *(part.refused for part in parts)]),
        )

    def stream(
        self, batches: Iterable[Array], as_judged: bool = False, scenarios: bool = False
    ) -> Iterator[Decisions]:
        """The decisions of :meth:`decide` for contexts that come in batches, in constant memory.

        How the rows are cut into batches changes nothing; what comes out is cut otherwise. A row that
        is not finite is refused, and changes no other.

        Args:
            batches: ``(., d_x)`` each, in raw units.
            as_judged: as in :meth:`decide`.
            scenarios: whether the scenarios come with the decisions.

        Raises:
            UserError: another number of columns, or scenarios of a policy, which has none.
        """
        if scenarios and self.predictor.decides:
            raise UserError(f"a {type(self.predictor).__name__} decides without scenarios")
        rule, group = LayerRule(self.layer, self.num_scenarios), rows_at_once(self.num_scenarios)
        generator = torch_stream(self.seed, "test", self.device)
        size = len(self.decision_names)
        pooled: tuple[Decided, Tensor] | None = None

        def made(contexts: Tensor, fill: bool) -> tuple[Decided, Tensor]:
            known = contexts.float()
            if fill and self.predictor.stochastic:
                # torch's draws depend on how many are asked for: with noise for a whole group a row's
                # decision does not depend on the rows after it.
                known = torch.cat([known, known[-1:].expand(group - len(known), -1)])
            (decided,), drawn = self.predictor.decide([rule], known, contexts, generator)
            return decided, drawn.double()

        # So many, whatever batches they come in, that neither noise nor rounding depends on these.
        for rows in self._regrouped(batches, group):
            context = torch.tensor(rows, dtype=torch.float64, device=self.device)
            good = context.isfinite().all(1)
            # A row in place of a refused one: the noise of the others stays as it is.
            context[~good] = self.predictor.contexts.mean.double()
            if not self.interface.pooled:
                (decision, status), drawn = made(context, not as_judged)
            elif good.any() or pooled is not None:
                pooled = pooled or made(context[good][:1], fill=False)
                decision, status, drawn = (
                    value.expand(len(rows), *value.shape[1:]) for value in (*pooled[0], pooled[1])
                )
            else:
                drawn = context.new_full((len(rows), 1, self.predictor.outcome_size), torch.nan)
                decision = torch.full((len(rows), size), torch.nan, device=self.device)
                status = torch.full((len(rows),), int(Status.INVALID_INPUT), device=self.device)
            solved = good & (status == int(Status.SOLVED))
            yield Decisions(
                torch.where(solved.unsqueeze(1), decision.double(), torch.nan).cpu().numpy(),
                status.cpu().numpy(),
                (~good).cpu().numpy(),
                torch.where(good[:, None, None], drawn, torch.nan).cpu().numpy()
                if scenarios
                else None,
            )

    def sample(
        self, contexts: ArrayLike | Tensor | pd.DataFrame, num_scenarios: int
    ) -> NDArray[np.float64]:
        """Scenarios ``(N, M, d_y)`` of the outcome, raw units; the same every time.

        Raises:
            UserError: as in :meth:`decide`.
            TypeError: a policy, which predicts no outcome.
        """
        if not isinstance(self.predictor, Predictor):
            raise TypeError("a policy predicts no outcome; use decide()")
        values = torch.as_tensor(self._contexts(contexts)).to(self.device)
        generator = torch_stream(self.seed, "test", self.device)
        with torch.no_grad():
            found = self.predictor.checked_sample(values.float(), num_scenarios, generator)
        return found.double().cpu().numpy()

    def evaluate(
        self, part: Part = "test", num_large: int = 500, progress: Listener | bool = True
    ) -> Evaluation:
        """Metrics on a part of the task's data (:func:`diffusion_dfl.tasks.evaluate`).

        Where another predictor was evaluated on the same task under another rule, a warning names both.
        Rows that were not solved have no decision and count in no mean: a warning says how many, and
        ``undecided`` of what is returned counts them.

        Args:
            part: ``train``, ``validation`` or ``test``.
            num_large: scenarios a row of ``task_large``, ``task_exact_large``, CRPS, coverage and
                RMSE; ``task`` and ``task_exact`` decide on the first M of them. Time and memory grow
                with it; at least M are drawn. It changes the noise, so compare at one value.
            progress: told of the rows that are done; as in :func:`~diffusion_dfl.train`.

        Raises:
            UserError: one that was kept, and has no data; no such part.
            TypeError, ValueError: ``num_large`` is no integer of at least 1.
        """
        if part not in get_args(Part):
            raise UserError(f"part={part!r}: expected {', '.join(get_args(Part))}")
        check_sizes(num_large=num_large)
        steps, count = self._steps(), max(num_large, self.rule.num_scenarios)
        note(steps.task, self.predictor, self.rule)
        return steps.evaluate(self.predictor, part, count, progress)

    def baselines(self) -> dict[str, float | None]:
        """Headline number of the task's plain baselines on the test rows; None for infinity."""
        return self._steps().baselines()

    def _steps(self) -> Steps:
        if self.task is None:
            raise UserError(
                "this predictor was loaded without its data, which it is judged on; load it with "
                "data=True"
            )
        experiment = Experiment(self.task, self.predictor, rule=self.rule, seed=self.seed)
        return Steps(experiment, self.device, nowhere)

    def _contexts(self, contexts: ArrayLike | Tensor | pd.DataFrame) -> Array:
        """``(N, d_x)``, every value finite."""
        names = self.feature_names
        if isinstance(contexts, pd.DataFrame):
            task = "predictor" if self.task is None else self.task.name
            values = numbers(task, contexts, names, "context")
        else:
            try:
                values = as_tensor("contexts", contexts).detach().cpu().double().numpy()
            except TypeError as error:
                raise UserError(f"{error}; or a data frame with the columns by name") from None
        self._check_columns(values)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise UserError(
                f"contexts: {names[column]} is {values[row, column]} in row {row} ({len(bad)} such "
                "values in all); every value must be a finite number"
            )
        return values

    def _check_columns(self, values: Array) -> None:
        names = self.feature_names
        if values.ndim != 2 or values.shape[1] != len(names):
            raise UserError(
                f"contexts have shape {values.shape}; expected (N, {len(names)}), the columns "
                f"{', '.join(map(str, names))}"
            )

    def _regrouped(self, batches: Iterable[Array], size: int) -> Iterator[Array]:
        """The rows of all batches in groups of ``size``, the last one smaller."""
        held: list[Array] = []
        count = 0
        for batch in batches:
            self._check_columns(batch)
            held.append(batch)
            count += len(batch)
            if count >= size:
                rows = np.concatenate(held)
                for start in range(0, count - size + 1, size):
                    yield rows[start : start + size]
                held = [rows[count - count % size :]]
                count %= size
        if count:
            yield np.concatenate(held)
