import hashlib

import pytest

from fer.data.splits import (
    is_held_out,
    split_from_file_name,
    split_from_folders,
    split_from_sha256,
    split_from_usage,
    unclear_split_name,
)


@pytest.mark.parametrize(
    ("usage", "split"),
    [
        ("Training", "train"),
        (" PublicTest", "val"),
        ("PrivateTest", "test"),
        ("Public Test", "val"),
        ("PRIVATE_TEST", "test"),
        ("test set", "test"),
        ("holdout", None),
        ("", None),
    ],
)
def test_split_from_usage(usage, split):
    assert split_from_usage(usage) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("happy/PublicTest_10116449.jpg", "val"),
        ("happy/PrivateTest-1.jpg", "test"),
        ("happy/Training_1.jpg", "train"),
        ("happy/training.jpg", "train"),
        ("happy/untrained_1.jpg", None),
        ("happy/trainings_day.jpg", None),
        ("aligned/train_00001_aligned.jpg", "train"),
        ("aligned/test_0001.jpg", "test"),
        ("happy/test_drive.jpg", None),
        ("fer/train.csv", "train"),
        ("kaggle.zip!/test.csv", "test"),
        ("fer2013.csv", None),
        ("data/validation-00000-of-00002.parquet", "val"),
        ("data/train-00000-of-00001-5f2e0ed3a1b6fbcf.parquet", "train"),
    ],
)
def test_split_from_file_name(path, split):
    assert split_from_file_name(path) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/Validation/sad/x.png", "val"),
        ("train/test/x.png", "test"),
        ("data/x.png", None),
        ("train_set/0/x.png", "train"),
        ("Val_Set/0/x.png", "val"),
        ("Test Set/sad/x.png", "test"),
        ("training_data/sad/x.png", "train"),
        ("valid-images/sad/x.png", "val"),
        ("TestSet/sad/x.png", "test"),
        ("trainset2/sad/x.png", "train"),
        ("Public Test/sad/x.png", "val"),
        ("train.zip!/sad/x.png", "train"),
        ("fer2013_test.tar.gz!/sad/x.png", "test"),
        ("train.zip!/test/sad/x.png", "test"),
        ("trn/sad/x.png", "train"),
        ("tests/sad/x.png", "test"),
        ("eval/sad/x.png", None),
        ("train_test/sad/x.png", None),
        ("my_test_v/sad/x.png", None),
        ("contest/latest/x.png", None),
        ("train.jpg", None),
    ],
)
def test_split_from_folders(path, split):
    assert split_from_folders(path) == split


def test_split_from_pixels_is_stable_and_in_proportion():
    splits = [
        split_from_sha256(hashlib.sha256(bytes([a, b])).digest())
        for a in range(200)
        for b in range(50)
    ]
    shares = {split: splits.count(split) / len(splits) for split in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.01)
    assert split_from_sha256(b"\x00" * 32) == "train"
    assert split_from_sha256(b"\xff" * 32) == "test"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/my_test_v/sad/x.png", "my_test_v"),
        ("train_and_val.zip!/sad/x.png", "train_and_val.zip!"),
        ("data/celebrities_train.csv", "celebrities_train.csv"),
        ("eval/sad/x.png", "eval"),
        ("faces.zip!/Evaluation Set/sad/x.png", "Evaluation Set"),
        ("holdout_images/sad/x.png", "holdout_images"),
        ("evalset.csv", "evalset.csv"),
        ("contest/latest/strain/x.png", None),
        ("medieval/sad/x.png", None),
        ("data/sad/test_drive.jpg", None),
    ],
)
def test_names_that_may_mean_a_split(path, name):
    assert unclear_split_name(path) == name


def test_examples_are_held_out_by_their_pixels_and_in_proportion():
    digests = [hashlib.sha256(bytes([a, b])).digest() for a in range(200) for b in range(50)]
    held_out = [digest for digest in digests if is_held_out(digest, 0.2)]
    assert len(held_out) / len(digests) == pytest.approx(0.2, abs=0.01)
    assert not any(is_held_out(digest, 0) for digest in digests)
    # Independent of the other rule: its three splits are as frequent here as elsewhere.
    share = sum(split_from_sha256(digest) == "train" for digest in held_out) / len(held_out)
    assert share == pytest.approx(0.8, abs=0.03)
