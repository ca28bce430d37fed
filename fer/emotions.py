"""The seven class names in FER2013's order, the splits, and the names people use for both."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TypeVar

T = TypeVar("T")

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""FER2013's labels 0 to 6 by name (Goodfellow et al. 2013, arXiv 1307.0414)."""

SPLITS = ("train", "val", "test")
"""Training, PublicTest and PrivateTest of FER2013: train on the first, choose on the second."""

OFFICIAL_COUNTS = {
    "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "val": (467, 56, 496, 895, 653, 415, 607),
    "test": (491, 55, 528, 879, 594, 416, 626),
}
"""Examples by class of the official FER2013: 28,709 / 3,589 / 3,589."""

_EMOTION_ALIASES = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid", "scared"),
    "happy": ("happiness", "joy"),
    "sad": ("sadness",),
    "surprise": ("surprised",),
    "neutral": ("neutrality",),
}
_LABELS = {
    name: label
    for label, emotion in enumerate(EMOTIONS)
    for name in (emotion, *_EMOTION_ALIASES[emotion])
}

_SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "publictest": "val",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}
_FILE_NAME_SPLIT = re.compile(r"(training|publictest|privatetest)[_\-. ]", re.IGNORECASE)
_NUMBERED_NAME = re.compile(r"([0-6])[\s_\-.]+([a-z]+)")


def label_from_name(name: str) -> int | None:
    """Return the label that a class name stands for, or None.

    Understands FER2013's names, their nouns and adjectives (``anger``, ``fearful``), the bare
    label (``0``) and a numbered name whose two halves agree (``0 angry``, ``3_happy``).
    """
    name = name.strip().lower()
    if name.isdecimal() and len(name) == 1 and int(name) < len(EMOTIONS):
        return int(name)
    if match := _NUMBERED_NAME.fullmatch(name):
        label = _LABELS.get(match[2])
        return label if label == int(match[1]) else None
    return _LABELS.get(name)


def label_from_folders(path: str) -> int | None:
    """Return the label that the folders of a file's path name, or None.

    The nearest folder that spells an emotion wins; a bare digit counts only where no folder
    spells one, since ``angry/3/x.png`` numbers its photographs, not its emotions.
    """
    folders = _folders(path)
    spelled = [folder for folder in folders if not folder.strip().isdecimal()]
    return _first(map(label_from_name, [*spelled, *folders]))


def split_from_usage(usage: str) -> str | None:
    """Return the split that FER2013's ``Usage`` column names (``PublicTest`` is ``val``)."""
    return _SPLIT_ALIASES.get(usage.strip().lower())


def split_from_file_name(path: str) -> str | None:
    """Return the split that a file's own name starts with (``PublicTest_10116449.jpg``)."""
    match = _FILE_NAME_SPLIT.match(PurePosixPath(path).name)
    return _SPLIT_ALIASES[match[1].lower()] if match else None


def split_from_folders(path: str) -> str | None:
    """Return the split that the nearest folder of a path names, or None."""
    return _first(_SPLIT_ALIASES.get(folder.strip().lower()) for folder in _folders(path))


def split_from_sha256(sha256: bytes) -> str:
    """Return a split from an image's digest: about 80 % train, 10 % val, 10 % test.

    The same pixels always fall into the same split, so no duplicate crosses from one to another.
    """
    fraction = int.from_bytes(sha256[:4], "big") / 2**32
    return "train" if fraction < 0.8 else "val" if fraction < 0.9 else "test"


def _folders(path: str) -> list[str]:
    return list(reversed(PurePosixPath(path).parts[:-1]))


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)
