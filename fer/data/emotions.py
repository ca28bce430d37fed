"""The seven class names in FER2013's order, the splits, and the names people use for both."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TypeVar

from fer.errors import InputError

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
_CANONICAL = {
    name: emotion for emotion, aliases in _EMOTION_ALIASES.items() for name in (emotion, *aliases)
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
_NUMBERED_NAME = re.compile(r"([0-9]{1,3})[\s_\-.]+([a-z]+)")


@dataclass(frozen=True)
class ClassList:
    """The classes of a dataset, and the names that its folders and rows give them.

    Attributes:
        names: Name of each label.
        aliases: What else each goes by, in lower case.
    """

    names: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "ClassList":
        """Read classes as they are named on the command line, in the order of their labels.

        Each is a name, perhaps with aliases: ``happy=4,joy``. An emotion of FER2013 is called as
        FER2013 calls it and keeps its usual aliases, so ``anger`` is ``angry``.

        Raises:
            InputError: There are fewer than two, or two share a name.
        """
        names: list[str] = []
        aliases: list[tuple[str, ...]] = []
        for text in texts:
            name, _, others = text.strip().lower().partition("=")
            emotion = _CANONICAL.get(name, name)
            names.append(emotion)
            given = [other.strip() for other in others.split(",") if other.strip()]
            aliases.append((name, *_EMOTION_ALIASES.get(emotion, ()), *given))
        classes = cls(tuple(names), tuple(aliases))
        classes._check()
        return classes

    def _check(self) -> None:
        spelled = [
            name
            for names in zip(self.names, self.aliases, strict=True)
            for name in dict.fromkeys((names[0], *names[1]))
        ]
        twice = [name for name, times in Counter(spelled).items() if times > 1]
        if len(self.names) < 2 or twice or "" in spelled:
            found = f"{twice[0]!r} twice" if twice else ", ".join(self.names) or "none"
            raise InputError(
                f"--classes must be two names or more, each for one class, but has {found}: "
                "give them in the order of their labels, as in --classes happy=4 sad=5."
            )

    @cached_property
    def labels(self) -> dict[str, int]:
        """Label of each name and alias, in lower case."""
        return {
            name: label
            for label, names in enumerate(zip(self.names, self.aliases, strict=True))
            for name in (names[0], *names[1])
        }

    def label(self, name: str) -> int | None:
        """Return the label that a class name stands for, or None.

        Understands the names and aliases of the classes, the bare label (``0``), unless numbers are
        aliases, and a numbered name whose two halves agree (``0 angry``, ``3_happy``).
        """
        name = name.strip().lower()
        if name in self.labels:
            return self.labels[name]
        if name.isdecimal():
            return self._numbered(name)
        if match := _NUMBERED_NAME.fullmatch(name):
            label = self.labels.get(match[2])
            return label if label == self.label(match[1]) else None
        return None

    def _numbered(self, digits: str) -> int | None:
        is_alias = any(alias.isdecimal() for alias in self.labels)
        is_label = len(digits) < 4 and int(digits) < len(self.names)
        return int(digits) if is_label and not is_alias else None

    def label_from_folders(self, path: str) -> int | None:
        """Return the label that the folders of a file's path name, or None.

        The nearest folder that spells a class wins; a bare number counts only where no folder
        spells one, since ``angry/3/x.png`` numbers its photographs, not its emotions.
        """
        folders = _folders(path)
        spelled = [folder for folder in folders if not folder.strip().isdecimal()]
        return _first(map(self.label, [*spelled, *folders]))


FER2013_CLASSES = ClassList.parse(EMOTIONS)
"""The classes of FER2013."""


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
