"""The splits of a dataset, and the names by which sources call them."""

import re
from functools import lru_cache
from pathlib import PurePosixPath

_SPLITS_BY_WORD = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "publictest": "val",
    "test": "test",
    "testing": "test",
    "tests": "test",
    "tst": "test",
    "privatetest": "test",
}

_UNCLEAR_WORDS = {"eval", "evaluation", "evaluate", "holdout", "heldout"}
"""Words for a split that is ``val`` to some and ``test`` to others."""

_OTHER_WORDS = (
    r"sets?|data(?:sets?)?|splits?|parts?|of|folder|dir|files?|images?|imgs?|pics?|pictures?|"
    r"photos?|faces?|facial|emotions?|expressions?|aligned|cropped|labels?|"
    r"fer|ferplus|icml|raf|rafdb|db|affectnet|kdef"
)
"""Words beside which a split's word still names it: ``train_set``, ``fer2013_test.csv``."""

_FILE_SUFFIXES = re.compile(
    r"(\.(zip|tar|tgz|tbz2|txz|csv|parquet|gz|bz2|xz))+!?$|!$", re.IGNORECASE
)
_TABLE_SUFFIXES = (".csv", ".parquet")
_IMAGE_NAME = re.compile(
    r"(training|publictest|privatetest)[_\-. ]|(train|test|val|valid|validation)[_\-]?\d",
    re.IGNORECASE,
)
_FER2013_IMAGE_NAME = re.compile(r"(training|publictest|privatetest)[_\-. ]", re.IGNORECASE)
_PUBLIC_OR_PRIVATE = re.compile(r"(public|private)[\s_\-]+(?=test)")
_WORD = re.compile(r"[^\W\d_]+")
_JOINED = re.compile(rf"({'|'.join({*_SPLITS_BY_WORD, *_UNCLEAR_WORDS})})({_OTHER_WORDS})")
_SHARD_DIGEST = re.compile(r"(?<=-of-[0-9]{5})-[0-9a-f]{16}$")
"""End of the names that older versions of Hugging Face's datasets gave to their files."""


def split_from_usage(usage: str) -> str | None:
    """Return the split for a value of FER2013's ``Usage`` column (``PublicTest`` is ``val``)."""
    return split_from_name(usage.strip())


def split_from_file_name(path: str) -> str | None:
    """Return the split that a file's name tells, or None.

    A table's whole name counts (``test.csv``), an image's only its beginning
    (``PublicTest_10116449.jpg``, ``train_00001.jpg``).
    """
    name = PurePosixPath(path).name
    if name.lower().endswith(_TABLE_SUFFIXES):
        return split_from_name(name)
    match = _IMAGE_NAME.match(name)
    return split_from_usage(match[1] or match[2]) if match else None


def is_named_on_purpose(path: str) -> bool:
    """Return whether a file's name that tells a split is a table's, or one of FER2013's images.

    Other images may be called ``test1.jpg`` by chance, whatever folder they are in.
    """
    name = PurePosixPath(path).name
    return name.lower().endswith(_TABLE_SUFFIXES) or bool(_FER2013_IMAGE_NAME.match(name))


def split_from_folders(path: str) -> str | None:
    """Return the split that the folder or archive closest to the file names, or None."""
    folders = reversed(PurePosixPath(path).parts[:-1])
    return next(filter(None, map(split_from_name, folders)), None)


@lru_cache(maxsize=4096)
def split_from_name(name: str) -> str | None:
    """Return the split that a name tells: one split's word, and no words of unknown meaning."""
    words = _words(name)
    splits = {_SPLITS_BY_WORD[word] for word in words if word in _SPLITS_BY_WORD}
    others = [word for word in words if word not in _SPLITS_BY_WORD]
    is_clear = len(splits) == 1 and all(re.fullmatch(_OTHER_WORDS, word) for word in others)
    return splits.pop() if is_clear else None


def unclear_split_name(path: str) -> str | None:
    """Return the name in a path that seems to tell a split but is not understood, or None.

    An example is ``my_test_faces_v2``. The path is one for which the other functions know no split.
    """
    parts = PurePosixPath(path).parts
    is_table = path.lower().endswith(_TABLE_SUFFIXES)
    names = parts if is_table else parts[:-1]
    return next((name for name in reversed(names) if _mentions_split(name)), None)


def _mentions_split(name: str) -> bool:
    return not (_SPLITS_BY_WORD.keys() | _UNCLEAR_WORDS).isdisjoint(_words(name))


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case: ``TestSet 2.zip`` has ``test`` and ``set``."""
    stem = _SHARD_DIGEST.sub("", _FILE_SUFFIXES.sub("", name))
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower()
    words = _WORD.findall(_PUBLIC_OR_PRIVATE.sub(r"\1", spaced))
    return [part for word in words for part in _unjoin(word)]


def _unjoin(word: str) -> tuple[str, ...]:
    """Divide ``trainset`` into ``train`` and ``set``."""
    match = _JOINED.fullmatch(word)
    return match.groups() if match else (word,)


def split_from_sha256(sha256: bytes) -> str:
    """Derive a split from an image's digest: about 80 % train, 10 % val, 10 % test.

    The same pixels always get the same split, so duplicates never end up in different splits.
    """
    fraction = int.from_bytes(sha256[:4], "big") / 2**32
    return "train" if fraction < 0.8 else "val" if fraction < 0.9 else "test"


def is_held_out(sha256: bytes, fraction: float) -> bool:
    """Tell whether a training image is among the given fraction that becomes ``val``.

    Other bytes of the digest decide than in ``split_from_sha256``, so that both are independent.
    """
    return int.from_bytes(sha256[4:8], "big") / 2**32 < fraction
