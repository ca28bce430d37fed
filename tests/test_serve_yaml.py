"""serve.yaml, without a cluster: what Ray's schema says of it, and what it lets pass."""

from pathlib import Path

import yaml
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from ray_jobs.config import ServeConfig

FILE = Path(__file__).parents[1] / "serve.yaml"


def test_serve_yaml_is_what_serve_deploy_accepts():
    written = yaml.safe_load(FILE.read_text())
    ServeDeploySchema.model_validate(written)
    assert set(written) <= set(ServeDeploySchema.model_fields)
    (application,) = written["applications"]
    assert set(application) <= set(ServeApplicationSchema.model_fields)
    config = ServeConfig(**application["args"])
    assert written["http_options"]["request_timeout_s"] > config.timeout_seconds
