"""An image that crashes the process that decodes it, as a flaw in a decoder could allow."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from fer.data.synthetic import draw_faces

# Each test starts its own cluster, because its processes are patched before they start.
pytestmark = pytest.mark.slow

POISON = b"poison"
SITE = """
import os, signal
import PIL.Image

open_image = PIL.Image.open

def open_or_die(file, *arguments, **named):
    if file.getvalue().endswith(b"poison"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return open_image(file, *arguments, **named)

PIL.Image.open = open_or_die
"""


@pytest.fixture
def faces_with_a_poison_image(tmp_path, png):
    images, labels = draw_faces(20, seed=9)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = tmp_path / "faces" / str(label) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image) + (POISON if number == 7 else b""))
    return tmp_path / "faces"


def run(tmp_path, *arguments):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    # Ray's own lines about lost processes come before the last line.
    return json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))


def test_label_isolates_a_poison_image(tmp_path, faces_with_a_poison_image, save_network):
    save_network(tmp_path / "network", "conv1")
    flags = ("--detector", "none", "--checkpoint", tmp_path / "network")
    output = tmp_path / "labels"
    result = run(
        tmp_path, "label", "--images", faces_with_a_poison_image, "--output", output, *flags
    )
    assert (result["images"], result["failed"]) == (20, 1)
    rows = pq.read_table(output / "faces").to_pylist()
    (row,) = [row for row in rows if row["status"] == "unreadable"]
    assert row["image"].endswith("/7.png")
    assert row["error"] == "The file can't be read: it crashes the process that reads it."


def test_ingest_isolates_a_poison_image(tmp_path, faces_with_a_poison_image):
    output = tmp_path / "data"
    result = run(tmp_path, "ingest", "--source", faces_with_a_poison_image, "--output", output)
    assert (result["examples"], result["rejects"]) == (19, 1)
    (row,) = pq.read_table(output / "rejects").to_pylist()
    assert row["reason"] == "it crashes the process that reads it"
