"""Labels that stand neither in folders nor in tables: RAF-DB's list, and KDEF's file names."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
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
_RAF_DB_LINE = re.compile(rb"(\S+)\.\w+\s+([1-9]|1[01])\s*")

# Series, sex, number of the person, emotion, angle: AF01ANS.JPG.
_KDEF_IMAGE = re.compile(
    rf"[AB][FM]\d\d({'|'.join(KDEF_EMOTIONS)})(?:FL|FR|HL|HR|S)\.\w+", re.IGNORECASE
)


def kdef_emotion(path: str) -> str | None:
    """Return the emotion that a file's name tells if it is one of KDEF's, or None."""
    match = _KDEF_IMAGE.fullmatch(PurePosixPath(path).name)
    return KDEF_EMOTIONS[match[1].upper()] if match else None


def read_labeled_items(
    location: str, *, name: str | None = None, all_files: bool = False
) -> Iterator[SourceItem]:
    """Yield the items of a source, and give RAF-DB's images the labels of its lists.

    RAF-DB's original photographs, in the folder ``original``, show more than a face and are
    ignored. If an image comes before its list, the source is searched for all lists first.

    Args:
        location: The source.
        name: Its name, as for ``read_items``.
        all_files: Whether files whose names do not say what they are may be images.
    """
    lists = _LabelLists(location, name)
    for item in read_items(location, name=name, all_files=all_files):
        if item.kind == "label_list":
            lists.add(item)
        elif (image := _raf_db_name(item)) is not None:
            yield _label_item(item, lists.find(item.path, image))
        else:
            yield item


class _LabelLists:
    """The label lists of a source. RAF-DB has two, whose images share names: basic and compound."""

    def __init__(self, location: str, name: str | None) -> None:
        self._location, self._name = location, name
        self._labels: dict[str, dict[str, str]] = {}
        self._is_complete = False

    def add(self, item: SourceItem) -> None:
        """Add a list."""
        self._labels[item.path] = parse_label_list(item.data or b"")

    def find(self, path: str, image: str) -> str | None:
        """Return the label of an image in the list that is closest to it, or None.

        Args:
            path: Path of the image.
            image: Its name in the lists.
        """
        if not self._is_complete and not any(_covers(listed, path) for listed in self._labels):
            self._is_complete = True
            for item in read_items(self._location, name=self._name):
                if item.kind == "label_list":
                    self.add(item)
        closest = max((_num_shared(listed, path) for listed in self._labels), default=0)
        found = {
            labels[image]
            for listed, labels in self._labels.items()
            if image in labels and _num_shared(listed, path) == closest
        }
        # Of several lists that are equally close, none is believed: such a class is unknown.
        return " or ".join(sorted(found)) or None


def _covers(label_list: str, path: str) -> bool:
    """Tell whether an image is below the folder that holds a list, or its folder ``EmoLabel``."""
    folder = PurePosixPath(label_list).parent
    return PurePosixPath(path).is_relative_to(
        folder.parent if folder.name == "EmoLabel" else folder
    )


def _num_shared(one: str, other: str) -> int:
    """Return the number of folders that two paths share."""
    pairs = zip(PurePosixPath(one).parts[:-1], PurePosixPath(other).parts[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def parse_label_list(content: bytes) -> dict[str, str]:
    """Parse ``list_patition_label.txt``, whose lines are such as ``train_00001.jpg 5``.

    Returns:
        Name of the emotion by the name of the image, without its suffix. That of a compound
        emotion, which RAF-DB numbers up to 11, is no class: ``compound emotion 5``.
    """
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines()
    matches = [match for match in map(_RAF_DB_LINE.fullmatch, lines) if match]
    numbers = {match[1].decode(errors="replace").lower(): int(match[2]) for match in matches}
    if max(numbers.values(), default=0) > len(RAF_DB_EMOTIONS):
        return {name: f"compound emotion {number}" for name, number in numbers.items()}
    return {name: RAF_DB_EMOTIONS[number - 1] for name, number in numbers.items()}


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
