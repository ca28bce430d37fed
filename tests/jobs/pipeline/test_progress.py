"""Progress of long work, in a log and on a terminal."""

import re
import time

from ray_jobs.pipeline.progress import progress


def test_log_lines_show_rate_and_time_left(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("Labeling", "images", 12_000) as advance:
        for seconds, done, faces in ((5, 1000, 9), (20, 4000, 1234), (90, 12_000, 5000)):
            now[0] = 100.0 + seconds
            advance(done, faces=f"{faces:,}", failed=2)
    assert capsys.readouterr().err.splitlines() == [
        "Labeling: 1,000 of 12,000 images, 200/s, faces 9, failed 2, 0:00:55 left",
        "Labeling: 4,000 of 12,000 images, 200/s, faces 1,234, failed 2, 0:00:40 left",
        "Labeling: 12,000 of 12,000 images, 129/s, faces 5,000, failed 2",
    ]


def test_details_with_a_new_name_are_logged_at_once(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("Training", "steps") as advance:
        for seconds, details in ((1, {"loss": 3}), (2, {"loss": 2}), (3, {"lost_workers": 1})):
            now[0] = float(seconds)
            advance(seconds, **details)
    assert capsys.readouterr().err.splitlines() == [
        "Training: 1 steps, 1/s, loss 3",
        "Training: 3 steps, 1/s, lost workers 1",
    ]


def test_units_of_an_earlier_run_do_not_count_for_the_rate(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("Training", "steps", 6720, initial=4480) as advance:
        now[0] = 10.0
        advance(4500)
    assert capsys.readouterr().err == ("Training: 4,500 of 6,720 steps, 2/s, 0:18:30 left\n")


def test_a_slow_start_does_not_count_once_there_is_more(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("Training", "steps", 120) as advance:
        for seconds, done in ((20, 0), (32, 1), (36, 1), (38, 13), (43, 23)):
            now[0] = float(seconds)
            advance(done)
    assert capsys.readouterr().err.splitlines() == [
        "Training: 0 of 120 steps",
        "Training: 1 of 120 steps, 0.031/s, 1:03:28 left",
        "Training: 23 of 120 steps, 2/s, 0:00:48 left",
    ]


def test_without_a_total_no_time_left_is_shown(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("Labeling", "images") as advance:
        now[0] = 40.0
        advance(10)
    assert capsys.readouterr().err == "Labeling: 10 images, 0.25/s\n"


def test_a_terminal_shows_a_bar_with_the_same_details(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with progress("Labeling", "images", 100) as advance:
        for done in (20, 40, 60):
            advance(done, faces=done, failed=1)
            time.sleep(0.15)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    elapsed_and_left = r"0:00:0\d 0:00:0\d"
    assert re.search(rf"60/100 images \d+/s faces 60, failed 1 {elapsed_and_left}", shown)
