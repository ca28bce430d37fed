"""A trained checkpoint to the weights that the package ships, in half precision, with a model card.

    fer evaluate --dataset runs/voted --checkpoint runs/deep --split val --output runs/plain
    fer evaluate --dataset runs/voted --checkpoint runs/deep --split val --tta --output runs/tta
    python tools/bundle_weights.py runs/deep --plain runs/plain --tta runs/tta

The reports must be of ``val``, on which the network was chosen: the card says so.
"""

import argparse
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import jinja2

from fer.checkpoint import CheckpointConfig, load_checkpoint, pack_checkpoint
from fer.predictor import BUNDLED_WEIGHTS

NOT_OF_THE_RECIPE = frozenset(
    ("dataset", "output", "from_checkpoint", "mlflow_uri", "resume", "overwrite")
)
"""Flags that say where something lay on the machine that trained, or how it was started."""

CARD = Path(__file__).with_name("model_card.md")


def halve(location: str) -> tuple[dict[str, bytes], CheckpointConfig]:
    """Return a network's files in half precision by name, and what is known of it."""
    checkpoint = load_checkpoint(location)
    (model,), (config,) = checkpoint.models, checkpoint.configs
    provenance = dataclasses.asdict(config)
    for derived in ("id", "architecture", "parameters", "schema_version"):
        del provenance[derived]
    recipe = {
        name: value for name, value in config.training.items() if name not in NOT_OF_THE_RECIPE
    }
    provenance |= {"training": recipe, "data": {"fingerprint": config.data["fingerprint"]}}
    return pack_checkpoint(model.half(), config.architecture, **provenance), config


def read_report(folder: Path) -> dict[str, Any]:
    """Return the scores of the one checkpoint of a report."""
    report = json.loads((folder / "report.json").read_text())
    if report["split"] != "val":
        raise SystemExit(f"{folder} scores {report['split']}: expected a report of val.")
    (scores,) = report["checkpoints"]
    return {**report, **scores}


def main() -> None:
    """Write ``fer/weights``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--plain", type=Path, required=True, help="report without --tta")
    parser.add_argument("--tta", type=Path, required=True, help="report with --tta")
    arguments = parser.parse_args()
    files, config = halve(arguments.checkpoint)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    )
    card = jinja2.Template(CARD.read_text(), undefined=jinja2.StrictUndefined).render(
        config=config,
        id=json.loads(files["config.json"])["id"],
        recipe=json.loads(files["config.json"])["training"],
        megabytes=len(files["model.safetensors"]) / 1e6,
        plain=read_report(arguments.plain),
        tta=read_report(arguments.tta),
        commit=commit.stdout.strip(),
    )
    BUNDLED_WEIGHTS.mkdir(exist_ok=True)
    for name, content in {**files, "README.md": card.encode()}.items():
        (BUNDLED_WEIGHTS / name).write_bytes(content)


if __name__ == "__main__":
    main()
