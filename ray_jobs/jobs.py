"""Which module runs which configuration: the one place where a job is found by its flags."""

import importlib
from typing import Any

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


def run(job_config: Any) -> dict[str, Any] | None:  # noqa: ANN401 - any job's configuration
    """Run the job that a configuration belongs to.

    The job's module is imported only now, so that the command line does not wait for Ray and torch.

    Returns:
        What the job's RESULT line says; None for serve, which runs until it is stopped.
    """
    module = importlib.import_module(f"ray_jobs.{MODULES[type(job_config)]}")
    result: dict[str, Any] | None = module.run(job_config)
    return result
