"""Timelines: how the probabilities of each face of a video change, for reports."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fer.labels.tally import SampleFace

MAX_POINTS = 2000
"""Most points of a track. Where there are more frames, a point is the mean of several."""

MAX_TRACKS = 3
"""Most tracks of a timeline: those with the most faces."""

MAX_TURNS = 12
"""Most turns of a track at which a face is shown: so many faces fit side by side. They are at least
a twelfth of the timeline apart."""

SMOOTHING_SECONDS = 2.0
"""Width of the window over which probabilities are averaged. A face that is shown at a turn is no
farther from it than this, or than the time of one point."""


@dataclass(frozen=True)
class Line:
    """The probabilities of one track.

    Attributes:
        track: Number of the track.
        num_faces: Number of its faces.
        seconds: When they were seen, float64 (N,), ascending.
        probs: Their probabilities, float64 (N, C).
    """

    track: int
    num_faces: int
    seconds: np.ndarray
    probs: np.ndarray

    def smoothed(self) -> np.ndarray:
        """Return each probability's mean over ``SMOOTHING_SECONDS`` around it, float64 (N, C)."""
        half = SMOOTHING_SECONDS / 2
        starts = np.searchsorted(self.seconds, self.seconds - half - 1e-9)
        ends = np.searchsorted(self.seconds, self.seconds + half + 1e-9)
        sums = np.vstack([np.zeros(self.probs.shape[1]), self.probs.cumsum(axis=0)])
        means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)[:, None]
        return means

    def turns(self) -> list[tuple[float, int]]:
        """Return when which class becomes the most probable one, as (seconds, class index)."""
        best = self.smoothed().argmax(axis=1)
        changes = [0, *(np.flatnonzero(np.diff(best)) + 1)]
        return [(float(self.seconds[index]), int(best[index])) for index in changes]


@dataclass(frozen=True)
class TurnFace:
    """A face at a turn.

    Attributes:
        seconds: When the turn is.
        best: Index of the class that becomes the most probable one.
        sample: A face of that class, seen about then.
    """

    seconds: float
    best: int
    sample: SampleFace


@dataclass(frozen=True)
class Timeline:
    """The longest tracks of a video.

    Attributes:
        video: Location of the video.
        num_frames: Number of its sampled frames.
        num_tracks: Number of its tracks.
        lines: The tracks with the most faces.
        samples: Sample faces by the number of their track.
    """

    video: str
    num_frames: int
    num_tracks: int
    lines: tuple[Line, ...]
    samples: Mapping[int, Sequence[SampleFace]]

    def turn_faces(self, line: Line, class_names: Sequence[str]) -> list[TurnFace]:
        """Return faces at the turns of a track: up to ``MAX_TURNS``, in the order of their times.

        Args:
            line: One of ``lines``.
            class_names: Class of each probability.
        """
        begin = min(each.seconds[0] for each in self.lines)
        end = max(each.seconds[-1] for each in self.lines)
        span = float(end - begin)
        reach = max(SMOOTHING_SECONDS, span / MAX_POINTS)
        found: list[TurnFace] = []
        for seconds, best in line.turns():
            if found and seconds - found[-1].seconds < span / MAX_TURNS:
                continue
            nearest = _nearest(self.samples.get(line.track, ()), class_names[best], seconds)
            if nearest and nearest[0] <= reach:
                found.append(TurnFace(seconds, best, nearest[1]))
        return found


def _nearest(
    samples: Sequence[SampleFace], emotion: str, seconds: float
) -> tuple[float, SampleFace] | None:
    """Return the sample of an emotion that was seen nearest to a time, and how far away."""
    fitting = [
        (abs(sample.seconds - seconds), sample)
        for sample in samples
        if sample.emotion == emotion and sample.seconds is not None
    ]
    return min(fitting, default=None)


@dataclass
class _Points:
    """The points of a track, in the order of their times: sums over ``width`` faces each.

    Attributes:
        sums: Sums of the seconds and of the probabilities, and the number of faces, float64
            (2 + C,) each.
        width: Number of faces that make a point.
    """

    sums: list[np.ndarray] = field(default_factory=list)
    width: int = 1

    def add(self, seconds: float, probs: Sequence[float]) -> None:
        point = np.array([seconds, *probs, 1.0])
        if self.sums and self.sums[-1][-1] < self.width:
            self.sums[-1] += point
        else:
            self.sums.append(point)
        if len(self.sums) > MAX_POINTS:
            pairs = [self.sums[index : index + 2] for index in range(0, len(self.sums), 2)]
            self.sums, self.width = [np.sum(pair, axis=0) for pair in pairs], 2 * self.width

    def to_line(self, track: int) -> Line:
        sums = np.array(self.sums)
        means = sums[:, :-1] / sums[:, -1:]
        return Line(track, int(sums[:, -1].sum()), means[:, 0], means[:, 1:])


@dataclass
class TimelineBuilder:
    """Collects the rows of one video, chunk by chunk, in memory that does not grow with them.

    Attributes:
        video: Location of the video.
    """

    video: str
    _num_frames: int = 0
    _last_frame: int | None = None
    _points: dict[int, _Points] = field(default_factory=dict)
    _samples: dict[int, list[SampleFace]] = field(default_factory=dict)

    def add(self, rows: Sequence[Mapping[str, Any]], samples: Iterable[SampleFace]) -> None:
        """Add rows of ``LABEL_SCHEMA`` in the order of their frames, and sample faces of them."""
        by_face = {(sample.seconds, sample.face): sample for sample in samples}
        for row in rows:
            if row["frame"] is None:
                continue
            self._num_frames += row["frame"] != self._last_frame
            self._last_frame = row["frame"]
            if (track := row["track"]) is None:
                continue
            points = self._points.setdefault(track, _Points())
            points.add(row["time_seconds"], row["probabilities"])
            if sample := by_face.get((row["time_seconds"], row["face"])):
                self._samples.setdefault(track, []).append(sample)

    def build(self, max_tracks: int = MAX_TRACKS) -> Timeline:
        """Return the timeline of what was added, with the tracks that have the most faces."""
        lines = [points.to_line(track) for track, points in self._points.items()]
        lines.sort(key=lambda line: (-line.num_faces, line.track))
        kept = tuple(lines[:max_tracks])
        samples = {line.track: self._samples.get(line.track, []) for line in kept}
        return Timeline(self.video, self._num_frames, len(lines), kept, samples)
