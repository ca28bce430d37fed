"""Detect the faces of one image file."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fer import storage
from fer.data.items import NotAnImageError, SourceItem, fetch_image
from fer.labels.schema import BOX_FIELDS
from fer.vision.decode import ImageError, Photo, crop_center, decode_image, decode_photo
from fer.vision.detector import FaceDetector
from fer.vision.faces import draw_thumbnail, encode_jpeg
from fer.vision.sampling import EVERY_SECOND, Sampling
from fer.vision.shape import FER2013_SHAPE, ImageShape
from ray_jobs.cluster.watchdog import watching

IGNORED = "ignored"
"""Status of a file that is neither an image nor a video."""

MAX_SAMPLE_FACES = 4
"""Most faces of an image that get a thumbnail."""


@dataclass(frozen=True)
class Detection:
    """How faces are detected.

    Attributes:
        weights: YuNet's weights; None takes each image as one face.
        min_face_size: Smallest width of a face, in pixels of the photograph.
        any_orientation: Whether photographs are searched turned, too.
        sampling: Which frames of videos are used.
        animations: Whether animated images are sampled too; otherwise their first frame is used.
        shape: Shape of the crops of faces.
    """

    weights: bytes | None
    min_face_size: float = 16.0
    any_orientation: bool = False
    sampling: Sampling = EVERY_SECOND
    animations: bool = False
    shape: ImageShape = FER2013_SHAPE


def detect_in_image(
    detection: Detection, with_thumbnails: bool, item: SourceItem
) -> dict[str, Any]:
    """Fetch an image and detect its faces.

    Returns:
        Columns of ``DETECTED_SCHEMA``: the faces, or the status and the error.
    """
    try:
        data = fetch_image(item)
    except (NotAnImageError, ImageError, OSError) as error:
        return columns_without_data(item, error)
    size = {"size_bytes": len(data)}
    try:
        with watching():
            if detection.weights is None:
                return size | _take_as_face(data, detection.shape, with_thumbnails)
            return size | _detect_in_photo(data, _detector(detection), with_thumbnails)
    except ImageError as error:
        return {**size, "status": error.status, "error": str(error)}


def columns_without_data(item: SourceItem, error: Exception) -> dict[str, Any]:
    """Return the columns of an item whose image can't be had."""
    if isinstance(error, NotAnImageError):
        return {"status": IGNORED}
    if isinstance(error, ImageError):
        return {"size_bytes": item.size_bytes, "status": error.status, "error": str(error)}
    if isinstance(error, FileNotFoundError):
        return not_fetched(item, "missing", "The file no longer exists, although it was listed.")
    assert isinstance(error, OSError)
    reason = storage.describe_error(error)
    return not_fetched(item, "unreadable", f"The file can't be read: {reason}.")


@lru_cache(maxsize=1)
def _detector(detection: Detection) -> FaceDetector:
    assert detection.weights is not None
    return FaceDetector(
        detection.weights,
        detection.min_face_size,
        any_orientation=detection.any_orientation,
        shape=detection.shape,
    )


def not_fetched(item: SourceItem, status: str, error: str) -> dict[str, Any]:
    """Return the columns of an image that could not be fetched.

    It gets no ETag, so that an update tries it again.
    """
    return {"size_bytes": item.size_bytes, "etag": None, "status": status, "error": error}


def _take_as_face(data: bytes, shape: ImageShape, with_thumbnails: bool) -> dict[str, Any]:
    image = decode_image(data, shape)
    size = {"width": image.width, "height": image.height}
    return {**size, "error": image.note, **_one_face(image.pixels, with_thumbnails)}


def _one_face(pixels: np.ndarray, with_thumbnails: bool) -> dict[str, Any]:
    face = {"thumbnail": _encode_crop(pixels)} if with_thumbnails else {}
    return {"faces": [face], "crops": [pixels.tobytes()]}


def _encode_crop(pixels: np.ndarray) -> bytes:
    # OpenCV wants blue before green and red.
    return encode_jpeg(pixels if pixels.ndim == 2 else pixels[..., ::-1])


def _detect_in_photo(data: bytes, detector: FaceDetector, with_thumbnails: bool) -> dict[str, Any]:
    photo = decode_photo(data)
    size = {"width": photo.width, "height": photo.height}
    return {**size, "error": photo.note, **_faces_of(photo, detector, with_thumbnails)}


def detect_in_frame(detection: Detection, with_thumbnails: bool, photo: Photo) -> dict[str, Any]:
    """Detect the faces of a frame of a video, and return columns of ``DETECTED_SCHEMA``."""
    size = {"width": photo.width, "height": photo.height}
    if detection.weights is None:
        return {**size, **_one_face(crop_center(photo, detection.shape), with_thumbnails)}
    return {**size, **_faces_of(photo, _detector(detection), with_thumbnails)}


def _faces_of(photo: Photo, detector: FaceDetector, with_thumbnails: bool) -> dict[str, Any]:
    faces = detector.detect(photo)
    num_thumbnails = MAX_SAMPLE_FACES if with_thumbnails else 0
    columns = [
        {
            "box": dict(zip(BOX_FIELDS, face.box.tolist(), strict=True)),
            "detection_score": face.score,
            "thumbnail": draw_thumbnail(photo, face) if number < num_thumbnails else None,
        }
        for number, face in enumerate(faces)
    ]
    return {"faces": columns, "crops": [face.crop.tobytes() for face in faces]}
