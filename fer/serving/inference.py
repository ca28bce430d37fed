"""Pictures to answers: decoded and searched on threads, classified in batches that others share."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from fer.labels.schema import BOX_FIELDS, Labeler
from fer.models.predictor import Predictor
from fer.serving.schemas import Answer, Detector, ImageAnswer, image_answer
from fer.serving.uploads import Upload
from fer.vision.decode import IMAGE_SIZE, ImageError, decode_image, decode_photo
from fer.vision.detector import FaceDetector, detector_id

Classify = Callable[[np.ndarray], Awaitable[np.ndarray]]
"""Takes crops uint8 (N, 48, 48), N at least 1, and returns probabilities float32 (N, C)."""

MAX_LOOK_SECONDS = 60.0
"""A picture that takes longer holds its replica, which is replaced then."""

_BLANK = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)


class Answerer:
    """What answers requests: networks, a detector, and the threads that they run on.

    Attributes:
        predictor: Classifies crops.
        detector: ``yunet`` where faces can be found, ``none`` where pictures must be crops.
    """

    def __init__(
        self,
        predictor: Predictor,
        weights: bytes | None,
        *,
        classify: Classify | None = None,
        min_face_size: float = 16.0,
        min_confidence: float = 0.0,
    ) -> None:
        """Make ready to answer.

        Args:
            predictor: Classifies crops.
            weights: YuNet's, or None.
            classify: Classifies crops of several requests at once; by default each request's alone.
            min_face_size: Faces that are narrower, in pixels of the photograph, are left out.
            min_confidence: Below it a face is named no emotion, in [0, 1].
        """
        self.predictor = predictor
        self.detector: Detector = "none" if weights is None else "yunet"
        self._classify = classify or self.classify
        self._weights, self._min_face_size = weights, min_face_size
        self._min_confidence = min_confidence
        # A picture that is decoded fills its thread's core, so one does not wait for another's.
        self._looking = ThreadPoolExecutor(1, "looking")
        self._network = ThreadPoolExecutor(1, "network")
        self._of_thread = threading.local()
        self._began_to_look: float | None = None
        self._detector_id = detector_id(weights)
        # The first run takes longer than the others, and shows that there can be one.
        predictor.predict_probs(_BLANK)

    async def answer(self, uploads: Sequence[Upload], detector: Detector) -> Answer:
        """Say what pictures show, or of each why that can't be told.

        Args:
            uploads: The pictures.
            detector: ``yunet`` only where ``detector`` of this object is.
        """
        labeler = Labeler(
            self.predictor.class_names,
            self.predictor.id,
            self._detector_id if detector == "yunet" else detector_id(None),
            self._min_confidence,
        )
        # Two at a time, so that those of other requests come between.
        turns = asyncio.Semaphore(2)
        results = [self._answer(upload, detector, labeler, turns) for upload in uploads]
        return Answer(
            model=labeler.model, detector=labeler.detector, results=await asyncio.gather(*results)
        )

    async def classify(self, crops: np.ndarray) -> np.ndarray:
        """Return probabilities float32 (N, C) for crops uint8 (N, 48, 48)."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._network, self.predictor.predict_probs, crops)

    async def check(self) -> None:
        """Run the network once; raises what that raises.

        Raises:
            TimeoutError: A picture has been looked at for longer than any takes.
        """
        began = self._began_to_look
        if began is not None and time.monotonic() - began > MAX_LOOK_SECONDS:
            raise TimeoutError(f"A picture has been looked at for over {MAX_LOOK_SECONDS:g} s.")
        await self.classify(_BLANK)

    async def _answer(
        self, upload: Upload, detector: Detector, labeler: Labeler, turns: asyncio.Semaphore
    ) -> ImageAnswer:
        if upload.error is not None:
            return ImageAnswer(name=upload.name, status="unreadable", error=upload.error)
        loop = asyncio.get_running_loop()
        try:
            async with turns:
                look = partial(self._look, upload, detector)
                seen, crops = await loop.run_in_executor(self._looking, look)
        except ImageError as error:
            return ImageAnswer(name=upload.name, status=error.status, error=str(error))
        probs = (await self._classify(np.stack(crops))).tolist() if crops else []
        return image_answer(labeler, seen, probs)

    def _look(self, upload: Upload, detector: Detector) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return what is seen in a picture, and its faces uint8 (48, 48)."""
        self._began_to_look = time.monotonic()
        try:
            return self._see(upload, detector)
        finally:
            self._began_to_look = None

    def _see(self, upload: Upload, detector: Detector) -> tuple[dict[str, Any], list[np.ndarray]]:
        if detector == "none":
            image = decode_image(upload.data)
            size = {"width": image.width, "height": image.height}
            return {"name": upload.name, **size, "faces": [{}]}, [image.pixels]
        photo = decode_photo(upload.data)
        found = self._face_detector().detect(photo)
        faces = [
            {
                "box": dict(zip(BOX_FIELDS, face.box.tolist(), strict=True)),
                "detection_score": face.score,
            }
            for face in found
        ]
        seen = {"name": upload.name, "width": photo.width, "height": photo.height, "faces": faces}
        return seen, [face.crop for face in found]

    def _face_detector(self) -> FaceDetector:
        """Return this thread's: YuNet keeps the size of the picture that it looks at."""
        if not hasattr(self._of_thread, "detector"):
            assert self._weights is not None
            self._of_thread.detector = FaceDetector(self._weights, self._min_face_size)
        detector: FaceDetector = self._of_thread.detector
        return detector
