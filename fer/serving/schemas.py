"""Responses of the HTTP API. Their fields are named like the columns of labels."""

from collections.abc import Iterable, Sequence
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


class TrackedFaceResult(FaceResult):
    """A face of a video."""

    track: Annotated[int, Field(description="number of the face, the same from frame to frame")]


class FrameResult(BaseModel):
    """The faces in a frame of a video, or the error that prevented a prediction."""

    frame: Annotated[int, Field(description="number in the video, from 0")]
    time_seconds: Annotated[float, Field(description="when the frame is shown")]
    status: Annotated[str, Field(json_schema_extra={"enum": [*STATUSES]})]
    error: str | None = None
    faces: list[TrackedFaceResult] = []


class VideoResult(ImageResult):
    """The sampled frames of a video; ``faces`` is empty."""

    frames: list[FrameResult]

    @classmethod
    def of_frames(
        cls, name: str, size: tuple[int, int], frames: list[FrameResult], problem: str | None
    ) -> "VideoResult":
        """Build the result of a video of a width and height from those of its frames."""
        status = _status(frame.status for frame in frames)
        width, height = size
        return cls(
            name=name, width=width, height=height, status=status, error=problem, frames=frames
        )


class PredictResponse(BaseModel):
    """One result for each image or video of a request, in the same order."""

    model: str
    detector: str
    engine: Annotated[str, Field(description="how the network computes, such as int8")]
    results: list[VideoResult | ImageResult]


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
    return ImageResult(
        name=image["name"],
        width=image["width"],
        height=image["height"],
        status=_status(row["status"] for row in rows),
        error=image["error"],
        faces=[FaceResult(**_face(row, labeler)) for row in rows if "confidence" in row],
    )


def build_frame_result(
    labeler: Labeler, frame: dict[str, Any], probs: Sequence[Sequence[float]], tracks: Sequence[int]
) -> FrameResult:
    """Build the result of a frame from the probabilities of its faces.

    Args:
        labeler: Turns probabilities into emotions.
        frame: Its number ``frame``, ``time_seconds``, and ``faces`` as for an image.
        probs: The C class probabilities of each face.
        tracks: The track of each face.
    """
    rows = [row for row in labeler.rows({"faces": frame["faces"]}, probs) if "confidence" in row]
    return FrameResult(
        frame=frame["frame"],
        time_seconds=frame["time_seconds"],
        status=_status(row["status"] for row in rows),
        faces=[
            TrackedFaceResult(**_face(row, labeler), track=track)
            for row, track in zip(rows, tracks, strict=True)
        ],
    )


def _status(statuses: Iterable[str]) -> str:
    """Return the status of a whole: the first of ``STATUSES`` that a part has."""
    found = set(statuses)
    return next((status for status in STATUSES if status in found), "no_face")


def _face(row: dict[str, Any], labeler: Labeler) -> dict[str, Any]:
    probs = map(float, row["probabilities"])
    return {
        "box": row.get("box"),
        "detection_score": row.get("detection_score"),
        "emotion": row["emotion"],
        "confidence": float(row["confidence"]),
        "probabilities": dict(zip(labeler.class_names, probs, strict=True)),
    }
