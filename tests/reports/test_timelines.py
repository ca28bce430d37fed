"""The plot of a video's timeline."""

import io

import cv2
import numpy as np
from PIL import Image

from fer.labels.tally import SampleFace
from fer.labels.timeline import Line, Timeline
from fer.reports.timelines import plot_timeline

EMOTIONS = ("sad", "happy")


def make_timeline(samples):
    seconds = np.arange(0, 10, 0.2)
    happy = 0.5 + 0.4 * np.sin(seconds)
    line = Line(3, len(seconds), seconds, np.stack([1 - happy, happy], axis=1))
    return Timeline("/a.mp4", 50, 1, (line,), {3: samples})


def colors_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_faces_stand_above_the_turns_of_their_track():
    _, red = cv2.imencode(".jpg", np.full((128, 128, 3), (0, 0, 255), np.uint8))
    face = SampleFace("d", "/a.mp4", "happy", 0.9, red.tobytes(), seconds=1.0)
    plain, with_face = (colors_of(plot_timeline(make_timeline(s), EMOTIONS)) for s in ([], [face]))
    is_red = (with_face[..., 0] > 230) & (with_face[..., 1:] < 40).all(axis=2)
    assert is_red.sum() > 1000
    assert not ((plain[..., 0] > 230) & (plain[..., 1:] < 40).all(axis=2)).any()


def test_a_track_of_a_single_face_is_plotted():
    line = Line(0, 1, np.array([0.0]), np.array([[0.2, 0.8]]))
    png = plot_timeline(Timeline("/a.mp4", 1, 1, (line,), {}), EMOTIONS)
    assert colors_of(png).shape[2] == 3
