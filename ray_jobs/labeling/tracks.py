"""The stage that numbers the faces of each video by track, once all of its chunks have files.

It also writes the table of each video where CSV is wanted, and makes the timelines of the report.

A track crosses chunks that were labeled at different times and places. So one task goes through the
boxes of a whole video, which are few, and puts the numbers into the files. It always finds the same
numbers, whatever was interrupted before.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

import pyarrow as pa
import ray.data

from fer import storage
from fer.labels.files import read_rows, read_tally, write_labels
from fer.labels.schema import is_of_video
from fer.labels.tally import LabelTally, SampleFace
from fer.labels.timeline import Timeline, TimelineBuilder
from fer.labels.tracks import number_faces
from fer.labels.video_tables import VideoTable
from fer.vision.tracking import Tracker
from ray_jobs.cluster import session
from ray_jobs.labeling.videos import part_of
from ray_jobs.pipeline import stages

MAX_TIMELINES = 12
"""Most videos whose timelines the report shows."""


@dataclass
class Tracked:
    """What was made of the rows of videos, besides their tracks.

    Attributes:
        timelines: Those of the first ``MAX_TIMELINES`` videos that show a face.
        tables: Paths of the videos' tables in the output.
    """

    timelines: list[Timeline] = field(default_factory=list)
    tables: set[str] = field(default_factory=set)

    def add(self, other: "Tracked") -> None:
        """Add what was made of other videos."""
        merged = sorted([*self.timelines, *other.timelines], key=lambda timeline: timeline.video)
        self.timelines = merged[:MAX_TIMELINES]
        self.tables |= other.tables


def number_tracks(
    output: str, files: Collection[str], class_names: Sequence[str], formats: Collection[str]
) -> Tracked:
    """Fill the column ``track`` of the label files of all videos.

    Args:
        output: Folder of the labels.
        files: Names of the label files that hold rows of videos.
        class_names: Class of each probability.
        formats: Formats of the labels in addition to Parquet. With ``csv``, each video also gets a
            table of its own.
    """
    videos, tracked = _group_by_video(files), Tracked()
    if not videos:
        return tracked
    blocks = [pa.table({"files": [files]}) for files in videos]
    numbered = ray.data.from_blocks(blocks).map_batches(
        _number_tracks,
        fn_kwargs={"output": output, "class_names": class_names, "formats": formats},
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=0.25,
        **session.avoid_head(),
    )
    for found in stages.tallies(numbered):
        tracked.add(found)
    return tracked


def _group_by_video(files: Collection[str]) -> list[list[str]]:
    """Return the label files of each long video in order; others hold whole videos."""
    groups = defaultdict(list)
    for file in sorted(files):
        groups[part_of(file) or file].append(file)
    return list(groups.values())


def _number_tracks(
    videos: pa.Table, output: str, class_names: Sequence[str], formats: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Number the tracks in the files of a video, or in a file of several; yield ``Tracked``."""
    for files in videos["files"].to_pylist():
        tracked = Tracked()
        parts = _numbered(files, output, class_names, formats)
        # The rows of a video follow each other, also from one of its files to the next.
        for video, own in groupby(parts, key=lambda part: part.video):
            timeline = TimelineBuilder(video)
            with VideoTable(video, class_names) as table:
                for part in own:
                    timeline.add(part.rows, part.samples)
                    if "csv" in formats:
                        table.add(part.rows)
                if "csv" in formats:
                    with stages.explain_write_errors(output):
                        tracked.tables.add(table.write(output))
            built = timeline.build()
            tracked.add(Tracked([built] if built.lines else []))
        yield stages.tally_batch(tracked)


@dataclass(frozen=True)
class _Part:
    """The rows of a video in one label file, and the sample faces among them."""

    video: str
    rows: list[dict[str, Any]]
    samples: list[SampleFace]


def _numbered(
    files: Sequence[str], output: str, class_names: Sequence[str], formats: Collection[str]
) -> Iterator[_Part]:
    """Number the tracks in files that a tracker goes through in order; yield the videos' rows."""
    trackers: dict[str, Tracker] = defaultdict(Tracker)
    for file in files:
        location = storage.join(output, file)
        rows, tally = read_rows(location), read_tally(location)
        before = [row["track"] for row in rows]
        number_faces(rows, trackers)
        if before != [row["track"] for row in rows]:
            with stages.explain_write_errors(output):
                write_labels(output, file, rows, tally, class_names, formats)
        yield from _parts(rows, tally)


def _parts(rows: Sequence[dict[str, Any]], tally: LabelTally) -> Iterator[_Part]:
    """Divide the rows of a file by the video; those of photographs are left out."""
    samples = defaultdict(list)
    for sample in (*tally.turn_faces, *chain.from_iterable(tally.samples.values())):
        samples[sample.image].append(sample)
    for image, group in groupby(rows, lambda row: str(row["image"])):
        own = list(group)
        if any(map(is_of_video, own)):
            yield _Part(image, own, samples[image])
