"""The report of a study: a table of its trials, pictures, and one HTML page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fer.reports import figures
from fer.reports.pages import render_page

METRICS = ("val_accuracy", "val_macro_f1", "train_accuracy", "epoch", "minutes")
LEAST_FOR_IMPORTANCE = 6
"""Trials without which nothing can be said about what mattered."""


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
        return ", ".join(f"{name} {_short(value)}" for name, value in self.varied.items())

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


def study_report(study: Study, result: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the report's files by name: ``trials.csv``, pictures, the page, ``report.json`` last.

    Args:
        study: What to report.
        result: What the job's RESULT line says of it.
    """
    table = trial_table(study)
    importance = parameter_importance(study)
    pictures = {"accuracy.png": figures.study_curves(study.trials, study.select_by)}
    if importance:
        pictures["importance.png"] = figures.importance(importance, study.select_by)
    content = {
        "schema_version": 1,
        "study": study.name,
        "select_by": study.select_by,
        "minutes": round(study.minutes, 1),
        "failed": study.failed,
        "result": result,
        "importance": importance,
        "trials": json.loads(table.to_json(orient="records")),
    }
    return {
        **{f"pictures/{name}": png for name, png in pictures.items()},
        "trials.csv": table.to_csv(index=False).encode(),
        "index.html": _page(study, table, pictures).encode(),
        "report.json": json.dumps(content, indent=2).encode(),
    }


def trial_table(study: Study) -> pd.DataFrame:
    """Return a row a trial, the best first: what it varied, and ``METRICS`` of its best epoch."""
    rows = []
    for trial in study.trials:
        best = trial.best(study.select_by)
        minutes = {"minutes": round(float(trial.minutes[-1]), 2)}
        rows.append({**trial.varied, **{name: {**best, **minutes}[name] for name in METRICS}})
    return pd.DataFrame(rows).sort_values(study.select_by, ascending=False, ignore_index=True)


def parameter_importance(study: Study) -> dict[str, float]:
    """Estimate how much of the score each parameter explains: shares that sum to 1.

    A random forest learns the score from the parameters; a parameter matters as much as the fit
    suffers when its values are shuffled (Breiman 2001, doi 10.1023/A:1010933404324). Empty where
    one parameter varies, or fewer than ``LEAST_FOR_IMPORTANCE`` trials were made.
    """
    names = list(study.trials[0].varied)
    if len(names) < 2 or len(study.trials) < LEAST_FOR_IMPORTANCE:
        return {}
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 - slow, and seldom needed
    from sklearn.inspection import permutation_importance  # noqa: PLC0415

    values = pd.DataFrame([trial.varied for trial in study.trials], columns=names)
    columns = np.column_stack([_as_numbers(values[name]) for name in names])
    scores = [trial.best(study.select_by)[study.select_by] for trial in study.trials]
    forest = RandomForestRegressor(n_estimators=200, random_state=0).fit(columns, scores)
    shuffled = permutation_importance(forest, columns, scores, n_repeats=20, random_state=0)
    lost = np.maximum(shuffled.importances_mean, 0)
    shares = lost / lost.sum() if lost.sum() else lost
    return dict(sorted(zip(names, shares.tolist(), strict=True), key=lambda pair: -pair[1]))


def _as_numbers(column: pd.Series) -> np.ndarray:
    numbers: np.ndarray = (
        column.to_numpy(float)
        if pd.api.types.is_numeric_dtype(column)
        else column.astype("category").cat.codes.to_numpy(float)
    )
    return numbers


def _page(study: Study, table: pd.DataFrame, pictures: Mapping[str, bytes]) -> str:
    rows = [[_short(value) for value in row] for row in table.itertuples(index=False)]
    return render_page("study.html", pictures, study=study, columns=list(table.columns), rows=rows)


def _short(value: Any) -> str:  # noqa: ANN401 - a flag's value
    return f"{value:.4g}" if isinstance(value, float) else str(value)
