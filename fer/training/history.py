"""What a run scored, epoch by epoch, as JSON lines and as TensorBoard events."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


def to_json_lines(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the metrics of each epoch as a line of JSON."""
    return "".join(json.dumps(epoch) + "\n" for epoch in history).encode()


def from_json_lines(lines: bytes) -> list[dict[str, Any]]:
    """Return what ``to_json_lines`` was given."""
    return [json.loads(line) for line in lines.splitlines()]


def tensorboard_events(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return epochs of a run as one file of TensorBoard events.

    Args:
        history: For each epoch its number as ``epoch``, the time at which it ended as ``finished``
            (seconds since 1970), and its metrics, numbers all of them.
    """
    with tempfile.TemporaryDirectory(prefix="tensorboard-") as folder:
        with SummaryWriter(folder) as writer:
            for epoch in history:
                for name in sorted(epoch.keys() - {"epoch", "finished"}):
                    writer.add_scalar(name, epoch[name], epoch["epoch"], epoch["finished"])
        (events,) = Path(folder).iterdir()
        return events.read_bytes()
