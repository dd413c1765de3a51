"""Combinations of keys that have no gradient, no density or no solver, refused by name."""

import logging

from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError

logger = logging.getLogger(__name__)


def check_path(config: DictConfig) -> None:
    """Refuse paths without a density: every step of the sampler must add noise.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    model = config.model
    for key, noisy, mend in (
        ("model.sampler", model.sampler != "dpm_solver", "model.sampler=ancestral"),
        ("model.eta", model.sampler != "ddim" or model.eta > 0, "model.eta=1"),
        ("model.final_noise", model.final_noise, "model.final_noise=true"),
    ):
        if not noisy:
            raise UserError(
                f"grad=score_path with {key}={OmegaConf.select(config, key)}: a step of this sampler "
                f"adds no noise, so its path has no density; set {mend}"
            )


def check_refit(config: DictConfig) -> None:
    """Refuse a refit of nothing, and one that leaves nothing to be judged by.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    if not config.fit.refit:
        return
    stages = [] if config.model.name == "policy" else ["fit"]
    if config.model.get("outcome_scaling") == "residual" or "law" in config.model:
        stages.append("foundation")
    if config.grad.name != "two_stage":
        stages.append("train")
    if all(config[stage].epochs == 0 for stage in stages):
        raise UserError(
            f"fit.refit=true with {', '.join(f'{stage}.epochs=0' for stage in stages)}: no epoch is "
            "chosen that could be repeated on more rows; set epochs above 0, or fit.refit=false"
        )
    if not config.evaluation.test and all(config[stage].keep == "last" for stage in stages):
        raise UserError(
            f"evaluation.test=false with fit.refit=true and {stages[-1]}.keep=last: all rows before the "
            "test are trained on and the test is not looked at, so nothing would be measured; add "
            "fit.refit=false, which keeps the validation rows out"
        )


def check_decision_rule(config: DictConfig, kinked: bool) -> None:
    """Refuse decision rules that have no gradient, or no solver.

    Args:
        config: composed and valid.
        kinked: whether the task's program has kinks; a smooth one is never convolved.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    decision = config.decision
    convolved = kinked and decision.curvature == "convolved" and decision.bandwidth_scale > 0
    scored = config.grad.name in ("score", "score_path")
    if scored and kinked and not convolved and decision.curvature != "paper":
        key = "curvature" if decision.curvature == "saa" else "bandwidth_scale"
        mend = (
            "set decision.curvature=convolved"
            if key == "curvature"
            else "set decision.bandwidth_scale above 0 (1.5 is a good start)"
        )
        raise UserError(
            f"grad={config.grad.name} with decision.{key}={decision[key]}: the optimum of the exact sample "
            "program sits on scenarios and does not move with their weights, so its score gradient "
            f"is zero; {mend} or use grad=reparam"
        )
    if scored and decision.num_scenarios < 2:
        raise UserError(
            f"grad={config.grad.name} with decision.num_scenarios={decision.num_scenarios}: the "
            "weights of one scenario are zero; take at least 2, better 100"
        )
    if convolved and decision.solver in ("cvxpy", "cvxpylayers"):
        raise UserError(
            f"decision.solver={decision.solver}: the convolved cost has no conic form; set "
            "decision.curvature=saa with it, or decision.solver=auto"
        )
    if convolved and decision.on_failure == "reference":
        raise UserError(
            "decision.on_failure=reference: the reference solves exact programs only; set "
            "decision.curvature=saa with it, or decision.on_failure=retry"
        )
    if decision.solver == "cvxpylayers" and (scored or decision.curvature == "paper"):
        raise UserError(
            "decision.solver=cvxpylayers differentiates the exact program in its scenarios only; "
            "use it with grad=reparam and decision.curvature=saa"
        )
    if decision.solver == "cvxpy" and (scored or config.grad.name == "reparam"):
        logger.warning("decision.solver=cvxpy solves one instance at a time: expect minutes a step")
