"""Speed of label on videos, and its memory by their length.

    python benchmarks/video.py speed photos/ --minutes 3 --fps 5
    python benchmarks/video.py memory photos/ --minutes 1 10 60

The videos are made of photographs of people: the camera pans over one photograph after the other.

`bare stages` are plain processes, one for each CPU, that share the chunks of the video, and only
decode, detect and classify. `a loop` is what people write: OpenCV's VideoCapture and
FaceDetectorYN, and the float32 network in torch, frame by frame.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from footage import RATE, SIZE, write_pan
from labeling import DEFAULTS, CommonOptions, Options, label, report
from memory import MIB, in_new_process, measured_peaks
from processes import Bare, Processes
from turns import Measured, take_turns, working_folder

from fer.models.networks import load_networks
from fer.vision.detector import load_detector_weights
from fer.vision.faces import align
from fer.vision.sampling import FrameChunk, Sampling, plan
from fer.vision.shape import IMAGE_SIZE
from fer.vision.video import decode_frames
from ray_jobs.cluster import session

Source = tyro.conf.Positional[Path]


# Speed.


@dataclass(frozen=True)
class Share:
    """Chunks of a video that one plain process takes.

    Attributes:
        file: The video.
        chunks: What ``plan`` yielded.
    """

    file: Path
    chunks: list[FrameChunk]

    def __getitem__(self, every: slice) -> "Share":
        """Return every n-th chunk."""
        return Share(self.file, self.chunks[every])


def label_share(bare: Bare, share: Share) -> np.ndarray:
    """Decode, detect and classify, and return the seconds of each, (3,)."""
    seconds, crops = np.zeros(3), []
    with share.file.open("rb") as video:
        for chunk in share.chunks:
            before = time.perf_counter()
            for _, photo in decode_frames(video, chunk):
                decoded = time.perf_counter()
                crops += [face.crop for face in bare.detector.detect(photo)]
                seconds[:2] += decoded - before, time.perf_counter() - decoded
                before = time.perf_counter()
    seconds[2] = bare.classify(np.stack(crops))
    return seconds


def run_loop(file: Path, fps: float, checkpoint: str, weights: bytes) -> int:
    """Label a video as people write it, and return the number of frames."""
    (network,) = load_networks(checkpoint)
    video, num_frames = cv2.VideoCapture(str(file)), 0
    every = round(video.get(cv2.CAP_PROP_FPS) / fps)
    detector = cv2.FaceDetectorYN.create("onnx", weights, b"", (320, 320), 0.6)
    while video.grab():
        if int(video.get(cv2.CAP_PROP_POS_FRAMES) - 1) % every:
            continue
        _, frame = video.retrieve()
        detector.setInputSize((frame.shape[1], frame.shape[0]))
        _, faces = detector.detect(frame)
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        for face in () if faces is None else faces:
            crop = align(gray, face[:4], face[4:14].reshape(5, 2), IMAGE_SIZE).astype(np.float32)
            crop = (crop - crop.mean()) / max(crop.std(), 1.0)
            with torch.inference_mode():
                network(torch.from_numpy(crop)[None, None]).softmax(1)
        num_frames += 1
    return num_frames


def speed(
    photos: Source, options: CommonOptions = DEFAULTS, *, minutes: float = 3, fps: float = 5
) -> None:
    """Compare label on a video with its stages in plain processes, and with a loop.

    Args:
        photos: Folder of photographs of people.
        options: Options of all comparisons.
        minutes: Length of the video.
        fps: Frames of each second that are labeled.
    """
    weights = load_detector_weights(options.detector_weights)
    with working_folder() as folder:
        file = folder / "videos" / "pan.mp4"
        file.parent.mkdir()
        write_pan(file, photos, minutes)
        with file.open("rb") as video:
            chunks = list(plan(video, Sampling(fps)))
        num_frames = sum(len(chunk.frames) for chunk in chunks)
        bare = Processes(options.checkpoint, options.engine, weights)

        def job() -> Measured:
            return label("label", folder, images=str(file.parent), fps=fps, **options.flags)

        def stages() -> Measured:
            seconds = np.max([s.sum() for s in bare.run(label_share, Share(file, chunks))])
            return {"bare stages": num_frames / seconds}

        def loop() -> Measured:
            start = time.perf_counter()
            found = run_loop(file, fps, options.checkpoint, weights)
            return {"a loop": found / (time.perf_counter() - start)}

        report("video", num_frames, options, take_turns((job, stages, loop), options.repeats))


# Memory.


def memory(
    photos: Source,
    options: CommonOptions = DEFAULTS,
    *,
    minutes: tuple[float, ...] = (1, 10, 60),
    fps: float = 1,
    rate: int = RATE,
    size: tuple[int, int] = SIZE,
    videos: Path = Path("videos"),
) -> None:
    """Measure peak memory by the length of the video; each in its own process and cluster.

    Args:
        photos: Folder of photographs of people.
        options: Options of all comparisons.
        minutes: Lengths of the videos.
        fps: Frames of each second that are labeled.
        rate: Frames a second of the videos.
        size: Width and height of the videos.
        videos: Folder where the videos are made, and stay for the next run.
    """
    for length in minutes:
        file = videos / f"{length:g}-minutes-{rate}-{size[0]}x{size[1]}" / "pan.mp4"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_pan(file.with_suffix(".part.mp4"), photos, length, rate, size)
            file.with_suffix(".part.mp4").rename(file)
        measured = in_new_process(label_long, file.parent, options, fps)
        print(json.dumps({"minutes": length, "size": size, **measured}))


def label_long(videos: Path, options: Options, fps: float) -> dict[str, Any]:
    """Label videos, and return how fast and in which memory."""
    with working_folder(with_ray=False) as folder, measured_peaks() as peaks:
        session.connect()
        rates = label("label", folder, images=str(videos), fps=fps, **options.flags)
    return {
        "frames a second": {name: round(rate, 1) for name, rate in rates.items()},
        "driver MiB": peaks.driver // MIB,
        "object store MiB": peaks.object_store // MIB,
        "largest process MiB": peaks.largest_process // MIB,
    }


if __name__ == "__main__":
    measures = {"speed": speed, "memory": memory}
    tyro.extras.subcommand_cli_from_dict(measures, description=__doc__)
