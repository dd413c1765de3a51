"""Words that other projects and papers have for ours; a message names ours."""

#: Group -> another word -> our option.
CHOICES: dict[str, dict[str, str]] = {
    "task": {
        "pjm": "power",
        "load": "power",
        "energy": "power",
        "sp500": "portfolio",
        "markowitz": "portfolio",
        "newsvendor": "inventory",
        "yaz": "restaurant",
        "allocation": "synthetic",
        "product_allocation": "synthetic",
    },
    "model": {
        "ddpm": "diffusion",
        "ddim": "diffusion",
        "mlp": "deterministic",
        "point": "deterministic",
        "normal": "gaussian",
        "nsf": "flow",
        "normalizing_flow": "flow",
        "bandit": "policy",
        "er_saa": "bootstrap",
        "gbdt": "boosting",
        "random_forest": "forest",
        "rf": "forest",
    },
    "grad": {
        "reparameterization": "reparam",
        "reparametrization": "reparam",
        "pathwise": "reparam",
        "score_function": "score",
        "reinforce": "score",
        "elbo": "score",
        "likelihood_ratio": "score",
        "mle": "two_stage",
        "none": "two_stage",
    },
    "scale": {"small": "smoke", "tiny": "smoke", "debug": "smoke", "full": "paper"},
    "logger": {"wb": "wandb", "weights_and_biases": "wandb", "tb": "tensorboard", "none": "jsonl"},
}

#: Another word for the last part of a key -> ours, or a whole override.
KEYS: dict[str, str] = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "batchsize": "batch_size",
    "wd": "weight_decay",
    "hidden": "width",
    "hidden_size": "width",
    "units": "width",
    "depth": "layers",
    "num_layers": "layers",
    "timesteps": "num_diffusion_steps",
    "num_timesteps": "num_diffusion_steps",
    "samples": "num_scenarios",
    "num_samples": "num_scenarios",
    "M": "num_scenarios",
    "c": "bandwidth_scale",
    "bandwidth": "bandwidth_scale",
    "seeds": "seed",
    "outdir": "output.root",
    "save_dir": "output.root",
    "gpu": "device=cuda",
    "cuda": "device=cuda",
    "wandb": "logger=wandb",
}


def choice(group: str, word: str) -> str | None:
    """Our option that a word of others stands for."""
    return CHOICES.get(group, {}).get(word.lower().replace("-", "_"))
