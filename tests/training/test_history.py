import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from fer.training.history import from_json_lines, tensorboard_events, to_json_lines

HISTORY = [
    {"epoch": epoch, "val_accuracy": epoch / 10, "step": 224 * epoch, "finished": 1e9 + epoch}
    for epoch in (1, 2, 3)
]


def scalars(events):
    """Parse TensorFlow records: the length, its checksum, the content, its checksum."""
    found, start = {}, 0
    while start < len(events):
        (length,) = struct.unpack_from("<Q", events, start)
        event = Event.FromString(events[start + 12 : start + 12 + length])
        for value in event.summary.value:
            found[value.tag, event.step] = (value.simple_value, event.wall_time)
        start += length + 16
    return found


def test_json_lines_round_trip():
    assert from_json_lines(to_json_lines(HISTORY)) == HISTORY


def test_events_hold_every_metric_of_every_epoch():
    found = scalars(tensorboard_events(HISTORY))
    assert len(found) == 6
    assert found["val_accuracy", 2] == (pytest.approx(0.2), 1e9 + 2)
    assert found["step", 3] == (672, 1e9 + 3)


def test_events_of_one_epoch_are_a_complete_file():
    assert scalars(tensorboard_events(HISTORY[2:])).keys() == {("val_accuracy", 3), ("step", 3)}
