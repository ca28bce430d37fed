"""Datasets in color and of other sizes, and networks that start from published weights."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fer import Predictor
from fer.data.dataset import open_dataset
from fer.data.synthetic import draw_faces
from fer.models.architectures import build_model
from fer.models.checkpoint import load_checkpoint, read_config
from fer.models.networks import build_network
from fer.models.transforms import PREPROCESSING
from fer.vision.decode import decode_image, decode_photo
from fer.vision.detector import FaceDetector
from fer.vision.shape import ImageShape

CLASSES = ("red", "blue")
SHAPE = ImageShape(32, 3)
QUICK = ("--num-epochs", 2, "--batch-size", 16, "--no-int8", "--no-augment")


def tint(gray, hue):
    """Return a face uint8 (48, 48, 3) of a hue, with the gray levels of ITU-R 601 that it had."""
    level = 70 + gray.astype(float) * 0.4
    shifts = {"red": (60, -30.56, 0), "blue": (0, -11.65, 60)}[hue]
    return np.stack([level + shift for shift in shifts], axis=2).round().astype(np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Faces of which only the hue tells the class, in folders of splits and classes."""
    root = tmp_path_factory.mktemp("colors")
    faces, _ = draw_faces(120, seed=9)
    for number, face in enumerate(faces):
        hue, split = CLASSES[number % 2], "train" if number < 80 else "val"
        folder = root / split / hue
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tint(face, hue)).save(folder / f"{number}.png")
    return root


def ingest(fer, folders, output, *flags):
    return fer("ingest", "--source", folders, "--output", output, "--classes", *CLASSES, *flags)


@pytest.fixture
def colors(fer, folders, tmp_path_factory):
    """The folders as a dataset of 32x32 pixels in color."""
    output = tmp_path_factory.getbasetemp() / "color-dataset"
    if not (output / "summary.json").exists():
        assert ingest(fer, folders, output, "--image-size", 32, "--color").code == 0
    return output


def test_a_dataset_says_what_its_images_are(colors, folders):
    data = open_dataset(str(colors))
    assert data.shape == SHAPE
    schema = pq.read_schema(next((colors / "examples").iterdir()))
    assert schema.field("image").type.list_size == 32 * 32 * 3
    assert {schema.metadata[key] for key in (b"image_size", b"channels")} == {b"32", b"3"}
    val = data.read_split("val")
    file = folders / val.sources[0].split("/colors", 1)[1].split("/", 1)[1]
    np.testing.assert_array_equal(val.images[0], decode_image(file.read_bytes(), SHAPE).pixels)


def test_fer2013_s_datasets_are_what_they_were(dataset):
    for file in (dataset / "examples").iterdir():
        schema = pq.read_schema(file)
        assert schema.field("image").type.list_size == 2304
        assert schema.metadata.keys() == {b"schema_version", b"class_names"}


def train(fer, data, output, *flags):
    done = fer("train", "--dataset", data, "--output", output, *flags)
    assert done.code == 0, done.errors
    return done


@pytest.mark.slow
def test_a_network_in_color_tells_what_gray_levels_do_not(fer, colors, folders, tmp_path):
    flags = ("--model", "resnet4-w32", "--num-epochs", 6, "--batch-size", 16, "--no-int8")
    in_color = train(fer, colors, tmp_path / "color", *flags, "--degrade-fraction", 0.3)
    assert in_color.result["val_accuracy"] == 1.0
    assert ingest(fer, folders, tmp_path / "gray-data").code == 0
    in_gray = train(fer, tmp_path / "gray-data", tmp_path / "gray", *flags)
    assert in_gray.result["val_accuracy"] < 0.8
    labels = tmp_path / "labels"
    labeled = fer(
        *("label", "--images", folders / "val", "--output", labels, "--detector", "none"),
        *("--checkpoint", tmp_path / "color"),
    )
    assert labeled.code == 0
    for row in pq.read_table(labels / "faces").to_pylist():
        assert f"/{row['emotion']}/" in row["image"]
    report = fer(
        *("evaluate", "--dataset", colors, "--checkpoint", tmp_path / "color", tmp_path / "gray"),
        *("--output", tmp_path / "report", "--split", "val", "--ensemble", "--robustness"),
    )
    accuracies = [network["accuracy"] for network in report.result["checkpoints"]]
    assert accuracies[0] == 1.0
    mixed = load_checkpoint(str(tmp_path / "report" / "ensemble"))
    assert mixed.shape == ImageShape(48, 3)
    face = decode_image(next((folders / "val" / "red").iterdir()).read_bytes(), mixed.shape).pixels
    assert Predictor(mixed).predict([face])[0].emotion in CLASSES


@pytest.fixture
def weights(tmp_path):
    """Weights of ResNet-18 for 1,000 classes, in torchvision's layout."""
    torch.manual_seed(5)
    network = build_model("resnet18", 1000, ImageShape(224, 3))
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth", network.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.nightly)])
def test_training_starts_from_published_weights(fer, colors, weights, tmp_path, workers):
    file, published = weights
    frozen = train(
        fer,
        colors,
        tmp_path / "frozen",
        *(*QUICK, "--model", "resnet18", "--pretrained", file, "--freeze", 2, "--ema-decay", 0),
        *("--num-workers", workers, "--cpus-per-worker", 1),
    )
    assert "the last layer is new, since the weights of" in frozen.errors
    (member,) = load_checkpoint(str(tmp_path / "frozen")).members
    assert member.config.preprocessing == "imagenet"
    assert member.config.shape == SHAPE
    kept = build_network(member).state_dict()
    for name, tensor in published.items():
        assert name.startswith("fc.") or tensor.equal(kept[name]), name
    images = open_dataset(str(colors)).read_split("val").images
    with torch.inference_mode():
        logits = build_network(member)(PREPROCESSING["imagenet"](torch.tensor(images)))
    predicted = Predictor.load(str(tmp_path / "frozen"), engine="float32").predict_probs(images)
    expected = (logits / member.config.temperature).softmax(1).numpy()
    np.testing.assert_allclose(predicted, expected, atol=1e-4)
    if workers == "1":
        thawed = train(
            fer,
            colors,
            tmp_path / "thawed",
            *(*QUICK, "--model", "resnet18", "--pretrained", file, "--freeze", 1),
            *("--trunk-lr-factor", 0.1, "--ema-decay", 0),
        )
        assert thawed.result["parameters"] == frozen.result["parameters"]
        (moved,) = load_checkpoint(str(tmp_path / "thawed")).members
        assert not build_network(moved).conv1.weight.equal(published["conv1.weight"])


@pytest.mark.nightly
@pytest.mark.slow
def test_color_is_streamed_as_gray_levels_are(fer, colors, tmp_path):
    done = train(
        fer,
        colors,
        tmp_path / "streamed",
        *("--model", "resnet4-w32", "--num-epochs", 2, "--batch-size", 16, "--no-int8"),
        *("--memory-limit", 0, "--erase-fraction", 0.5, "--degrade-fraction", 0.5),
    )
    assert read_config(str(tmp_path / "streamed")).shape == SHAPE
    assert 0 <= done.result["val_accuracy"] <= 1


@pytest.mark.slow
def test_the_study_of_pretrained_weights(fer, colors, weights, tmp_path):
    study = fer(
        *("tune", "--dataset", colors, "--output", tmp_path / "study", "--study", "pretrained"),
        *("--model", "resnet18", "--pretrained", weights[0], "--num-epochs", 1),
    )
    assert study.code == 0, study.errors
    lines = (tmp_path / "study" / "trials.csv").read_text()
    assert "random" in lines
    assert "pretrained" in lines


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--model", "alexnet"),
            "alexnet takes images of 63x63 to 224x224 pixels, but these are 32x32 color; ingest "
            "them with a larger --image-size, or choose another --model.",
        ),
        (
            ("--model", "resnet4-w32", "--initial-size", 48),
            "--initial-size 48 is larger than the images of {data}, which are 32x32 color; choose "
            "a smaller one.",
        ),
        (
            ("--model", "vgg11", "--pretrained", "{file}"),
            "The weights of {file} do not fit vgg11 for 32x32 color faces: they lack "
            "classifier.0.bias; give the weights of the network that --model names.",
        ),
        (
            ("--model", "resnet18", "--pretrained", "imagenet"),
            "--pretrained imagenet holds the weights of efficientnet-lite0, but --model is "
            "resnet18; choose that network, or give a file of resnet18's weights.",
        ),
        (
            ("--model", "vgg11", "--initial-size", 24),
            "--initial-size needs a network that takes images of any size, but vgg11 takes images "
            "of one size; choose a resnet as --model, or leave the flag out.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fer, colors, weights, tmp_path, flags, sentence):
    names = {"file": weights[0], "data": colors}
    flags = [str(flag).format(**names) for flag in flags]
    flags = ("--output", tmp_path / "out", "--batch-size", 16, *flags)
    refused = fer("train", "--dataset", colors, *flags)
    assert refused.code == 2
    assert refused.sentence == sentence.format(**names)


@pytest.mark.slow
def test_a_start_from_another_number_of_channels(fer, colors, tmp_path, save_network):
    gray = tmp_path / "gray"
    save_network(gray, "resnet4-w32", class_names=CLASSES)
    done = train(
        fer,
        colors,
        tmp_path / "fine",
        *("--model", "resnet4-w32", "--from-checkpoint", gray, "--num-epochs", 1),
        *("--batch-size", 16, "--no-int8"),
    )
    assert done.result["id"].startswith("resnet4-w32-")


def test_the_largest_face_of_a_photograph_is_an_example(fer, yunet, real_photographs, tmp_path):
    """As label crops it; a photograph without a face is a reject."""
    weights = tmp_path / "yunet.onnx"
    weights.write_bytes(yunet)
    detector = FaceDetector(yunet, shape=ImageShape(96, 3))
    names = sorted(path for path in real_photographs.rglob("*.jpg"))[:12]
    largest = {}
    for number, path in enumerate(names):
        folder = tmp_path / "photos" / ("train" if number % 3 else "val") / CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
        faces = detector.detect(decode_photo(path.read_bytes()))
        if faces:
            largest[path.name] = max(faces, key=lambda face: face.box[2] * face.box[3]).crop
    Image.new("RGB", (300, 300), "green").save(tmp_path / "photos" / "val" / "red" / "none.png")
    output = tmp_path / "dataset"
    done = ingest(
        fer,
        tmp_path / "photos",
        output,
        *("--image-size", 96, "--color", "--detector", "yunet", "--detector-weights", weights),
        *("--max-reject-fraction", 1),
    )
    assert done.code == 0, done.errors
    data = open_dataset(str(output))
    assert data.summary["detector"] == "yunet-2023mar"
    examples = [data.read_split(split) for split in ("train", "val")]
    found = {
        source.rsplit("/", 1)[1]: image
        for part in examples
        for source, image in zip(part.sources, part.images, strict=True)
    }
    assert found.keys() == largest.keys()
    for name, image in found.items():
        np.testing.assert_array_equal(image, largest[name])
    rejects = json.loads((output / "summary.json").read_text())["rejects_by_reason"]
    assert rejects["no_face"]["example"]["reason"] == "shows no face that the detector finds"
