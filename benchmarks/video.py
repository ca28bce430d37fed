"""Speed of label on videos, its memory by their length, and how well faces are followed.

    python benchmarks/video.py speed photos/ --minutes 3 --fps 5
    python benchmarks/video.py memory photos/ --minutes 1 10 60
    python benchmarks/video.py tracks photos/ --fps 1 2 5 25

The videos are made of photographs of people: the camera pans over one photograph after the other.
For `tracks`, faces are cut out of them and move on a gray ground, where they cross each other, so
that it is known where each is.

`bare stages` are plain processes, one for each CPU, that share the chunks of the video, and only
decode, detect and classify. `a loop` is what people write: OpenCV's VideoCapture and
FaceDetectorYN, and the float32 network in torch, frame by frame.
"""

import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
import tyro
from label import (
    Bare,
    CommonOptions,
    Options,
    Processes,
    Rates,
    label,
    report,
    take_turns,
    working_folder,
)
from memory import MIB, measured_peaks

from fer.models.networks import load_networks
from fer.vision.decode import ImageError, Photo, decode_photo
from fer.vision.detector import FaceDetector, load_detector_weights
from fer.vision.faces import align
from fer.vision.sampling import FrameChunk, Sampling, plan
from fer.vision.tracking import Tracker
from fer.vision.video import decode_frames
from ray_jobs.cluster import session

DEFAULTS = Options()

Source = tyro.conf.Positional[Path]

RATE, SIZE = 25, (1280, 720)
"""Frames a second, and width and height of the videos."""

SECONDS_PER_PHOTO = 5
"""Time that the camera pans over a photograph."""


# Videos.


def read_photos(folder: Path) -> list[np.ndarray]:
    """Return the photographs in a folder as uint8 (H, W, 3), red, green and blue."""
    photos = []
    for file in sorted(folder.rglob("*.jpg")):
        try:
            photos.append(decode_photo(file.read_bytes()).pixels)
        except ImageError:
            continue
    return photos


def pan(photos: Sequence[np.ndarray], num_frames: int) -> Iterator[np.ndarray]:
    """Yield frames of a camera that moves in a circle over one photograph after the other."""
    width, height = SIZE
    per_photo = SECONDS_PER_PHOTO * RATE
    for number, photo in zip(range(0, num_frames, per_photo), cycle(photos), strict=False):
        scale = 1.3 * max(width / photo.shape[1], height / photo.shape[0])
        large = cv2.resize(photo, None, fx=scale, fy=scale)
        room_x, room_y = large.shape[1] - width, large.shape[0] - height
        for frame in range(min(per_photo, num_frames - number)):
            angle = 2 * math.pi * frame / per_photo
            x = round(room_x * (1 + math.cos(angle)) / 2)
            y = round(room_y * (1 + math.sin(angle)) / 2)
            yield large[y : y + height, x : x + width]


def write_video(file: Path, frames: Iterator[np.ndarray]) -> None:
    """Encode frames as H.264 with a keyframe every two seconds, as phones do."""
    with av.open(str(file), "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.pix_fmt, stream.gop_size = "yuv420p", 2 * RATE
        stream.width, stream.height = SIZE
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode())


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
            crop = align(gray, face[:4], face[4:14].reshape(5, 2)).astype(np.float32)
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
        write_video(file, pan(read_photos(photos), round(60 * minutes * RATE)))
        with file.open("rb") as video:
            chunks = list(plan(video, Sampling(fps)))
        num_frames = sum(len(chunk.frames) for chunk in chunks)
        bare = Processes(options.checkpoint, options.engine, weights)

        def job() -> Rates:
            return label("label", folder, images=str(file.parent), fps=fps, **options.flags)

        def stages() -> Rates:
            seconds = np.max([s.sum() for s in bare.run(label_share, Share(file, chunks))])
            return {"bare stages": num_frames / seconds}

        def loop() -> Rates:
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
) -> None:
    """Measure peak memory by the length of the video; each in its own process and cluster.

    Args:
        photos: Folder of photographs of people.
        options: Options of all comparisons.
        minutes: Lengths of the videos.
        fps: Frames of each second that are labeled.
    """
    spawn = multiprocessing.get_context("spawn")
    for length in minutes:
        with ProcessPoolExecutor(1, spawn) as alone:
            print(json.dumps(alone.submit(label_long, photos, options, length, fps).result()))


def label_long(photos: Path, options: Options, minutes: float, fps: float) -> dict[str, Any]:
    """Label a video of some length, in a process that has not done anything before."""
    with working_folder(with_ray=False) as folder:
        (folder / "videos").mkdir()
        _run_alone(_write_pan, folder / "videos" / "pan.mp4", photos, minutes)
        with measured_peaks() as peaks:
            session.connect()
            rates = label("label", folder, images=str(folder / "videos"), fps=fps, **options.flags)
    return {
        "minutes": minutes,
        "frames a second": {name: round(rate, 1) for name, rate in rates.items()},
        "driver MiB": peaks.driver // MIB,
        "object store MiB": peaks.object_store // MIB,
        "largest process MiB": peaks.largest_process // MIB,
    }


def _run_alone(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in another process, whose memory does not count."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        alone.submit(function, *arguments).result()


def _write_pan(file: Path, photos: Path, minutes: float) -> None:
    write_video(file, pan(read_photos(photos), round(60 * minutes * RATE)))


# Tracks.


@dataclass(frozen=True)
class Walker:
    """A face that moves from side to side.

    Attributes:
        picture: uint8 (H, W, 3).
        start: Left and top in pixels.
        reach: How far it moves to either side, in pixels.
        period: Seconds of a whole movement.
    """

    picture: np.ndarray
    start: tuple[float, float]
    reach: tuple[float, float]
    period: float

    def at(self, seconds: float) -> tuple[int, int]:
        """Return left and top at a time."""
        swing = math.sin(2 * math.pi * seconds / self.period)
        x, y = (
            round(start + reach * swing)
            for start, reach in zip(self.start, self.reach, strict=True)
        )
        return x, y


def cut_faces(
    photos: Sequence[np.ndarray], detector: FaceDetector, number: int
) -> list[np.ndarray]:
    """Return large faces with their surroundings, scaled to 200 pixels."""
    faces = []
    for pixels in photos:
        height, width = pixels.shape[:2]
        for face in detector.detect(Photo(pixels, width, height)):
            x, y, w, h = face.box
            half = 0.9 * max(w, h)
            left, top = round(x + w / 2 - half), round(y + h / 2 - half)
            side = round(2 * half)
            if w > 80 and min(left, top) >= 0 and left + side < width and top + side < height:
                cut = pixels[top : top + side, left : left + side]
                faces.append(cv2.resize(cut, (200, 200), interpolation=cv2.INTER_AREA))
        if len(faces) >= number:
            break
    return faces[:number]


def tracks(
    photos: Source,
    options: CommonOptions = DEFAULTS,
    *,
    fps: tuple[float, ...] = (1, 2, 5, 25),
    seconds: float = 60,
    slowness: float = 3,
) -> None:
    """Measure how many faces keep their track, on faces whose places are known.

    Args:
        photos: Folder of photographs of people.
        options: Options of all comparisons.
        fps: Rates at which the video is sampled.
        seconds: Length of the video.
        slowness: How slowly the faces move: with 3, by up to 0.9 of their width in a second.
    """
    detector = FaceDetector(load_detector_weights(options.detector_weights))
    pictures = cut_faces(read_photos(photos), detector, 4)
    walkers = [
        Walker(pictures[0], (540, 40), (420, 0), 12 * slowness),
        Walker(pictures[1], (540, 150), (-420, 20), 9 * slowness),
        Walker(pictures[2], (300, 400), (200, 40), 7 * slowness),
        Walker(pictures[3], (700, 420), (-260, 0), 15 * slowness),
    ]
    for rate in fps:
        print(json.dumps({"fps": rate, **_follow(walkers, detector, rate, seconds)}))


def _follow(
    walkers: Sequence[Walker], detector: FaceDetector, fps: float, seconds: float
) -> dict[str, Any]:
    tracker, found = Tracker(), [list[int]() for _ in walkers]
    for number in range(round(seconds * fps)):
        frame = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
        places = [walker.at(number / fps) for walker in walkers]
        for walker, (x, y) in zip(walkers, places, strict=True):
            frame[y : y + 200, x : x + 200] = walker.picture
        faces = detector.detect(Photo(frame, *SIZE))
        numbers = tracker.update(number / fps, [face.box.tolist() for face in faces])
        for face, track in zip(faces, numbers, strict=True):
            center = face.box[:2] + face.box[2:] / 2
            distances = [np.hypot(*(center - 100 - place)) for place in places]
            found[int(np.argmin(distances))].append(track)
    right = sum(Counter(own).most_common(1)[0][1] for own in found)
    changes = sum(first != second for own in found for first, second in pairwise(own))
    total = sum(map(len, found))
    return {"faces": total, "right": round(right / total, 4), "changes of track": changes}


if __name__ == "__main__":
    measures = {"speed": speed, "memory": memory, "tracks": tracks}
    tyro.extras.subcommand_cli_from_dict(measures, description=__doc__)
