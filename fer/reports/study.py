"""The report of a study: a table of its trials, pictures, and one HTML page."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fer.reports import figures
from fer.reports.pages import render_page
from fer.reports.trials import Study, format_value

METRICS = ("val_accuracy", "val_macro_f1", "train_accuracy", "epoch", "minutes")
LEAST_FOR_IMPORTANCE = 6
"""Trials without which nothing can be said about what mattered."""


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
    rows = [[format_value(value) for value in row] for row in table.itertuples(index=False)]
    return render_page("study.html", pictures, study=study, columns=list(table.columns), rows=rows)
