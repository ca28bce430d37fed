"""Turn a trained checkpoint into the weights and the model card that the package ships.

Run these four commands in order; the first stores the weights in half precision:

    python scripts/bundle_weights.py bundled weights runs/residual --dataset runs/data
    fer evaluate --dataset runs/data --checkpoint bundled --split val --output runs/plain
    fer evaluate --dataset runs/data --checkpoint bundled --split val --tta --output runs/tta
    python scripts/bundle_weights.py bundled card --plain runs/plain --tta runs/tta

Both reports must evaluate the shipped weights on ``val``. The card says that the network was chosen
on the same split. What the network is, and how it was trained, stands in ``scripts/recipes``.
"""

import argparse
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import jinja2

from fer.data.dataset import open_dataset
from fer.models.checkpoint import (
    CONFIG,
    GRAPH,
    INT8_GRAPH,
    WEIGHTS,
    CheckpointConfig,
    load_checkpoint,
    read_config,
)
from fer.models.engine import with_graphs
from fer.models.networks import build_network, pack_checkpoint
from fer.models.onnx_engine import OnnxEngine
from fer.models.quantization import calibrate_int8
from fer.models.shipped import SHIPPED
from ray_jobs.config import TrainConfig

EXCLUDED_FLAGS = frozenset(
    ("dataset", "output", "from_checkpoint", "teacher", "mlflow_uri", "resume", "overwrite")
)
"""Flags that hold locations on the training machine, or that say how the run was started."""

FOLDER = Path(__file__).parent
"""Holds the template of the model cards, and the recipe of each shipped network."""


def pack_half_precision(location: str) -> dict[str, bytes]:
    """Return the content of a network's files by name, with the weights in half precision."""
    (member,) = load_checkpoint(location).members
    config = member.config
    provenance = dataclasses.asdict(config)
    derived_fields = ("id", "architecture", "image_size", "channels", "parameters")
    for derived in (*derived_fields, "schema_version"):
        del provenance[derived]
    recipe = {name: value for name, value in config.training.items() if name not in EXCLUDED_FLAGS}
    provenance |= {"training": recipe, "data": {"fingerprint": config.data["fingerprint"]}}
    return pack_checkpoint(build_network(member).half(), config.architecture, **provenance)


def read_report(folder: Path, config: CheckpointConfig, *, tta: bool) -> dict[str, Any]:
    """Return the report of the shipped weights in a folder.

    Raises:
        SystemExit: The report is about another network, split or dataset, or differs in ``tta``.
    """
    report = json.loads((folder / "report.json").read_text())
    (scores,) = report["checkpoints"]
    expected = {"split": "val", "tta": tta, "fingerprint": config.data["fingerprint"]}
    for name, value in {**expected, "id": config.id}.items():
        if (found := {**report, **scores}[name]) != value:
            raise SystemExit(f"{folder} is a report with the {name} {found}; expected {value}.")
    return {**report, **scores}


def write_weights(shipped: str, location: str, dataset: str) -> None:
    """Write a checkpoint into the folder of a shipped one, in half precision."""
    SHIPPED[shipped].mkdir(exist_ok=True)
    for graph in (GRAPH, INT8_GRAPH):
        (SHIPPED[shipped] / graph).unlink(missing_ok=True)
    for name, content in pack_half_precision(location).items():
        (SHIPPED[shipped] / name).write_bytes(content)
    write_graphs(shipped, dataset)


def write_graphs(shipped: str, dataset: str) -> None:
    """Write the graphs of shipped weights, by which processors run them without torch.

    Args:
        shipped: Name of the shipped checkpoint.
        dataset: The dataset that the network was trained on, which calibrates the int8 form.
    """
    (member,) = with_graphs(load_checkpoint(shipped)).members
    assert member.graph is not None
    (SHIPPED[shipped] / GRAPH).write_bytes(member.graph)
    (SHIPPED[shipped] / INT8_GRAPH).write_bytes(calibrate_int8(member, open_dataset(dataset)))


def changed_flags(config: CheckpointConfig) -> dict[str, Any]:
    """Return the flags that a network was trained with, but for those that had their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    training = {name: value for name, value in config.training.items() if name in defaults}
    return {name: value for name, value in training.items() if value != defaults[name]}


def write_card(shipped: str, plain: Path, tta: Path) -> None:
    """Write the model card of shipped weights from two reports, and their scores.

    Args:
        shipped: Name of the shipped checkpoint.
        plain: Folder of the report without ``--tta``.
        tta: Folder of the report with ``--tta``.
    """
    config = read_config(shipped)
    reports = {
        "plain": read_report(plain, config, tta=False),
        "tta": read_report(tta, config, tta=True),
    }
    # Training scored the weights in single precision; these are the scores in half precision.
    scored = reports["plain"]
    scores = {
        "val_loss": scored["log_loss"],
        "val_accuracy": scored["accuracy"]["value"],
        "val_macro_f1": scored["macro_f1"],
        "val_accuracy_without_copies": scored["without_copies"]["accuracy"]["value"],
        "val_macro_f1_without_copies": scored["without_copies"]["macro_f1"],
    }
    (SHIPPED[shipped] / CONFIG).write_text(dataclasses.replace(config, scores=scores).to_json())
    (member,) = load_checkpoint(shipped).members
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), undefined=jinja2.StrictUndefined, autoescape=False
    )
    card = environment.get_template("model_card.md").render(
        shipped=shipped,
        is_default=shipped == "bundled",
        config=config,
        flags=changed_flags(config),
        int8=OnnxEngine(member, name="int8").int8_scores,
        megabytes=(SHIPPED[shipped] / WEIGHTS).stat().st_size / 1e6,
        **reports,
        commit=commit.stdout.strip(),
    )
    (SHIPPED[shipped] / "README.md").write_text(card + "\n")


def main() -> None:
    """Run one of the two steps that write a folder of ``fer/weights``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shipped", choices=sorted(SHIPPED), help="name of the shipped checkpoint")
    steps = parser.add_subparsers(dest="step", required=True)
    weights = steps.add_parser("weights", help="write the weights of a checkpoint")
    weights.add_argument("checkpoint", help="folder or URI of the checkpoint to ship")
    weights.add_argument("--dataset", required=True, help="folder of the dataset it learned from")
    card = steps.add_parser("card", help="write the model card of the shipped weights")
    card.add_argument(
        "--plain", type=Path, required=True, help="folder of the report without --tta"
    )
    card.add_argument("--tta", type=Path, required=True, help="folder of the report with --tta")
    arguments = parser.parse_args()
    if arguments.step == "weights":
        write_weights(arguments.shipped, arguments.checkpoint, arguments.dataset)
    else:
        write_card(arguments.shipped, arguments.plain, arguments.tta)


if __name__ == "__main__":
    main()
