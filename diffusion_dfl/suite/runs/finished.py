"""A finished run put together again: its task, its trained predictor, its decision rule."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import read_object
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor
from diffusion_dfl.suite.config.commands import command
from diffusion_dfl.suite.config.compose import identify, validate
from diffusion_dfl.suite.runs.directory import RunDirectory
from diffusion_dfl.suite.runs.execution import make_layer, make_predictor, make_task
from diffusion_dfl.tasks import Task
from diffusion_dfl.training.checkpoint import read_tensors
from diffusion_dfl.training.loop import refuse_other_architecture


@dataclass(frozen=True)
class FinishedRun:
    """What a run left.

    Attributes:
        config: its configuration.
        task: program and data.
        predictor: trained, in evaluation mode, on the CPU.
        layer: the rule it was trained and judged with.
        num_scenarios: M of its decisions; 1 for a predictor that is not stochastic.
    """

    config: DictConfig
    task: Task
    predictor: Predictor
    layer: DecisionLayer
    num_scenarios: int


def load_finished(config: DictConfig) -> FinishedRun:
    """The finished run of a configuration.

    Raises:
        UserError: it is not finished, or its weights are damaged.
    """
    validate(config)
    identity = identify(config)
    directory = RunDirectory(Path(config.output.root, "runs") / identity.path)
    if directory.status != "finished" or not directory.weights.exists():
        raise UserError(
            f"{directory.path} holds no finished run; make it with `{command(identity)}` (committed "
            "records come without weights)"
        )
    made = read_object(directory.summary).get("identity") or {}
    if made.get("config_hash") != identity.config_hash:
        raise UserError(
            f"{directory.path} is a run of another configuration than today's preset; make it again with "
            "force=true, which keeps the old one aside"
        )
    task = make_task(config)
    sizes = task.dataset.contexts.shape[1], task.dataset.outcomes.shape[1]
    predictor = make_predictor(config, *sizes)
    weights = read_tensors(directory.weights, torch.device("cpu"))
    refuse_other_architecture(directory.weights, weights, predictor)
    predictor.load_state_dict(weights)
    count = config.decision.num_scenarios if predictor.stochastic else 1
    return FinishedRun(config, task, predictor.eval(), make_layer(config, task), count)
