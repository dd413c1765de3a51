"""A trained run at work: decisions for contexts it has not seen.

    run = load_run(Path("results/runs/laptop/power/gaussian-score/seed-0"))
    made = run.decide(contexts)              # (N, d_x) -> decisions (N, n), a status a row

Decisions are made as the run's own evaluation makes them: by the rule it was trained with, on M
scenarios of the stream of its seed that judged it. They are the same at every call; that of a row
depends on its place, not on the rows after it. With ``as_judged=True`` those of its test rows, in their
order, are the ones it was judged by where ``evaluation.num_large`` is M, which draws no further
scenarios between them.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import (
    DamagedFile,
    is_plain,
    printable,
    read_json,
    read_object,
    sha256_of,
)
from diffusion_dfl.suite.config.commands import command, identity_of_record
from diffusion_dfl.suite.config.compose import NEUTRAL, identify, name_of_file, validate
from diffusion_dfl.suite.config.own import CODE, GROUPS, is_own, source_file
from diffusion_dfl.suite.runs.compile import decision_rule, make_predictor, make_task
from diffusion_dfl.suite.runs.directory import RunDirectory, stored_config
from diffusion_dfl.suite.runs.interface import NAME, read_interface
from diffusion_dfl.training.checkpoint import read_tensors
from diffusion_dfl.training.fitted import Fitted
from diffusion_dfl.training.interface import Interface
from diffusion_dfl.training.loop import refuse_other_architecture

# Keys of `data` that say where it is; a record does not keep them.
_PLACES = ("root", "url", "directory", "file")


def load_run(
    path: Path,
    places: Mapping[str, str] | None = None,
    *,
    data: bool = False,
    trust: Path | None = None,
) -> Fitted:
    """A finished run from its directory, which is all that is read and which runs no code of its own.

    A user's program of functions, and a run of a version that wrote no interface.json, need the run's
    task and so its data.

    Args:
        path: of the run.
        places: where that data is, by the keys of ``data``: ``{"root": FOLDER}``.
        data: whether the data is read too, for :meth:`~diffusion_dfl.Fitted.evaluate`.
        trust: folder of the code of a task or a model of the user's own, which is then run.

    Raises:
        UserError: no run, a record without weights, a run that is not finished, damaged files, parts
            that a run may not name, data or code that is needed and not there.
    """
    return _loaded(path, read_config(path, trust), places, data, trust)


def _loaded(
    path: Path,
    config: DictConfig,
    places: Mapping[str, str] | None,
    data: bool,
    trust: Path | None,
) -> Fitted:
    directory = RunDirectory(path)
    _refuse_changed_code(config, path)
    weights = read_tensors(directory.weights, torch.device("cpu"))
    for name in ("contexts.mean", "outcomes.mean"):
        if not isinstance(weights.get(name), torch.Tensor) or weights[name].dim() != 1:
            raise UserError(f"{directory.weights} holds no predictor: it has no {name}")
    interface = read_interface(path, trust)
    if interface is not None and len(interface.features) != len(weights["contexts.mean"]):
        raise UserError(
            f"{path / NAME} is of {len(interface.features)} features, and weights.pt of "
            f"{len(weights['contexts.mean'])}; repeat the run's command with force=true"
        )
    task = None
    if data or interface is None:
        task = make_task(_with_places(config, places or {}))
        interface = Interface.of(task)
    predictor = make_predictor(config, len(weights["contexts.mean"]), len(weights["outcomes.mean"]))
    refuse_other_architecture(directory.weights, weights, predictor)
    predictor.load_state_dict(weights)
    _refuse_other_sizes(path, interface, predictor)
    return Fitted(
        predictor.eval(), decision_rule(config), interface, config.seed, torch.device("cpu"), task
    )


def load_finished(config: DictConfig) -> Fitted:
    """The finished run of a configuration, with its data.

    Raises:
        UserError: it is not finished, or its weights are damaged.
    """
    identity = identify(config)
    validate(config)
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
    places = {key: config.data[key] for key in _PLACES if config.data.get(key) is not None}
    mine = {str(config[group]["_target_"]) for group in GROUPS}
    return _loaded(directory.path, read_config(directory.path, None, mine), places, True, None)


def contexts_of_test(
    path: Path, places: Mapping[str, str], trust: Path | None = None
) -> NDArray[np.float64]:
    """Contexts ``(N, d_x)`` of a run's test rows, from its data.

    Raises:
        UserError: the data is not there.
    """
    data = make_task(_with_places(read_config(path, trust), places)).dataset
    found: NDArray[np.float64] = data.contexts[data.test]
    return found


def read_config(path: Path, trust: Path | None = None, also: Collection[str] = ()) -> DictConfig:
    """Configuration of a finished run with all it left.

    Args:
        path: of the run.
        trust: folder of code that the configuration may name.
        also: targets that it may name besides those of this package.

    Raises:
        UserError: it is none, or names what it may not.
    """
    directory = RunDirectory(path)
    if not is_plain(path / "config.yaml"):
        raise UserError(
            f"{path}: there is no run; name a directory that a run printed at its end, such as "
            "results/runs/laptop/power/gaussian-score/seed-0"
        )
    if directory.status != "finished":
        raise UserError(
            f"{path}: the run is {printable(directory.status, 20)}, not finished; repeat its command, which goes on "
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
    told = read_object(path / "status.json").get("sha256")
    digests = told if isinstance(told, dict) else {}
    for name in ("config.yaml", "weights.pt", NAME):
        file = path / name
        if name in digests and (not is_plain(file) or sha256_of(file) != digests[name]):
            state = "damaged" if file.exists() else "gone"
            raise UserError(
                f"{file} is {state}; repeat the run's command, which makes it anew from the checkpoint"
            )
    config = stored_config(path / "config.yaml", trust, also)
    for key, value in NEUTRAL.items():  # Keys that joined after the run.
        if key.startswith("decision.") and OmegaConf.select(config, key) is None:
            OmegaConf.update(config, key, value)
    model = config.model
    if "dropout" in model and "activation" not in model and not is_own(model.get("_target_")):
        # Networks had one activation each before it was a knob.
        denoises = "num_diffusion_steps" in model
        OmegaConf.update(config, "model.activation", "silu" if denoises else "relu", force_add=True)
    return config


def _refuse_other_sizes(path: Path, interface: Interface, predictor: torch.nn.Module) -> None:
    """Raise UserError if a run's program and its predictor are not of one problem."""
    program, sizes = interface.program, (predictor.context_size, predictor.outcome_size)
    outcomes = program.num_decisions if predictor.decides else program.num_outcomes
    found = (len(interface.features), outcomes, len(interface.decisions))
    if found != (*sizes, program.num_decisions):
        raise UserError(
            f"{path / NAME} is of {found[0]} features, {found[1]} outcomes and {found[2]} decisions, and "
            f"weights.pt of {sizes[0]} and {sizes[1]}; repeat the run's command with force=true"
        )


def _refuse_changed_code(config: DictConfig, path: Path) -> None:
    """Raise UserError if a user's own code is not what it was when the run was made."""
    for group in GROUPS:
        node = config[group]
        if not is_own(node.get("_target_")) or not node.get(CODE):
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
    kept = config.data.get("file")
    if kept and "file" not in places:
        raise UserError(f"the run was trained on {kept}; say where it is with --data file=FILE")
    if (
        kept
        and name_of_file(places["file"]).partition(" sha256 ")[2] != kept.partition(" sha256 ")[2]
    ):
        raise UserError(f"data.file={places['file']} is not the {kept} that the run was trained on")
    # Nothing is fetched from where a run's files say.
    nowhere = {"root": None, "directory": "data", "url": None}
    full = OmegaConf.merge(config, {"data": {**nowhere, **places}})
    assert isinstance(full, DictConfig)
    return full
