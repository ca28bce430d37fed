import pytest

from fer.data import parsed
from fer.data.checks import check_numbers, check_rejects, check_splits, describe_unread
from fer.data.emotions import ClassList
from fer.data.items import SourceItem
from fer.data.parsing import Rules, parse_item
from fer.data.tally import DatasetTally, RejectGroup
from fer.errors import InputError, JobError

PIXELS = " ".join(["7"] * 2304)


def tally_of(tables, rules):
    """Return the tally of tables, given as their values of Usage; None leaves out the column."""
    tally = DatasetTally()
    for name, usages in tables.items():
        rows = [f"3,{PIXELS}" + ("" if usage is None else f",{usage}") for usage in usages]
        header = "emotion,pixels" + ("" if usages[0] is None else ",Usage")
        data = "\n".join([header, *rows]).encode()
        item = SourceItem("rows", name, name, data, first_row=1)
        tally.add(parsed.count(parsed.to_table(parse_item(item, rules))))
    return tally


@pytest.mark.parametrize(
    "tables",
    [
        {"a.csv": ["Training", "PublicTest"]},
        {"a.csv": ["", ""]},
        {"a.csv": [None, None], "b.csv": ["Training", "Training"]},
    ],
)
def test_tables_whose_rows_all_have_a_usage_or_none(tables):
    check_splits(tally_of(tables, Rules()), Rules())


@pytest.mark.parametrize("name", ["a.csv", "train.csv"])
def test_rows_without_usage_beside_others_are_not_divided_by_chance(name):
    tables = {name: ["Training", "", " "], "b.csv": [None]}
    with pytest.raises(InputError, match="2 rows have no Usage, which tells the split of the oth"):
        check_splits(tally_of(tables, Rules()), Rules())
    rules = Rules(split_from="hash")
    check_splits(tally_of(tables, rules), rules)
    rules = Rules(split_from="usage")
    tally = tally_of(tables, rules)
    check_splits(tally, rules)
    assert (tally.num_examples, tally.num_rejects) == (1, 3)


def test_a_usage_that_is_not_understood_is_refused():
    tally = tally_of({"train.csv": ["Training", "holdout"]}, Rules())
    with pytest.raises(InputError, match="^'holdout' may name a split, but which one is unclear"):
        check_splits(tally, Rules())


def test_a_table_whose_rows_are_all_rejected_says_why_whatever_is_allowed():
    tally = tally_of({"a.csv": ["", ""]}, Rules(split_from="usage"))
    with pytest.raises(JobError, match=r"^2 of 2 examples were rejected, more than --max-reject-"):
        check_rejects(tally, 0.05, "data")
    with pytest.raises(JobError, match=r"^2 of 2 examples were rejected: no split \(2\); for exam"):
        check_rejects(tally, 1, "data")
    check_rejects(DatasetTally(), 0.05, "data")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("012", None),
        ("123", "numbered 1-3, but those of --classes count from 0 to 2"),
        ("abc", None),
    ],
)
def test_numbers_are_checked_against_the_given_classes(labels, message):
    classes = ClassList.parse("abc")
    rows = [f"{label},{PIXELS}" for label in labels]
    data = "\n".join(["emotion,pixels", *rows]).encode()
    item = SourceItem("rows", "x.csv", "x.csv", data, first_row=1)
    tally = parsed.count(parsed.to_table(parse_item(item, Rules(classes))))
    if message is None:
        check_numbers(tally, classes)
        return
    with pytest.raises(InputError, match=message):
        check_numbers(tally, classes)


def test_files_that_were_not_read_to_their_end_are_said():
    tally = DatasetTally()
    tally.add_rejects("unreadable", RejectGroup(3, "x.png", "is damaged"))
    assert describe_unread(tally) is None
    tally.add_rejects("row_too_long", RejectGroup(1, "a.csv", "row 2 is too long"))
    assert describe_unread(tally) == (
        "One file was not read to its end, and what else it holds is lost: a.csv: row 2 is too "
        "long."
    )
    tally.add_rejects("incomplete", RejectGroup(1, "a.zip", "can't be read to its end: broken."))
    assert describe_unread(tally) == (
        "2 files were not read to their end, and what else they hold is lost; for example, "
        "a.zip: can't be read to its end: broken."
    )
