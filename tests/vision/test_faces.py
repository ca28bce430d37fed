"""Photographs to faces: plates that stand for them, and people where YuNet is at hand."""

import math
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from plates import boxes_of, draw_plates, plate_detector

from fer.errors import InputError
from fer.vision import faces
from fer.vision.decode import Photo, decode_photo
from fer.vision.detector import MIN_SCORE, FaceDetector, detector_id, load_detector_weights


def blob(image, x, y, value, radius):
    cv2.circle(image, (round(x), round(y)), radius, value, -1)


def mock_face(tilt_degrees, side=200.0):
    """A gray photograph with a bright right eye and a dark left one, its box and landmarks."""
    photo = np.full((600, 800), 128, np.uint8)
    tilt, middle = math.radians(tilt_degrees), np.array([430.0, 290.0])
    turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    # FER2013's median framing, in fractions of the side of the crop.
    places = np.array([[0.31, 0.38], [0.69, 0.38], [0.5, 0.59], [0.34, 0.76], [0.65, 0.77]])
    landmarks = (places - [0.5, 0.51]) * side @ turn.T + middle
    blob(photo, *landmarks[0], 255, 8)
    blob(photo, *landmarks[1], 0, 8)
    width, height = 0.8 * side / faces.CROP_TO_BOX, side / faces.CROP_TO_BOX
    return photo, np.array([*(middle - [width / 2, height / 2]), width, height]), landmarks


def place_of(crop, is_eye):
    rows, columns = np.nonzero(is_eye(crop))
    return (columns.mean() + 0.5) / 48, (rows.mean() + 0.5) / 48


@pytest.mark.parametrize("tilt", [0, 20, -35])
@pytest.mark.parametrize("side", [40.0, 200.0, 500.0])
def test_a_crop_has_level_eyes_where_fer2013_has_them(tilt, side):
    crop = faces.align(*mock_face(tilt, side), 48)
    assert (crop.shape, crop.dtype) == ((48, 48), np.uint8)
    assert place_of(crop, lambda crop: crop > 180) == pytest.approx((0.31, 0.38), abs=0.02)
    assert place_of(crop, lambda crop: crop < 80) == pytest.approx((0.69, 0.38), abs=0.02)


def test_a_crop_beyond_the_border_repeats_it():
    gray = np.full((50, 50), 77, np.uint8)
    landmarks = np.array([[2, 5], [12, 5], [7, 10], [3, 15], [11, 15]], float)
    assert (faces.align(gray, np.array([-5.0, -5.0, 20.0, 25.0]), landmarks, 48) == 77).all()


def test_a_thumbnail_shows_the_box():
    photo = Photo(np.full((300, 300, 3), 200, np.uint8), 600, 600)
    face = faces.Face(np.array([200, 200, 100, 120], np.float32), 0.9, np.zeros((48, 48), np.uint8))
    file = faces.draw_thumbnail(photo, face)
    shown = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (128, 128, 3)
    blue = (shown[..., 0].astype(int) - shown[..., 2] > 60).nonzero()
    # The box is half as high as the thumbnail and centered in it.
    assert (blue[0].min(), blue[0].max()) == pytest.approx((32, 96), abs=3)
    assert (blue[1].min(), blue[1].max()) == pytest.approx((37, 91), abs=3)


def test_rejects_weights_that_are_missing_or_not_yunets(tmp_path):
    with pytest.raises(InputError, match="--detector-weights .*none.onnx can't be read"):
        load_detector_weights(str(tmp_path / "none.onnx"))
    with pytest.raises(InputError, match="weights are not YuNet's .*; expected the ONNX file"):
        FaceDetector(b"junk")


def test_a_failed_download_names_three_alternatives(monkeypatch, tmp_path):
    monkeypatch.setattr("fer.vision.detector.YUNET_URL", "http://127.0.0.1:9/yunet.onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="can't be downloaded from http://127") as caught:
        load_detector_weights(None)
    for alternative in ("--detector-weights", "run once with Internet access", "--detector none"):
        assert alternative in str(caught.value)


def test_detector_ids(yunet):
    assert detector_id(None) == "none"
    assert detector_id(b"other") == "yunet-d9298a10d1b0"
    assert detector_id(yunet) == "yunet-2023mar"


def overlap(one, other):
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right = min(one[0] + one[2], other[0] + other[2])
    bottom = min(one[1] + one[3], other[1] + other[3])
    common = max(0, right - left) * max(0, bottom - top)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def test_detects_every_annotated_face(yunet, real_photographs):
    detector, missed, extra = FaceDetector(yunet), 0, 0
    for table in real_photographs.glob("dlib/*.xml"):
        for image in ElementTree.parse(table).getroot().iter("image"):
            photo = decode_photo((table.parent / image.get("file")).read_bytes())
            marked = [
                [float(box.get(side)) for side in ("left", "top", "width", "height")]
                for box in image.iter("box")
            ]
            found = [face.box for face in detector.detect(photo)]
            hits = sum(any(overlap(box, other) > 0.3 for other in found) for box in marked)
            missed, extra = missed + len(marked) - hits, extra + len(found) - hits
    assert (missed, extra) == (0, 0)


def test_boxes_are_in_pixels_of_the_original(crowd):
    photo = decode_photo(crowd.file)
    large = cv2.resize(photo.pixels, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    shrunk = cv2.resize(large, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    detector = FaceDetector(crowd.weights)
    small = [face.box for face in detector.detect(photo)]
    big = detector.detect(Photo(shrunk, large.shape[1], large.shape[0]))
    assert all(overlap(face.box / 6, box) > 0.8 for face, box in zip(big, small, strict=True))
    floor = FaceDetector(crowd.weights, min_face_size=6 * crowd.width)
    assert 0 < len(floor.detect(Photo(shrunk, large.shape[1], large.shape[0]))) < len(big)


# Center, size and tilt of the eyes in a photograph of 3000 by 2100 pixels, from left to right.
PLATES = (
    *((240, 1800, 180, 225, 0), (405, 405, 330, 330, -35), (1050, 1200, 285, 315, 30)),
    *((1950, 1725, 300, 300, 0), (1875, 420, 90, 110, 10), (2850, 300, 255, 285, -10)),
)


@pytest.fixture(scope="module")
def plates():
    """A photograph of which half the pixels are at hand, as of a large JPEG file."""
    pixels = draw_plates((3000, 2100), PLATES[::-1])
    halved = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return Photo(halved, 3000, 2100)


def test_faces_come_from_left_to_right_with_their_boxes_and_scores(plates):
    found = FaceDetector(plate_detector()).detect(plates)
    np.testing.assert_allclose([face.box for face in found], boxes_of(PLATES), atol=5)
    assert {face.box.dtype for face in found} == {np.dtype(np.float32)}
    assert all(MIN_SCORE < face.score <= 1 for face in found)


def test_faces_that_are_too_narrow_are_left_out(plates):
    found = FaceDetector(plate_detector(), min_face_size=270).detect(plates)
    wide = [plate for plate in PLATES if plate[2] > 270]
    assert len(wide) == 3
    np.testing.assert_allclose([face.box for face in found], boxes_of(wide), atol=5)


def test_crops_are_cut_where_the_detector_sees_eyes(plates):
    for face, plate in zip(FaceDetector(plate_detector()).detect(plates), PLATES, strict=True):
        width, side = plate[2], faces.CROP_TO_BOX * max(plate[2:4])
        right = place_of(face.crop, lambda crop: crop > 120)
        left = place_of(face.crop, lambda crop: crop < 50)
        # Level, and a quarter of the plate's width to each side of the middle.
        assert left[0] - right[0] == pytest.approx(width / 2 / side, abs=0.03)
        assert right[1] == pytest.approx(left[1], abs=0.03)
        assert (right[1] + left[1]) / 2 == pytest.approx(faces.EYES_BELOW_TOP, abs=0.02)


def test_a_photograph_without_faces_has_none():
    empty = Photo(np.full((300, 400, 3), 90, np.uint8), 400, 300)
    assert FaceDetector(plate_detector()).detect(empty) == []


def test_thumbnails_show_the_boxes_that_were_found(plates):
    for face in FaceDetector(plate_detector()).detect(plates):
        view = cv2.imdecode(
            np.frombuffer(faces.draw_thumbnail(plates, face), np.uint8), cv2.IMREAD_COLOR
        )
        blue = (view[..., 0].astype(int) - view[..., 2] > 60) & (view[..., 1] > 60)
        rows, columns = blue.nonzero()
        # The longer side of the box is half of the view.
        half = 64 * face.box[2:] / face.box[2:].max()
        assert np.ptp(columns) == pytest.approx(half[0], abs=5)
        assert np.ptp(rows) == pytest.approx(half[1], abs=5)


def turn(photo, quarters):
    """Turn a photograph counterclockwise by quarters of a circle."""
    size = (photo.width, photo.height)[:: -1 if quarters % 2 else 1]
    return Photo(np.rot90(photo.pixels, quarters), *size)


def turn_boxes(boxes, quarters, photo):
    """Turn boxes (N, 4) with their photograph."""
    width, height = photo.width, photo.height
    for _ in range(quarters):
        left, top, wide, high = boxes.T
        boxes = np.stack([top, width - left - wide, high, wide], axis=1)
        width, height = height, width
    return boxes[np.argsort(boxes[:, 0])]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_faces_are_found_in_any_orientation_where_the_photograph_shows_them(plates, quarters):
    turned = turn(plates, quarters)
    plain = FaceDetector(plate_detector()).detect(turned)
    assert len(plain) == (len(PLATES) if quarters == 0 else 0)
    found = FaceDetector(plate_detector(), any_orientation=True).detect(turned)
    boxes = turn_boxes(boxes_of(PLATES), quarters, plates)
    np.testing.assert_allclose([face.box for face in found], boxes, atol=5)
    assert {face.box.dtype for face in found} == {np.dtype(np.float32)}


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_crops_of_a_turned_photograph_are_upright(plates, quarters):
    upright = FaceDetector(plate_detector()).detect(plates)
    turned = FaceDetector(plate_detector(), any_orientation=True).detect(turn(plates, quarters))
    differences = [
        min(np.abs(face.crop.astype(int) - other.crop).mean() for other in upright)
        for face in turned
    ]
    assert len(differences) == len(PLATES)
    assert max(differences) < 8


def test_the_narrowest_face_is_measured_across_the_face(plates):
    detector = FaceDetector(plate_detector(), min_face_size=270, any_orientation=True)
    assert len(detector.detect(turn(plates, 1))) == 3


def test_a_photograph_with_upright_faces_is_searched_once(plates):
    class Counting(FaceDetector):
        runs = 0

        def _run_network(self, pixels):
            self.runs += 1
            return super()._run_network(pixels)

    detector = Counting(plate_detector(), any_orientation=True)
    assert len(detector.detect(plates)) == len(PLATES)
    assert detector.runs == 1
    assert detector.detect(Photo(np.full((300, 400, 3), 90, np.uint8), 400, 300)) == []
    assert detector.runs == 5


def test_people_are_found_in_any_orientation(yunet, real_photographs):
    photo = decode_photo(
        (real_photographs / "dlib" / "examples_faces_2008_002506.jpg").read_bytes()
    )
    detector = FaceDetector(yunet, any_orientation=True)
    upright = np.array([face.box for face in detector.detect(photo)])
    for quarters in (1, 2, 3):
        found = [face.box for face in detector.detect(turn(photo, quarters))]
        expected = turn_boxes(upright, quarters, photo)
        assert len(found) == len(expected)
        assert all(overlap(*pair) > 0.7 for pair in zip(found, expected, strict=True))
