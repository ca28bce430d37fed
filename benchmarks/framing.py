"""Whether faces that are found in photographs look to the network like those that it learned from.

    python benchmarks/framing.py runs/data --detector-weights face_detection_yunet_2023mar.onnx

Each face of FER2013 is put into a larger gray picture, found there, turned upright and cut out as
in a photograph. What the network says of the cut is compared with what it says of the face itself:
framing that differed from FER2013's would cost accuracy.
"""

import argparse

import cv2
import numpy as np

from fer.data.dataset import open_dataset
from fer.models.predictor import Predictor
from fer.vision.decode import Photo
from fer.vision.detector import FaceDetector, load_detector_weights

FACE, PICTURE = 192, 320
"""Side in pixels that a face is scaled to, and of the picture that it is put into."""


def to_photo(image: np.ndarray) -> Photo:
    picture = np.full((PICTURE, PICTURE), 128, np.uint8)
    start = (PICTURE - FACE) // 2
    face = cv2.resize(image, (FACE, FACE), interpolation=cv2.INTER_CUBIC)
    picture[start : start + FACE, start : start + FACE] = face
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
    found = [detector.detect(to_photo(image)) for image in examples.images]
    single = np.array([len(faces) == 1 for faces in found])
    cuts = np.stack([faces[0].crop for faces in found if len(faces) == 1])
    originals, labels = examples.images[single], examples.labels[single]
    predictor = Predictor.load(arguments.checkpoint, engine="float32")
    said = [predictor.predict_probs(images, tta=True) for images in (originals, cuts)]
    accuracies = [float((probs.argmax(axis=1) == labels).mean()) for probs in said]
    same = float((said[0].argmax(axis=1) == said[1].argmax(axis=1)).mean())
    print(f"one face found in {single.mean():.1%} of {len(single):,} images")
    print(f"accuracy on these: {accuracies[0]:.1%} as they are, {accuracies[1]:.1%} cut out anew")
    print(f"the same class in {same:.1%}")


if __name__ == "__main__":
    main()
