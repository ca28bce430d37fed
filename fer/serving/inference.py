"""The inference service: decodes images and videos, detects their faces, classifies in batches."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from fer.labels.schema import BOX_FIELDS, Labeler
from fer.models.predictor import Predictor
from fer.serving.schemas import DetectorName, ImageResult, PredictResponse, build_image_result
from fer.serving.uploads import Upload
from fer.serving.videos import DetectedFrame, UploadedVideo, VideoOptions, build_video_result
from fer.vision.decode import (
    DecodedImage,
    ImageError,
    Photo,
    crop_center,
    decode_image,
    decode_photo,
)
from fer.vision.detector import FaceDetector, detector_id
from fer.vision.sampling import ChosenFrame
from fer.vision.signatures import VIDEO_SIGNATURE_BYTES, is_video

Classify = Callable[[np.ndarray], Awaitable[np.ndarray]]
"""Takes crops uint8 (N, *shape), N at least 1, and returns probabilities float32 (N, C)."""

MAX_DETECTION_SECONDS = 60.0
"""Longest time to decode an image, or a frame of a video, and detect its faces. What takes longer
blocks its process, which then fails its health check and is replaced."""

DEFAULT_VIDEOS = VideoOptions()


class _GivenUpError(Exception):
    """The request for which a video is decoded has ended."""


class InferenceService:
    """Predicts the expressions of the faces in uploaded images.

    Attributes:
        predictor: Classifies crops.
        detector: ``yunet`` if the service can detect faces, ``none`` if images must be crops.
    """

    def __init__(
        self,
        predictor: Predictor,
        weights: bytes | None,
        *,
        classify: Classify | None = None,
        min_face_size: float = 16.0,
        any_orientation: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        """Start the threads and run the network once, so that the first request is not slower.

        Args:
            predictor: Classifies crops.
            weights: YuNet's ONNX file, or None to serve crops only.
            classify: Classifies the crops of several requests together. By default the crops of
                each request are classified on their own.
            min_face_size: Smallest width of a detected face, in pixels of the photograph.
            any_orientation: Whether photographs are searched turned, too.
            min_confidence: Faces with a lower confidence, in [0, 1], get no emotion.
        """
        self.predictor = predictor
        self.detector: DetectorName = "none" if weights is None else "yunet"
        self._classify = classify or self.classify
        self._weights, self._min_face_size = weights, min_face_size
        self._any_orientation = any_orientation
        self._min_confidence = min_confidence
        # One thread detects faces, because decoding an image already keeps a core busy.
        self._detection_thread = ThreadPoolExecutor(1, "detection")
        self._network_thread = ThreadPoolExecutor(1, "network")
        self._thread_local = threading.local()
        self._detection_start: float | None = None
        self._detector_id = detector_id(weights)
        # The first run is the slowest, and proves that the network works.
        predictor.predict_probs(self._blank_crops())

    async def predict_images(
        self,
        uploads: Sequence[Upload],
        detector: DetectorName,
        videos: VideoOptions = DEFAULT_VIDEOS,
    ) -> PredictResponse:
        """Predict the expressions of the faces in images; each image gets a result or an error.

        Args:
            uploads: The images, and videos.
            detector: ``yunet`` is allowed only if the service's own ``detector`` is ``yunet``.
            videos: Which frames of videos are used.
        """
        labeler = Labeler(
            self.predictor.class_names,
            self.predictor.id,
            self._detector_id if detector == "yunet" else detector_id(None),
            self._min_confidence,
        )
        # A request queues two images at a time, so that other requests get their turn between.
        turns = asyncio.Semaphore(2)
        results = [
            self._predict_video(
                upload.name, UploadedVideo(upload.data, videos), detector, labeler, turns
            )
            if is_video(upload.data[:VIDEO_SIGNATURE_BYTES])
            else self._predict_image(upload, detector, labeler, turns)
            for upload in uploads
        ]
        return PredictResponse(
            model=labeler.model,
            detector=labeler.detector,
            engine=self.predictor.engine,
            results=await asyncio.gather(*results),
        )

    async def classify(self, crops: np.ndarray) -> np.ndarray:
        """Return the class probabilities float32 (N, C) of crops uint8 (N, *shape)."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._network_thread, self.predictor.predict_probs, crops)

    async def check_health(self) -> None:
        """Run the network once; an error that it raises is passed on.

        Raises:
            TimeoutError: An image has been decoded for longer than ``MAX_DETECTION_SECONDS``.
        """
        start = self._detection_start
        if start is not None and time.monotonic() - start > MAX_DETECTION_SECONDS:
            raise TimeoutError(
                f"Decoding one image has taken longer than {MAX_DETECTION_SECONDS:g} s."
            )
        await self.classify(self._blank_crops())

    def _blank_crops(self) -> np.ndarray:
        """Return a black face in the shape that the network takes."""
        return np.zeros((1, *self.predictor.shape.array), np.uint8)

    async def _predict_image(
        self, upload: Upload, detector: DetectorName, labeler: Labeler, turns: asyncio.Semaphore
    ) -> ImageResult:
        if upload.error is not None:
            return ImageResult(name=upload.name, status="unreadable", error=upload.error)
        loop = asyncio.get_running_loop()
        try:
            async with turns:
                image, crops = await loop.run_in_executor(
                    self._detection_thread, self._find_faces, upload, detector
                )
        except ImageError as error:
            return ImageResult(name=upload.name, status=error.status, error=str(error))
        probs = (await self._classify(np.stack(crops))).tolist() if crops else []
        return build_image_result(labeler, image, probs)

    async def _predict_video(
        self,
        name: str,
        video: UploadedVideo,
        detector: DetectorName,
        labeler: Labeler,
        turns: asyncio.Semaphore,
    ) -> ImageResult:
        loop, is_given_up = asyncio.get_running_loop(), threading.Event()
        pictures = video.frames(partial(self._go_on, is_given_up))
        frames: list[DetectedFrame] = []
        try:
            while True:
                # Other requests get their turn between two frames.
                async with turns:
                    frame = await loop.run_in_executor(
                        self._detection_thread, self._find_faces_in_next, pictures, detector
                    )
                if frame is None:
                    break
                frames.append(frame)
        except ImageError as error:
            return ImageResult(name=name, status=error.status, error=str(error))
        finally:
            # If the request took too long, the thread must not decode for nobody.
            is_given_up.set()
        crops = [crop for frame in frames for crop in frame.crops]
        probs = (await self._classify(np.stack(crops))).tolist() if crops else []
        return build_video_result(name, frames, probs, labeler, video.problem)

    def _go_on(self, is_given_up: threading.Event) -> None:
        """Note that the detection thread is not stuck in a video, or end its work on that.

        Raises:
            _GivenUpError: Nobody waits for the result.
        """
        if is_given_up.is_set():
            raise _GivenUpError
        self._detection_start = time.monotonic()

    def _find_faces_in_next(
        self, pictures: Iterator[tuple[ChosenFrame, Photo | ImageError]], detector: DetectorName
    ) -> DetectedFrame | None:
        """Return the next frame of a video with its faces; None after the last one."""
        with self._timed():
            chosen, photo = next(pictures, (None, None))
            if chosen is None or photo is None:
                return None
            if isinstance(photo, ImageError):
                return DetectedFrame(chosen, error=photo)
            size = (photo.width, photo.height)
            if detector == "none":
                return DetectedFrame(chosen, size, [{}], [crop_center(photo, self.predictor.shape)])
            return DetectedFrame(chosen, size, *self._detect_in(photo))

    def _find_faces(
        self, upload: Upload, detector: DetectorName
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return a description of an image, and the crops of its faces."""
        with self._timed():
            if detector == "none":
                image = decode_image(upload.data, self.predictor.shape)
                return _describe(upload, image, [{}]), [image.pixels]
            photo = decode_photo(upload.data)
            faces, crops = self._detect_in(photo)
            return _describe(upload, photo, faces), crops

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Note since when the detection thread works on one picture, for ``check_health``.

        In a video, the clock starts again with each packet: see ``_go_on``.
        """
        self._detection_start = time.monotonic()
        try:
            yield
        finally:
            self._detection_start = None

    def _detect_in(self, photo: Photo) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
        """Detect the faces in a photograph: their boxes and scores, and their crops."""
        detections = self._face_detector().detect(photo)
        faces = [
            {
                "box": dict(zip(BOX_FIELDS, face.box.tolist(), strict=True)),
                "detection_score": face.score,
            }
            for face in detections
        ]
        return faces, [face.crop for face in detections]

    def _face_detector(self) -> FaceDetector:
        """Return this thread's detector; YuNet holds the size of the image that it works on."""
        if not hasattr(self._thread_local, "detector"):
            assert self._weights is not None
            self._thread_local.detector = FaceDetector(
                self._weights,
                self._min_face_size,
                any_orientation=self._any_orientation,
                shape=self.predictor.shape,
            )
        detector: FaceDetector = self._thread_local.detector
        return detector


def _describe(
    upload: Upload, image: DecodedImage | Photo, faces: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what ``build_image_result`` takes: an image and its faces."""
    size = {"width": image.width, "height": image.height}
    return {"name": upload.name, **size, "error": image.note, "faces": faces}
