"""The metrics of a run, epoch by epoch, as JSON lines and as TensorBoard events."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def to_json_lines(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the metrics as JSON lines, one line per epoch."""
    return "".join(json.dumps(epoch) + "\n" for epoch in history).encode()


def from_json_lines(lines: bytes) -> list[dict[str, Any]]:
    """Parse the output of ``to_json_lines``."""
    return [json.loads(line) for line in lines.splitlines()]


def tensorboard_events(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the content of a TensorBoard event file that holds the metrics of some epochs.

    Args:
        history: One mapping per epoch, with its number as ``epoch``, the time at which it ended as
            ``finished`` (seconds since 1970), and its metrics. All values are numbers.
    """
    from tensorboardX import SummaryWriter  # noqa: PLC0415 - of the extra train

    with tempfile.TemporaryDirectory(prefix="tensorboard-") as folder:
        with SummaryWriter(folder) as writer:
            for epoch in history:
                for name in sorted(epoch.keys() - {"epoch", "finished"}):
                    writer.add_scalar(name, epoch[name], epoch["epoch"], epoch["finished"])
        (events,) = Path(folder).iterdir()
        return events.read_bytes()
