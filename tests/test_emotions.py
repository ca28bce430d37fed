import pytest

from fer.emotions import label_from_folders, label_from_name, split_from_file_name


@pytest.mark.parametrize(
    ("name", "label"), [("angry", 0), ("Anger", 0), ("0", 0), ("0 angry", 0), ("3_sad", None)]
)
def test_label_from_name(name, label):
    assert label_from_name(name) == label


def test_nearest_folder_names_the_class():
    assert label_from_folders("faces/train/happy/3/x.png") == 3
    assert label_from_folders("faces/x.png") is None


def test_split_from_file_name():
    assert split_from_file_name("happy/PublicTest_10116449.jpg") == "val"
