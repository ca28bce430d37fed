import pytest

from fer.data.emotions import ClassList
from fer.data.numbering import misfit_with_fer2013, misfit_with_labels

FER2013 = set(range(7))


@pytest.mark.parametrize(
    ("in_folders", "in_tables"),
    [(set(), set()), (FER2013, FER2013), (set(), {0, 3}), (set(), {0, 9}), ({12}, {7})],
)
def test_numbers_that_can_be_fer2013s(in_folders, in_tables):
    assert misfit_with_fer2013(in_folders, in_tables) is None


@pytest.mark.parametrize(
    ("in_folders", "in_tables", "found", "advice"),
    [
        (set(range(8)), set(), "0-7", "--classes neutral=0 happy=1 sad=2 surprise=3"),
        (set(range(1, 8)), set(), "1-7", "--classes surprise=1 fear=2 disgust=3 happy=4"),
        (set(), set(range(1, 8)), "1-7", "--classes surprise=1 fear=2 disgust=3 happy=4"),
        (set(), set(range(1, 7)), "1-6", "--classes neutral=0 happy=1 and so on"),
        ({0, 1, 2}, FER2013, "0-2", "--classes neutral=0 happy=1 and so on"),
        ({0, 2, 3, 12}, set(), "0, 2-3, 12", "--classes neutral=0 happy=1 and so on"),
    ],
)
def test_numbers_that_cannot_be_fer2013s(in_folders, in_tables, found, advice):
    message = misfit_with_fer2013(in_folders, in_tables)
    assert message.startswith(
        f"The classes are numbered {found}, so they are not FER2013's, which are 0-6; say what "
        f"each number means, with {advice}"
    )


RAF_DB = ["surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"]


@pytest.mark.parametrize(
    ("in_folders", "in_tables", "classes"),
    [
        (FER2013, FER2013, RAF_DB),
        ({0, 2}, {1, 6, 9}, RAF_DB),
        ({7}, {7}, RAF_DB),
        (set(range(1, 8)), set(range(1, 8)), [f"{name}={n}" for n, name in enumerate(RAF_DB, 1)]),
    ],
)
def test_numbers_that_can_be_labels(in_folders, in_tables, classes):
    assert misfit_with_labels(in_folders, in_tables, ClassList.parse(classes)) is None


@pytest.mark.parametrize(
    ("in_folders", "in_tables", "classes", "found", "largest", "advice"),
    [
        (set(range(1, 8)), set(), RAF_DB, "1-7", 6, "surprise=1 fear=2"),
        (set(), {2, 4, 7}, RAF_DB, "2, 4, 7", 6, "surprise=2 fear=3"),
        (set(), FER2013, ["good=happy", "bad=sad"], "0-6", 1, "good=0 bad=1"),
        ({1, 2}, set(), ["good", "bad"], "1-2", 1, "good=1 bad=2"),
    ],
)
def test_numbers_that_cannot_be_labels(in_folders, in_tables, classes, found, largest, advice):
    assert misfit_with_labels(in_folders, in_tables, ClassList.parse(classes)) == (
        f"The classes are numbered {found}, but those of --classes count from 0 to {largest}; say "
        f"what each number means, as in --classes {advice} and so on."
    )
