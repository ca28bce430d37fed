"""Planned durations of jobs compared with their real durations.

    python benchmarks/plan.py --detector-weights face_detection_yunet_2023mar.onnx
    python benchmarks/plan.py --num-crops 40000 --coefficients costs.json

The coefficients are measured on small jobs. The jobs here are several times as large. All run on
the same cores, with Ray already started. The exit code is 1 if a plan is off by more than a fifth.
"""

import sys
from pathlib import Path

import tyro
from processes import num_cpus
from turns import quietly, working_folder

from fer.cost_model import ClusterShape, Coefficients, chunk_sizes, plan_label, plan_train
from fer.data.synthetic import Faces, draw_faces, to_csv, to_zip
from ray_jobs import ingest, label, train
from ray_jobs.config import IngestConfig, LabelConfig, PlanConfig, TrainConfig
from ray_jobs.config.types import Model
from ray_jobs.plan import MEGAPIXELS, calibrate, encode, photograph, planned_network

TOLERANCE = 0.2

TRAINED: tuple[Model, ...] = ("deep", "shallow", "resnet8-w32", "resnet10-w48")
"""Networks that are trained: two that ``calibrate`` measures, and two that it doesn't."""

NUM_EPOCHS = 3
"""Passes over the training examples."""


def main(
    num_crops: int = 20_000,
    num_photographs: int = 600,
    num_examples: int = 4096,
    detector_weights: str | None = None,
    coefficients: str | None = None,
    output: str | None = None,
) -> int:
    """Compare plans with runs.

    Args:
        num_crops: Number of face crops to label.
        num_photographs: Number of photographs of one megapixel to label.
        num_examples: Number of examples to train on. An eighth as many more are scored.
        detector_weights: YuNet's ONNX file. Without it, no photographs are labeled.
        coefficients: JSON file of the coefficients to read. By default they are measured first.
        output: JSON file to write the coefficients to.
    """
    with working_folder() as folder:
        shape = ClusterShape(1, num_cpus())
        if coefficients is None:
            costs = measure_costs(detector_weights)
        else:
            costs = Coefficients.read(coefficients)
        if output is not None:
            costs.write(output)
        print(costs)
        data = ingest_faces(folder, num_examples)
        errors = [
            report(f"train, {model}", *run_train(folder, data, model, num_examples, shape, costs))
            for model in TRAINED
        ]
        errors.append(report("label, crops", *run_crops(folder, num_crops, shape, costs)))
        if detector_weights is not None:
            seconds = run_photographs(folder, num_photographs, shape, costs, detector_weights)
            errors.append(report("label, photographs", *seconds))
    return int(max(errors) > TOLERANCE)


def measure_costs(detector_weights: str | None) -> Coefficients:
    """Measure the coefficients on small jobs; those of photographs only with a detector."""
    detector = "none" if detector_weights is None else "yunet"
    return calibrate(
        PlanConfig(calibrate=True, detector=detector, detector_weights=detector_weights)
    )


def report(job: str, planned: float, actual: float) -> float:
    """Print planned and actual seconds, and return the relative error."""
    error = planned / actual - 1
    print(f"{job}: planned {planned:.1f} s, actual {actual:.1f} s, {error:+.1%}", flush=True)
    return abs(error)


def run_crops(
    folder: Path, number: int, shape: ClusterShape, costs: Coefficients
) -> tuple[float, float]:
    images, labels = draw_faces(number, seed=1)
    (folder / "crops.zip").write_bytes(to_zip(Faces(images, labels, ["train"] * number)))
    planned = plan_label(number, shape, costs, megapixels=None)
    output = folder / "labels"
    with quietly():
        result = label.run(
            LabelConfig(images=str(folder / "crops.zip"), output=str(output), detector="none")
        )
    files = [*(output / "faces").iterdir()]
    written = sum(file.stat().st_size for file in files)
    print(f"label: planned {planned.output_bytes:,} bytes, written {written:,}")
    print(f"label: planned {chunk_sizes(number)[1]} chunks, written {len(files)}")
    return planned.seconds, result["seconds"]


def run_photographs(
    folder: Path, number: int, shape: ClusterShape, costs: Coefficients, weights: str
) -> tuple[float, float]:
    """Label drawn faces of the size of photographs, in which the detector finds no faces."""
    (folder / "photographs").mkdir()
    faces, _ = draw_faces(16, seed=3)
    encoded = [encode(photograph(face), "JPEG") for face in faces]
    for place in range(number):
        (folder / "photographs" / f"{place:05d}.jpg").write_bytes(encoded[place % len(encoded)])
    planned = plan_label(number, shape, costs, megapixels=MEGAPIXELS, faces_per_image=0.0)
    with quietly():
        result = label.run(
            LabelConfig(
                images=str(folder / "photographs"),
                output=str(folder / "found"),
                detector_weights=weights,
            )
        )
    print(f"label, photographs: {result['faces']} faces in {result['images']}")
    return planned.seconds, result["seconds"]


def ingest_faces(folder: Path, number: int) -> str:
    """Ingest so many drawn faces for training, and an eighth as many for scoring."""
    images, labels = draw_faces(number + number // 8, seed=2)
    splits = ["train"] * number + ["val"] * (number // 8)
    (folder / "drawn.csv").write_bytes(to_csv(Faces(images, labels, splits)))
    with quietly():
        ingest.run(IngestConfig(source=(str(folder / "drawn.csv"),), output=str(folder / "data")))
    return str(folder / "data")


def run_train(
    folder: Path, data: str, model: Model, number: int, shape: ClusterShape, costs: Coefficients
) -> tuple[float, float]:
    network = planned_network(PlanConfig(job="train", model=model), costs)
    print(f"train, {model}: {network.ratio:.2f} times the work of {network.measured_as}")
    planned = plan_train(number, NUM_EPOCHS, shape, costs, network)
    output = str(folder / model)
    with quietly():
        result = train.run(
            TrainConfig(dataset=data, output=output, model=model, num_epochs=NUM_EPOCHS)
        )
    return planned.seconds, result["seconds"]


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
