"""Faces at the turns of videos: which thumbnails of a label file its timelines may need."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from fer.labels.schema import LABEL_SCHEMA
from fer.labels.tally import SampleFace
from fer.labels.timeline import TimelineBuilder
from fer.labels.tracks import number_faces
from fer.vision.tracking import Tracker

MAX_TURN_FACES = 36
"""Most faces at turns that a label file keeps of each video: some 150 KiB."""

_EMPTY = dict.fromkeys(LABEL_SCHEMA.names)


def choose_turn_faces(
    rows: Sequence[Mapping[str, Any]],
    thumbnails: Sequence[bytes | None],
    class_names: Sequence[str],
) -> list[SampleFace]:
    """Return faces at the turns of the tracks within a label file.

    The tracks and the smoothed probabilities of a whole video are known only when all of its files
    are. Within a file they are nearly the same, but for its first and last second, so the first
    face of each track counts as a turn.

    Args:
        rows: Rows of ``LABEL_SCHEMA``. Those without a face lack some columns, and all may lack
            ``track``.
        thumbnails: The JPEG file of each row's face; None where there is none.
        class_names: Class of each probability.
    """
    pairs = [
        ({**_EMPTY, **row}, thumbnail)
        for row, thumbnail in zip(rows, thumbnails, strict=True)
        if row["frame"] is not None
    ]
    number_faces((row for row, _ in pairs), defaultdict(Tracker))
    chosen: list[SampleFace] = []
    for video, group in groupby(pairs, lambda pair: str(pair[0]["image"])):
        own = list(group)
        faces = [SampleFace.of(row, jpeg, class_names) for row, jpeg in own if jpeg is not None]
        builder = TimelineBuilder(video)
        builder.add([row for row, _ in own], faces)
        timeline = builder.build(max_tracks=MAX_TURN_FACES)
        shown = [face for line in timeline.lines for face in timeline.turn_faces(line, class_names)]
        chosen += [face.sample for face in shown[:MAX_TURN_FACES]]
    return chosen
