"""The flags of ``fer label``."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ray_jobs.config.checks import (
    forbid_together,
    require,
    require_at_least,
    require_fraction,
    require_processors,
    require_web_address,
)
from ray_jobs.config.types import (
    BUNDLED,
    Globs,
    Location,
    OptionalFloat,
    OptionalInt,
    OptionalLocation,
    OptionalUrl,
)
from ray_jobs.flag_help import with_help


@with_help
@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Label images and videos: write a table of faces and of the emotions that they show."""

    images: Location
    """Path or URI of the images and videos to label: a folder, an archive, a single file, an s3://
    prefix, or a manifest. A manifest is a CSV, JSON Lines or Parquet file, or a folder of such
    files, with one image, video or archive in each row of its column image, uri, url, path, file,
    filename or key: a URI, or a path relative to the manifest's folder. Its columns size_bytes and
    etag are optional."""
    output: Location
    """Folder or URI where the labels are written."""
    checkpoint: Location = BUNDLED
    """Folder, URI or shipped name of the checkpoint that classifies the faces."""
    detector: Literal["yunet", "none"] = "yunet"
    """How faces are found: yunet detects the faces of photographs; none takes each image as one
    face that is cropped as in FER2013."""
    detector_weights: OptionalLocation = None
    """Path or URI of YuNet's ONNX file. By default the file of OpenCV's model zoo is used, which is
    downloaded once."""
    min_face_size: float = 16.0
    """Smallest width, in pixels of the photograph, of a face that is labeled."""
    any_orientation: bool = False
    """Also find the faces of photographs that lie on a side or upside down without saying so in
    their EXIF. A photograph without clearly upright faces is searched four times, each time turned
    by another 90 degrees."""
    engine: Literal["auto", "float32", "int8"] = "auto"
    """How the network computes. auto is the fastest way that scores as well as float32: int8 on
    processors if the checkpoint has it, bfloat16 on GPUs that support it."""
    use_gpu: bool = False
    """Run the network on the GPUs of the cluster, one process on each."""
    min_confidence: float = 0.0
    """Smallest confidence, from 0 to 1, at which a face gets an emotion. A face below it has the
    status uncertain and no emotion."""
    include: Globs = ()
    """Label only the images that match one of these globs, in the syntax of .gitignore: *.jpg and
    raw/ match at any depth, 2024/**/*.jpg only from --images down, and case matters. They are
    matched with the path below --images, in which an archive is a folder; for a manifest, with the
    path below its folder or with the whole URI. By default all images are labeled."""
    exclude: Globs = ()
    """Leave out the images and whole archives that match one of these globs, in the syntax of
    .gitignore. By default nothing is left out."""
    limit: OptionalInt = None
    """Label only the first N images of --images, and the first N of each archive in it, after
    --include and --exclude. By default all are labeled."""
    fps: Annotated[float | Literal["all"] | None, tyro.conf.arg(metavar="{FLOAT,all}")] = None
    """How many frames of each second of a video or an animated image are labeled: a number above 0,
    or all. By default one of each second of a video, and the first of an animated image."""
    start: float = 0.0
    """Time in seconds from which the frames of each video are labeled, at least 0."""
    end: OptionalFloat = None
    """Time in seconds before which the frames of each video are labeled, above --start. By default
    videos are labeled to their ends."""
    all_files: bool = False
    """Also open files whose names do not end like those of images or videos, and label those whose
    content is an image or a video. --limit counts all that are opened. Archives still need their
    endings."""
    format: Annotated[tuple[Literal["csv", "jsonl"], ...], tyro.conf.UseAppendAction] = ()
    """Also write the labels as CSV or JSON Lines, one file for each Parquet file, and with csv also
    one table for each video. In CSV, a text that a spreadsheet would run as a formula begins with
    an apostrophe. By default only Parquet is written."""
    notify: OptionalUrl = None
    """http:// or https:// URL that gets a POST when the job ends: the RESULT line, or the error and
    the exit code. With a secret in the environment variable FER_NOTIFY_SECRET it is signed. By
    default nothing is sent."""
    resume: bool = False
    """Continue the unfinished labels that --output holds: label only the images that are missing.
    If there are none, begin."""
    update: bool = False
    """List the images again and add to the labels that --output holds: label only the images that
    are new or have changed. Labels that are not complete are finished first. If there are none,
    begin. If another job writes --output, this one does nothing and says so."""
    overwrite: bool = False
    """Replace the labels that --output already holds."""

    def __post_init__(self) -> None:
        require_web_address(self, "notify")
        require_fraction(self, "min_confidence")
        require_at_least(self, 0, "min_face_size")
        require_at_least(self, 1, "limit")
        is_rate = self.fps in (None, "all") or 0 < float(self.fps or 0) < math.inf
        require(is_rate, "--fps", "a number above 0, or all", self.fps)
        require_at_least(self, 0, "start")
        is_later = self.end is None or self.end > self.start
        require(is_later, "--end", f"above --start, which is {self.start:g}", self.end)
        forbid_together(self, "resume", "update", "overwrite")
        require_processors(self.engine, "--use-gpu", self.use_gpu)
