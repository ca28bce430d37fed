"""A benchmark's rates on two revisions, which take turns on the same cores.

    git worktree add ../before v0.1.0
    python benchmarks/revisions.py ../before . --arguments label.py stub --repeats 1

The benchmark is that of this folder; only what it imports of fer and ray_jobs differs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from turns import Measured, take_turns


def main(
    before: tyro.conf.Positional[Path],
    after: tyro.conf.Positional[Path],
    arguments: tuple[str, ...],
    turns: int = 3,
) -> None:
    """Run a benchmark on two checkouts in turn, and print both medians of each rate.

    Args:
        before: Checkout of the earlier revision.
        after: Checkout of the later revision.
        arguments: Benchmark to run, and its arguments. Its last line has "rates" in JSON.
        turns: Number of turns of each checkout.
    """
    checkouts = {"before": before, "after": after}
    sides = [
        lambda name=name, checkout=checkout: rates(name, checkout, arguments)
        for name, checkout in checkouts.items()
    ]
    measured = take_turns(sides, turns)
    for (side, rate), earlier in measured.items():
        if side == "before":
            later = measured["after", rate]
            print(
                f"{rate:16} before {earlier:9,.1f}/s, after {later:9,.1f}/s: {later / earlier:.2f}"
            )


def rates(side: str, checkout: Path, arguments: Sequence[str]) -> Measured:
    """Run a benchmark on a checkout, and return its rates by the side's name and their own."""
    script, *rest = arguments
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *rest],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    print(f"{side}: {done.stdout}", flush=True)
    return {
        (side, rate): value
        for rate, value in json.loads(done.stdout.splitlines()[-1])["rates"].items()
    }


if __name__ == "__main__":
    tyro.cli(main)
