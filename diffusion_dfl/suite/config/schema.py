"""Dataclass schemas of the configuration: every key and type is checked when it is composed.

Values live in ``conf/``, where each key has a one-line comment; the defaults here are placeholders
(``MISSING``), so that a value has one home.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class DataConfig:
    source: str = MISSING
    root: str | None = None
    url: str | None = None
    directory: str = MISSING
    file: str | None = None
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
    keep: str = MISSING


@dataclass
class FitConfig(TrainingConfig):
    refit: bool = MISSING


@dataclass
class EvaluationConfig:
    test: bool = MISSING
    num_large: int = MISSING


@dataclass
class OutputConfig:
    root: str = MISSING


@dataclass
class LoggerConfig:
    wandb: bool = MISSING
    tensorboard: bool = MISSING
    project: str = MISSING
    entity: str | None = None
    tags: list[str] = MISSING


@dataclass
class RunConfig:
    """The whole configuration of one run."""

    seed: int = MISSING
    scale: str = MISSING
    device: str = MISSING
    threads: int = MISSING
    matmul_precision: str = MISSING
    force: bool = MISSING
    retry_failed: bool = MISSING
    task: Any = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    model: Any = MISSING
    grad: Any = MISSING
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    foundation: TrainingConfig = field(default_factory=TrainingConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass
class PlainTask:
    """Keys of every task; ``_target_`` makes it (:class:`diffusion_dfl.tasks.Task`)."""

    name: str = MISSING
    _target_: str = MISSING


@dataclass
class WeatherTask(PlainTask):
    """power_weather; power adds a choice of features."""

    shortage: float = MISSING
    excess: float = MISSING
    ramp: float = MISSING
    validation_fraction: float = MISSING
    block_weeks: int = MISSING
    gap_days: int = MISSING


@dataclass
class PowerTask(WeatherTask):
    features: str = MISSING


@dataclass
class ReleasedPowerTask(PlainTask):
    """Switches of the released protocol (docs/released.md), here and in the two below."""

    temperatures: bool = MISSING
    last_flat_day: bool = MISSING
    statistics_of_test_days: bool = MISSING
    random_validation_days: bool = MISSING
    kink_mask: bool = MISSING
    shortage: float = MISSING
    excess: float = MISSING
    ramp: float = MISSING
    validation_fraction: float = MISSING


@dataclass
class ReleasedSyntheticTask(PlainTask):
    fixed_data: bool = MISSING
    fixed_test_points: bool = MISSING
    p: float = MISSING
    outcome_scale: float = MISSING
    context_size: int = MISSING
    capacity: float = MISSING


@dataclass
class ReleasedPortfolioTask(PlainTask):
    num_assets: int = MISSING
    risk_aversion: float = MISSING
    symbol_major: bool = MISSING
    subset_mismatch: bool = MISSING
    statistics_of_test_days: bool = MISSING
    first_day: str = MISSING
    last_day: str = MISSING
    longest_window: int = MISSING


@dataclass
class SyntheticTask(PlainTask):
    mixture: str = MISSING
    p: float | None = None
    a: float | None = None
    b: float | None = None
    sigma: float | None = None
    outcome_scale: float | None = None
    num_products: int = MISSING
    capacity: float = MISSING
    context_size: int = MISSING
    num_train: int = MISSING
    num_validation: int = MISSING
    num_test: int = MISSING


@dataclass
class InventoryTask(PlainTask):
    c0: float = MISSING
    q0: float = MISSING
    cb: float = MISSING
    rb: float = MISSING
    ch: float = MISSING
    rh: float = MISSING
    z_max: float = MISSING
    num_components: int = MISSING
    weights: list[float] | None = None
    demand_max: float = MISSING
    deviation: float = MISSING
    context_size: int = MISSING
    logit_scale: float = MISSING
    num_train: int = MISSING
    num_validation: int = MISSING
    num_test: int = MISSING


@dataclass
class PortfolioTask(PlainTask):
    num_assets: int = MISSING
    risk_aversion: float = MISSING
    first_day: str | None = None
    last_day: str | None = None
    validation_start: str | None = None
    test_start: str | None = None
    strict: bool = MISSING
    exclude: list[str] = MISSING


@dataclass
class NetworkModel:
    """Keys of a perceptron, shared by deterministic, policy and (extended) gaussian."""

    name: str = MISSING
    _target_: str = MISSING
    width: int = MISSING
    layers: int = MISSING
    dropout: float = MISSING
    activation: str = MISSING
    context_rank: int = MISSING


@dataclass
class ResidualModel(NetworkModel):
    """Keys of a predictor that may stand on a base."""

    outcome_scaling: str = MISSING
    base_folds: int = MISSING
    base_width: int = MISSING
    base_layers: int = MISSING
    base_dropout: float = MISSING
    base_activation: str = MISSING


@dataclass
class GaussianModel(ResidualModel):
    min_log_variance: float = MISSING
    max_log_variance: float = MISSING


@dataclass
class FlowModel(ResidualModel):
    couplings: int = MISSING
    coupling_width: int = MISSING
    bins: int = MISSING


@dataclass
class BootstrapModel:
    """Keys of the residual laws without a network of their own."""

    name: str = MISSING
    _target_: str = MISSING
    base: str = MISSING
    law: str = MISSING
    base_folds: int = MISSING
    base_width: int = MISSING
    base_layers: int = MISSING
    base_dropout: float = MISSING
    base_activation: str = MISSING


@dataclass
class BoostingModel:
    """Keys of boosted quantiles."""

    name: str = MISSING
    _target_: str = MISSING
    level: float = MISSING
    rounds: int = MISSING
    learning_rate: float = MISSING
    leaves: int = MISSING
    leaf_rows: int = MISSING


@dataclass
class DiffusionModel(ResidualModel):
    outcome_frequencies: int = MISSING
    num_diffusion_steps: int = MISSING
    num_sampling_steps: int = MISSING
    schedule: str = MISSING
    spacing: str = MISSING
    prediction: str = MISSING
    sampler: str = MISSING
    eta: float = MISSING
    variance: str = MISSING
    clip: float = MISSING
    final_noise: bool = MISSING
    num_elbo_timesteps: int = MISSING
    elbo_steps: str = MISSING
    elbo_weighting: str = MISSING
    elbo_timesteps: str = MISSING
    elbo_mixing: float = MISSING
    antithetic: bool = MISSING
    common_noise: bool = MISSING
    chunk_rows: int = MISSING


@dataclass
class PlainGrad:
    """grad=two_stage and grad=policy have no knobs of their own."""

    name: str = MISSING
    _target_: str = MISSING


@dataclass
class MixedGrad(PlainGrad):
    """Keys of every decision-focused estimator."""

    decision_weight: float = MISSING
    fit_weight: float = MISSING
    balance: str = MISSING


@dataclass
class ReparamGrad(MixedGrad):
    backpropagation: str = MISSING
    last_steps: int = MISSING


@dataclass
class ScoreGrad(MixedGrad):
    num_gradient_scenarios: int = MISSING
    weight_clip: float = MISSING
    trust_region: float = MISSING


@cache
def register() -> None:
    """Make the schemas known to Hydra, once in a process."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for name, task in (
        ("plain", PlainTask),
        ("power", PowerTask),
        ("power_weather", WeatherTask),
        ("power_released", ReleasedPowerTask),
        ("synthetic", SyntheticTask),
        ("synthetic_released", ReleasedSyntheticTask),
        ("inventory", InventoryTask),
        ("portfolio", PortfolioTask),
        ("portfolio_released", ReleasedPortfolioTask),
    ):
        store.store(group="schema/task", name=name, node=task)
    for name, model in (
        ("network", NetworkModel),
        ("gaussian", GaussianModel),
        ("diffusion", DiffusionModel),
        ("flow", FlowModel),
        ("bootstrap", BootstrapModel),
        ("boosting", BoostingModel),
    ):
        store.store(group="schema/model", name=name, node=model)
    for name, grad in (("plain", PlainGrad), ("reparam", ReparamGrad), ("score", ScoreGrad)):
        store.store(group="schema/grad", name=name, node=grad)
