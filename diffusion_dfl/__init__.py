"""Decision-focused learning with diffusion models for stochastic optimisation.

    import diffusion_dfl as ddfl

    task = ddfl.task_from_frame("stock", program, frame, context=["weekday"], outcome=["demand"])
    fitted = ddfl.train(task, ddfl.GaussianPredictor, ddfl.Score(100, fit_weight=1.0))

Names of ``__all__`` are imported when they are first used; what is promised of them is in
docs/library.md. They need neither hydra nor wandb, which the suite does.

The packages point one way: ``programs`` <- ``solvers`` <- ``layers`` <- ``estimators`` <-
``training``; ``predictors`` know nothing of programs, ``tasks`` tie a program to data, and none of
them knows the ``suite`` (docs/architecture.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from diffusion_dfl.data import DataError, Dataset
    from diffusion_dfl.errors import RunFailed, UserError
    from diffusion_dfl.estimators import (
        Batch,
        CostWeighted,
        Estimator,
        Loss,
        Mixture,
        Policy,
        Reparam,
        Score,
        ScorePath,
        SetScore,
        TwoStage,
        decision_cost,
        score_weights,
    )
    from diffusion_dfl.layers import DecisionLayer, SolverFailure
    from diffusion_dfl.predictors import (
        BaseModels,
        DecisionMaker,
        DeterministicPredictor,
        DiffusionPredictor,
        ElboSurrogate,
        FlowPredictor,
        GaussianPredictor,
        LogDensity,
        PolicyNetwork,
        Predictor,
        ResidualBase,
        ResidualBootstrap,
        Sampling,
        Scaling,
        residual_base,
    )
    from diffusion_dfl.programs import (
        Hinge,
        Instances,
        MeanVariancePortfolio,
        Newsvendor,
        PowerProgram,
        ProductAllocation,
        Program,
        Recourse,
        Regulariser,
        TorchProgram,
        TwoStageProgram,
        conditional_value_at_risk,
    )
    from diffusion_dfl.solvers import Solution, Status, solve
    from diffusion_dfl.tasks import (
        Evaluation,
        FrameTask,
        Judgement,
        Task,
        check_problem,
        evaluate,
        project,
        task_from_frame,
    )
    from diffusion_dfl.training.api import train
    from diffusion_dfl.training.compare import compare
    from diffusion_dfl.training.experiment import Experiment, Stages
    from diffusion_dfl.training.fitted import Decisions, Fitted
    from diffusion_dfl.training.rule import DecisionRule
    from diffusion_dfl.training.settings import TrainingSettings

#: Where the public names live.
_HOMES = {
    "diffusion_dfl.data": ("DataError", "Dataset"),
    "diffusion_dfl.errors": ("RunFailed", "UserError"),
    "diffusion_dfl.estimators": (
        "Batch",
        "CostWeighted",
        "Estimator",
        "Loss",
        "Mixture",
        "Policy",
        "Reparam",
        "Score",
        "ScorePath",
        "SetScore",
        "TwoStage",
        "decision_cost",
        "score_weights",
    ),
    "diffusion_dfl.layers": ("DecisionLayer", "SolverFailure"),
    "diffusion_dfl.predictors": (
        "BaseModels",
        "DecisionMaker",
        "DeterministicPredictor",
        "DiffusionPredictor",
        "ElboSurrogate",
        "FlowPredictor",
        "GaussianPredictor",
        "LogDensity",
        "PolicyNetwork",
        "Predictor",
        "ResidualBase",
        "ResidualBootstrap",
        "Sampling",
        "Scaling",
        "residual_base",
    ),
    "diffusion_dfl.programs": (
        "Hinge",
        "Instances",
        "MeanVariancePortfolio",
        "Newsvendor",
        "PowerProgram",
        "ProductAllocation",
        "Program",
        "Recourse",
        "Regulariser",
        "TorchProgram",
        "TwoStageProgram",
        "conditional_value_at_risk",
    ),
    "diffusion_dfl.solvers": ("Solution", "Status", "solve"),
    "diffusion_dfl.tasks": (
        "Evaluation",
        "FrameTask",
        "Judgement",
        "Task",
        "check_problem",
        "evaluate",
        "project",
        "task_from_frame",
    ),
    "diffusion_dfl.training.api": ("train",),
    "diffusion_dfl.training.compare": ("compare",),
    "diffusion_dfl.training.experiment": ("Experiment", "Stages"),
    "diffusion_dfl.training.fitted": ("Decisions", "Fitted"),
    "diffusion_dfl.training.settings": ("TrainingSettings",),
    "diffusion_dfl.training.rule": ("DecisionRule",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BaseModels",
    "Batch",
    "CostWeighted",
    "DataError",
    "Dataset",
    "DecisionLayer",
    "DecisionMaker",
    "DecisionRule",
    "Decisions",
    "DeterministicPredictor",
    "DiffusionPredictor",
    "ElboSurrogate",
    "Estimator",
    "Evaluation",
    "Experiment",
    "Fitted",
    "FlowPredictor",
    "FrameTask",
    "GaussianPredictor",
    "Hinge",
    "Instances",
    "Judgement",
    "LogDensity",
    "Loss",
    "MeanVariancePortfolio",
    "Mixture",
    "Newsvendor",
    "Policy",
    "PolicyNetwork",
    "PowerProgram",
    "Predictor",
    "ProductAllocation",
    "Program",
    "Recourse",
    "Regulariser",
    "Reparam",
    "ResidualBase",
    "ResidualBootstrap",
    "RunFailed",
    "Sampling",
    "Scaling",
    "Score",
    "ScorePath",
    "SetScore",
    "Solution",
    "SolverFailure",
    "Stages",
    "Status",
    "Task",
    "TorchProgram",
    "TrainingSettings",
    "TwoStage",
    "TwoStageProgram",
    "UserError",
    "__version__",
    "check_problem",
    "compare",
    "conditional_value_at_risk",
    "decision_cost",
    "evaluate",
    "project",
    "residual_base",
    "score_weights",
    "solve",
    "task_from_frame",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
