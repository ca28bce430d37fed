"""The studies of ``tune``: which flags of ``train`` each of them varies, and over what."""

from typing import Any

from ray import tune

from ray_jobs.config import TrainConfig, TuneConfig

CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "no augmentation": {"augment": False},
    "erasing": {"erase_fraction": 0.5},
    "mixup": {"mixup": 0.2},
    "no smoothing": {"label_smoothing": 0.0},
    "no average": {"ema_decay": 0.0},
    "no weight decay": {"weight_decay": 0.0},
    "dropout 0.1": {"dropout": 0.1},
    "balanced classes": {"class_balance": 0.5},
    "equalized histograms": {"preprocessing": "equalize"},
}
"""What the study of the recipe changes, one change a trial: flags of ``train`` by the change's
name."""

VARIANTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "recipe": ("change", tuple(CHANGES)),
    "votes": ("votes_weight", (0.0, 0.5, 1.0)),
    "depth": ("model", tuple(f"conv{depth}" for depth in range(1, 9))),
    "pooling": ("pooling", ("max", "fractional")),
    "batch-norm": ("batch_norm", (True, False)),
    "activation": ("activation", ("relu", "leaky_relu", "elu", "gelu", "silu")),
    "loss": ("loss", ("cross_entropy", "squared_hinge")),
    "pretrained": ("start", ("random", "pretrained")),
}
"""Studies that compare the values of one flag, and its values. The flag is one of ``train``, or
``change`` for a name in ``CHANGES``, or ``start`` for the weights that training starts from. The
other studies search."""

RESIDUAL_DEPTHS = range(4, 20, 2)
"""Layers with weights of residual networks of one to eight blocks."""


def is_comparison(config: TuneConfig) -> bool:
    """Tell whether a study compares fixed variants, rather than searching."""
    return config.study in VARIANTS


def num_trials(config: TuneConfig) -> int:
    """Return how many trials a study has."""
    if not is_comparison(config):
        return config.num_samples
    return len(_variants(config)[1]) * max(1, len(config.seeds))


def param_space(config: TuneConfig) -> dict[str, Any]:
    """Return what a study varies, as Ray Tune takes it.

    A comparison varies its flag, and the seed if there are several. A search varies what the paper
    tuned (section 4.1), each hyperparameter within the range in which training still converges.
    """
    if is_comparison(config):
        flag, values = _variants(config)
        seeds = {"seed": tune.grid_search(list(config.seeds))} if config.seeds else {}
        return {flag: tune.grid_search(list(values)), **seeds}
    both = {"model": tune.choice(["shallow", "deep"])} if config.study == "paper" else {}
    return {
        **both,
        "lr": tune.loguniform(0.003, 0.3),
        "batch_size": tune.choice([32, 64, 128, 256]),
        "num_epochs": tune.randint(max(1, config.num_epochs // 3), config.num_epochs + 1),
        "weight_decay": tune.loguniform(1e-5, 1e-2),
        "dropout": tune.uniform(0.0, 0.5),
    }


def _variants(config: TuneConfig) -> tuple[str, tuple[Any, ...]]:
    """Return the flag that a comparison varies and its values."""
    family, _, width = config.model.partition("-")
    if config.study == "depth" and family.startswith("resnet"):
        return "model", tuple(f"resnet{depth}-{width}" for depth in RESIDUAL_DEPTHS)
    return VARIANTS[config.study]


def trial_config(config: TuneConfig, varied: dict[str, Any]) -> TrainConfig:
    """Return the flags of one trial: the defaults, the study's own, and what the trial varies.

    Args:
        config: The study.
        varied: A value for each key of ``param_space``.
    """
    names = ("model", "num_epochs", "select_by", "seed")
    flags = {**{name: getattr(config, name) for name in names}, **varied}
    flags |= CHANGES[flags.pop("change", "none")]
    if flags.pop("start", "random") == "pretrained":
        flags["pretrained"] = config.pretrained
    if config.study == "pretrained":
        # Both starts see the same pixels.
        flags["preprocessing"] = "imagenet"
    return TrainConfig(dataset=config.dataset, output=config.output, **flags)
