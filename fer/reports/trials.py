"""The trials of a study: their hyperparameters and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer.vision.shape import FER2013_SHAPE, ImageShape

SEED = "seed"
"""The varied flag that repeats the variants of a study."""


@dataclass(frozen=True)
class Trial:
    """One training run of a study.

    Attributes:
        name: Name that Ray Tune gave to it.
        varied: Values of the flags that the study varies, by name.
        history: Metrics of each epoch.
    """

    name: str
    varied: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    def best(self, metric: str) -> Mapping[str, Any]:
        """Return the metrics of the epoch with the highest value of a metric.

        The last of equal epochs counts, as when Ray Tune selects a checkpoint.
        """
        return max(reversed(self.history), key=lambda epoch: epoch[metric])

    @property
    def title(self) -> str:
        """Names and values of the varied flags, for a legend."""
        return ", ".join(f"{name} {format_value(value)}" for name, value in self.varied.items())

    @property
    def minutes(self) -> np.ndarray:
        """Training time in minutes at the end of each of the E epochs, float (E,)."""
        seconds: np.ndarray = np.cumsum([epoch["seconds"] for epoch in self.history])
        return seconds / 60


@dataclass(frozen=True)
class Study:
    """A study and its trials.

    Attributes:
        name: Name of the study.
        metric: Name of the metric that ranks epochs and trials.
        trials: Trials that finished at least one epoch.
        failed: Number of the other trials.
        num_val: Number of examples in val.
        num_classes: Number of classes of the dataset.
        shape: Shape of its images.
    """

    name: str
    metric: str
    trials: tuple[Trial, ...]
    failed: int
    num_val: int
    num_classes: int
    shape: ImageShape = FER2013_SHAPE

    @property
    def flags(self) -> list[str]:
        """Names of the varied flags, but for the seed."""
        return [name for name in self.trials[0].varied if name != SEED]

    @property
    def minutes(self) -> float:
        """Training time of all trials together, in minutes."""
        return float(sum(trial.minutes[-1] for trial in self.trials))

    @property
    def noise(self) -> float:
        """Difference in accuracy, in [0, 1], that equally good networks exceed in 5 % of cases.

        This is the half-width of the 95 % interval for the difference of two independent
        proportions, in the normal approximation. It is slightly too wide for two networks scored on
        the same images, and too narrow for the best of many trials.
        """
        share = max(trial.best(self.metric)["val_accuracy"] for trial in self.trials)
        return float(1.96 * np.sqrt(2 * share * (1 - share) / self.num_val))


def format_value(value: Any) -> str:  # noqa: ANN401 - a flag's value
    """Format the value of a flag or a metric for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
