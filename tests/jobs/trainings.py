"""Small trainings that several files look at, and what they write."""

import json

from ray_jobs import train
from ray_jobs.config import TrainConfig

FAST = ("--model", "conv2", "--num-epochs", "2", "--batch-size", "32", "--lr", "0.02", "--no-int8")


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Trainings(dict):
    """The folder and the RESULT line of each training, by its number of workers, made on demand."""

    def __init__(self, dataset, folder):
        super().__init__()
        self.dataset, self.folder = dataset, folder

    def __missing__(self, workers):
        output = self.folder / workers
        config = TrainConfig(
            dataset=str(self.dataset),
            output=str(output),
            model="conv2",
            num_workers=workers,
            num_epochs=4,
            batch_size=32,
            augment=False,
            lr=0.02,
        )
        self[workers] = output, train.run(config)
        return self[workers]
