import hashlib

import numpy as np

from fer.data.copies import TABLE_DTYPE, find_redundant, table_id


def redundant(*examples):
    """Mark examples, given as (pixels, table or None, whether the row has a Usage)."""
    pixels, tables, has_usage = zip(*examples, strict=True)
    digests = b"".join(hashlib.sha256(image).digest() for image in pixels)
    ids = [0 if table is None else table_id(table) for table in tables]
    return find_redundant(
        np.frombuffer(digests, "V32"), np.array(ids, TABLE_DTYPE), np.array(has_usage)
    ).tolist()


def test_rows_without_usage_give_way_to_the_same_pixels_with_one():
    examples = [(b"a", "fer", True), (b"a", "train", False), (b"b", "train", False)]
    assert redundant(*examples) == [False, True, False]


def test_the_largest_table_with_usage_keeps_its_rows():
    examples = [(b"a", "part", True), (b"a", "all", True), (b"b", "all", True)]
    assert redundant(*examples) == [True, False, False]


def test_rows_that_repeat_within_a_table_are_kept():
    assert redundant((b"a", "fer", True), (b"a", "fer", True)) == [False, False]
    examples = [(b"a", "fer", True), (b"a", "fer", True), (b"a", "train", False)]
    assert redundant(*examples) == [False, False, True]


def test_images_and_tables_without_usage_are_kept():
    assert redundant((b"a", "fer", True), (b"a", None, False)) == [False, False]
    assert redundant((b"a", "train", False), (b"a", "test", False)) == [False, False]
    assert find_redundant(np.empty(0, "V32"), np.empty(0, TABLE_DTYPE), np.empty(0, bool)).size == 0
