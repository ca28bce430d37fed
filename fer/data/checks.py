"""Checks of what was read: whether it can become a dataset without guesses."""

from fer.data.emotions import FER2013_CLASSES, ClassList
from fer.data.ferplus import Votes
from fer.data.numbering import misfit_with_fer2013, misfit_with_labels
from fer.data.parsing import Rules
from fer.data.rejects import UNREAD
from fer.data.tally import DatasetTally
from fer.errors import InputError, JobError


def check_votes(tally: DatasetTally, votes: Votes | None) -> None:
    """Refuse votes of another number of rows.

    Raises:
        InputError: The CSV file has fewer or more rows.
    """
    if votes and tally.last_row != len(votes):
        raise InputError(
            f"--votes has {len(votes):,} rows and the CSV file has {tally.last_row:,}; give the "
            "votes for the same rows."
        )


def check_numbers(tally: DatasetTally, classes: ClassList) -> None:
    """Refuse numbered classes that would be taken for FER2013's, or for labels, and can't be.

    Raises:
        InputError: The numbers are not FER2013's, or not the labels of the given classes.
    """
    in_folders = tally.numbers.get("class_folders", set())
    tables = (tally.numbers.get(name, set()) for name in ("csv", "hugging_face"))
    in_tables = set[int]().union(*tables)
    if classes == FER2013_CLASSES:
        misfit = misfit_with_fer2013(in_folders, in_tables)
    else:
        misfit = misfit_with_labels(in_folders, in_tables, classes)
    if misfit:
        raise InputError(misfit)


def check_splits(tally: DatasetTally, rules: Rules) -> None:
    """Refuse to mix examples whose splits the sources seem to tell.

    Raises:
        InputError: A name may mean a split, some rows of a table lack it, or ``val`` is to be taken
            out of ``train`` although there is one.
    """
    if tally.unclear_names:
        names = ", ".join(map(repr, sorted(tally.unclear_names)))
        raise InputError(
            f"{names} may name a split, but which one is unclear: rename it to train, val or test, "
            "or give --split-from hash to mix all examples."
        )
    if rules.split_from == "auto" and (number := tally.num_without_usage()):
        raise InputError(
            f"{number:,} rows have no Usage, which tells the split of the other rows of their "
            "table; fill it in, or give --split-from usage to reject these rows, or --split-from "
            "hash to mix all examples."
        )
    if rules.val_fraction and tally.num_val:
        raise InputError(
            f"The sources have {tally.num_val:,} val examples of their own, which --val-fraction "
            "would mix with train examples; leave --val-fraction out."
        )


def check_rejects(tally: DatasetTally, max_fraction: float, output: str) -> None:
    """Refuse a dataset that lacks too many examples, or all of them.

    Args:
        tally: What was read.
        max_fraction: Largest fraction of rejects, from 0 to 1.
        output: Location of the dataset, which holds the rejects.

    Raises:
        JobError: More were rejected, or none is left.
    """
    total = tally.num_examples + tally.num_rejects
    is_allowed = tally.num_rejects <= max_fraction * total
    if is_allowed and (tally.num_examples or not total):
        return
    by_count = tally.rejects_by_count()
    kinds = ", ".join(f"{code.replace('_', ' ')} ({n.count:,})" for code, n in by_count[:3])
    first = by_count[0][1]
    limit = "" if is_allowed else f", more than --max-reject-fraction {max_fraction:g} allows"
    raise JobError(
        f"{tally.num_rejects:,} of {total:,} examples were rejected{limit}: {kinds}; for example, "
        f"{first.source}: {first.reason.rstrip('.')}; see {output}/rejects."
    )


def describe_unread(tally: DatasetTally) -> str | None:
    """Say which tables and archives were not read to their end, as a sentence; None if none.

    Each is a single reject, whatever else it holds.
    """
    groups = [tally.rejects[code] for code in UNREAD if code in tally.rejects]
    if not groups:
        return None
    number = sum(group.count for group in groups)
    example = f"{groups[0].source}: {groups[0].reason.rstrip('.')}"
    if number == 1:
        return f"One file was not read to its end, and what else it holds is lost: {example}."
    return (
        f"{number:,} files were not read to their end, and what else they hold is lost; for "
        f"example, {example}."
    )


def numbers_as(tally: DatasetTally, classes: ClassList) -> str | None:
    """Return whose classes the numbers of the sources were taken for, if there were any."""
    if "number" not in tally.label_from():
        return None
    return "FER2013" if classes == FER2013_CLASSES else "--classes"
