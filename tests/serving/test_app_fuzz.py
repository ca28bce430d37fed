"""The HTTP API conforms to its OpenAPI description for generated requests."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fer.models.predictor import Predictor
from fer.serving.app import build_api
from fer.serving.inference import InferenceService
from fer.serving.uploads import Limits

CHECKS = (
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory, save_network):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_network(folder)
    service = InferenceService(Predictor.load(str(folder), engine="float32"), None)
    return schemathesis.openapi.from_asgi("/openapi.json", build_api(service, Limits()))


SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


OPERATIONS = {"POST /v1/predict", "GET /v1/model", "GET /healthz", "GET /readyz"}


@pytest.mark.parametrize(
    ("mode", "labels"),
    [(GenerationMode.POSITIVE, OPERATIONS), (GenerationMode.NEGATIVE, {"POST /v1/predict"})],
)
def test_responses_conform_to_the_description(schema, mode, labels):
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.label for operation in operations} == OPERATIONS
    for operation in operations:
        if operation.label not in labels:
            continue

        @SETTINGS
        @given(operation.as_strategy(generation_mode=mode))
        def call(case):
            case.call_and_validate(checks=CHECKS)

        call()
