r"""Compare networks, their engines, and those of the face detector, on one core in one run.

    python benchmarks/engine.py paper-deep bundled
    python benchmarks/engine.py bundled --photos photos/ \
        --detector-weights face_detection_yunet_2023mar.onnx

The turns of all engines alternate, and the best turn of each counts, so that other work on the
machine slows down all of them or none.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import tyro
from turns import take_turns, timed

from fer.data.synthetic import draw_faces
from fer.models.checkpoint import Checkpoint, Member, load_checkpoint
from fer.models.engine import Engine, with_graphs
from fer.models.networks import build_network
from fer.models.onnx_engine import CPU_BATCH_SIZE, OnnxEngine
from fer.models.torch_engine import TorchEngine
from fer.vision.decode import ImageError, decode_photo
from fer.vision.detector import DETECTION_SIDE, MAX_OVERLAP, MIN_SCORE
from fer.vision.reshape import convert_images
from fer.vision.yunet import YuNet

NUM_TURNS = 15
EAGER = "torch, float32"


def compare_networks(checkpoints: Sequence[str]) -> None:
    """Print the images a second of each engine of each network, in batches of 32.

    Beside them stand the ratios to the network's own engine of torch, and to the same engine of the
    first network.
    """
    members = [member for each in checkpoints for member in load_checkpoint(each).members]
    engines = {
        (member.config.id, name): engine
        for member in members
        for name, engine in _engines(member).items()
    }
    work = {key: _on_faces(engine, key[0], members) for key, engine in engines.items()}
    seconds = take_turns(timed(work), NUM_TURNS, min)
    first = members[0].config.id
    print(f"images a second on one core; ratios to torch, and to {first}")
    for (model, name), best in seconds.items():
        ratio, to_first = seconds[model, EAGER] / best, seconds.get((first, name), np.nan) / best
        print(f"  {model:26} {name:22} {CPU_BATCH_SIZE / best:7.0f} {ratio:6.2f} {to_first:6.2f}")


def _engines(member: Member) -> dict[str, Engine]:
    network = build_network(member)
    eager = TorchEngine(network, member.config.preprocessing, torch.device("cpu"), "float32")
    (member,) = with_graphs(Checkpoint("", (), (member,))).members
    engines: dict[str, Engine] = {EAGER: eager, "ONNX Runtime, float32": OnnxEngine(member, 1)}
    if member.int8 is not None:
        engines["ONNX Runtime, int8"] = OnnxEngine(member, 1, "int8")
    return engines


def _on_faces(engine: Engine, model: str, members: Sequence[Member]) -> Callable[[], object]:
    """Return what runs an engine on a batch of drawn faces in the shape of its network."""
    (shape,) = {member.config.shape for member in members if member.config.id == model}
    faces = convert_images(draw_faces(CPU_BATCH_SIZE, seed=0)[0], shape)
    return lambda: engine.logits(faces)


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
    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = ("bundled",),
    photos: Path | None = None,
    detector_weights: Path | None = None,
) -> None:
    """Compare engines.

    Args:
        checkpoints: Checkpoints of the networks.
        photos: Folder of photographs; without it, only networks are compared.
        detector_weights: YuNet's ONNX file, which photographs need.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    compare_networks(checkpoints)
    if photos is not None and detector_weights is not None:
        compare_detectors(photos, detector_weights.read_bytes())


if __name__ == "__main__":
    tyro.cli(main)
