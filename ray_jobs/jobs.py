"""Which module runs which configuration: the one place where a job is found by its flags."""

import importlib
from typing import Any

from fer import extras
from ray_jobs import config

MODULES: dict[type, str] = {
    config.IngestConfig: "ingest",
    config.TrainConfig: "train",
    config.TuneConfig: "tune",
    config.EvaluateConfig: "evaluate",
    config.LabelConfig: "label",
    config.ServeConfig: "serve",
    config.ExportConfig: "export",
    config.PlanConfig: "plan",
    config.DemoConfig: "demo",
}

NEED_TORCH = frozenset(("train", "tune", "evaluate", "export", "demo"))
"""Jobs that the extra ``train`` installs: on processors, the others never import torch."""


def run(job_config: Any) -> dict[str, Any] | None:  # noqa: ANN401 - any job's configuration
    """Run the job that a configuration belongs to.

    The job's module is imported only now, so that the command line does not wait for Ray and torch.

    Returns:
        What the job's RESULT line says; None for serve, which runs until it is stopped.

    Raises:
        InputError: The job needs torch, which is not installed.
    """
    job = MODULES[type(job_config)]
    if job in NEED_TORCH:
        extras.require_torch(f"fer {job}")
    module = importlib.import_module(f"ray_jobs.{job}")
    result: dict[str, Any] | None = module.run(job_config)
    return result
