"""Predict emotion probabilities with a checkpoint; evaluate, label and serve share this code."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer import extras, storage
from fer.errors import InputError
from fer.models.checkpoint import Checkpoint, load_checkpoint
from fer.models.engine import EngineName, build_engine
from fer.models.onnx_engine import softmax
from fer.vision.decode import decode_image
from fer.vision.reshape import convert_images
from fer.vision.shape import ImageShape

NVIDIA_DRIVER = Path("/dev/nvidiactl")


@dataclass(frozen=True)
class Prediction:
    """The apparent expression of one face.

    Attributes:
        emotion: Name of the most probable class.
        confidence: Probability of that class, in [0, 1].
        probabilities: Probability of each class by name; they sum to 1.
    """

    emotion: str
    confidence: float
    probabilities: dict[str, float]


class Predictor:
    """A checkpoint that is loaded and ready to predict.

    Example:
        >>> predictor = Predictor.load()
        >>> predictor.predict(["face.jpg"])[0].emotion  # doctest: +SKIP
        'happy'
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "cpu",
        engine: EngineName = "auto",
        num_threads: int | None = None,
    ) -> None:
        """Make the networks of a checkpoint ready to run, as ``build_engine`` does."""
        self.checkpoint = checkpoint
        self.engines = [
            build_engine(member, device, engine, num_threads) for member in checkpoint.members
        ]

    @classmethod
    def load(
        cls,
        checkpoint: str = "bundled",
        device: str | None = None,
        engine: EngineName = "auto",
        num_threads: int | None = None,
    ) -> "Predictor":
        """Load a checkpoint.

        Args:
            checkpoint: A folder, its URI, or a name in ``fer.models.shipped.SHIPPED``.
            device: ``cpu``, or a torch device such as ``cuda``; by default a GPU if there is one.
            engine: How to run the networks; by default in the fastest way of the device.
            num_threads: Threads on a processor; by default one a processor that this process may
                use.

        Raises:
            InputError: The folder is not a checkpoint that this version can run.
        """
        return cls(load_checkpoint(checkpoint), device or default_device(), engine, num_threads)

    @property
    def id(self) -> str:
        """Id of the checkpoint."""
        return self.checkpoint.id

    @property
    def shape(self) -> ImageShape:
        """Shape in which faces are to be cropped."""
        return self.checkpoint.shape

    @property
    def engine(self) -> str:
        """How the networks compute: ``int8``, ``float32`` or ``bfloat16``, or several of them."""
        return ", ".join(dict.fromkeys(engine.name for engine in self.engines))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the probabilities."""
        return self.checkpoint.class_names

    def predict(
        self, images: Iterable[np.ndarray | bytes | str | Path], *, tta: bool = False
    ) -> list[Prediction]:
        """Predict the apparent emotion of each face.

        Args:
            images: Faces, cropped as in FER2013. Each is a uint8 array in the shape of the
                checkpoint's faces, the content of an image file, or the path or URI of one.
            tta: Whether to average over each image and its mirror image (test-time augmentation).

        Raises:
            InputError: An array has another shape or data type.
            ImageError: An image can't be decoded.
        """
        crops = [_to_crop(image, self.shape) for image in images]
        if not crops:
            return []
        return [self._prediction(probs) for probs in self.predict_probs(np.stack(crops), tta=tta)]

    def predict_probs(self, images: np.ndarray, *, tta: bool = False) -> np.ndarray:
        """Return probabilities float32 (N, C) for images uint8 (N, S, S) or (N, S, S, 3).

        Args:
            images: Faces, levels from 0 to 255. A network that takes another shape than theirs gets
                them converted.
            tta: Whether to average over each image and its mirror image (test-time augmentation).
        """
        size = self.engines[0].batch_size
        probs = [self._batch_probs(batch, tta) for batch in _batches(images, size)]
        return np.concatenate(probs) if probs else np.empty((0, len(self.class_names)), np.float32)

    def _batch_probs(self, images: np.ndarray, tta: bool) -> np.ndarray:
        probs = self._ensemble_probs(images)
        if tta:
            mirrored = np.ascontiguousarray(images[:, :, ::-1])
            probs = (probs + self._ensemble_probs(mirrored)) / 2
        return probs

    def _ensemble_probs(self, images: np.ndarray) -> np.ndarray:
        """Return the members' softmax, each with its own temperature, averaged by their shares."""
        members = zip(self.engines, self.checkpoint.members, strict=True)
        probs = [
            member.share
            * softmax(
                engine.logits(convert_images(images, member.config.shape))
                / member.config.temperature
            )
            for engine, member in members
        ]
        averaged: np.ndarray = np.stack(probs).sum(axis=0, dtype=np.float32)
        return averaged

    def _prediction(self, probs: np.ndarray) -> Prediction:
        best = int(probs.argmax())
        by_name = dict(zip(self.class_names, probs.tolist(), strict=True))
        return Prediction(self.class_names[best], float(probs[best]), by_name)


def default_device() -> str:
    """Return ``cuda`` if this machine has a GPU that torch can use, else ``cpu``."""
    if not NVIDIA_DRIVER.exists() or not extras.has_torch():
        return "cpu"
    import torch  # noqa: PLC0415 - slow, and machines without a GPU never need it

    return "cuda" if torch.cuda.is_available() else "cpu"


def _to_crop(image: np.ndarray | bytes | str | Path, shape: ImageShape) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.shape != shape.array or image.dtype != np.uint8:
            raise InputError(
                f"A face must be a uint8 array of shape {shape.array}, but found {image.dtype} "
                f"{image.shape}."
            )
        return image
    data = image if isinstance(image, bytes) else storage.read_bytes(storage.resolve(str(image)))
    return decode_image(data, shape).pixels


def _batches(images: Sequence[np.ndarray] | np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        # A NumPy view may have negative strides, such as images[:, :, ::-1]; engines reject those.
        yield np.ascontiguousarray(images[start : start + size])
