"""Metrics of jobs, as the Prometheus endpoint of a node has them."""

import time

import exposition
import pytest

from fer.data.synthetic import draw_faces


@pytest.fixture
def photos(tmp_path, png):
    images, _ = draw_faces(70, seed=9)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:02d}.png").write_bytes(png(image))
    (folder / "broken.jpg").write_bytes(b"junk")
    return folder


@pytest.fixture
def quiet(cluster):
    """What earlier tests recorded has been reported."""
    time.sleep(exposition.REPORT_EVERY_SECONDS + 2)


def read(name, **labels):
    return exposition.read(name, **labels) or 0


@pytest.mark.slow
def test_a_labeling_is_counted_once(label, photos, quiet, tmp_path):
    names = ("images_total", "faces_total", "read_bytes_total")
    before = {name: read(f"ray_fer_label_{name}") for name in names}
    failures = read("ray_fer_label_failures_total", status="unreadable")
    observed = read("ray_fer_label_confidence_ratio_count")
    assert label(photos, tmp_path / "labels").code == 0
    size = sum(file.stat().st_size for file in photos.iterdir())
    for name, number in {"images_total": 71, "faces_total": 70, "read_bytes_total": size}.items():
        expected = before[name] + number
        assert exposition.wait_for(expected, f"ray_fer_label_{name}") == expected
    assert read("ray_fer_label_failures_total", status="unreadable") == failures + 1
    # Chunks are small here, so all of their faces are observed.
    assert read("ray_fer_label_confidence_ratio_count") == observed + 70
    for stage in ("detect", "classify", "write"):
        assert read("ray_fer_label_stage_seconds_total", stage=stage) > 0
    # What is resumed is not counted again.
    assert label(photos, tmp_path / "labels", "--resume").code == 0
    assert read("ray_fer_label_images_total") == before["images_total"] + 71


@pytest.mark.slow
def test_examples_and_rejects_are_counted(fer, sources, quiet, tmp_path):
    before = read("ray_fer_ingest_examples_total")
    done = fer("ingest", "--source", sources / "fer2013.csv", "--output", tmp_path / "data")
    expected = before + done.result["examples"]
    assert exposition.wait_for(expected, "ray_fer_ingest_examples_total") == expected


@pytest.mark.slow
def test_epochs_are_counted(fer, dataset, tmp_path):
    from trainings import FAST

    done = fer("train", "--dataset", dataset, *FAST, "--output", tmp_path / "observed")
    assert done.code == 0
    epochs = exposition.wait_for(2, "ray_fer_train_epochs_total", run="observed")
    assert epochs == 2
