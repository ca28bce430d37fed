"""Shapes of images, and the conversion from one to another."""

import numpy as np
import pytest

from fer.vision.reshape import convert_images
from fer.vision.shape import FER2013_SHAPE, ImageShape

COLOR = ImageShape(96, 3)


def test_what_a_shape_says():
    assert str(FER2013_SHAPE) == "48x48 gray"
    assert str(COLOR) == "96x96 color"
    assert (FER2013_SHAPE.array, COLOR.array) == ((48, 48), (96, 96, 3))
    assert (FER2013_SHAPE.num_bytes, COLOR.num_bytes) == (2304, 27648)


@pytest.mark.parametrize("shape", [FER2013_SHAPE, COLOR])
def test_images_are_packed_row_by_row(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape.array)).astype(np.uint8)
    assert ImageShape.of(images) == shape
    np.testing.assert_array_equal(shape.unpack(images.tobytes()), images)


def test_images_that_have_the_shape_are_not_copied(faces):
    assert convert_images(faces[0], FER2013_SHAPE) is faces[0]


def test_gray_becomes_color_and_back(faces):
    colored = convert_images(faces[0], ImageShape(48, 3))
    assert (colored == faces[0][..., None]).all()
    np.testing.assert_array_equal(convert_images(colored, FER2013_SHAPE), faces[0])


def test_color_becomes_gray_by_itu_r_601():
    colors = np.zeros((3, 24, 24, 3), np.uint8)
    colors[[0, 1, 2], :, :, [0, 1, 2]] = 255
    grays = convert_images(colors, ImageShape(24))
    assert grays[:, 0, 0].tolist() == [76, 150, 29]


def test_images_shrink_by_averages_and_grow_smoothly():
    stripes = np.tile(np.uint8([0, 200]), (1, 48, 24))
    assert (convert_images(stripes, ImageShape(24)) == 100).all()
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (1, 24, 1))
    enlarged = convert_images(ramp, ImageShape(48))
    assert (np.diff(enlarged[0, 0].astype(int)) >= 0).all()
    assert len(set(enlarged[0, 0].tolist())) > 40


def test_no_images():
    assert convert_images(np.empty((0, 48, 48), np.uint8), COLOR).shape == (0, 96, 96, 3)
