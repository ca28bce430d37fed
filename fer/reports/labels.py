"""The report on a folder of labels: one self-contained HTML page."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from fer.labels.tally import LabelTally
from fer.labels.timeline import Timeline
from fer.reports import figures
from fer.reports.pages import render_page
from fer.reports.timelines import plot_timeline


def label_report(
    tally: LabelTally,
    timelines: Sequence[Timeline],
    class_names: Sequence[str],
    summary: Mapping[str, Any],
) -> dict[str, bytes]:
    """Return the files of the report by name: ``report.html`` and ``emotions.png``.

    Args:
        tally: Counts of the labels, and sample faces.
        timelines: Videos to show.
        class_names: The emotions, in the order of the report.
        summary: The content of ``summary.json``.
    """
    pictures = {
        "emotions.png": figures.plot_emotion_counts(
            {name: tally.emotions[name] for name in class_names}, dict(tally.statuses)
        ),
        "confidences.png": figures.plot_confidences(tally.confidences),
    }
    gallery = {
        name: [(sample, _data_uri(sample.thumbnail)) for sample in tally.samples[name]]
        for name in class_names
        if tally.samples.get(name)
    }
    shown = [timeline for timeline in timelines if timeline.lines]
    for number, timeline in enumerate(shown):
        pictures[f"video{number}.png"] = plot_timeline(timeline, class_names)
    page = render_page(
        "labels.html", pictures, tally=tally, timelines=shown, gallery=gallery, summary=summary
    )
    return {"report.html": page.encode(), "emotions.png": pictures["emotions.png"]}


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
