"""The command line: how flags are parsed, and how misuse is explained."""

import pytest

from ray_jobs.__main__ import main, parse, spread_repeatable


def test_one_flag_with_several_values_equals_repeated_flags():
    once = ["evaluate", "--checkpoint", "a", "b", "--split", "val"]
    assert spread_repeatable(once) == [
        *("evaluate", "--checkpoint", "a", "--checkpoint", "b", "--split", "val"),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("ingest --source a --output b --max-reject-fraction 2", "from 0 to 1, but is 2."),
        ("train --dataset a --output b --num-epochs 0", "--num-epochs must be at least 1"),
        ("train --dataset a --output b --num-workers 3:2", "--num-workers must be N or MIN:MAX"),
        ("train --dataset a --output b --num-workers x", "--num-workers must be N or MIN:MAX"),
        ("train --dataset a --output b --lr -1", "--lr must be above 0, but is -1."),
        ("train --dataset a --output b --warmup-fraction 1", "at least 0 and below 1, but is 1."),
        ("train --dataset a --output b --gradient-clip -1", "at least 0, but is -1."),
        ("train --dataset a --output b --max-rotation 200", "from 0 to 180, but is 200."),
        ("train --dataset a --output b --max-zoom 1", "--max-zoom must be at least 0 and below 1"),
        ("train --dataset a --output b --erase-fraction 2", "from 0 to 1, but is 2."),
        ("train --dataset a --output b --mixup -1", "--mixup must be at least 0, but is -1."),
        (
            "train --dataset a --output b --initial-size 32",
            "--initial-size needs a network that takes images of any size, but deep takes",
        ),
        (
            "train --dataset a --output b --model resnet10-w32 --initial-size 20",
            "--initial-size must be at least 24, but is 20",
        ),
        (
            "train --dataset a --output b --model resnet10-w32 --pooling fractional",
            "--pooling fractional needs a --model that pools, but resnet10-w32 downsamples by",
        ),
        (
            "tune --dataset a --output b --model resnet10-w32 --study pooling",
            "--study pooling needs a --model that pools, but resnet10-w32 downsamples by strides",
        ),
        (
            "train --dataset a --output b --resume --overwrite",
            "--resume and --overwrite cannot be combined; give one of them.",
        ),
        (
            "label --images a --output b --resume --update --overwrite",
            "--resume, --update and --overwrite cannot be combined; give one of them.",
        ),
        (
            "train --dataset a --output b --num-workers 1:5 --batch-size 8",
            "--num-workers allows 5 workers, which need a --batch-size of at least 10",
        ),
        ("label --images a --output b --detector none --limit 0", "--limit must be at least 1"),
        (
            "evaluate --dataset a --checkpoint b --output c --fusion exponential",
            "--fusion exponential needs --ensemble and --split val; give both, or leave",
        ),
        ("demo --num-faces 5", "--num-faces must be at least 100, but is 5"),
        ("demo --seed -1", "--seed must be from 0 to 4294967295, but is -1"),
        ("ingest --source ftp://a --output b", "ftp:// locations cannot be opened"),
        ("label --images a --output b --detector none", "a does not exist: expected"),
        ("", "fer needs a job; choose one of ingest, train, "),
        ("learn --dataset a", "fer has no job learn; choose one of ingest, train, "),
        (
            "train --datset a --output b",
            "fer train has no flag --datset; give --dataset, or see fer train --help.",
        ),
        ("train --output b --no-lr", "fer train has no flag --no-lr; "),
        ("label --bogus=1", "fer label has no flag --bogus; see fer label --help."),
        ("label", "fer label needs --images and --output; see fer label --help."),
        ("train --output=b", "fer train needs --dataset; see fer train --help."),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("fer: ")
    assert sentence in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("--no-such-flag", 2, "--no-such-flag"),
        ("train --dataset a --output b --num-epochs x", 2, "--num-epochs"),
        ("train --dataset a --output b --model small", 2, "--model"),
        ("train --help", 0, "--dataset"),
        ("--help", 0, "train"),
    ],
)
def test_what_tyro_explains_itself(arguments, code, told, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == code
    captured = capsys.readouterr()
    assert told in captured.out + captured.err


def test_every_spelling_of_a_flag_that_tyro_takes_is_known():
    spelled = ["--images=a", "--output", "b", "--use_gpu", "--min_face_size=8", "--no-resume"]
    config = parse(["label", *spelled])
    assert (config.images, config.use_gpu, config.min_face_size) == ("a", True, 8)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["label", "--images", "a", "--output", "b", "--use-gpu"], "--use-gpu"),
        (["serve", "--gpus-per-replica", "0.25"], "--gpus-per-replica"),
    ],
)
def test_int8_and_gpus_do_not_go_together(arguments, flag, capsys):
    assert main([*arguments, "--engine", "int8"]) == 2
    assert capsys.readouterr().err == (
        f"fer: --engine int8 runs on processors alone; leave it out, or leave out {flag}.\n"
    )


def test_relative_locations_of_a_submitted_job_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["ingest", "--source", "a.csv", "--output", "/tmp/b"]) == 2
    assert "--source a.csv is a relative path, but Ray deletes" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_rejects_an_address_for_submitted_jobs(monkeypatch, capsys, tmp_path, address):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert main(["demo", "--output", str(tmp_path / "demo"), "--num-faces", "100"]) == 2
    error = capsys.readouterr().err
    assert f"RAY_ADDRESS must be a node's HOST:PORT, such as HOST:6379, but is {address}" in error
    assert "http:// address of a dashboard with ray job submit -- python -m ray_jobs" in error
