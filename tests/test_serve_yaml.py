"""serve.yaml, without a cluster: Ray's schema, and names that the schema would ignore."""

from pathlib import Path

import yaml
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from ray_jobs.config import ServeConfig

FILE = Path(__file__).parents[1] / "serve.yaml"


def test_serve_deploy_accepts_serve_yaml():
    content = yaml.safe_load(FILE.read_text())
    ServeDeploySchema.model_validate(content)
    assert set(content) <= set(ServeDeploySchema.model_fields)
    (application,) = content["applications"]
    assert set(application) <= set(ServeApplicationSchema.model_fields)
    config = ServeConfig(**application["args"])
    assert content["http_options"]["request_timeout_s"] > config.timeout_seconds
