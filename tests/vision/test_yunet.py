"""YuNet under ONNX Runtime finds what OpenCV's own class finds."""

import cv2
import numpy as np
import onnx
import pytest
from plates import draw_plates, plate_detector

from fer.vision.decode import IMAGE_SUFFIXES, ImageError, decode_photo
from fer.vision.detector import DETECTION_SIDE
from fer.vision.yunet import YuNet

MIN_SCORE, MAX_OVERLAP = 0.7, 0.3


def both(weights, image, min_score=MIN_SCORE):
    """Return what OpenCV finds in an image uint8 (H, W, 3), and what ``YuNet`` does."""
    content, size = np.frombuffer(weights, np.uint8), image.shape[1::-1]
    reference = cv2.FaceDetectorYN.create(
        "onnx", content, np.empty(0, np.uint8), size, min_score, MAX_OVERLAP
    )
    _, rows = reference.detect(image)
    expected = np.empty((0, 15), np.float32) if rows is None else rows
    return expected, YuNet(weights, min_score, MAX_OVERLAP).detect(image)


def agree(expected, found):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, :14], expected[:, :14], atol=1)
    np.testing.assert_allclose(found[:, 14], expected[:, 14], atol=0.01)


@pytest.mark.parametrize("size", [(900, 700), (640, 640), (333, 257), (1024, 31), (1, 1)])
def test_plates_at_any_size(size):
    width, height = size
    plates = [(width * 0.3, height * 0.5, 100, 110, 10), (width * 0.75, height * 0.4, 80, 90, -20)]
    image = cv2.cvtColor(draw_plates(size, plates), cv2.COLOR_RGB2BGR)
    expected, found = both(plate_detector(), image)
    agree(expected, found)
    assert found.dtype == np.float32
    if min(size) > 600:
        assert len(found) == 2


def test_of_boxes_that_overlap_the_best_is_kept():
    boxes = [(0, 0, 100, 100), (10, 0, 100, 100), (200, 0, 50, 50), (230, 0, 50, 50)]
    candidates = np.zeros((4, 15), np.float32)
    candidates[:, :4], candidates[:, 14] = boxes, (0.8, 0.9, 0.75, 0.95)
    kept = YuNet(plate_detector(), MIN_SCORE, MAX_OVERLAP)._kept(candidates)
    # The third and the fourth share a quarter of what they cover.
    assert kept.tolist() == [3, 1, 2]


def test_photographs(yunet, real_photographs):
    """All that are at hand, in the size in which faces are detected."""
    num_faces = 0
    for file in sorted(real_photographs.rglob("*")):
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        try:
            pixels = decode_photo(file.read_bytes()).pixels
        except ImageError:
            continue
        shrink = min(1.0, DETECTION_SIDE / max(pixels.shape[:2]))
        shrunk = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        expected, found = both(yunet, cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR))
        agree(expected, found)
        num_faces += len(found)
    assert num_faces > 1000


@pytest.mark.parametrize("weights", [b"", b"junk", plate_detector()[:-1000]])
def test_other_weights_are_refused(weights):
    with pytest.raises(ValueError, match="not an ONNX file that can be run"):
        YuNet(weights, MIN_SCORE, MAX_OVERLAP)


def test_another_network_is_refused():
    model = onnx.load_from_string(plate_detector())
    for node in model.graph.node:
        for index, output in enumerate(node.output):
            if output == "kps_16":
                node.output[index] = "other"
    for output in model.graph.output:
        if output.name == "kps_16":
            output.name = "other"
    with pytest.raises(ValueError, match="its outputs are not YuNet's"):
        YuNet(model.SerializeToString(), MIN_SCORE, MAX_OVERLAP)
