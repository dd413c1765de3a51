"""The decision rule: how decisions are made from scenarios, in training and at test."""

from dataclasses import dataclass

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.layers.decision import LayerSolver, check_knobs
from diffusion_dfl.layers.differentiate import Curvature
from diffusion_dfl.layers.failures import OnFailure
from diffusion_dfl.programs import Program, Regulariser
from diffusion_dfl.sizes import check_sizes


@dataclass(frozen=True)
class DecisionRule:
    """How decisions are made from scenarios, in training and at test.

    Attributes:
        num_scenarios: M, scenarios a context. A predictor that is not stochastic has one.
        train_scenarios: most scenarios a context that a decision stage learns from, M if null: a gradient
            costs far more than a decision, and steps average its noise. The bandwidth is that of M.
        bandwidth_scale: c of the smoothing bandwidth c * std * M^(-1/5); 0 is the exact rule.
        curvature: convolved, saa (the exact sample program) or paper (the printed formula).
        solver: auto, structured, interior_point, cvxpy or cvxpylayers (both exact only).
        on_failure: unsolved instances: retry, reference, drop (leave out, count) or raise.
        max_failure_share: share of unsolved instances of a batch that stops the run.
        regularise: curvature added to what is minimised, for programs that have none of their own
            (:class:`~diffusion_dfl.Regulariser`).

    Raises:
        ValueError: a value out of range.
    """

    num_scenarios: int = 100
    bandwidth_scale: float = 1.5
    curvature: Curvature = "convolved"
    solver: LayerSolver = "auto"
    on_failure: OnFailure = "drop"
    max_failure_share: float = 0.05
    regularise: Regulariser | None = None
    train_scenarios: int | None = None

    def __post_init__(self) -> None:
        check_sizes(num_scenarios=self.num_scenarios)
        if self.train_scenarios is not None:
            check_sizes(train_scenarios=self.train_scenarios)
        check_knobs(
            self.bandwidth_scale,
            self.curvature,
            self.solver,
            self.on_failure,
            self.max_failure_share,
        )

    @property
    def learned_from(self) -> int:
        """Scenarios a context that an estimator draws."""
        return min(self.train_scenarios or self.num_scenarios, self.num_scenarios)

    def layer(self, program: Program) -> DecisionLayer:
        """A layer of this rule, with statistics of its own."""
        return DecisionLayer(
            program,
            self.bandwidth_scale,
            sample_size=self.num_scenarios,
            curvature=self.curvature,
            solver=self.solver,
            on_failure=self.on_failure,
            max_failure_share=self.max_failure_share,
            regularise=self.regularise,
        )
