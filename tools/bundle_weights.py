"""A trained checkpoint to the weights that the package ships, in half precision, with a model card.

    python tools/bundle_weights.py weights runs/deep
    fer evaluate --dataset runs/voted --checkpoint bundled --split val --output runs/plain
    fer evaluate --dataset runs/voted --checkpoint bundled --split val --tta --output runs/tta
    python tools/bundle_weights.py card --plain runs/plain --tta runs/tta

The reports must be of these weights on ``val``, on which the network was chosen: the card says so.
"""

import argparse
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import jinja2

from fer.models.checkpoint import (
    CONFIG,
    CheckpointConfig,
    load_checkpoint,
    pack_checkpoint,
    read_config,
)
from fer.models.shipped import SHIPPED

NOT_OF_THE_RECIPE = frozenset(
    ("dataset", "output", "from_checkpoint", "teacher", "mlflow_uri", "resume", "overwrite")
)
"""Flags that say where something lay on the machine that trained, or how it was started."""

CARD = Path(__file__).with_name("model_card.md")


def halve(location: str) -> dict[str, bytes]:
    """Return a network's files in half precision by name."""
    checkpoint = load_checkpoint(location)
    (model,), (config,) = checkpoint.models, checkpoint.configs
    provenance = dataclasses.asdict(config)
    for derived in ("id", "architecture", "parameters", "schema_version"):
        del provenance[derived]
    recipe = {
        name: value for name, value in config.training.items() if name not in NOT_OF_THE_RECIPE
    }
    provenance |= {"training": recipe, "data": {"fingerprint": config.data["fingerprint"]}}
    return pack_checkpoint(model.half(), config.architecture, **provenance)


def read_report(folder: Path, config: CheckpointConfig, *, tta: bool) -> dict[str, Any]:
    """Return the scores of the bundled weights, and refuse a report of anything else."""
    report = json.loads((folder / "report.json").read_text())
    (scores,) = report["checkpoints"]
    expected = {"split": "val", "tta": tta, "fingerprint": config.data["fingerprint"]}
    for name, value in {**expected, "id": config.id}.items():
        if (found := {**report, **scores}[name]) != value:
            raise SystemExit(f"{folder} is a report of the {name} {found}: expected {value}.")
    return {**report, **scores}


def write_weights(location: str) -> None:
    """Write the weights of a checkpoint."""
    SHIPPED["bundled"].mkdir(exist_ok=True)
    for name, content in halve(location).items():
        (SHIPPED["bundled"] / name).write_bytes(content)


def write_card(plain: Path, tta: Path) -> None:
    """Write the model card of the weights that are there."""
    config = read_config("bundled")
    reports = {
        "plain": read_report(plain, config, tta=False),
        "tta": read_report(tta, config, tta=True),
    }
    # What was scored in training was in single precision.
    scores = {"val_loss": "log_loss", "val_accuracy": "accuracy", "val_macro_f1": "macro_f1"}
    said = {ours: reports["plain"][theirs] for ours, theirs in scores.items()}
    said["val_accuracy"] = said["val_accuracy"]["value"]
    (SHIPPED["bundled"] / CONFIG).write_text(dataclasses.replace(config, scores=said).to_json())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    )
    card = jinja2.Template(CARD.read_text(), undefined=jinja2.StrictUndefined).render(
        config=config,
        megabytes=(SHIPPED["bundled"] / "model.safetensors").stat().st_size / 1e6,
        **reports,
        commit=commit.stdout.strip(),
    )
    (SHIPPED["bundled"] / "README.md").write_text(card)


def main() -> None:
    """Write ``fer/weights``, a step at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("weights").add_argument("checkpoint")
    card = steps.add_parser("card")
    card.add_argument("--plain", type=Path, required=True, help="report without --tta")
    card.add_argument("--tta", type=Path, required=True, help="report with --tta")
    arguments = parser.parse_args()
    if arguments.step == "weights":
        write_weights(arguments.checkpoint)
    else:
        write_card(arguments.plain, arguments.tta)


if __name__ == "__main__":
    main()
