"""Responses of the HTTP API. Their fields are named like the columns of labels."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from fer.labels.schema import STATUSES, Labeler

DetectorName = Literal["yunet", "none"]
"""``yunet`` detects the faces in an image; ``none`` takes it as one face, cropped as in FER2013."""


class Box(BaseModel):
    """Position and size of a face, in pixels of the upright image."""

    x: float
    y: float
    width: float
    height: float


class FaceResult(BaseModel):
    """A face and the expression that it appears to show."""

    box: Annotated[Box | None, Field(description="null if the image was taken as one face")] = None
    detection_score: float | None = None
    emotion: Annotated[
        str | None, Field(description="null if the confidence is below the server's minimum")
    ] = None
    confidence: float = Field(ge=0, le=1)
    probabilities: dict[str, float] = Field(description="by emotion; they sum to 1")


class ImageResult(BaseModel):
    """The faces in an image, or the error that prevented a prediction."""

    name: str
    width: Annotated[int | None, Field(description="of the upright image, in pixels")] = None
    height: int | None = None
    status: Annotated[str, Field(json_schema_extra={"enum": [*STATUSES]})]
    error: Annotated[
        str | None, Field(description="why there is no prediction, or what the used file lacks")
    ] = None
    faces: list[FaceResult] = []


class PredictResponse(BaseModel):
    """One result for each image of a request, in the same order."""

    model: str
    detector: str
    engine: Annotated[str, Field(description="how the network computes, such as int8")]
    results: list[ImageResult]


class ErrorResponse(BaseModel):
    """The reason why a request failed."""

    detail: str


def build_image_result(
    labeler: Labeler, image: dict[str, Any], probs: Sequence[Sequence[float]]
) -> ImageResult:
    """Build the result of an image from the probabilities of its faces.

    Args:
        labeler: Turns probabilities into emotions.
        image: The ``name``, ``width`` and ``height`` of the image, its ``error``, which says what
            the file lacks, and its ``faces``: a list of dictionaries with ``box`` and
            ``detection_score``.
        probs: The C class probabilities of each face.
    """
    rows = labeler.rows({"faces": image["faces"]}, probs)
    faces = [_build_face(row, labeler.class_names) for row in rows if "confidence" in row]
    statuses = {row["status"] for row in rows}
    # An image is ok if at least one of its faces has an emotion.
    status = "ok" if "ok" in statuses else statuses.pop()
    return ImageResult(
        name=image["name"],
        width=image["width"],
        height=image["height"],
        status=status,
        error=image["error"],
        faces=faces,
    )


def _build_face(row: dict[str, Any], class_names: Sequence[str]) -> FaceResult:
    probs = map(float, row["probabilities"])
    return FaceResult(
        box=row.get("box"),
        detection_score=row.get("detection_score"),
        emotion=row["emotion"],
        confidence=float(row["confidence"]),
        probabilities=dict(zip(class_names, probs, strict=True)),
    )
