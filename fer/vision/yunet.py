"""YuNet under ONNX Runtime: what OpenCV's ``FaceDetectorYN`` finds, in less time.

Wu et al. 2023, doi 10.1007/s11633-023-1423-y. The published file expects 640x640 pixels and gives
out raw scores and offsets. OpenCV's class runs it at any size and decodes them; so does this one,
with the same steps (``modules/objdetect/src/face_detect.cpp`` of OpenCV 4.13).
"""

from collections.abc import Mapping

import cv2
import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

STRIDES = (8, 16, 32)
"""Pixels from one cell of each output to the next."""

OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
"""Face score, object score, box and landmarks of each cell, at each stride."""

RUNTIME_ERRORS = (errors.Fail, errors.InvalidArgument, errors.RuntimeException)
"""What ONNX Runtime raises when it fails on an image."""

MAX_CANDIDATES = 5000
"""Number of the best detections among which overlapping ones are dropped."""


class YuNet:
    """A face detector.

    Args:
        weights: Content of YuNet's ONNX file.
        min_score: Detections with a lower score are dropped.
        max_overlap: If two boxes have a larger intersection over union, the one with the lower
            score is dropped.

    Raises:
        ValueError: The weights are not YuNet's.
    """

    def __init__(self, weights: bytes, min_score: float, max_overlap: float) -> None:
        self._min_score, self._max_overlap = min_score, max_overlap
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                _with_any_size(weights), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime's errors, and those of protocol buffers, share no class but Exception.
            raise ValueError("not an ONNX file that can be run") from error
        (image,) = self._session.get_inputs()
        if {*OUTPUTS} - {output.name for output in self._session.get_outputs()}:
            raise ValueError("its outputs are not YuNet's")
        self._input = image.name

    def detect(self, image: np.ndarray) -> np.ndarray:
        """Return the faces in an image, the one with the highest score first.

        Args:
            image: uint8 (H, W, 3), blue, green and red.

        Returns:
            float32 (N, 15): the box (left, top, width, height), five landmarks (x, y) and the
            score, with lengths in pixels.
        """
        height, width = (-(-side // STRIDES[-1]) * STRIDES[-1] for side in image.shape[:2])
        padded = np.zeros((1, 3, height, width), np.float32)
        padded[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        found = self._session.run(OUTPUTS, {self._input: padded})
        outputs = dict(zip(OUTPUTS, found, strict=True))
        candidates: np.ndarray = np.concatenate(
            [_decode(outputs, stride, width // stride, self._min_score) for stride in STRIDES]
        )
        kept: np.ndarray = candidates[self._kept(candidates)]
        return kept

    def _kept(self, candidates: np.ndarray) -> np.ndarray:
        """Return the indices of the candidates that overlap no better one, the best one first."""
        if len(candidates) < 2:
            return np.arange(len(candidates))
        # As in OpenCV: whole pixels decide.
        boxes = candidates[:, :4].astype(int).tolist()
        scores = candidates[:, 14].tolist()
        kept = cv2.dnn.NMSBoxes(
            boxes, scores, self._min_score, self._max_overlap, top_k=MAX_CANDIDATES
        )
        return np.array(kept, int)


def _with_any_size(weights: bytes) -> bytes:
    """Return an ONNX file whose input and outputs have any height and width."""
    model = onnx.ModelProto.FromString(weights)
    del model.graph.value_info[:]
    for value in model.graph.input:
        for axis, name in ((2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    serialized: bytes = model.SerializeToString()
    return serialized


def _decode(
    outputs: Mapping[str, np.ndarray], stride: int, num_columns: int, min_score: float
) -> np.ndarray:
    """Return the detections float32 (N, 15) of one stride whose score is high enough."""
    face, thing, box, landmarks = (
        outputs[f"{kind}_{stride}"][0] for kind in ("cls", "obj", "bbox", "kps")
    )
    scores = np.sqrt(face[:, 0].clip(0, 1) * thing[:, 0].clip(0, 1))
    cells = np.flatnonzero(scores >= min_score)
    corner = np.stack([cells % num_columns, cells // num_columns], axis=1)
    center = (corner + box[cells, :2]) * stride
    size = np.exp(box[cells, 2:]) * stride
    points = (corner[:, None] + landmarks[cells].reshape(-1, 5, 2)) * stride
    parts = [center - size / 2, size, points.reshape(-1, 10), scores[cells, None]]
    return np.concatenate(parts, axis=1, dtype=np.float32)
