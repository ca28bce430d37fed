import pytest

from fer.data.emotions import (
    EMOTIONS,
    FER2013_CLASSES,
    OFFICIAL_COUNTS,
    ClassList,
)
from fer.errors import InputError


def test_order_of_fer2013():
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert {split: sum(counts) for split, counts in OFFICIAL_COUNTS.items()} == {
        "train": 28_709,
        "val": 3_589,
        "test": 3_589,
    }


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("angry", 0),
        ("Anger", 0),
        ("disgusted", 1),
        ("fearful", 2),
        ("HAPPINESS", 3),
        ("sadness", 4),
        ("surprised", 5),
        ("suprise", 5),  # codespell:ignore
        (" neutral ", 6),
        ("0", 0),
        ("6", 6),
        ("0 angry", 0),
        ("3_happy", 3),
        ("3_sad", None),
        ("7", None),
        ("contempt", None),
        ("", None),
        ("²", None),
    ],
)
def test_label_from_name(name, label):
    assert FER2013_CLASSES.label(name) == label


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("faces/train/happy/3/x.png", 3),
        ("angry/3/x.png", 0),
        ("sad/happy/x.png", 3),
        ("train/5/x.png", 5),
        ("faces.zip!/fear/x.png", 2),
        ("faces/x.png", None),
        ("happy.png", None),
    ],
)
def test_label_from_the_nearest_folder_with_a_class_name(path, label):
    assert FER2013_CLASSES.label_from_folders(path) == label


def test_classes_of_raf_db():
    numbered = ["surprise=1", "fear=2", "disgust=3", "happy=4", "sad=5", "angry=6", "neutral=7"]
    classes = ClassList.parse(numbered)
    assert classes.names == ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
    assert [classes.label(str(number)) for number in range(9)] == [None, 0, 1, 2, 3, 4, 5, 6, None]
    assert classes.label_from_folders("DATASET/train/4/x.jpg") == 3
    assert (classes.label("4_happy"), classes.label("4_sad")) == (3, None)


def test_classes_of_ck_plus_and_custom_classes():
    classes = ClassList.parse(["anger", "Contempt", "happiness"])
    assert classes.names == ("angry", "contempt", "happy")
    assert [classes.label(name) for name in ("anger", "angry", "contempt", "joy", "sad", "2")] == [
        *(0, 0, 1, 2, None, 2),
    ]
    assert ClassList.parse(["boredom=ennui,bored", "delight"]).label("bored") == 0


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["happy"], "has happy:"),
        (["happy", "joy"], "has 'happy' twice:"),
        (["sad=1", "fear=1"], "has '1' twice:"),
        (["sad", "=x"], "two or more distinct names"),
    ],
)
def test_rejects_too_few_or_repeated_classes(texts, found):
    with pytest.raises(InputError, match="--classes needs") as caught:
        ClassList.parse(texts)
    assert found in str(caught.value)
