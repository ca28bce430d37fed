"""The classes and splits of FER2013, and the other names by which sources call them."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from fer.errors import InputError

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""FER2013's labels 0 to 6 by name (Goodfellow et al. 2013, arXiv 1307.0414)."""

SPLITS = ("train", "val", "test")
"""Training, PublicTest and PrivateTest of FER2013. A model is chosen by its score on ``val``."""

OFFICIAL_COUNTS = {
    "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "val": (467, 56, 496, 895, 653, 415, 607),
    "test": (491, 55, 528, 879, 594, 416, 626),
}
"""Examples of the official FER2013 by split and label: 28,709 / 3,589 / 3,589 in all."""

_EMOTION_ALIASES = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid", "scared"),
    "happy": ("happiness", "joy"),
    "sad": ("sadness",),
    # Many copies of FER+ misspell this folder.
    "surprise": ("surprised", "suprise"),  # codespell:ignore
    "neutral": ("neutrality",),
}
_CANONICAL = {
    name: emotion for emotion, aliases in _EMOTION_ALIASES.items() for name in (emotion, *aliases)
}

_ARCHIVE_SUFFIX = re.compile(r"(\.(zip|tar|tgz|tbz2|txz|gz|bz2|xz))+!$", re.IGNORECASE)

_NUMBERED_NAME = re.compile(r"([0-9]{1,3})[\s_\-.]+([a-z]+)")


@dataclass(frozen=True)
class ClassList:
    """The classes of a dataset, and the names that its folders and rows use for them.

    Attributes:
        names: Name of each label.
        aliases: Other names of each label, in lower case.
    """

    names: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "ClassList":
        """Parse classes from the command line, in the order of their labels.

        Args:
            texts: Names with optional aliases, such as ``happy=4,joy``. An emotion of FER2013 gets
                FER2013's name and keeps its usual aliases, so ``anger`` becomes ``angry``.

        Raises:
            InputError: There are fewer than two classes, or two share a name.
        """
        names: list[str] = []
        aliases: list[tuple[str, ...]] = []
        for text in texts:
            name, _, others = text.strip().lower().partition("=")
            emotion = _CANONICAL.get(name, name)
            names.append(emotion)
            more = [other.strip() for other in others.split(",") if other.strip()]
            aliases.append((name, *_EMOTION_ALIASES.get(emotion, ()), *more))
        classes = cls(tuple(names), tuple(aliases))
        classes._check()
        return classes

    def _check(self) -> None:
        spellings = [
            spelling
            for name, aliases in zip(self.names, self.aliases, strict=True)
            for spelling in dict.fromkeys((name, *aliases))
        ]
        repeated = [spelling for spelling, count in Counter(spellings).items() if count > 1]
        if len(self.names) < 2 or repeated or "" in spellings:
            problem = f"{repeated[0]!r} twice" if repeated else ", ".join(self.names) or "none"
            raise InputError(
                f"--classes needs two or more distinct names, but has {problem}: "
                "give them in the order of their labels, as in --classes happy=4 sad=5."
            )

    @cached_property
    def labels(self) -> dict[str, int]:
        """Label of each name and alias, in lower case."""
        return {
            spelling: label
            for label, (name, aliases) in enumerate(zip(self.names, self.aliases, strict=True))
            for spelling in (name, *aliases)
        }

    @cached_property
    def has_numbers(self) -> bool:
        """Whether aliases of classes are numbers, so that their labels do not count as names."""
        return any(alias.isdecimal() for alias in self.labels)

    def label(self, name: str) -> int | None:
        """Return the label that a class name stands for, or None.

        Accepts the name or an alias of a class, its label (``0``) unless aliases are numbers, or
        both if they agree (``0 angry``, ``3_happy``).
        """
        name = name.strip().lower()
        if name in self.labels:
            return self.labels[name]
        if name.isdecimal():
            return self._label_of_number(name)
        if match := _NUMBERED_NAME.fullmatch(name):
            label = self.labels.get(match[2])
            return label if label == self.label(match[1]) else None
        return None

    def _label_of_number(self, digits: str) -> int | None:
        is_label = len(digits) < 4 and int(digits) < len(self.names)
        return int(digits) if is_label and not self.has_numbers else None

    def class_folder(self, path: str) -> str | None:
        """Return the folder in a file's path that tells the class, or None.

        The folder closest to the file takes precedence. A number counts only if no folder has the
        name of a class, because the 3 in ``angry/3/x.png`` is unlikely to be a label.
        """
        by_name = sorted(_folders(path), key=is_class_number)
        return next((folder for folder in by_name if self.label(folder) is not None), None)

    def label_from_folders(self, path: str) -> int | None:
        """Return the label that a folder in a file's path tells, or None."""
        folder = self.class_folder(path)
        return None if folder is None else self.label(folder)


def is_class_number(text: str) -> bool:
    """Tell whether a class is given as a number, of up to three digits, instead of by a name."""
    return re.fullmatch(r"[0-9]{1,3}", text.strip()) is not None


def folder_with_number(path: str) -> str | None:
    """Return the folder closest to a file whose name may be the number of a class, or None."""
    return next(filter(is_class_number, _folders(path)), None)


FER2013_CLASSES = ClassList.parse(EMOTIONS)
"""The classes of FER2013 with their usual aliases."""


def _folders(path: str) -> list[str]:
    """Return the names of the folders in a path, the one closest to the file first.

    An archive is a folder, whose name lacks the suffix: ``happy`` for ``happy.zip!``.
    """
    return [_ARCHIVE_SUFFIX.sub("", part) for part in reversed(PurePosixPath(path).parts[:-1])]
