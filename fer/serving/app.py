"""The HTTP API and the web page, as an application that any ASGI server can run."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from fer.models.checkpoint import read_config
from fer.models.shipped import SHIPPED
from fer.serving.inference import InferenceService
from fer.serving.middleware import DOCS_PATH, BodyLimit, SecurityHeaders, TimeLimit, require_token
from fer.serving.schemas import DetectorName, ErrorResponse, PredictResponse
from fer.serving.uploads import (
    REQUEST_BODY,
    Limits,
    describe_first_error,
    is_image_list,
    read_uploads,
)
from fer.serving.videos import MAX_FPS, MIN_FPS, VideoOptions

WEB = Path(__file__).with_name("web")

DESCRIPTION = """Detects the faces in photographs and predicts the expression that each appears to
show. A label says what a face looks like to others, not what the person feels. Images are neither
stored nor logged."""

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "The token is missing or wrong."},
    413: {
        "model": ErrorResponse,
        "description": "The body or the image is too large, or there are too many images.",
    },
    422: {
        "model": ErrorResponse,
        "description": "The body is not an image, or does not match its Content-Type.",
    },
    503: {
        "model": ErrorResponse,
        "content": {"text/plain": {}},
        "description": "With Retry-After, the server is busy (the body is plain text): retry after "
        "that many seconds. Without it, the request took too long.",
    },
}

STATUS_CODES = {"unreadable": 422, "too_large": 413}
"""HTTP status when a request's only image fails. In a list, each image has a status of its own."""


def build_api(service: InferenceService, limits: Limits, token: str | None = None) -> FastAPI:
    """Build the application.

    Args:
        service: Predicts the expressions.
        limits: Limits of a request.
        token: Token that a request must carry, except for the page and the health checks; None
            accepts every request.
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
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    _add_predict_route(app, service, limits, token)
    _add_model_route(app, service, token)
    _add_health_routes(app, service)
    _add_page(app)
    return app


async def _handle_validation_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer with one sentence in place of FastAPI's list of errors."""
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": f"{describe_first_error(error.errors())}."}, 422)


def _add_predict_route(
    app: FastAPI, service: InferenceService, limits: Limits, token: str | None
) -> None:
    @app.post(
        "/v1/predict",
        response_model=PredictResponse,
        responses=ERROR_RESPONSES,
        openapi_extra={"requestBody": REQUEST_BODY},
        dependencies=[Depends(require_token(token))],
    )
    async def predict(
        request: Request,
        detector: DetectorName | None = None,
        fps: Annotated[float, Query(ge=MIN_FPS, le=MAX_FPS)] = 1.0,
    ) -> Response:
        """Predict the expression that each face in the images appears to show.

        The body is one image file, a form with several files, or JSON with several files in base64.
        `detector=yunet` detects the faces in photographs. `detector=none` takes each image as one
        face, cropped as in FER2013. Each image in a request gets its own result or error.

        A file may also be a short video. Then `fps` frames of each second are used, and the result
        has `frames`.
        """
        chosen = detector or service.detector
        if chosen == "yunet" and service.detector == "none":
            raise HTTPException(
                422, "This server has no detector; send face crops with detector=none."
            )
        uploads, videos = await read_uploads(request, limits), VideoOptions(fps, limits.max_frames)
        response = await service.predict_images(uploads, chosen, videos)
        first = response.results[0]
        if not is_image_list(request) and first.status in STATUS_CODES:
            raise HTTPException(STATUS_CODES[first.status], first.error)
        # Serialized here, because FastAPI would validate the response again, field by field.
        return Response(response.model_dump_json(), media_type="application/json")


def _add_model_route(app: FastAPI, service: InferenceService, token: str | None) -> None:
    description = describe(service)

    @app.get(
        "/v1/model",
        responses={401: ERROR_RESPONSES[401]},
        dependencies=[Depends(require_token(token))],
    )
    async def model() -> dict[str, Any]:
        """Describe the network: its classes, how it was trained, its scores and its model card."""
        return description


def describe(service: InferenceService) -> dict[str, Any]:
    """Return a description of a service's networks and detector, ready for JSON."""
    predictor = service.predictor
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
        "detector": service.detector,
        "engine": predictor.engine,
        "members": members,
        "card": _model_card(predictor.id),
    }


def _model_card(model: str) -> str | None:
    """Return the model card of a shipped network, or None for another one."""
    for name, folder in SHIPPED.items():
        if read_config(name).id == model:
            return (folder / "README.md").read_text("utf-8")
    return None


def _add_health_routes(app: FastAPI, service: InferenceService) -> None:
    # Monitors ask with HEAD, too. The HTTP server then leaves out the body.
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Report that the process is alive."""
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Report that the network is ready; it runs once before the first request is accepted."""
        return {"status": "ready", "model": service.predictor.id}


def _add_page(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=WEB), name="static")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")
