"""A request's body to pictures: as it is, as a form of several files, or as JSON with base64."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from fastapi import HTTPException, Request
from pydantic import BaseModel, FailFast, Field, ValidationError, create_model
from starlette.formparsers import MultiPartException, MultiPartParser

FORM, JSON = "multipart/form-data", "application/json"


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        max_body_bytes: Of its body.
        max_images: Pictures in it.
        timeout_seconds: From its first byte to the answer.
    """

    max_body_bytes: int = 32 * 2**20
    max_images: int = 64
    timeout_seconds: float = 30.0


@dataclass(frozen=True)
class Upload:
    """A picture that was sent.

    Attributes:
        name: What its sender calls it.
        data: The bytes of its file.
        error: Why there are none, in one sentence.
    """

    name: str
    data: bytes = b""
    error: str | None = None


class EncodedImage(BaseModel):
    """A picture in JSON."""

    data: str = Field(description="the file in base64")
    name: str = "image"


@lru_cache
def _encoded_images(most: int) -> type[BaseModel]:
    """Return what JSON of so many pictures must be: of more not even the errors are looked for."""
    images = Annotated[list[EncodedImage], FailFast(), Field(max_length=most)]
    return create_model("EncodedImages", images=(images, ...))


def _list_of(image: dict[str, Any]) -> dict[str, Any]:
    images = {"type": "array", "minItems": 1, "items": image}
    return {"schema": {"type": "object", "required": ["images"], "properties": {"images": images}}}


_FILE = {"type": "string", "format": "binary"}

REQUEST_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": _FILE},
        FORM: _list_of(_FILE),
        JSON: _list_of(EncodedImage.model_json_schema()),
    },
}
"""The body in OpenAPI's words, which FastAPI can't read off a function that reads it itself."""


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory, where starlette's own writes what is above 1 MiB to a disk."""

    spool_max_size = 2**40


def is_several(request: Request) -> bool:
    """Tell whether a request's body is a list of pictures, which may differ in how they fare."""
    return _content_type(request) in (FORM, JSON)


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """Return the pictures of a request.

    Raises:
        HTTPException: 422 if there are none, or the body is not what its type says; 413 if there
            are too many.
    """
    read = {FORM: _read_form, JSON: _read_json}.get(_content_type(request), _read_raw)
    uploads = await read(request, limits)
    if not uploads:
        raise HTTPException(422, "No picture was sent: expected at least one.")
    if len(uploads) > limits.max_images:
        raise _too_many(limits)
    return uploads


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_raw(request: Request, _limits: Limits) -> list[Upload]:
    body = await request.body()
    return [Upload("image", body)] if body else []


async def _read_json(request: Request, limits: Limits) -> list[Upload]:
    try:
        sent: Any = _encoded_images(limits.max_images).model_validate_json(await request.body())
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        if errors[0]["type"] == "too_long":
            raise _too_many(limits) from error
        complaint = first_complaint(errors)
        raise HTTPException(422, f"The JSON is not as expected: {complaint}.") from error
    return [_decoded(image) for image in sent.images]


def first_complaint(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return the first of pydantic's complaints: where, and what."""
    where = ".".join(str(step) for step in errors[0]["loc"])
    message = str(errors[0]["msg"])
    return f"{where}: {message}" if where else message


def _decoded(image: EncodedImage) -> Upload:
    text = image.data.encode("utf-8", "replace")
    try:
        return Upload(image.name, base64.b64decode(text, validate=True))
    except binascii.Error as error:
        return Upload(image.name, error=f"The data is not base64: {error}.")


async def _read_form(request: Request, limits: Limits) -> list[Upload]:
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=limits.max_images + 1, max_fields=16
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(limits) from error
        raise HTTPException(422, f"The form can't be read: {error.message}") from error
    except UnicodeError as error:
        told = "The form can't be read: its names are not of its charset."
        raise HTTPException(422, told) from error
    files = [value for _, value in form.multi_items() if not isinstance(value, str)]
    uploads = [Upload(file.filename or "image", await file.read()) for file in files]
    await form.close()
    return uploads


def _too_many(limits: Limits) -> HTTPException:
    return HTTPException(413, f"More than {limits.max_images} pictures were sent: send fewer.")
