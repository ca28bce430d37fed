import io
import tarfile
import zipfile

import pytest

from fer.data.annotations import kdef_emotion, parse_label_list, read_labeled_items
from fer.data.kinds import LABEL_LIST

LIST = b"train_00001.jpg 5\ntrain_00002.jpg 1\r\ntest_0001.jpg 7\n\nnothing\ntest_0002.jpg 12\n"


@pytest.mark.parametrize(
    ("path", "emotion"),
    [
        ("KDEF/AF01/AF01ANS.JPG", "angry"),
        ("KDEF/BM35/BM35DIHL.JPG", "disgust"),
        ("a/bf02sufr.jpg", "surprise"),
        ("a/AF01AFS.jpg", "fear"),
        ("a/AM31H.JPG", None),
        ("a/XF01ANS.JPG", None),
        ("happy/photo.jpg", None),
    ],
)
def test_emotion_in_a_file_name_of_kdef(path, emotion):
    assert kdef_emotion(path) == emotion


def test_a_label_list_of_raf_db():
    assert parse_label_list(LIST) == {
        "train_00001": "sad",
        "train_00002": "surprise",
        "test_0001": "neutral",
    }


MEMBERS = {
    "basic/EmoLabel/list_patition_label.txt": LIST,
    "basic/Image/aligned/train_00001_aligned.jpg": b"x",
    "basic/Image/aligned/train_00009_aligned.jpg": b"x",
    "basic/Image/original/train_00001.jpg": b"x",
    "basic/Image/aligned/cat.jpg": b"x",
}


def as_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, MEMBERS[name])


def as_tar(path, names):
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(MEMBERS[name])
            archive.addfile(info, io.BytesIO(MEMBERS[name]))


def as_folder(path, names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(MEMBERS[name])


@pytest.mark.parametrize("is_list_first", [True, False])
@pytest.mark.parametrize(
    ("name", "pack"), [("raf.zip", as_zip), ("raf.tgz", as_tar), ("raf", as_folder)]
)
def test_images_of_raf_db_get_the_labels_of_its_list(tmp_path, name, pack, is_list_first):
    pack(tmp_path / name, sorted(MEMBERS, reverse=not is_list_first))
    items = {
        item.source.rpartition("/")[2]: item for item in read_labeled_items(str(tmp_path / name))
    }
    assert LABEL_LIST not in items  # It was used, so it is not counted as ignored.
    labeled = items["train_00001_aligned.jpg"]
    assert (labeled.kind, labeled.format, labeled.label) == ("image", "raf_db", "sad")
    assert items["train_00001.jpg"].kind == "ignored"
    assert (items["train_00009_aligned.jpg"].label, items["cat.jpg"].label) == ("", "")


def test_a_compound_emotion_of_raf_db_is_none_of_the_basic_ones():
    """Its images have the names of others, which are in the list of the basic emotions."""
    assert parse_label_list(b"\xef\xbb\xbftrain_0001.jpg 1\ntest_0001.jpg 11\n") == {
        "train_0001": "compound emotion 1",
        "test_0001": "compound emotion 11",
    }


BOTH = {
    "basic/EmoLabel/list_patition_label.txt": b"test_0001.jpg 4\ntest_0002.jpg 5\n",
    "basic/Image/aligned/test_0001_aligned.jpg": b"x",
    "compound/EmoLabel/list_patition_label.txt": b"test_0001.jpg 2\ntest_0003.jpg 8\n",
    "compound/Image/aligned/test_0001_aligned.jpg": b"x",
    "compound/Image/aligned/test_0002_aligned.jpg": b"x",
    "test_0001.jpg": b"x",
}


@pytest.mark.parametrize("is_reversed", [False, True])
def test_each_image_of_raf_db_gets_its_label_from_the_closest_list(tmp_path, is_reversed):
    with zipfile.ZipFile(tmp_path / "raf.zip", "w") as archive:
        for name in sorted(BOTH, reverse=is_reversed):
            archive.writestr(name, BOTH[name])
    items = read_labeled_items(str(tmp_path / "raf.zip"))
    labels = {item.source.partition("!/")[2]: item.label for item in items}
    assert labels == {
        "basic/Image/aligned/test_0001_aligned.jpg": "happy",
        "compound/Image/aligned/test_0001_aligned.jpg": "compound emotion 2",
        "compound/Image/aligned/test_0002_aligned.jpg": "",
        "test_0001.jpg": "compound emotion 2 or happy",
    }
