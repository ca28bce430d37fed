"""The estimates of ``fer plan``: their arithmetic, and how the command reports them."""

import dataclasses
import json
from dataclasses import replace

import pytest

from fer.cost_model import (
    ClusterShape,
    Coefficients,
    PlannedNetwork,
    chunk_sizes,
    exchange_seconds,
    plan_label,
    plan_train,
)
from fer.data.fetching import NUM_FETCHED_AHEAD
from fer.data.items import SourceItem
from fer.labels import chunks
from ray_jobs.__main__ import main

COSTS = Coefficients(
    measured="nowhere",
    crop=0.001,
    decode=0.01,
    detect=0.02,
    classify=0.005,
    pipeline=0.001,
    label_start=10.0,
    row_bytes=100.0,
    chunk_bytes=1000.0,
    train={"deep": 0.01},
    val={"deep": 0.004},
    train_start=20.0,
    epoch=0.5,
    gpu_train={},
    gpu_val={},
)
DEEP = PlannedNetwork(4_474_759, "deep")
ONE, MANY = ClusterShape(1, 1), ClusterShape(8, 16, price=0.5)


@pytest.fixture
def measured(tmp_path):
    location = str(tmp_path / "costs.json")
    COSTS.write(location)
    return location


def plan(capsys, *arguments):
    code = main(["plan", *map(str, arguments)])
    captured = capsys.readouterr()
    if code:
        return captured.err
    return json.loads(captured.out.splitlines()[-1].removeprefix("RESULT ")), captured.err


def test_one_core_takes_the_sum_of_all_work():
    crops = plan_label(1000, ONE, COSTS, megapixels=None)
    assert crops.seconds == pytest.approx(10 + 1000 * (0.001 + 0.005 + 0.001))
    photographs = plan_label(1000, ONE, COSTS, megapixels=2.0, faces_per_image=3.0)
    # The detector scales a larger photograph to 1024 by 768 pixels.
    detection_megapixels = 0.786432
    per_image = 2 * 0.01 + detection_megapixels * 0.02 + 3 * 0.005 + 0.001
    assert photographs.seconds == pytest.approx(10 + 1000 * per_image)
    _, num_chunks = chunk_sizes(1000)
    assert crops.output_bytes == 100_000 + 1000 * num_chunks
    assert photographs.output_bytes == 300_000 + 1000 * num_chunks


def test_many_cores_share_the_images_and_wait_for_the_last_chunk():
    seconds_by_stage = plan_label(
        1_000_000, MANY, COSTS, megapixels=None, node_start_seconds=60
    ).seconds_by_stage
    assert seconds_by_stage["images"] == pytest.approx(1_000_000 * 0.007 / 128)
    assert seconds_by_stage["last chunk"] == pytest.approx(chunks.MAX_IMAGES * 0.007 / 2)
    assert seconds_by_stage["start"] == 70


def test_a_slow_store_delays_only_who_waits_longer_than_he_computes():
    def seconds(request):
        return plan_label(
            1000, ONE, COSTS, megapixels=1.0, request_seconds=request
        ).seconds_by_stage["images"]

    compute = 0.01 + 0.786432 * 0.02 + 0.005 + 0.001
    assert seconds(0.0) == seconds(0.1) == pytest.approx(1000 * compute)
    assert seconds(0.3) == pytest.approx(1000 * 2 * 0.3 / NUM_FETCHED_AHEAD)


@pytest.mark.parametrize("number", [1, 31, 32, 500, 4000, 70_000])
def test_chunks_are_counted_as_they_are_cut(number):
    cut = [
        len(chunk.items)
        for chunk in chunks.split_into_chunks(SourceItem("image", "a") for _ in range(number))
    ]
    largest, num_chunks = chunk_sizes(number)
    assert num_chunks == pytest.approx(len(cut), rel=0.05, abs=1)
    assert largest == pytest.approx(max(*cut, 32), rel=0.1)


def test_a_plan_for_a_billion_images_takes_no_time():
    requests = plan_label(10**9, MANY, COSTS, megapixels=1.0).requests
    assert requests["list"] == 10**6
    assert requests["get"] == pytest.approx(2 * 10**9, rel=1e-2)
    assert requests["put"] == pytest.approx(6 * 10**9 / chunks.MAX_IMAGES, rel=0.01)


def test_training_shares_steps_and_exchanges_gradients():
    alone = plan_train(1280, 10, ONE, COSTS, DEEP)
    assert alone.seconds_by_stage["steps"] == pytest.approx(10 * 1280 * 0.01)
    assert alone.seconds_by_stage["gradients"] == 0
    assert alone.seconds_by_stage["scoring"] == pytest.approx(10 * 160 * 0.004)
    shared = plan_train(1280, 10, MANY, COSTS, DEEP)
    assert shared.seconds_by_stage["steps"] == pytest.approx(alone.seconds_by_stage["steps"] / 128)
    assert shared.seconds_by_stage["gradients"] == pytest.approx(
        100 * exchange_seconds(4 * 4_474_759, 8, 10.0)
    )


def test_gpus_train_and_score():
    costs = replace(COSTS, gpu_train={"deep": 1e-4}, gpu_val={"deep": 2e-5})
    two = plan_train(1280, 10, ClusterShape(2, 16, gpus=1), costs, DEEP).seconds_by_stage
    assert two["steps"] == pytest.approx(10 * 1280 * 1e-4 / 2)
    assert two["scoring"] == pytest.approx(10 * 160 * 2e-5 / 2)


def test_a_network_of_half_the_work_takes_half_the_time():
    half = plan_train(1280, 10, ONE, COSTS, PlannedNetwork(1000, "deep", 0.5)).seconds_by_stage
    assert half["steps"] == pytest.approx(10 * 1280 * 0.005)
    assert half["scoring"] == pytest.approx(10 * 160 * 0.002)


def test_the_most_similar_measured_network_stands_for_one_that_was_not(capsys, tmp_path):
    measured = str(tmp_path / "costs.json")
    train = {"deep": 0.01, "conv4": 0.001, "resnet10-w48": 0.006}
    replace(COSTS, train=train, val=dict.fromkeys(train, 0.004)).write(measured)
    flags = ("--coefficients", measured, "--job", "train", "--model")

    def measured_as(*more):
        result, table = plan(capsys, *flags, *more)
        return result["measured_as"], result["parts"]["steps"], table

    name, own, table = measured_as("resnet10-w48")
    assert (name, "follows from" in table) == ("resnet10-w48", False)
    name, smaller, table = measured_as("resnet4-w32")
    assert name == "resnet10-w48"
    assert "The time of resnet4-w32 follows from that of resnet10-w48." in table
    assert smaller < 0.3 * own
    # A convolution takes four times as long on an image of twice the side.
    assert measured_as("resnet10-w48", "--image-size", 96)[1] == pytest.approx(4 * own, rel=0.02)
    # Of two like it, the one whose work is nearer.
    assert measured_as("shallow")[0] == "conv4"
    assert measured_as("conv8")[0] == "deep"


def test_a_ring_sends_at_most_twice_the_gradients_for_any_number_of_workers():
    assert exchange_seconds(10**9 // 8, 1, 1.0) == 0
    assert exchange_seconds(10**9 // 8, 2, 1.0) == pytest.approx(1.0)
    assert exchange_seconds(10**9 // 8, 64, 1.0) == pytest.approx(2 * 63 / 64)


def test_cost_is_node_time_plus_number_of_requests():
    planned = dataclasses.replace(
        plan_label(1, MANY, COSTS, megapixels=None),
        seconds=7200.0,
        requests={"list": 10**6, "get": 10**6, "put": 0},
    )
    assert planned.cost(MANY) == pytest.approx({"nodes": 8.0, "requests": 5.4})


def test_plan_prints_a_table_and_a_result(capsys, measured):
    result, table = plan(
        capsys, "--coefficients", measured, "--detector", "none", "--num-images", 1000,
        "--cpus-per-node", 1,
    )  # fmt: skip
    assert result["seconds"] == 17.0
    assert result["coefficients"]["measured"] == "nowhere"
    for words in ("label: 1,000 images", "17.0 s", "get requests", "Measured on: nowhere"):
        assert words in table


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--job", "train", "--model", "vgg11"),
            "do not cover networks like vgg11 on a CPU; run --calibrate with --model vgg11.",
        ),
        (
            ("--job", "train", "--model", "alexnet", "--image-size", 112),
            "do not cover networks like alexnet on a CPU; run --calibrate with --model vgg11.",
        ),
        (
            ("--calibrate", "--model", "alexnet"),
            "48x48 pixels, which alexnet does not take; choose --model vgg11, from which its time",
        ),
        (
            ("--job", "train", "--gpus-per-node", 1),
            "run --calibrate with --model deep --use-gpu on a machine",
        ),
        (("--image-size", 23), "--image-size must be from 24 to 224, but is 23"),
        (
            ("--job", "train", "--model", "alexnet", "--image-size", 24),
            "alexnet takes images of 63x63 to 224x224 pixels, but these are 24x24 gray",
        ),
        ((), "(nowhere) do not cover detection; run --calibrate with a detector, or plan for"),
        (("--num-nodes", 0), "--num-nodes must be at least 1, but is 0"),
    ],
)
def test_plan_refuses_to_guess_unmeasured_coefficients(capsys, tmp_path, flags, sentence):
    measured = str(tmp_path / "costs.json")
    replace(COSTS, detect=0.0).write(measured)
    assert sentence in plan(capsys, "--coefficients", measured, *flags)


@pytest.mark.parametrize("content", [b"{}", b"junk", None])
def test_rejects_files_that_hold_no_coefficients(capsys, tmp_path, content):
    file = tmp_path / "other.json"
    if content is not None:
        file.write_bytes(content)
    error = plan(capsys, "--coefficients", file)
    assert error.startswith(f"fer: --coefficients {file} ")
    assert "with --calibrate" in error
