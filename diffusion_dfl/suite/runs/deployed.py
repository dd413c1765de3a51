"""A trained run at work: decisions for contexts it has not seen.

    run = load_run(Path("results/runs/laptop/power/gaussian-score/seed-0"))
    made = run.decide(contexts)              # (N, d_x) -> decisions (N, n), a status a row

Decisions are made as the run's own evaluation makes them: by the rule it was trained with, on M
scenarios of the stream of its seed that judged it. They are the same at every call; that of a row
depends on its place, not on the rows after it. With ``as_judged=True`` those of its test rows, in their
order, are the ones it was judged by where ``evaluation.num_large`` is M, which draws no further
scenarios between them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import DamagedFile, read_json, read_object, sha256_of
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor
from diffusion_dfl.solvers import Status
from diffusion_dfl.suite.config.commands import command, identity_of_record
from diffusion_dfl.suite.config.compose import NEUTRAL, name_of_file
from diffusion_dfl.suite.config.own import CODE, GROUPS, is_own, source_file
from diffusion_dfl.suite.runs.directory import RunDirectory
from diffusion_dfl.suite.runs.execution import decision_rule, make_predictor, make_task
from diffusion_dfl.suite.runs.interface import NAME, Interface, read_interface
from diffusion_dfl.training.checkpoint import read_tensors
from diffusion_dfl.training.decisions import decided, rows_at_once
from diffusion_dfl.training.loop import refuse_other_architecture
from diffusion_dfl.training.streams import torch_stream

Array = NDArray[np.float64]

# Keys of `data` that say where it is; a record does not keep them.
_PLACES = ("root", "url", "directory", "file")


@dataclass(frozen=True)
class Decisions:
    """Decisions for N contexts.

    Attributes:
        decision: ``(N, n)``, raw units; NaN where none was made.
        status: ``(N,)`` int64 of :class:`~diffusion_dfl.solvers.Status`.
        refused: ``(N,)`` bool, contexts that were not finite and went to no solver.
    """

    decision: Array
    status: NDArray[np.int64]
    refused: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.status)

    @property
    def made(self) -> NDArray[np.bool_]:
        """``(N,)``, whether there is a decision."""
        return ~self.refused & (self.status == int(Status.SOLVED))

    def outcome(self, row: int) -> tuple[str, str]:
        """Status of a row in a word, and in a sentence."""
        if self.refused[row]:
            return "refused", "refused: a feature is missing or not finite"
        status = Status(int(self.status[row]))
        return status.name.lower(), status.sentence


@dataclass(frozen=True)
class DeployedRun:
    """A finished run, ready to decide.

    Attributes:
        config: its configuration.
        interface: names of its features and decisions.
        predictor: trained, in evaluation mode, on the CPU.
        layer: the rule it was trained and judged with.
        num_scenarios: M; 1 for a predictor that is not stochastic.
    """

    config: DictConfig
    interface: Interface
    predictor: Predictor
    layer: DecisionLayer
    num_scenarios: int

    def decide(self, contexts: Array, as_judged: bool = False) -> Decisions:
        """Decisions for contexts ``(N, d_x)`` in raw units, columns as ``interface.features``.

        Args:
            contexts: the rows.
            as_judged: whether the last rows, which are fewer than are decided at once, get the noise
                that an evaluation of exactly these N rows draws for them. It depends on N.

        Raises:
            ValueError: another number of columns.
        """
        made = list(self.stream([contexts], as_judged))
        return _joined(made, len(self.interface.decisions))

    def stream(self, batches: Iterable[Array], as_judged: bool = False) -> Iterator[Decisions]:
        """The decisions of :meth:`decide` for contexts that come in batches, in constant memory.

        How the rows are cut into batches changes nothing; what comes out is cut otherwise.
        """
        generator = torch_stream(self.config.seed, "test", torch.device("cpu"))
        pooled: tuple[Tensor, Tensor] | None = None
        # So many, whatever batches they come in, that neither noise nor rounding depends on these.
        size = rows_at_once(self.num_scenarios)
        for rows in _regrouped(batches, size, len(self.interface.features)):
            context = torch.tensor(rows, dtype=torch.float64)
            good = context.isfinite().all(1)
            # A row in place of a refused one: the noise of the others stays as it is.
            context[~good] = self.predictor.contexts.mean.double()
            if not self.interface.pooled:
                decision, status = self._decided(context, generator, not as_judged)
            elif good.any() or pooled is not None:
                pooled = pooled or self._decided(context[good][:1], generator, fill=False)
                decision, status = (value.expand(len(rows), *value.shape[1:]) for value in pooled)
            else:
                decision = torch.full((len(rows), len(self.interface.decisions)), torch.nan)
                status = torch.full((len(rows),), int(Status.INVALID_INPUT))
            made = good & (status == int(Status.SOLVED))
            yield Decisions(
                torch.where(made.unsqueeze(1), decision.double(), torch.nan).numpy(),
                status.numpy(),
                (~good).numpy(),
            )

    def _decided(
        self, context: Tensor, generator: torch.Generator, fill: bool
    ) -> tuple[Tensor, Tensor]:
        """Decisions ``(B, n)`` and statuses ``(B,)`` for contexts ``(B, d_x)`` float64."""
        count = self.num_scenarios
        return decided(self.predictor, self.layer, context, count, generator, fill)


def load_run(path: Path, places: Mapping[str, str] | None = None) -> DeployedRun:
    """A finished run from its directory, which is all that is read.

    A run of a version that wrote no interface.json, or a user's program of functions, needs its task
    and so its data.

    Args:
        path: of the run.
        places: where that data is, by the keys of ``data``: ``{"root": FOLDER}``.

    Raises:
        UserError: no run, a record without weights, a run that is not finished, damaged files, data
            or code that is needed and not there.
    """
    directory = RunDirectory(path)
    config = _read_config(directory)
    _refuse_changed_code(config, path)
    weights = read_tensors(directory.weights, torch.device("cpu"))
    interface = read_interface(path)
    if interface is None or interface.program is None:
        interface = Interface.of(make_task(_with_places(config, places or {})))
    assert interface.program is not None
    predictor = make_predictor(config, len(weights["contexts.mean"]), len(weights["outcomes.mean"]))
    refuse_other_architecture(directory.weights, weights, predictor)
    predictor.load_state_dict(weights)
    return DeployedRun(
        config,
        interface,
        predictor.eval(),
        decision_rule(config).layer(interface.program),
        config.decision.num_scenarios if predictor.stochastic else 1,
    )


def contexts_of_test(config: DictConfig, places: Mapping[str, str]) -> Array:
    """Contexts ``(N, d_x)`` of a run's test rows, from its data.

    Raises:
        UserError: the data is not there.
    """
    data = make_task(_with_places(config, places)).dataset
    found: Array = data.contexts[data.test]
    return found


def _read_config(directory: RunDirectory) -> DictConfig:
    """Configuration of a finished run with all it left.

    Raises:
        UserError: it is none.
    """
    path = directory.path
    if not (path / "config.yaml").exists():
        raise UserError(
            f"{path}: there is no run; name a directory that a run printed at its end, such as "
            "results/runs/laptop/power/gaussian-score/seed-0"
        )
    if directory.status != "finished":
        raise UserError(
            f"{path}: the run is {directory.status}, not finished; repeat its command, which goes on "
            "where it stopped"
        )
    if not directory.weights.exists():
        try:
            made = (
                f"make the run with `{command(identity_of_record(read_json(directory.summary)))}`"
            )
        except (OSError, DamagedFile, KeyError, TypeError):
            made = "make the run"
        raise UserError(
            f"{path} has a record but no weights (committed records come without); {made} and name "
            "its directory, which it prints at its end"
        )
    digests = read_object(path / "status.json").get("sha256") or {}
    for name in ("config.yaml", "weights.pt", NAME):
        file = path / name
        if name in digests and (not file.exists() or sha256_of(file) != digests[name]):
            state = "damaged" if file.exists() else "gone"
            raise UserError(
                f"{file} is {state}; repeat the run's command, which makes it anew from the checkpoint"
            )
    config = OmegaConf.load(path / "config.yaml")
    assert isinstance(config, DictConfig)
    for key, value in NEUTRAL.items():  # Keys that joined after the run.
        if key.startswith("decision.") and OmegaConf.select(config, key) is None:
            OmegaConf.update(config, key, value)
    model = config.model
    if "dropout" in model and "activation" not in model and not is_own(model.get("_target_")):
        # Networks had one activation each before it was a knob.
        denoises = "num_diffusion_steps" in model
        OmegaConf.update(config, "model.activation", "silu" if denoises else "relu", force_add=True)
    return config


def _refuse_changed_code(config: DictConfig, path: Path) -> None:
    """Raise UserError if a user's own code is not what it was when the run was made."""
    for group in GROUPS:
        node = config[group]
        if not is_own(node.get("_target_")) or CODE not in node:
            continue
        file = source_file(node["_target_"])
        if file is None:
            raise UserError(
                f"{path}: {group}={node['name']} needs {node['_target_']}, which is not there; call "
                "from the folder of its file, or add that folder to PYTHONPATH"
            )
        if name_of_file(str(file)) != node[CODE]:
            raise UserError(
                f"{path}: {file} has changed since the run was made (expected {node[CODE]}, found "
                f"{name_of_file(str(file))}); train again, or put the file back"
            )


def _with_places(config: DictConfig, places: Mapping[str, str]) -> DictConfig:
    """A run's configuration with the places of its data, which records leave out."""
    for key in places:
        if key not in _PLACES:
            raise UserError(f"data.{key}: only data.{', data.'.join(_PLACES)} can be set here")
    full = OmegaConf.merge(config, {"data": {"root": None, "directory": "data", **places}})
    assert isinstance(full, DictConfig)
    return full


def _regrouped(batches: Iterable[Array], size: int, columns: int) -> Iterator[Array]:
    """The rows of all batches in groups of ``size``, the last one smaller."""
    held: list[Array] = []
    count = 0
    for batch in batches:
        if batch.ndim != 2 or batch.shape[1] != columns:
            raise ValueError(f"contexts have shape {batch.shape}; expected (N, {columns})")
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


def _joined(parts: list[Decisions], size: int) -> Decisions:
    if not parts:
        return Decisions(
            np.empty((0, size)), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)
        )
    return Decisions(
        np.concatenate([part.decision for part in parts]),
        np.concatenate([part.status for part in parts]),
        np.concatenate([part.refused for part in parts]),
    )
