"""The HTTP API and its page, as an application that any ASGI server can run."""

from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from fer.models.checkpoint import read_config
from fer.models.shipped import SHIPPED
from fer.serving.inference import Answerer
from fer.serving.middleware import DOCS_PATH, BodyLimit, SecurityHeaders, TimeLimit, require_token
from fer.serving.schemas import Answer, Detector, Problem
from fer.serving.uploads import REQUEST_BODY, Limits, first_complaint, is_several, read_uploads

WEB = Path(__file__).with_name("web")

DESCRIPTION = """Finds the faces of photographs and says which expression each appears to show.
What a face looks like to others is not what its owner feels. Pictures are neither stored nor
logged."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token is missing or wrong."},
    413: {"model": Problem, "description": "The body or a picture is too large."},
    422: {"model": Problem, "description": "The body is no picture, or not what its type says."},
    503: {
        "model": Problem,
        "content": {"text/plain": {}},
        "description": "Too busy (plain text): try again after Retry-After seconds. Without that "
        "header it took too long.",
    },
}

STATUS_CODES = {"unreadable": 422, "too_large": 413}
"""How a single picture's failure is answered; of several each has its own status."""


def build_api(answerer: Answerer, limits: Limits, token: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        answerer: Answers requests; it must be warm.
        limits: What a request may ask for.
        token: What requests must bring, but for the page and the health checks; None lets all in.
    """
    app = FastAPIOffline(
        docs_url=DOCS_PATH,
        redoc_url=None,
        title="fer-on-ray",
        version="1",
        description=DESCRIPTION,
    )
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes)
    app.add_middleware(TimeLimit, seconds=limits.timeout_seconds)
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(RequestValidationError, _in_a_sentence)
    _add_predictions(app, answerer, limits, token)
    _add_model(app, answerer, token)
    _add_health(app, answerer)
    _add_page(app)
    return app


async def _in_a_sentence(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": f"{first_complaint(error.errors())}."}, 422)


def _add_predictions(app: FastAPI, answerer: Answerer, limits: Limits, token: str | None) -> None:
    @app.post(
        "/v1/predict",
        response_model=Answer,
        responses=PROBLEMS,
        openapi_extra={"requestBody": REQUEST_BODY},
        dependencies=[Depends(require_token(token))],
    )
    async def predict(request: Request, detector: Detector | None = None) -> Response:
        """Say which expression each face of a picture appears to show.

        The body is one picture as it is, a form of several, or JSON with base64. `detector=yunet`
        finds the faces of photographs, `detector=none` takes each picture as one face, cropped as
        FER2013 crops it. Of several pictures each has a result or an error.
        """
        chosen = detector or answerer.detector
        if chosen == "yunet" and answerer.detector == "none":
            raise HTTPException(422, "This server has no detector: send crops and detector=none.")
        answer = await answerer.answer(await read_uploads(request, limits), chosen)
        first = answer.results[0]
        if not is_several(request) and first.status in STATUS_CODES:
            raise HTTPException(STATUS_CODES[first.status], first.error)
        # Made of its model already: FastAPI would check it again, field by field.
        return Response(answer.model_dump_json(), media_type="application/json")


def _add_model(app: FastAPI, answerer: Answerer, token: str | None) -> None:
    described = describe(answerer)

    @app.get(
        "/v1/model", responses={401: PROBLEMS[401]}, dependencies=[Depends(require_token(token))]
    )
    async def model() -> dict[str, Any]:
        """Describe the network: its classes, how it was trained, what it scored, its card."""
        return described


def describe(answerer: Answerer) -> dict[str, Any]:
    """Return what can be said of the networks and the detector that answer."""
    predictor = answerer.predictor
    is_bundled = predictor.id == read_config("bundled").id
    members = [
        {
            name: vars(config)[name]
            for name in ("id", "architecture", "parameters", "temperature", "scores")
        }
        for config in predictor.checkpoint.configs
    ]
    return {
        "id": predictor.id,
        "class_names": list(predictor.class_names),
        "detector": answerer.detector,
        "engine": predictor.engines[0].name,
        "members": members,
        "card": (SHIPPED["bundled"] / "README.md").read_text("utf-8") if is_bundled else None,
    }


def _add_health(app: FastAPI, answerer: Answerer) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Tell that the process is alive."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Tell that the network has answered: it runs once before the first request is let in."""
        return {"status": "ready", "model": answerer.predictor.id}


def _add_page(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=WEB), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")
