import pytest

from fer.data.numbering import misfit_with_fer2013

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
