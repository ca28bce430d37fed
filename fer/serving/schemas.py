"""What the HTTP API says: the same names as in the columns of labels."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from fer.labels.schema import STATUSES, Labeler

Detector = Literal["yunet", "none"]
"""How a picture is read: a photograph whose faces are found, or one face as FER2013 crops it."""


class Box(BaseModel):
    """Where a face is, in pixels of the upright picture."""

    x: float
    y: float
    width: float
    height: float


class FaceAnswer(BaseModel):
    """A face and the expression that it appears to show."""

    box: Annotated[
        Box | None, Field(description="null where the picture was taken as one face")
    ] = None
    detection_score: float | None = None
    emotion: Annotated[
        str | None, Field(description="null where the confidence is too low to name it")
    ] = None
    confidence: float = Field(ge=0, le=1)
    probabilities: dict[str, float] = Field(description="by emotion; they sum to 1")


class ImageAnswer(BaseModel):
    """What one picture shows, or why that can't be told."""

    name: str
    width: Annotated[int | None, Field(description="of the upright picture, in pixels")] = None
    height: int | None = None
    status: Annotated[str, Field(json_schema_extra={"enum": [*STATUSES]})]
    error: str | None = None
    faces: list[FaceAnswer] = []


class Answer(BaseModel):
    """What several pictures show, in the order in which they came."""

    model: str
    detector: str
    results: list[ImageAnswer]


class Problem(BaseModel):
    """Why a request is not answered."""

    detail: str


def image_answer(
    labeler: Labeler, seen: dict[str, Any], probs: Sequence[Sequence[float]]
) -> ImageAnswer:
    """Name what the faces of a picture show.

    Args:
        labeler: Names probabilities.
        seen: ``name``, ``width`` and ``height`` of the picture, and its ``faces``: a dictionary of
            ``box`` and ``detection_score`` each.
        probs: Probability of each class, C of them, for every face.
    """
    rows = labeler.rows({"faces": seen["faces"]}, probs)
    faces = [_face(row, labeler.class_names) for row in rows if "confidence" in row]
    statuses = {row["status"] for row in rows}
    # One face that can be named is worth more than others that can't.
    status = "ok" if "ok" in statuses else statuses.pop()
    size = {side: seen[side] for side in ("width", "height")}
    return ImageAnswer(name=seen["name"], status=status, faces=faces, **size)


def _face(row: dict[str, Any], class_names: Sequence[str]) -> FaceAnswer:
    probs = map(float, row["probabilities"])
    return FaceAnswer(
        box=row.get("box"),
        detection_score=row.get("detection_score"),
        emotion=row["emotion"],
        confidence=float(row["confidence"]),
        probabilities=dict(zip(class_names, probs, strict=True)),
    )
