"""Folders and archives of images to a dataset: what their names say of classes and splits."""

import zipfile

import pytest
from ingested import summary_of


def test_images_give_the_same_dataset(fer, sources, dataset, tmp_path):
    """From an archive and from a folder: their splits are those of the folders' names."""
    with zipfile.ZipFile(sources / "faces.zip") as archive:
        archive.extractall(tmp_path / "faces")
    for name, source in (("a", sources / "faces.zip"), ("b", tmp_path / "faces")):
        assert fer("ingest", "--source", source, "--output", tmp_path / name).code == 0
        summary = summary_of(tmp_path / name)
        assert summary["fingerprint"] == summary_of(dataset)["fingerprint"]
        assert summary["split_from"] == {"folder": 280}


def write_folders(path, png, drawn, names):
    """An archive with the drawn faces in folders, which are named in turn."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(drawn.images[:60]):
            archive.writestr(f"{names[number % len(names)]}/{number}.png", png(image))
    return path


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (range(8), "numbered 0-7, so they are not FER2013's, which are 0-6; say what each number"),
        (range(1, 8), "disgust=3 happy=4 sad=5 angry=6 neutral=7 if they are RAF-DB's."),
        ((0, 1, 2), "numbered 0-2, so they are not FER2013's"),
    ],
)
def test_numbered_folders_of_other_datasets_are_refused(fer, png, drawn, tmp_path, numbers, told):
    names = [f"train/{number}" for number in numbers]
    source = write_folders(tmp_path / "x.zip", png, drawn, names)
    run = fer("ingest", "--source", source, "--output", tmp_path / "data")
    assert (run.code, told in run.sentence) == (2, True)
    assert not (tmp_path / "data" / "summary.json").exists()


def test_what_numbers_were_taken_for_is_said(fer, png, drawn, tmp_path):
    source = write_folders(tmp_path / "x.zip", png, drawn, ["train/0", "train/1"])
    classes = ("--classes", "neutral=0", "happy=1")
    run = fer("ingest", "--source", source, *classes, "--output", tmp_path / "a")
    assert run.result["numbers_as"] == "--classes"
    source = write_folders(tmp_path / "y.zip", png, drawn, [f"train/{n}" for n in range(7)])
    run = fer("ingest", "--source", source, "--output", tmp_path / "b")
    assert run.result["numbers_as"] == "FER2013"
    assert summary_of(tmp_path / "b")["label_from"] == {"number": 60}
    source = write_folders(tmp_path / "z.zip", png, drawn, ["train/happy", "train/1 disgust"])
    run = fer("ingest", "--source", source, "--output", tmp_path / "c")
    assert run.result["numbers_as"] is None


def test_archives_that_are_named_by_their_split_are_not_mixed(fer, png, drawn, tmp_path):
    sources = [
        write_folders(tmp_path / name, png, drawn, ["happy", "sad"])
        for name in ("Train_Set.zip", "test.zip")
    ]
    run = fer("ingest", "--source", *sources, "--output", tmp_path / "data")
    assert run.result["counts"] == {"train": 60, "val": 0, "test": 60}
    assert run.result["split_from"] == {"folder": 120}


def test_names_that_may_mean_a_split_are_refused(fer, png, drawn, tmp_path):
    source = write_folders(tmp_path / "x.zip", png, drawn, ["my_test_v/happy", "train_v/sad"])
    arguments = ("ingest", "--source", source, "--output", tmp_path / "data")
    run = fer(*arguments)
    assert run.code == 2
    assert run.sentence == (
        "'my_test_v', 'train_v' may name a split, but which one is unclear: rename it to train, "
        "val or test, or give --split-from hash to mix all examples."
    )
    assert fer(*arguments, "--split-from", "hash").result["split_from"] == {"hash": 60}


def test_val_is_taken_out_of_train(fer, png, drawn, tmp_path):
    source = write_folders(tmp_path / "x.zip", png, drawn, ["train/happy", "train/sad", "test/sad"])
    arguments = ("ingest", "--source", source, "--val-fraction", "0.2", "--output")
    run = fer(*arguments, tmp_path / "data")
    counts = run.result["counts"]
    assert (counts["train"] + counts["val"], counts["test"]) == (40, 20)
    assert run.result["split_from"] == {"folder": 60 - counts["val"], "val_fraction": counts["val"]}
    assert 0 < counts["val"] < 20
