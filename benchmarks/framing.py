"""Whether the network classifies faces that were detected and cropped like the training images.

    python benchmarks/framing.py runs/data --detector-weights face_detection_yunet_2023mar.onnx

Each face of FER2013 is placed into a larger image, detected there, rotated upright and cropped, as
in a photograph. The network's prediction for the crop is compared with that for the original. If
the detector framed faces differently from FER2013, accuracy would drop. Scaling the face up and
down again costs a part of that, which is told by the same faces without detection.
"""

import argparse

import cv2
import numpy as np

from fer.data.dataset import open_dataset
from fer.models.predictor import Predictor
from fer.vision.decode import Photo
from fer.vision.detector import FaceDetector, load_detector_weights

FACE, PICTURE = 192, 320
"""Sides in pixels: of the scaled face, and of the image that it is placed into."""


def enlarge(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (FACE, FACE), interpolation=cv2.INTER_CUBIC)


def to_photo(image: np.ndarray) -> Photo:
    border = [(PICTURE - FACE) // 2] * 4
    picture = cv2.copyMakeBorder(enlarge(image), *border, cv2.BORDER_REPLICATE)
    return Photo(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB), PICTURE, PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--split", default="val")
    parser.add_argument("--checkpoint", default="bundled")
    parser.add_argument("--detector-weights")
    arguments = parser.parse_args()
    examples = open_dataset(arguments.dataset).read_split(arguments.split)
    detector = FaceDetector(load_detector_weights(arguments.detector_weights))
    detected = [detector.detect(to_photo(image)) for image in examples.images]
    single = np.array([len(faces) == 1 for faces in detected])
    crops = np.stack([faces[0].crop for faces in detected if len(faces) == 1])
    originals, labels = examples.images[single], examples.labels[single]
    size = originals.shape[2:0:-1]
    scaled = [cv2.resize(enlarge(image), size, interpolation=cv2.INTER_AREA) for image in originals]
    predictor = Predictor.load(arguments.checkpoint, engine="float32")
    preds = {
        name: predictor.predict_probs(images, tta=True).argmax(axis=1)
        for name, images in (
            ("as they are", originals),
            ("scaled up and down", np.stack(scaled)),
            ("detected and cropped", crops),
        )
    }
    print(f"one face detected in {single.mean():.1%} of {len(single):,} images; of these:")
    for name, classes in preds.items():
        same = (classes == preds["as they are"]).mean()
        print(f"{name}: accuracy {(classes == labels).mean():.1%}, the same class in {same:.1%}")


if __name__ == "__main__":
    main()
