"""The report on a study: a table of its trials, plots, and one self-contained HTML page."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fer.metrics import VAL_SCORES
from fer.models.architectures import build_model, count_multiply_adds, count_parameters
from fer.reports import figures
from fer.reports.pages import render_page
from fer.reports.trials import SEED, Study, Trial, format_value

METRICS = (*VAL_SCORES, "train_accuracy", "epoch", "minutes")
MIN_TRIALS_FOR_IMPORTANCE = 6
"""Smallest number of trials from which the importance of parameters is estimated."""


def study_report(study: Study, result: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of the report by name, with ``report.json`` last.

    Args:
        study: The study.
        result: The job's RESULT line.
    """
    table = trial_table(study)
    variants = variant_table(study, table)
    importance = parameter_importance(study)
    pictures = {"accuracy.png": figures.plot_study_curves(study.trials, study.metric)}
    if importance:
        pictures["importance.png"] = figures.plot_importance(importance, study.metric)
    content = {
        "schema_version": 1,
        "study": study.name,
        "metric": study.metric,
        "minutes": round(study.minutes, 1),
        "failed": study.failed,
        "result": result,
        "importance": importance,
        "variants": json.loads(variants.to_json(orient="records")),
        "trials": json.loads(table.to_json(orient="records")),
    }
    return {
        **{f"pictures/{name}": png for name, png in pictures.items()},
        "trials.csv": table.to_csv(index=False).encode(),
        "index.html": _page(study, table, variants, pictures).encode(),
        "report.json": json.dumps(content, indent=2).encode(),
    }


def trial_table(study: Study) -> pd.DataFrame:
    """Tabulate each trial's varied flags and ``METRICS`` at its best epoch, best trial first.

    If trials train different networks, the size and the cost of each one follow its name.
    """
    rows = []
    for trial in study.trials:
        best = trial.best(study.metric)
        minutes = {"minutes": round(float(trial.minutes[-1]), 2)}
        known = {**best, **minutes}
        # Trials of earlier versions lack the scores without copies.
        metrics = {name: known[name] for name in METRICS if name in known}
        rows.append({**trial.varied, **_costs(trial, study), **metrics})
    return pd.DataFrame(rows).sort_values(study.metric, ascending=False, ignore_index=True)


def variant_table(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the scores of each variant over its seeds, best mean first.

    Args:
        study: The study.
        table: Its ``trial_table``.

    Returns:
        The varied flags but for the seed, the number of ``seeds``, and the mean and the sample
        standard deviation of each of ``VAL_SCORES``, called ``NAME_mean`` and ``NAME_std``. Empty
        if the study does not vary the seed.
    """
    if SEED not in table:
        return pd.DataFrame()
    statistics = {
        f"{score}_{statistic}": (score, statistic)
        for score in VAL_SCORES
        if score in table
        for statistic in ("mean", "std")
    }
    variants = table.groupby(study.flags, sort=False).agg(seeds=(SEED, "size"), **statistics)
    ranking = f"{study.metric}_mean"
    return variants.reset_index().sort_values(ranking, ascending=False, ignore_index=True)


def _costs(trial: Trial, study: Study) -> dict[str, int]:
    """Return the parameters and multiply-adds of a trial's network if the study varies it."""
    if "model" not in trial.varied:
        return {}
    model = build_model(trial.varied["model"], study.num_classes, study.shape)
    return {"parameters": count_parameters(model), "multiply_adds": count_multiply_adds(model)}


def parameter_importance(study: Study) -> dict[str, float]:
    """Estimate the permutation importance of each parameter, as shares that sum to 1.

    A random forest is fit to predict the score from the parameters. The importance of a parameter
    is the loss of fit when its values are shuffled (Breiman 2001, doi 10.1023/A:1010933404324).

    Returns:
        The shares, the largest first. Empty if only one parameter but the seed varies, or if there
        are fewer than ``MIN_TRIALS_FOR_IMPORTANCE`` trials.
    """
    names = study.flags
    if len(names) < 2 or len(study.trials) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 - slow to import, rarely needed
    from sklearn.inspection import permutation_importance  # noqa: PLC0415

    values = pd.DataFrame([trial.varied for trial in study.trials], columns=names)
    columns = np.column_stack([_as_numbers(values[name]) for name in names])
    scores = [trial.best(study.metric)[study.metric] for trial in study.trials]
    forest = RandomForestRegressor(n_estimators=200, random_state=0).fit(columns, scores)
    permuted = permutation_importance(forest, columns, scores, n_repeats=20, random_state=0)
    losses = np.maximum(permuted.importances_mean, 0)
    shares = losses / losses.sum() if losses.sum() else losses
    return dict(sorted(zip(names, shares.tolist(), strict=True), key=lambda pair: -pair[1]))


def _as_numbers(column: pd.Series) -> np.ndarray:
    numbers: np.ndarray = (
        column.to_numpy(float)
        if pd.api.types.is_numeric_dtype(column)
        else column.astype("category").cat.codes.to_numpy(float)
    )
    return numbers


def _page(
    study: Study, table: pd.DataFrame, variants: pd.DataFrame, pictures: Mapping[str, bytes]
) -> str:
    rows = [[format_value(value) for value in row] for row in table.itertuples(index=False)]
    return render_page(
        "study.html",
        pictures,
        study=study,
        columns=list(table.columns),
        rows=rows,
        scores=[score for score in VAL_SCORES if score in table],
        variants=variants.to_dict("records"),
    )
