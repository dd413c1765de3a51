"""Dataclass schemas of the configuration: every key and type is checked when it is composed.

Values live in ``conf/``, where each key has a one-line comment; the defaults here are placeholders
(``MISSING``), so that a value has one home.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class TaskConfig:
    name: str = MISSING
    shortage: float = MISSING
    excess: float = MISSING
    ramp: float = MISSING
    validation_fraction: float = MISSING
    block_weeks: int = MISSING
    gap_days: int = MISSING


@dataclass
class DataConfig:
    source: str = MISSING
    root: str | None = None
    url: str = MISSING
    directory: str = MISSING
    num_days: int = MISSING


@dataclass
class DecisionConfig:
    num_scenarios: int = MISSING
    bandwidth_scale: float = MISSING
    curvature: str = MISSING
    solver: str = MISSING
    on_failure: str = MISSING
    max_failure_share: float = MISSING


@dataclass
class TrainingConfig:
    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    weight_decay: float = MISSING
    decay: str = MISSING
    gradient_clip: float = MISSING
    ema_decay: float = MISSING
    patience: int = MISSING
    validate_every: int = MISSING
    dropout: bool = MISSING
    context_noise: float = MISSING
    divergence_factor: float = MISSING


@dataclass
class EvaluationConfig:
    test: bool = MISSING
    num_large: int = MISSING


@dataclass
class OutputConfig:
    root: str = MISSING


@dataclass
class RunConfig:
    """The whole configuration of one run."""

    seed: int = MISSING
    scale: str = MISSING
    device: str = MISSING
    threads: int = MISSING
    force: bool = MISSING
    task: TaskConfig = field(default_factory=TaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: Any = MISSING
    grad: Any = MISSING
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    foundation: TrainingConfig = field(default_factory=TrainingConfig)
    fit: TrainingConfig = field(default_factory=TrainingConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


@dataclass
class NetworkModel:
    """Keys of a perceptron, shared by deterministic, policy and (extended) gaussian."""

    name: str = MISSING
    _target_: str = MISSING
    width: int = MISSING
    layers: int = MISSING
    dropout: float = MISSING


@dataclass
class GaussianModel(NetworkModel):
    min_log_variance: float = MISSING
    max_log_variance: float = MISSING


@dataclass
class DiffusionModel(NetworkModel):
    num_diffusion_steps: int = MISSING
    num_sampling_steps: int = MISSING
    schedule: str = MISSING
    spacing: str = MISSING
    prediction: str = MISSING
    sampler: str = MISSING
    eta: float = MISSING
    variance: str = MISSING
    clip: float = MISSING
    num_elbo_timesteps: int = MISSING
    elbo_timesteps: str = MISSING
    antithetic: bool = MISSING
    outcome_scaling: str = MISSING
    base_dropout: float = MISSING


@dataclass
class PlainGrad:
    """grad=two_stage and grad=policy have no knobs of their own."""

    name: str = MISSING
    _target_: str = MISSING


@dataclass
class ReparamGrad(PlainGrad):
    decision_weight: float = MISSING
    fit_weight: float = MISSING


@dataclass
class ScoreGrad(ReparamGrad):
    weight_clip: float = MISSING


def register() -> None:
    """Make the schemas known to Hydra; called once by the entry point and by :mod:`compose`."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for name, model in (
        ("network", NetworkModel),
        ("gaussian", GaussianModel),
        ("diffusion", DiffusionModel),
    ):
        store.store(group="schema/model", name=name, node=model)
    for name, grad in (("plain", PlainGrad), ("reparam", ReparamGrad), ("score", ScoreGrad)):
        store.store(group="schema/grad", name=name, node=grad)
