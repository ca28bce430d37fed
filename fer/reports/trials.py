"""The trials of a study: what each varied, and what it scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        name: What Ray Tune calls it.
        varied: Values of the flags that the study varies.
        history: Metrics of each epoch that it trained.
    """

    name: str
    varied: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    def best(self, select_by: str) -> Mapping[str, Any]:
        """Return the metrics of the epoch with the highest score, the last of equals.

        As Ray Tune keeps checkpoints.
        """
        return max(reversed(self.history), key=lambda epoch: epoch[select_by])

    @property
    def title(self) -> str:
        """Its values, for a legend."""
        return ", ".join(f"{name} {format_value(value)}" for name, value in self.varied.items())

    @property
    def minutes(self) -> np.ndarray:
        """Minutes of training until the end of each epoch, float (E,)."""
        seconds: np.ndarray = np.cumsum([epoch["seconds"] for epoch in self.history])
        return seconds / 60


@dataclass(frozen=True)
class Study:
    """What a study tried, and what came of it.

    Attributes:
        name: Of the study.
        select_by: Score on val by which trials are ranked.
        trials: Those that finished an epoch.
        failed: Number of those that did not.
        num_val: Examples of val.
    """

    name: str
    select_by: str
    trials: tuple[Trial, ...]
    failed: int
    num_val: int

    @property
    def minutes(self) -> float:
        """Minutes of training of all trials together."""
        return float(sum(trial.minutes[-1] for trial in self.trials))

    @property
    def noise(self) -> float:
        """How far apart, in [0, 1], two equally good networks are by chance in one of twenty cases.

        The 95 % interval of the difference of two independent shares, by the normal distribution:
        a bit too much for one pair on the same images, and too little for the best of many.
        """
        share = max(trial.best(self.select_by)["val_accuracy"] for trial in self.trials)
        return float(1.96 * np.sqrt(2 * share * (1 - share) / self.num_val))


def format_value(value: Any) -> str:  # noqa: ANN401 - a flag's value
    """Return the value of a flag or a metric as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
