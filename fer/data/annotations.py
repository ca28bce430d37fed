"""Labels that stand neither in folders nor in tables: RAF-DB's list, and KDEF's file names."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from fer.data.items import SourceItem
from fer.data.readers import read_items

RAF_DB_EMOTIONS = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
"""RAF-DB's classes 1 to 7 (Li et al. 2017, CVPR)."""

KDEF_EMOTIONS = {
    "AF": "fear",
    "AN": "angry",
    "DI": "disgust",
    "HA": "happy",
    "NE": "neutral",
    "SA": "sad",
    "SU": "surprise",
}
"""KDEF's classes by letters 5 and 6 of a file's name (Lundqvist et al. 1998)."""

_RAF_DB_IMAGE = re.compile(r"((?:train|test)_\d{4,5})(?:_aligned)?\.\w+", re.IGNORECASE)
_RAF_DB_LINE = re.compile(rb"(\S+)\.\w+\s+([1-7])\s*")

# Series, sex, number of the person, emotion, angle: AF01ANS.JPG.
_KDEF_IMAGE = re.compile(
    rf"[AB][FM]\d\d({'|'.join(KDEF_EMOTIONS)})(?:FL|FR|HL|HR|S)\.\w+", re.IGNORECASE
)


def kdef_emotion(path: str) -> str | None:
    """Return the emotion that a file's name tells if it is one of KDEF's, or None."""
    match = _KDEF_IMAGE.fullmatch(PurePosixPath(path).name)
    return KDEF_EMOTIONS[match[1].upper()] if match else None


def read_labeled_items(location: str, *, all_files: bool = False) -> Iterator[SourceItem]:
    """Yield the items of a source, and give RAF-DB's images the labels of its list.

    RAF-DB's original photographs, in the folder ``original``, show more than a face and are
    ignored. If an image comes before the list, the source is searched for the list first.

    Args:
        location: The source.
        all_files: Whether files whose names do not say what they are may be images.
    """
    labels: dict[str, str] | None = None
    for item in read_items(location, all_files=all_files):
        if item.kind == "label_list":
            labels = (labels or {}) | parse_label_list(item.data or b"")
        elif (name := _raf_db_name(item)) is not None:
            labels = _find_labels(location) if labels is None else labels
            yield _label_item(item, labels.get(name))
        else:
            yield item


def _find_labels(location: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for item in read_items(location):
        if item.kind == "label_list":
            labels |= parse_label_list(item.data or b"")
    return labels


def parse_label_list(content: bytes) -> dict[str, str]:
    """Parse ``list_patition_label.txt``, whose lines are such as ``train_00001.jpg 5``.

    Returns:
        Name of the emotion by the name of the image, without its suffix.
    """
    return {
        match[1].decode(errors="replace").lower(): RAF_DB_EMOTIONS[int(match[2]) - 1]
        for match in map(_RAF_DB_LINE.fullmatch, content.splitlines())
        if match
    }


def _raf_db_name(item: SourceItem) -> str | None:
    if item.kind != "image" or item.label:
        return None
    match = _RAF_DB_IMAGE.fullmatch(PurePosixPath(item.path).name)
    return match[1].lower() if match else None


def _label_item(item: SourceItem, emotion: str | None) -> SourceItem:
    if emotion is None:
        return item
    if "original" in _folder_names(item.path):
        return SourceItem("ignored", item.source)
    return replace(item, format="raf_db", label=emotion)


def _folder_names(path: str) -> set[str]:
    return {PurePosixPath(part.rstrip("!")).stem for part in PurePosixPath(path).parts[:-1]}
