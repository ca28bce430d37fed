r"""Compare the engines of a network, and those of the face detector, on one core in one run.

    python benchmarks/engine.py bundled
    python benchmarks/engine.py bundled --photos photos/ \
        --detector-weights face_detection_yunet_2023mar.onnx

The turns of all engines alternate, and the best turn of each counts, so that other work on the
machine slows down all of them or none.
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import tyro
from turns import take_turns, timed

from fer.data.synthetic import draw_faces
from fer.models.checkpoint import load_checkpoint
from fer.models.engine import with_graphs
from fer.models.networks import build_network
from fer.models.onnx_engine import CPU_BATCH_SIZE, OnnxEngine
from fer.models.torch_engine import TorchEngine
from fer.vision.decode import ImageError, decode_photo
from fer.vision.detector import DETECTION_SIDE, MAX_OVERLAP, MIN_SCORE
from fer.vision.yunet import YuNet

NUM_TURNS = 15


def compare_networks(checkpoint: str) -> None:
    """Print the images a second of each engine of a network, in batches of 32."""
    (member,) = with_graphs(load_checkpoint(checkpoint)).members
    images, _ = draw_faces(CPU_BATCH_SIZE, seed=0)
    eager = TorchEngine(
        build_network(member), member.config.preprocessing, torch.device("cpu"), "float32"
    )
    engines = {"torch, float32": eager, "ONNX Runtime, float32": OnnxEngine(member, 1)}
    if member.int8 is not None:
        engines["ONNX Runtime, int8"] = OnnxEngine(member, 1, "int8")
    work = {name: lambda engine=engine: engine.logits(images) for name, engine in engines.items()}
    seconds = take_turns(timed(work), NUM_TURNS, min)
    print(f"{member.config.id}, images a second on one core")
    for name, best in seconds.items():
        ratio = seconds["torch, float32"] / best
        print(f"  {name:22} {len(images) / best:7.0f}  {ratio:5.2f} of torch")


def compare_detectors(photos: Path, weights: bytes) -> None:
    """Print the milliseconds that a photograph takes in OpenCV's class and in ``YuNet``."""
    content = np.frombuffer(weights, np.uint8)
    reference = cv2.FaceDetectorYN.create(
        "onnx", content, np.empty(0, np.uint8), (320, 320), MIN_SCORE, MAX_OVERLAP
    )
    own, images = YuNet(weights, MIN_SCORE, MAX_OVERLAP), [*_load(photos)]

    def run_opencv() -> None:
        for image in images:
            reference.setInputSize(image.shape[1::-1])
            reference.detect(image)

    def run_onnx() -> None:
        for image in images:
            own.detect(image)

    seconds = take_turns(timed({"OpenCV": run_opencv, "ONNX Runtime": run_onnx}), 3, min)
    print(f"YuNet, milliseconds a photograph, {len(images)} photographs")
    for name, best in seconds.items():
        print(f"  {name:22} {1000 * best / len(images):7.1f}  {seconds['OpenCV'] / best:5.2f}")


def _load(photos: Path) -> list[np.ndarray]:
    """Return photographs uint8 (H, W, 3), blue first, in the size in which faces are detected."""
    images = []
    for file in sorted(photos.rglob("*")):
        try:
            pixels = decode_photo(file.read_bytes()).pixels if file.is_file() else None
        except ImageError:
            continue
        if pixels is not None:
            shrink = min(1.0, DETECTION_SIDE / max(pixels.shape[:2]))
            small = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            images.append(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return images


def main(
    checkpoint: Annotated[str, tyro.conf.Positional] = "bundled",
    photos: Path | None = None,
    detector_weights: Path | None = None,
) -> None:
    """Compare engines.

    Args:
        checkpoint: Checkpoint of the network.
        photos: Folder of photographs; without it, only networks are compared.
        detector_weights: YuNet's ONNX file, which photographs need.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    compare_networks(checkpoint)
    if photos is not None and detector_weights is not None:
        compare_detectors(photos, detector_weights.read_bytes())


if __name__ == "__main__":
    tyro.cli(main)
