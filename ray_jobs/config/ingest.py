"""The flags of ``fer ingest``."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fer.errors import InputError
from fer.vision.shape import MAX_SIZE, MIN_SIZE
from ray_jobs.config.checks import (
    forbid_together,
    require,
    require_fraction,
    require_fraction_below_one,
    require_web_address,
)
from ray_jobs.config.types import Location, Locations, OptionalLocation, OptionalUrl
from ray_jobs.flag_help import with_help


@with_help
@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Turn FER2013 and image archives into a dataset of Parquet files."""

    source: Locations
    """One or more paths or URIs of CSV files (fer2013.csv, icml_face_data.csv, train.csv), of
    Hugging Face's Parquet files, of folders with one subfolder for each class, or of zip and tar
    archives that hold these."""
    output: Location
    """Folder or URI where the dataset is written."""
    split_from: Literal["auto", "usage", "filename", "folder", "hash"] = "auto"
    """Where the split of an example is read from: the column Usage or split of the table (usage),
    the table's name or the start of the image's name (filename), the folders and archives above the
    file (folder) or a hash of the pixels (hash). auto uses the first of these that names a
    split."""
    val_fraction: float = 0.0
    """Fraction of train examples that become val examples, at least 0 and below 1. Use it for
    sources that have train and test examples only. Copies of an image stay together."""
    classes: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Class names in the order of their labels, to replace FER2013's seven classes. Other names of
    a class follow an equals sign: --classes surprise=1 fear=2 disgust=3 reads the folders 1, 2 and
    3 as these classes."""
    votes: OptionalLocation = None
    """Path or URI of the FER+ votes (fer2013new.csv) for the rows of FER2013's CSV file. By default
    no votes are stored."""
    image_size: int = 48
    """Side in pixels of the dataset's square images, from 24 to 224. The rows of a CSV file are
    scaled to it."""
    color: bool = False
    """Keep the colors of images: red, green and blue for each pixel instead of a gray level."""
    detector: Literal["none", "yunet"] = "none"
    """What of an image file becomes an example: its largest centered square (none), or its largest
    face, found and cropped as fer label does (yunet). Files without a face are rejected."""
    detector_weights: OptionalLocation = None
    """Path or URI of YuNet's ONNX file. By default the file of OpenCV's model zoo is used, which is
    downloaded once."""
    all_files: bool = False
    """Also open files whose names do not end like those of images, and read those whose content is
    an image. Tables and archives still need their endings."""
    max_reject_fraction: float = 0.05
    """Largest fraction of rejected examples, from 0 to 1, with which the job still succeeds."""
    notify: OptionalUrl = None
    """http:// or https:// URL that gets a POST when the job ends: the RESULT line, or the error and
    the exit code. With a secret in the environment variable FER_NOTIFY_SECRET it is signed. By
    default nothing is sent."""
    overwrite: bool = False
    """Replace the dataset that --output already holds."""

    def __post_init__(self) -> None:
        require_web_address(self, "notify")
        require(bool(self.source), "--source", "one or more locations", "missing")
        require_fraction(self, "max_reject_fraction")
        require_fraction_below_one(self, "val_fraction")
        is_size = MIN_SIZE <= self.image_size <= MAX_SIZE
        require(is_size, "--image-size", f"from {MIN_SIZE} to {MAX_SIZE}", self.image_size)
        forbid_together(self, "votes", "val_fraction")
        if self.val_fraction and self.split_from == "hash":
            raise InputError(
                "--val-fraction divides a train split that the sources name, but --split-from hash "
                "makes val examples by itself; give one of them."
            )
