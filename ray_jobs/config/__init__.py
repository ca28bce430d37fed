"""One frozen dataclass per job: its flags, their defaults, their help and their checks.

A class docstring is the job's one-line help. The string below a field is the flag's help.
"""

from typing import Annotated

import tyro

from ray_jobs.config.demo import DemoConfig
from ray_jobs.config.evaluate import EvaluateConfig
from ray_jobs.config.export import ExportConfig
from ray_jobs.config.ingest import IngestConfig
from ray_jobs.config.label import LabelConfig
from ray_jobs.config.plan import PlanConfig
from ray_jobs.config.serve import ServeConfig
from ray_jobs.config.train import TrainConfig
from ray_jobs.config.tune import TuneConfig
from ray_jobs.config.types import (
    BUNDLED,
    Location,
    Locations,
    Model,
    OptionalLocation,
    OptionalUrl,
)

JobConfig = (
    Annotated[IngestConfig, tyro.conf.subcommand("ingest")]
    | Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[TuneConfig, tyro.conf.subcommand("tune")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[LabelConfig, tyro.conf.subcommand("label")]
    | Annotated[ServeConfig, tyro.conf.subcommand("serve")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[PlanConfig, tyro.conf.subcommand("plan")]
    | Annotated[DemoConfig, tyro.conf.subcommand("demo")]
)

__all__ = [
    "BUNDLED",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "IngestConfig",
    "JobConfig",
    "LabelConfig",
    "Location",
    "Locations",
    "Model",
    "OptionalLocation",
    "OptionalUrl",
    "PlanConfig",
    "ServeConfig",
    "TrainConfig",
    "TuneConfig",
]
