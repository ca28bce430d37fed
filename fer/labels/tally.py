"""What is counted while labels are written, and what the report shows of them."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fer.labels.schema import FAILED

NUM_EXHIBITS, NUM_EXHIBITS_OF_CHUNK = 16, 4
"""Faces of each emotion in the report, and those that a chunk has to offer for it."""

NUM_TOLD = 20
"""Failed and slow images that the report names."""


@dataclass(frozen=True, order=True)
class Exhibit:
    """A face for people to look at.

    Attributes:
        order: A digest of the image and the face: which faces are shown is left to chance, and the
            same whenever the same images are labeled.
        image: Where it comes from.
        emotion: What it was named.
        confidence: How surely, in [0, 1].
        thumbnail: JPEG file.
    """

    order: str
    image: str
    emotion: str
    confidence: float
    thumbnail: bytes


@dataclass
class LabelTally:
    """What is counted while labels are written, and some of it to look at.

    Attributes:
        images: Images that have rows.
        statuses: Rows by status.
        emotions: Rows by emotion.
        confidences: Faces by confidence, int64 (20,), in steps of 0.05.
        ignored: Files that are not images.
        files: The parts that belong to the labels.
        exhibits: Some faces of each emotion.
        failures: Some images that could not be used, and why.
        slowest: The images that took longest: seconds, and where they come from.
    """

    images: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    emotions: Counter[str] = field(default_factory=Counter)
    confidences: np.ndarray = field(default_factory=lambda: np.zeros(20, np.int64))
    ignored: int = 0
    files: set[str] = field(default_factory=set)
    exhibits: dict[str, list[Exhibit]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)

    def add(self, other: "LabelTally") -> None:
        """Add what was counted elsewhere."""
        self.images += other.images
        self.statuses += other.statuses
        self.emotions += other.emotions
        self.confidences = self.confidences + other.confidences
        self.ignored += other.ignored
        self.files |= other.files
        for emotion, exhibits in other.exhibits.items():
            kept = sorted([*self.exhibits.get(emotion, []), *exhibits])
            self.exhibits[emotion] = kept[:NUM_EXHIBITS]
        self.failures = sorted({*self.failures, *other.failures})[:NUM_TOLD]
        self.slowest = sorted({*self.slowest, *other.slowest}, reverse=True)[:NUM_TOLD]

    def trimmed(self) -> "LabelTally":
        """Return what was counted with no more to look at than a chunk has to offer."""
        tally = LabelTally()
        tally.add(self)
        for exhibits in tally.exhibits.values():
            del exhibits[NUM_EXHIBITS_OF_CHUNK:]
        return tally

    def of_what_is_left(self, rows: Sequence[dict[str, Any]]) -> "LabelTally":
        """Return what is counted of a file when it has lost some images.

        Args:
            rows: What is left, rows of ``LABEL_SCHEMA``.
        """
        left = {row["image"] for row in rows}
        tally = LabelTally(len(left), ignored=self.ignored, files=set(self.files))
        for row in rows:
            tally.count(row, None)
        tally.exhibits = {
            emotion: [shown for shown in some if shown.image in left]
            for emotion, some in self.exhibits.items()
        }
        tally.slowest = [each for each in self.slowest if each[1] in left]
        return tally.trimmed()

    def to_json(self) -> str:
        """Return all that was counted, for the file whose rows these are."""
        exhibits = {
            emotion: [{**vars(shown), "thumbnail": _text(shown.thumbnail)} for shown in exhibits]
            for emotion, exhibits in self.exhibits.items()
        }
        told = {"confidences": self.confidences.tolist(), "files": sorted(self.files)}
        return json.dumps({**vars(self), **told, "exhibits": exhibits})

    @classmethod
    def from_json(cls, text: str | bytes) -> "LabelTally":
        """Return what ``to_json`` was called on."""
        told = json.loads(text)
        exhibits = {
            emotion: [
                Exhibit(**{**shown, "thumbnail": _bytes(shown["thumbnail"])}) for shown in some
            ]
            for emotion, some in told["exhibits"].items()
        }
        return cls(
            images=told["images"],
            statuses=Counter(told["statuses"]),
            emotions=Counter(told["emotions"]),
            confidences=np.array(told["confidences"], np.int64),
            ignored=told["ignored"],
            files=set(told["files"]),
            exhibits=exhibits,
            failures=[tuple(each) for each in told["failures"]],
            slowest=[tuple(each) for each in told["slowest"]],
        )

    def count(self, row: dict[str, Any], thumbnail: bytes | None) -> None:
        """Count a row of ``LABEL_SCHEMA``, and perhaps show its face."""
        self.statuses[row["status"]] += 1
        if row["status"] in FAILED:
            self.failures.append((row["image"], row["error"]))
        if row.get("confidence") is not None:
            self.confidences[min(19, int(row["confidence"] * 20))] += 1
        if (emotion := row.get("emotion")) is None:
            return
        self.emotions[emotion] += 1
        if thumbnail is not None:
            order = hashlib.sha256(f"{row['image']} {row['face']}".encode()).hexdigest()
            shown = Exhibit(order, row["image"], emotion, row["confidence"], thumbnail)
            self.exhibits.setdefault(emotion, []).append(shown)

    @property
    def faces(self) -> int:
        """Faces that the network was asked about."""
        return self.statuses["ok"] + self.statuses["uncertain"]

    @property
    def failed(self) -> int:
        """Images that could not be used."""
        return sum(self.statuses[status] for status in FAILED)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
