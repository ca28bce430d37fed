"""Conditions degrade faces as much as they say, and always in the same way."""

import io

import numpy as np
import pytest
from PIL import Image

from fer.vision.conditions import CONDITIONS, degrade

DIGEST = "5f" * 32


@pytest.fixture(scope="module")
def face(faces):
    return faces[0][0]


@pytest.fixture(scope="module")
def degraded(face):
    views = degrade(face, DIGEST)
    return {condition.name: view for condition, view in zip(CONDITIONS, views, strict=True)}


def test_each_view_is_a_face_and_another_one(face, degraded):
    assert len(degraded) == len(CONDITIONS)
    for name, view in degraded.items():
        assert (view.dtype, view.shape) == (np.uint8, (48, 48)), name
        assert (view != face).any(), name


def test_the_same_digest_gives_the_same_views(face, degraded):
    again = degrade(face, DIGEST)
    assert all((view == other).all() for view, other in zip(degraded.values(), again, strict=True))
    others = dict(zip(degraded, degrade(face, "a0" * 32), strict=True))
    changed = {name for name, view in degraded.items() if (view != others[name]).any()}
    assert changed == {"noise: deviation 6", "noise: deviation 12", "noise: deviation 18"}


def test_noise_has_its_deviation():
    gray = np.full((48, 48), 128, np.uint8)
    views = dict(zip((each.name for each in CONDITIONS), degrade(gray, DIGEST), strict=True))
    for deviation in (6, 12, 18):
        found = views[f"noise: deviation {deviation}"].astype(float).std()
        assert found == pytest.approx(deviation, rel=0.06)


def test_compression_is_a_jpeg_file(face, degraded):
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=15)
    assert (degraded["JPEG: quality 15"] == np.asarray(Image.open(buffer))).all()


def test_covers_hide_their_rows_alone(face, degraded):
    for name, rows in (("covered: mouth", slice(30, 48)), ("covered: eyes", slice(14, 24))):
        view = degraded[name]
        is_inside = np.zeros(48, bool)
        is_inside[rows] = True
        assert (view[is_inside] == 128).all()
        assert (view[~is_inside] == face[~is_inside]).all()


def test_stronger_is_further_from_the_face(face, degraded):
    for kind in ("face width", "noise", "blur", "JPEG", "turn"):
        views = [view.astype(float) for name, view in degraded.items() if name.startswith(kind)]
        distances = [np.abs(view - face).mean() for view in views]
        assert distances == sorted(distances), kind
