"""Classes that are numbered: whether the numbers can be FER2013's, or labels of other classes."""

from collections.abc import Set
from itertools import groupby

from fer.data.emotions import EMOTIONS, ClassList

OTHER_NUMBERINGS = {
    frozenset(range(8)): "--classes neutral=0 happy=1 sad=2 surprise=3 fear=4 disgust=5 angry=6 "
    "contempt=7 if they are AffectNet's",
    frozenset(range(1, 8)): "--classes surprise=1 fear=2 disgust=3 happy=4 sad=5 angry=6 neutral=7 "
    "if they are RAF-DB's",
}
"""What to give for classes that are numbered as in other datasets, by the numbers that occur."""


def misfit_with_fer2013(in_folders: Set[int], in_tables: Set[int]) -> str | None:
    """Say why numbered classes can't be FER2013's, and what to do; None if they can.

    Folders must have all of FER2013's numbers and no other: three folders 0 to 2 are likely to be
    something else. Rows of a table may lack some, and a row with a stray number is damaged; but
    where there is a 7, or where only the 0 is lacking, the classes are numbered from 1 or there are
    eight.

    Args:
        in_folders: The numbers that folders give instead of a class name.
        in_tables: The numbers that tables give, in columns without class names.
    """
    numbers = frozenset(range(len(EMOTIONS)))
    # Without one of FER2013's numbers, no example got its class from a number.
    if in_folders & numbers and in_folders != numbers:
        found = in_folders
    elif in_tables & numbers and (len(EMOTIONS) in in_tables or in_tables == numbers - {0}):
        found = in_tables
    else:
        return None
    example = "--classes neutral=0 happy=1 and so on"
    return (
        f"The classes are numbered {_ranges(found)}, so they are not FER2013's, which are 0-6; say "
        f"what each number means, with {OTHER_NUMBERINGS.get(frozenset(found), example)}."
    )


def misfit_with_labels(in_folders: Set[int], in_tables: Set[int], classes: ClassList) -> str | None:
    """Say why numbered classes can't be the labels of given classes; None if they can.

    Labels count from 0. Folders must have no other numbers; of tables, those that count from 1 have
    the number of classes.

    Args:
        in_folders: As for ``misfit_with_fer2013``.
        in_tables: As for ``misfit_with_fer2013``.
        classes: The classes, of which some may be given with their numbers.
    """
    labels = frozenset(range(len(classes.names)))
    if classes.has_numbers:
        return None
    if in_folders & labels and not in_folders <= labels:
        found = in_folders
    elif in_tables & labels and len(labels) in in_tables:
        found = in_tables
    else:
        return None
    return (
        f"The classes are numbered {_ranges(found)}, but those of --classes count from 0 to "
        f"{len(labels) - 1}; say what each number means, as in --classes "
        f"{classes.names[0]}={min(found)} {classes.names[1]}={min(found) + 1} and so on."
    )


def _ranges(numbers: Set[int]) -> str:
    """Write numbers in short: ``0-3, 5``."""
    texts = []
    for _, group in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        first, *others = [number for _, number in group]
        texts.append(f"{first}-{others[-1]}" if others else str(first))
    return ", ".join(texts)
