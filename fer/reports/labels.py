"""The report beside labels: one HTML page that opens from disk."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from fer.labels.tally import LabelTally
from fer.reports import figures
from fer.reports.pages import render_page


def label_report(
    tally: LabelTally, class_names: Sequence[str], summary: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return the report's files by name: ``report.html`` and a picture.

    Args:
        tally: What was counted, and what there is to see.
        class_names: The emotions, in their order.
        summary: The content of ``summary.json``.
    """
    pictures = {
        "emotions.png": figures.emotion_counts(
            {name: tally.emotions[name] for name in class_names}, dict(tally.statuses)
        ),
        "confidences.png": figures.confidences(tally.confidences),
    }
    gallery = {
        name: [(shown, _data_uri(shown.thumbnail)) for shown in tally.samples[name]]
        for name in class_names
        if tally.samples.get(name)
    }
    page = render_page("labels.html", pictures, tally=tally, gallery=gallery, summary=summary)
    return {"report.html": page.encode(), "emotions.png": pictures["emotions.png"]}


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
