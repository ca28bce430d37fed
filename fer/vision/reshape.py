"""Convert images of faces from one shape to another."""

import cv2
import numpy as np

from fer.vision.shape import ImageShape


def convert_images(images: np.ndarray, shape: ImageShape) -> np.ndarray:
    """Convert images to another shape.

    Color becomes gray by ITU-R 601, and gray becomes color by three equal channels. Images are
    shrunk by averaging areas, and enlarged bilinearly.

    Args:
        images: uint8 (N, size, size) or (N, size, size, 3).
        shape: The shape to convert them to.

    Returns:
        uint8 (N, *shape.array); the images themselves if they have this shape.
    """
    found = ImageShape.of(images)
    if found == shape:
        return images
    converted = [_convert(image, found, shape) for image in images]
    return np.stack(converted) if converted else np.empty((0, *shape.array), np.uint8)


def _convert(image: np.ndarray, found: ImageShape, shape: ImageShape) -> np.ndarray:
    if found.is_color and not shape.is_color:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if found.size != shape.size:
        how = cv2.INTER_AREA if shape.size < found.size else cv2.INTER_LINEAR
        image = cv2.resize(image, (shape.size, shape.size), interpolation=how)
    if shape.is_color and not found.is_color:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return image
