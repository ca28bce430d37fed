"""The files in a request's body: one file, a form with several files, or JSON with base64."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from fastapi import HTTPException, Request
from pydantic import (
    BaseModel,
    FailFast,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)
from pydantic_core import PydanticCustomError
from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser

FORM, JSON = "multipart/form-data", "application/json"

CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1")
"""Charsets of a form, in lower case."""

_TO_STANDARD, _WHITESPACE = bytes.maketrans(b"-_", b"+/"), b" \t\r\n"


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
        max_body_bytes: Largest size of the body.
        max_images: Largest number of images.
        max_frames: Largest number of sampled frames of a video.
        timeout_seconds: Longest time from the first byte of the request to the response.
    """

    max_body_bytes: int = 32 * 2**20
    max_images: int = 64
    max_frames: int = 120
    timeout_seconds: float = 30.0


@dataclass(frozen=True)
class Upload:
    """An uploaded image.

    Attributes:
        name: Name that the client gave to it.
        data: Content of the file.
        error: A sentence that says why there is no content, or None.
    """

    name: str
    data: bytes = b""
    error: str | None = None


class EncodedImage(BaseModel):
    """An image in JSON."""

    data: str = Field(description="the file in base64, or a data URL with it")
    name: str = "image"


def _to_encoded_image(entry: Any, validate: ValidatorFunctionWrapHandler) -> EncodedImage:  # noqa: ANN401 - whatever JSON holds
    """Take an entry of the list: an object, or the text alone that would be its ``data``."""
    if isinstance(entry, str):
        return EncodedImage(data=entry)
    if not isinstance(entry, dict):
        raise PydanticCustomError("image_type", "Input should be an object or a string")
    image: EncodedImage = validate(entry)
    return image


@lru_cache
def _json_body_model(max_images: int) -> type[BaseModel]:
    """Return the model of a JSON body; validation stops at the first error or excess image."""
    image = Annotated[EncodedImage, WrapValidator(_to_encoded_image)]
    images = Annotated[list[image], FailFast(), Field(max_length=max_images)]
    return create_model("EncodedImages", images=(images, ...))


def _image_list_schema(image: dict[str, Any]) -> dict[str, Any]:
    images = {"type": "array", "minItems": 1, "items": image}
    return {"schema": {"type": "object", "required": ["images"], "properties": {"images": images}}}


_FILE_SCHEMA = {"type": "string", "format": "binary"}
_TEXT_SCHEMA = EncodedImage.model_json_schema()["properties"]["data"]

REQUEST_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": _FILE_SCHEMA},
        "video/*": {"schema": _FILE_SCHEMA},
        FORM: _image_list_schema(_FILE_SCHEMA),
        JSON: _image_list_schema({"anyOf": [EncodedImage.model_json_schema(), _TEXT_SCHEMA]}),
    },
}
"""OpenAPI description of the body, which FastAPI cannot infer because the route reads it itself."""


class _InMemoryParser(MultiPartParser):
    """Keeps uploaded files in memory; Starlette's parser writes files above 1 MiB to disk."""

    spool_max_size = 2**40


def is_image_list(request: Request) -> bool:
    """Return whether the body is a list of images, each with a result or error of its own."""
    return _content_type(request) in (FORM, JSON)


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """Read the images of a request.

    Raises:
        HTTPException: 422 if there is no image or the body does not match its type; 413 if there
            are too many images.
    """
    read = {FORM: _read_form, JSON: _read_json}.get(_content_type(request), _read_file)
    uploads = await read(request, limits)
    if not uploads:
        raise HTTPException(422, "The request contains no image; send at least one.")
    if len(uploads) > limits.max_images:
        raise _too_many(limits)
    return uploads


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_file(request: Request, _limits: Limits) -> list[Upload]:
    body = await request.body()
    return [Upload("image", body)] if body else []


async def _read_json(request: Request, limits: Limits) -> list[Upload]:
    model = _json_body_model(limits.max_images)
    try:
        body: Any = model.model_validate_json(await request.body())
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        if errors[0]["type"] == "too_long":
            raise _too_many(limits) from error
        problem = describe_first_error(errors)
        raise HTTPException(422, f"The JSON body is invalid: {problem}.") from error
    return [_decode_base64(image) for image in body.images]


def describe_first_error(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return the field and the message of the first of pydantic's errors."""
    field = ".".join(str(step) for step in errors[0]["loc"])
    message = str(errors[0]["msg"])
    return f"{field}: {message}" if field else message


def _decode_base64(image: EncodedImage) -> Upload:
    """Decode base64 as browsers, MIME and JSON web tokens write it.

    That is as a data URL (RFC 2397), in lines (RFC 2045, 6.8), and with the alphabet that is safe
    in URLs, in which padding may be left out (RFC 4648, 5).
    """
    text = image.data
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            reason = "a data URL must start like data:image/jpeg;base64, to be decoded"
            return Upload(image.name, error=f"The data is not valid base64: {reason}.")
    encoded = text.encode("utf-8", "replace").translate(_TO_STANDARD, _WHITESPACE)
    if not encoded.endswith(b"="):
        encoded += b"=" * (-len(encoded) % 4)
    try:
        if len(encoded) % 4:
            raise binascii.Error("Incorrect padding")
        return Upload(image.name, base64.b64decode(encoded, validate=True))
    except binascii.Error as error:
        return Upload(image.name, error=f"The data is not valid base64: {error}.")


async def _read_form(request: Request, limits: Limits) -> list[Upload]:
    _check_charset(request)
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=limits.max_images + 1, max_fields=16
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(limits) from error
        raise HTTPException(422, f"The form can't be read: {error.message}") from error
    files = [value for _, value in form.multi_items() if not isinstance(value, str)]
    uploads = [Upload(file.filename or "image", await file.read()) for file in files]
    await form.close()
    return uploads


def _check_charset(request: Request) -> None:
    """Refuse charsets that no client sends: Python takes minutes to decode some of them."""
    _, parameters = parse_options_header(request.headers["content-type"])
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in CHARSETS:
        raise HTTPException(
            422,
            f"The form can't be read: its charset {charset[:32]!r} is not supported; send names in "
            "UTF-8.",
        )


def _too_many(limits: Limits) -> HTTPException:
    return HTTPException(
        413, f"The request contains more than {limits.max_images} images; send fewer."
    )
