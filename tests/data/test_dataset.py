import hashlib
import json

import numpy as np
import pytest

from fer.data.dataset import compare_with_official, open_dataset
from fer.data.emotions import EMOTIONS, OFFICIAL_COUNTS
from fer.data.tally import DatasetTally
from fer.errors import InputError


def tally(*examples):
    """Count examples, given as (pixels, label, index of the split)."""
    digests, labels, splits = zip(*examples, strict=True)
    return DatasetTally(
        digests=bytearray(b"".join(hashlib.sha256(pixels).digest() for pixels in digests)),
        labels=bytearray(labels),
        splits=bytearray(splits),
    )


def summary(counts=None, **fields):
    counts = counts or {"train": dict.fromkeys(EMOTIONS, 3)}
    return {"schema_version": 1, "class_names": EMOTIONS, "counts": counts, **fields}


def test_counts_by_split_and_class():
    counted = tally((b"a", 0, 0), (b"b", 3, 0), (b"c", 3, 0), (b"d", 6, 2))
    counts = counted.counts()
    assert counts["train"] == {**dict.fromkeys(EMOTIONS, 0), "angry": 1, "happy": 2}
    assert counts["test"]["neutral"] == 1
    assert sum(counts["val"].values()) == 0


def test_duplicates_within_and_across_splits():
    counted = tally(
        *[(b"a", 0, 0), (b"a", 0, 0), (b"a", 0, 0)],
        *[(b"b", 1, 0), (b"b", 1, 1)],
        *[(b"c", 2, 1), (b"c", 3, 1)],
        (b"d", 4, 2),
    )
    assert counted.duplicates() == {
        "images": 4,
        "within_splits": 2,
        "across_splits": 1,
        "conflicting_labels": 1,
    }


def test_fingerprint_does_not_depend_on_the_order():
    rows = [(b"a", 0, 0), (b"b", 1, 0), (b"c", 2, 1)]
    assert tally(*rows).fingerprint() == tally(*reversed(rows)).fingerprint()
    assert tally(*rows).fingerprint() != tally(*rows[:2]).fingerprint()
    assert tally(*rows).fingerprint() != tally(*rows[:2], (b"c", 2, 2)).fingerprint()


def test_adding_a_tally_adds_its_counts():
    both = tally((b"a", 0, 0))
    both.add(tally((b"b", 1, 1)))
    assert both.fingerprint() == tally((b"b", 1, 1), (b"a", 0, 0)).fingerprint()


def test_compares_counts_with_the_official_ones():
    counts = {
        split: dict(zip(EMOTIONS, official, strict=True))
        for split, official in OFFICIAL_COUNTS.items()
    }
    assert compare_with_official(counts) == {"complete": True, "differences": {}}
    counts["val"]["fear"] -= 5
    assert compare_with_official(counts) == {
        "complete": False,
        "differences": {"val": {"fear": -5}},
    }


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"schema_version": 1}'])
def test_rejects_folders_that_are_not_datasets(tmp_path, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError, match="is not a finished dataset: expected summary.json"):
        open_dataset(str(tmp_path))


def test_rejects_another_schema_version(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(summary(schema_version=7)))
    with pytest.raises(
        InputError, match="dataset schema 7: this version reads 1; run fer ingest again"
    ):
        open_dataset(str(tmp_path))


def test_rejects_a_split_that_is_empty_or_lacks_a_class(tmp_path):
    counts = {"train": {**dict.fromkeys(EMOTIONS, 3), "disgust": 0}}
    (tmp_path / "summary.json").write_text(json.dumps(summary(counts)))
    data = open_dataset(str(tmp_path))
    data.check_split("train")
    with pytest.raises(InputError, match="no train examples of disgust"):
        data.check_split("train", every_class=True)
    with pytest.raises(InputError, match="has no test examples: it holds train"):
        data.check_split("test")


@pytest.mark.parametrize(
    ("splits", "split", "advice"),
    [
        (["train", "test"], "val", "ingest again with --val-fraction 0.1, which takes them out of"),
        (["train"], "val", "ingest again with --val-fraction 0.1, which takes them out of train."),
        (["train", "val"], "test", "ingest a source that has test examples, or use --split-from"),
        (["val", "test"], "train", "ingest a source that has train examples."),
    ],
)
def test_what_to_do_about_a_split_that_is_missing(tmp_path, splits, split, advice):
    counts = {name: dict.fromkeys(EMOTIONS, 3) for name in splits}
    (tmp_path / "summary.json").write_text(json.dumps(summary(counts)))
    with pytest.raises(
        InputError, match=f"no {split} examples: it holds {', '.join(splits)}; "
    ) as e:
        open_dataset(str(tmp_path)).check_split(split)
    assert advice in str(e.value)
    assert ("hash" in str(e.value)) == ("test" not in splits and split != "val")


def test_copies_of_train():
    counted = tally(*[(b"a", 0, 0), (b"a", 0, 1), (b"a", 0, 1)], *[(b"b", 0, 2), (b"c", 0, 1)])
    assert counted.copies_of_train() == {"val": 2, "test": 0}


def test_no_examples_have_no_duplicates():
    assert DatasetTally().duplicates()["images"] == 0
    assert np.sum(list(DatasetTally().counts()["train"].values())) == 0


@pytest.mark.parametrize(
    ("fields", "shape"),
    [({}, "48x48 gray"), ({"image_size": 112, "channels": 3}, "112x112 color")],
)
def test_images_are_gray_and_of_48_pixels_unless_the_summary_says_otherwise(
    tmp_path, fields, shape
):
    (tmp_path / "summary.json").write_text(json.dumps(summary(**fields)))
    assert str(open_dataset(str(tmp_path)).shape) == shape
