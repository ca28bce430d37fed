"""Load of a server by ``wrk``: its rate and latencies, and the CPU time of a response."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPT = """
local bodies = {}
for name in string.gmatch(os.getenv("BODIES"), "[^\\n]+") do
  local file = io.open(name, "rb")
  table.insert(bodies, file:read("*a"))
  file:close()
end
local turn = 0
request = function()
  turn = turn % #bodies + 1
  return wrk.format("POST", nil, {["Content-Type"] = os.getenv("CONTENT_TYPE")}, bodies[turn])
end
if os.getenv("PAUSE_MS") then
  delay = function() return tonumber(os.getenv("PAUSE_MS")) end
end
"""


@dataclass(frozen=True)
class Load:
    """Results of wrk.

    Attributes:
        rate: Successful responses per second.
        p50: Median latency in milliseconds, over all responses.
        p99: 99th percentile of the latency in milliseconds.
        refused: Number of responses that were not successful.
        costs: CPU time of a response, by process.
    """

    rate: float
    p50: float
    p99: float
    refused: int
    costs: str

    def __str__(self) -> str:
        refused = f", {self.refused} refused" if self.refused else ""
        latency = f"p50 {self.p50:6.0f} ms, p99 {self.p99:6.0f} ms{refused}"
        return f"{self.rate:6.0f} /s, {latency} (CPU ms per response: {self.costs})"


def load_server(
    server: tuple[str, psutil.Process],
    path: str,
    bodies: Sequence[Path],
    kind: str,
    connections: int,
    seconds: int,
    *,
    pause_ms: float | None = None,
) -> Load:
    """Load a server. Each client sends its next request after a response and a pause."""
    address, process = server
    pause = {} if pause_ms is None else {"PAUSE_MS": f"{pause_ms:.0f}"}
    before = cpu_seconds(process)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        timing = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency"]
        output = subprocess.run(
            ["wrk", *timing, "-s", script.name, address + path],
            check=True,
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "BODIES": "\n".join(map(str, bodies)),
                "CONTENT_TYPE": kind,
                **pause,
            },
        ).stdout
    if broken := re.search(r"Socket errors: (.*)", output):
        print(f"{address}: connections failed: {broken[1]}", file=sys.stderr)
    total = int(re.search(r"(\d+) requests in", output)[1])
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    bad = int(refused[1]) if refused else 0
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]) * (1 - bad / max(1, total))
    costs = cpu_costs(process, before, total)
    return Load(rate, percentile(output, "50%"), percentile(output, "99%"), bad, costs)


def percentile(output: str, which: str) -> float:
    """Return a percentile of the latency in milliseconds, read from the output of wrk."""
    number, unit = re.search(rf"\s{which}\s+([\d.]+)(us|ms|s|m)\b", output).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit]


def cpu_seconds(process: psutil.Process) -> Counter[str]:
    """Return the CPU time that a server's processes have used so far, by their names."""
    used: Counter[str] = Counter()
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = member.cpu_times()
            used[short_name(member)] += times.user + times.system
    return used


def short_name(process: psutil.Process) -> str:
    """Return the class of an actor, without the method that it runs, or the program's name."""
    first = (process.cmdline() or ["?"])[0]
    name = first.split(".")[0] if first.startswith("ray::") else Path(first).name
    return name.removeprefix("ray::")


def cpu_costs(process: psutil.Process, before: Counter[str], responses: int) -> str:
    """Return CPU milliseconds per response of the four processes that used the most."""
    used = (cpu_seconds(process) - before).most_common(4)
    return ", ".join(f"{name} {1000 * cpu / max(1, responses):.2f}" for name, cpu in used)
