"""The HTTP API against its own description: whatever is sent, no answer is a server's failure."""

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
from fer.serving.inference import Answerer
from fer.serving.uploads import Limits

CHECKS = (
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def described(tmp_path_factory, save_network):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_network(folder)
    answerer = Answerer(Predictor.load(str(folder), engine="float32"), None)
    return schemathesis.openapi.from_asgi("/openapi.json", build_api(answerer, Limits()))


SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


EVERY = {"POST /v1/predict", "GET /v1/model", "GET /healthz", "GET /readyz"}


@pytest.mark.parametrize(
    ("mode", "labels"),
    [(GenerationMode.POSITIVE, EVERY), (GenerationMode.NEGATIVE, {"POST /v1/predict"})],
)
def test_answers_are_as_described(described, mode, labels):
    operations = [result.ok() for result in described.get_all_operations()]
    assert {operation.label for operation in operations} == EVERY
    for operation in operations:
        if operation.label not in labels:
            continue

        @SETTINGS
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case):
            case.call_and_validate(checks=CHECKS)

        ask()
