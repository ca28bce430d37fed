"""The stage that numbers the faces of each video by track, once all of its chunks have files.

A track crosses chunks that were labeled at different times and places. So one task goes through the
boxes of a whole video, which are few, and puts the numbers into the files. It always finds the same
numbers, whatever was interrupted before.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
import ray.data

from fer import storage
from fer.labels.files import read_rows, read_tally, write_labels
from fer.labels.schema import BOX_FIELDS
from fer.labels.tally import LabelTally
from fer.labels.timeline import Timeline, TimelineBuilder
from fer.vision.tracking import Tracker
from ray_jobs.cluster import session
from ray_jobs.labeling.videos import VIDEO_PREFIX
from ray_jobs.pipeline import stages

MAX_TIMELINES = 12
"""Most videos whose timelines the report shows."""


def number_tracks(
    output: str, files: Collection[str], class_names: Sequence[str], formats: Collection[str]
) -> list[Timeline]:
    """Fill the column ``track`` of the label files of all videos.

    Args:
        output: Folder of the labels.
        files: Names of the label files that hold frames.
        class_names: Class of each probability.
        formats: Formats of the labels in addition to Parquet.

    Returns:
        The timelines of the first ``MAX_TIMELINES`` videos.
    """
    videos = _group_by_video(files)
    if not videos:
        return []
    blocks = [pa.table({"files": [files]}) for files in videos]
    numbered = ray.data.from_arrow(blocks).map_batches(
        _number_tracks,
        fn_kwargs={"output": output, "class_names": class_names, "formats": formats},
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=0.25,
        **session.avoid_head(),
    )
    timelines: list[Timeline] = []
    for found in stages.tallies(numbered):
        timelines = sorted([*timelines, *found], key=lambda timeline: timeline.video)
        del timelines[MAX_TIMELINES:]
    return timelines


def _group_by_video(files: Collection[str]) -> list[list[str]]:
    """Return the label files of each long video in order; others hold whole videos."""
    groups = defaultdict(list)
    for file in sorted(files):
        is_part = storage.base_name(file).startswith(VIDEO_PREFIX)
        groups[file.rpartition("-")[0] if is_part else file].append(file)
    return list(groups.values())


def _number_tracks(
    videos: pa.Table, output: str, class_names: Sequence[str], formats: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Number the tracks in the files of a video, or in a file of several; yield timelines."""
    for files in videos["files"].to_pylist():
        trackers: dict[str, Tracker] = defaultdict(Tracker)
        timelines: dict[str, TimelineBuilder] = {}
        for file in files:
            location = storage.join(output, file)
            rows, tally = read_rows(location), read_tally(location)
            if _track(rows, trackers):
                with stages.explain_write_errors(output):
                    write_labels(output, file, rows, tally, class_names, formats)
            _add_to_timelines(rows, tally, timelines)
        yield stages.tally_batch([builder.build() for builder in timelines.values()])


def _add_to_timelines(
    rows: Sequence[dict[str, Any]], tally: LabelTally, timelines: dict[str, TimelineBuilder]
) -> None:
    samples = [sample for samples in tally.samples.values() for sample in samples]
    for video, group in groupby(rows, lambda row: str(row["image"])):
        own = [sample for sample in samples if sample.image == video]
        timelines.setdefault(video, TimelineBuilder(video)).add(list(group), own)


def _track(rows: list[dict[str, Any]], trackers: dict[str, Tracker]) -> bool:
    """Number the faces of a file, and return whether that changes any.

    Args:
        rows: Rows of ``LABEL_SCHEMA``, frame by frame.
        trackers: The tracker of each video by its location, which has seen its earlier frames.
    """
    before = [row["track"] for row in rows]
    frames = groupby(rows, lambda row: (row["image"], row["frame"], row["time_seconds"]))
    for (image, frame, seconds), group in frames:
        if frame is None:
            continue
        faces = [row for row in group if row["face"] is not None]
        boxes = [_box(row) for row in faces]
        for row, track in zip(faces, trackers[image].update(seconds, boxes), strict=True):
            row["track"] = track
    return before != [row["track"] for row in rows]


def _box(row: dict[str, Any]) -> list[float]:
    """Return the box of a face; without a detector that is the whole frame."""
    if row["box"] is None:
        return [0.0, 0.0, row["width"], row["height"]]
    return [row["box"][name] for name in BOX_FIELDS]
