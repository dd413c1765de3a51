"""How close the score gradient of a trained diffusion is to its reparameterised gradient.

Takes the two-stage weights of a finished run (`python train.py model=diffusion grad=two_stage`) and
compares averages over several noise draws on one batch of training days: cosine of score and
reparam, for several k and weight clips, and the cosine of two halves of the draws as noise floor.
"""

import argparse
import sys
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor

from diffusion_dfl.config.compose import compose_config, identify
from diffusion_dfl.data import power_dataset
from diffusion_dfl.estimators import Batch, Estimator, Reparam, Score
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.training.streams import numpy_stream


def mean_gradients(
    predictor: DiffusionPredictor,
    estimator: Estimator,
    layer: DecisionLayer,
    batch: Batch,
    seeds: range,
) -> Tensor:
    """One flat gradient a seed, ``(len(seeds), P)``."""
    rows = []
    for seed in seeds:
        predictor.zero_grad()
        generator = torch.Generator().manual_seed(seed)
        estimator(predictor, layer, batch, generator).value.backward()
        rows.append(
            torch.cat([p.grad.flatten() for p in predictor.parameters() if p.grad is not None])
        )
    return torch.stack(rows)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--scenarios", type=int, default=200)
    arguments = parser.parse_args()
    config = compose_config(["model=diffusion", "grad=two_stage"])
    weights = arguments.results / "runs" / identify(config).path / "weights.pt"
    if not weights.exists():
        print(f"{weights} is missing; run `python train.py model=diffusion grad=two_stage` first")
        return 1
    data = power_dataset("real", numpy_stream(config.seed, "split"))
    torch.manual_seed(0)
    sizes = data.contexts.shape[1], data.outcomes.shape[1]
    predictor = instantiate({k: v for k, v in config.model.items() if k != "name"}, *sizes)
    predictor.load_state_dict(torch.load(weights, weights_only=True))
    predictor.eval()
    rows = data.train[:64]
    batch = Batch(
        torch.as_tensor(data.contexts[rows], dtype=torch.float32),
        torch.as_tensor(data.outcomes[rows], dtype=torch.float32),
    )
    layer = DecisionLayer(PowerProgram(), config.decision.bandwidth_scale)
    draws, half = arguments.draws, arguments.draws // 2
    pathwise = mean_gradients(predictor, Reparam(arguments.scenarios), layer, batch, range(draws))
    truth = pathwise.mean(0)
    print(f"reparam, noise floor: {cosine(pathwise[:half].mean(0), pathwise[half:].mean(0)):.2f}")
    print("| k | weight_clip | cosine, mean | cosine, one draw | noise floor |")
    print("|---|---|---|---|---|")
    for k in (2, 4, 8):
        for clip in (0.0, 4.0):
            predictor.num_elbo_timesteps = k
            estimator = Score(arguments.scenarios, weight_clip=clip)
            seeds = range(1000, 1000 + draws)
            found = mean_gradients(predictor, estimator, layer, batch, seeds)
            single = sum(cosine(row, truth) for row in found) / draws
            floor = cosine(found[:half].mean(0), found[half:].mean(0))
            print(
                f"| {k} | {clip:g} | {cosine(found.mean(0), truth):.2f} | {single:.2f} | {floor:.2f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
