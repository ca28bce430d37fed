"""Tallies: counts of labels, and the sample faces and problems that a report shows."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fer.labels.schema import FAILED_STATUSES, is_of_video

MAX_SAMPLES, MAX_SAMPLES_PER_CHUNK = 16, 4
"""Most sample faces of each emotion, in a report and in the tally of one chunk."""

MAX_LISTED = 20
"""Most failed images, and most slow images, that a report lists."""


@dataclass(frozen=True, order=True)
class SampleFace:
    """A face that a report shows.

    Attributes:
        digest: Digest of the image's location and the face's index. Samples are those with the
            smallest digests: a random choice that is the same each time the images are labeled.
        image: Location of the image.
        emotion: The predicted emotion.
        confidence: Probability of the emotion, in [0, 1].
        thumbnail: JPEG file.
        face: Number of the face in the image or frame.
        seconds: When the frame is shown, if the image is a video.
    """

    digest: str
    image: str
    emotion: str
    confidence: float
    thumbnail: bytes
    face: int = 0
    seconds: float | None = None

    @classmethod
    def of(
        cls, row: Mapping[str, Any], thumbnail: bytes, class_names: Sequence[str]
    ) -> "SampleFace":
        """Return the face of a row of ``LABEL_SCHEMA``, with its most probable emotion."""
        place = "" if row["frame"] is None else f" {row['frame']}"
        digest = hashlib.sha256(f"{row['image']}{place} {row['face']}".encode()).hexdigest()
        emotion = class_names[int(np.argmax(row["probabilities"]))]
        return cls(
            *(digest, row["image"], emotion, row["confidence"], thumbnail),
            *(row["face"], row["time_seconds"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the face as JSON has it."""
        return {**vars(self), "thumbnail": base64.b64encode(self.thumbnail).decode()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "SampleFace":
        """Return the face that ``to_dict`` converted."""
        return cls(**{**content, "thumbnail": base64.b64decode(content["thumbnail"])})


@dataclass
class LabelTally:
    """Counts of labels, with samples for the report.

    Attributes:
        images: Number of images that have rows, frames of videos included.
        statuses: Number of rows by status.
        emotions: Number of rows by emotion.
        confidences: Histogram of the faces' confidence, int64 (20,), in steps of 0.05.
        ignored: Number of files that are not images, by the ends of their names.
        files: Names of the label files.
        samples: Sample faces by emotion.
        failures: Images that could not be used, each with its error.
        slowest: Images that took the longest, each as (seconds, location).
        frames: Number of frames of videos among the images.
        videos: Names of the label files that hold rows of videos.
        turn_faces: Faces at the turns of videos, in the tally of a single file: see
            ``fer.labels.turns``.
    """

    images: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    emotions: Counter[str] = field(default_factory=Counter)
    confidences: np.ndarray = field(default_factory=lambda: np.zeros(20, np.int64))
    ignored: Counter[str] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    samples: dict[str, list[SampleFace]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    frames: int = 0
    videos: set[str] = field(default_factory=set)
    turn_faces: list[SampleFace] = field(default_factory=list)

    @property
    def faces(self) -> int:
        """Number of faces that the network classified."""
        return self.statuses["ok"] + self.statuses["uncertain"]

    @property
    def failed(self) -> int:
        """Number of images that could not be used."""
        return sum(self.statuses[status] for status in FAILED_STATUSES)

    def count(self, row: dict[str, Any], sample: SampleFace | None = None) -> None:
        """Count a row of ``LABEL_SCHEMA``, and keep its face as a sample if one is given."""
        self.statuses[row["status"]] += 1
        if row["status"] in FAILED_STATUSES:
            self.failures.append((row["image"], row["error"]))
        if row.get("confidence") is not None:
            self.confidences[min(19, int(row["confidence"] * 20))] += 1
        if (emotion := row.get("emotion")) is None:
            return
        self.emotions[emotion] += 1
        if sample is not None:
            self.samples.setdefault(emotion, []).append(sample)

    def add(self, other: "LabelTally") -> None:
        """Add another tally to this one, but for its faces at turns."""
        self.images += other.images
        self.frames += other.frames
        self.statuses += other.statuses
        self.emotions += other.emotions
        self.confidences = self.confidences + other.confidences
        self.ignored += other.ignored
        self.files |= other.files
        self.videos |= other.videos
        for emotion, samples in other.samples.items():
            merged = sorted([*self.samples.get(emotion, []), *samples])
            self.samples[emotion] = merged[:MAX_SAMPLES]
        self.failures = sorted({*self.failures, *other.failures})[:MAX_LISTED]
        self.slowest = sorted({*self.slowest, *other.slowest}, reverse=True)[:MAX_LISTED]

    def limited(self) -> "LabelTally":
        """Return a copy with no more samples than the tally of one chunk may hold."""
        tally = LabelTally()
        tally.add(self)
        for samples in tally.samples.values():
            del samples[MAX_SAMPLES_PER_CHUNK:]
        tally.turn_faces = list(self.turn_faces)
        return tally

    def recounted(self, rows: Sequence[dict[str, Any]]) -> "LabelTally":
        """Return the tally of a file after some of its images were removed.

        Args:
            rows: The remaining rows of ``LABEL_SCHEMA``.
        """
        images = {row["image"] for row in rows}
        pictures = {(row["image"], row["frame"]) for row in rows}
        num_frames = sum(frame is not None for _, frame in pictures)
        tally = LabelTally(
            len(pictures),
            frames=num_frames,
            ignored=self.ignored.copy(),
            files=set(self.files),
            videos=set(self.files) if any(map(is_of_video, rows)) else set(),
        )
        for row in rows:
            tally.count(row)
        tally.samples = {
            emotion: [sample for sample in samples if sample.image in images]
            for emotion, samples in self.samples.items()
        }
        tally.slowest = [(seconds, image) for seconds, image in self.slowest if image in images]
        tally.turn_faces = [face for face in self.turn_faces if face.image in images]
        return tally.limited()

    def to_json(self) -> str:
        """Return the tally as JSON, for the metadata of its file."""
        samples = {
            emotion: [sample.to_dict() for sample in samples]
            for emotion, samples in self.samples.items()
        }
        converted = {
            "confidences": self.confidences.tolist(),
            "files": sorted(self.files),
            "videos": sorted(self.videos),
            "turn_faces": [face.to_dict() for face in self.turn_faces],
        }
        return json.dumps({**vars(self), **converted, "samples": samples})

    @classmethod
    def from_json(cls, text: str | bytes) -> "LabelTally":
        """Return the tally that ``to_json`` wrote."""
        content = json.loads(text)
        samples = {
            emotion: [SampleFace.from_dict(sample) for sample in samples]
            for emotion, samples in content["samples"].items()
        }
        return cls(
            images=content["images"],
            # Labels from before videos were labeled lack them.
            frames=content.get("frames", 0),
            videos=set(content.get("videos", ())),
            turn_faces=[SampleFace.from_dict(face) for face in content.get("turn_faces", ())],
            statuses=Counter(content["statuses"]),
            emotions=Counter(content["emotions"]),
            confidences=np.array(content["confidences"], np.int64),
            ignored=Counter(content["ignored"]),
            files=set(content["files"]),
            samples=samples,
            failures=[tuple(failure) for failure in content["failures"]],
            slowest=[tuple(image) for image in content["slowest"]],
        )
