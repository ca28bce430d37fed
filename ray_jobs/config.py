"""One frozen dataclass per job: its flags, their defaults, their help and their checks.

A class docstring is the job's one-line help. The string below a field is the flag's help.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from fer.errors import InputError
from ray_jobs.flag_help import with_help

Location = Annotated[str, tyro.conf.arg(metavar="LOCATION")]
"""A path or URI. ``locations.resolve`` makes it absolute before a job begins."""

OptionalLocation = Annotated[str | None, tyro.conf.arg(metavar="LOCATION")]
"""A location that need not be given."""

OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT")]

OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]

OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]

Locations = Annotated[tuple[Location, ...], tyro.conf.UseAppendAction]
"""One or more locations. ``--source a b`` and ``--source a --source b`` mean the same."""

Globs = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""Any number of patterns of names."""

Model = Literal[
    "shallow", "deep", "conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7", "conv8",
    "resnet4-w32", "resnet6-w32", "resnet8-w32", "resnet10-w32",
    "resnet12-w32", "resnet14-w32", "resnet16-w32", "resnet18-w32",
    "resnet4-w48", "resnet6-w48", "resnet8-w48", "resnet10-w48",
    "resnet12-w48", "resnet14-w48", "resnet16-w48", "resnet18-w48",
]  # fmt: skip
"""``fer.models.architectures.MODELS``, repeated here because that module imports torch."""

Study = Literal[
    "search", "paper", "recipe", "votes", "depth", "pooling", "batch-norm", "activation", "loss"
]

BUNDLED = "bundled"
"""The checkpoint that the package ships, usable wherever a checkpoint's location is."""


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
    """Where the split of an example is read from: the Usage column of the CSV file (usage), the
    table's name or the start of the image's name (filename), the folders and archives above the
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
    all_files: bool = False
    """Also open files whose names do not end like those of images, and read those whose content is
    an image. Tables and archives still need their endings."""
    max_reject_fraction: float = 0.05
    """Largest fraction of rejected examples, from 0 to 1, with which the job still succeeds."""
    overwrite: bool = False
    """Replace the dataset that --output already holds."""

    def __post_init__(self) -> None:
        _require(bool(self.source), "--source", "one or more locations", "missing")
        _require_fraction(self, "max_reject_fraction")
        _require_fraction_below_one(self, "val_fraction")
        _forbid_together(self, "votes", "val_fraction")
        if self.val_fraction and self.split_from == "hash":
            raise InputError(
                "--val-fraction divides a train split that the sources name, but --split-from hash "
                "makes val examples by itself; give one of them."
            )


@with_help
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a network on a dataset, data-parallel on any number of workers."""

    dataset: Location
    """Folder or URI of the dataset to train on."""
    output: Location
    """Folder or URI where the checkpoint is written."""
    model: Model = "deep"
    """Network to train: deep and shallow are the paper's networks of four and two convolutions;
    conv1 to conv8 are plain networks of one to eight convolutions; resnet4 to resnet18 are residual
    networks of one to eight blocks, whose first stage has 32 (w32) or 48 (w48) filters."""
    num_workers: str = "1"
    """Number of worker processes that share each batch: N, or MIN:MAX to use as many as the cluster
    has room for."""
    cpus_per_worker: OptionalInt = None
    """CPUs and threads of each worker, at least 1. By default the workers share the CPUs of the
    cluster evenly."""
    use_gpu: bool = False
    """Give each worker one GPU."""
    memory_limit: float = 4.0
    """GiB of examples that a worker may hold in memory. A larger dataset is streamed through Ray
    Data."""
    num_epochs: int = 30
    """Number of passes over the training split."""
    batch_size: int = 128
    """Number of examples in each training step, over all workers. Each worker needs at least 2."""
    lr: float = 0.05
    """Highest learning rate of the schedule, above 0."""
    warmup_fraction: float = 0.3
    """Share of all steps in which the learning rate rises to --lr, at least 0 and below 1. After
    them it falls to 0."""
    weight_decay: float = 5e-4
    """Weight of the L2 penalty on the network's weights, at least 0."""
    gradient_clip: float = 5.0
    """Largest norm of the gradient in a step, at least 0. A larger gradient is scaled down. 0 turns
    this off."""
    dropout: float = 0.25
    """Fraction of activations that are dropped, at least 0 and below 1: before the last layer of
    residual networks, after each block of the others."""
    batch_norm: bool = True
    """Use batch normalization after each convolution and each hidden layer."""
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu"] = "relu"
    """Activation function after each convolution and each hidden layer."""
    pooling: Literal["max", "fractional"] = "max"
    """How feature maps are downsampled: 2x2 max pooling (max) or fractional max pooling
    (fractional). Residual networks downsample by strides, and ignore max."""
    first_kernel: int = 3
    """Side of the first convolution's filters in pixels, an odd number from 1 to 47."""
    loss: Literal["cross_entropy", "squared_hinge"] = "cross_entropy"
    """Loss function that training minimizes."""
    label_smoothing: float = 0.1
    """Share of each target that is spread evenly over the classes, at least 0 and below 1."""
    votes_weight: float = 0.0
    """Share of each target that comes from the FER+ votes instead of the label, from 0 to 1. Above
    0, the dataset must hold votes (ingest --votes)."""
    teacher: OptionalLocation = None
    """Folder, URI or shipped name of a checkpoint, perhaps an ensemble, whose predictions for the
    training images become a share of the targets. By default there is no teacher."""
    teacher_weight: float = 0.5
    """Share of each target that comes from the --teacher instead of labels and votes, from 0 to
    1."""
    teacher_view: Literal["original", "augmented"] = "original"
    """What the --teacher sees: each training image and its mirror image, once before the first step
    or in every epoch if the dataset is streamed (original); or the same augmented image as the
    network, in every step (augmented)."""
    class_balance: float = 0.0
    """How much rare classes weigh, from 0 to 1: at 0 all examples have the same weight, at 1 all
    classes have."""
    ema_decay: float = 0.998
    """Decay of the exponential moving average of the weights at each step, at least 0 and below 1.
    The averaged weights are scored and saved. 0 turns averaging off."""
    preprocessing: Literal["standardize", "equalize"] = "standardize"
    """What is done to the pixels of each image: scale them to mean 0 and standard deviation 1
    (standardize), or also equalize the histogram of gray levels first (equalize)."""
    augment: bool = True
    """Change the training images at random: mirror, rotate, zoom, shift, degrade, erase and mix
    them, as the flags of these parts say. --no-augment turns all of them off."""
    mirror: bool = True
    """Mirror half of the training images."""
    max_rotation: float = 15.0
    """Largest random rotation of a training image to either side, from 0 to 180 degrees."""
    max_zoom: float = 0.1
    """Largest random change of a training image's scale, as a fraction of its size, at least 0 and
    below 1."""
    max_shift: float = 0.1
    """Largest random shift of a training image in each direction, as a fraction of its side, from 0
    to 1."""
    erase_fraction: float = 0.0
    """Share of the training images of which a random rectangle with sides of 6 to 20 pixels is
    erased, from 0 to 1."""
    degrade_fraction: float = 0.0
    """Share of the training images that are degraded as photographs are, from 0 to 1: small,
    blurred, noisy, compressed, lit from one side or partly covered."""
    mixup: float = 0.0
    """Mix each training image and its target with another one's: alpha of the Beta distribution
    from which the other's share is drawn, at least 0. 0 turns this off; 0.2 is common."""
    initial_size: int = 48
    """Side in pixels of the images in the first steps: 24, 32, 40 or 48. It grows to 48 in steps of
    8 that last equally long, so that training takes less time. For residual networks."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the network's computations. auto uses bfloat16 where the processor is fast
    at it, and float32 elsewhere."""
    select_by: Literal["val_macro_f1", "val_accuracy"] = "val_macro_f1"
    """Score on the val split by which the best epoch is chosen, without images that the train split
    holds too."""
    patience: OptionalInt = None
    """Stop after this many epochs without a better score on the val split, at least 1. By default
    all epochs are trained."""
    seed: int = 0
    """Random seed of the initial weights, the order of the examples and the augmentation, from 0 to
    4294967295."""
    from_checkpoint: OptionalLocation = None
    """Folder, URI or shipped name of a checkpoint whose weights training starts from. By default
    training starts from random weights."""
    int8: bool = True
    """Also write the network in 8-bit integers, calibrated on training images, which processors run
    faster. label and serve use it if it scores as well on the val split."""
    mlflow_uri: OptionalText = None
    """URI of the MLflow tracking server that receives the flags and the metrics of every epoch. By
    default nothing is sent to MLflow."""
    resume: bool = False
    """Continue the unfinished training run that --output holds, or begin one if there is none."""
    overwrite: bool = False
    """Replace the checkpoint or the training run that --output already holds."""

    def __post_init__(self) -> None:
        _require_at_least(self, 0, "memory_limit", "weight_decay", "gradient_clip", "mixup")
        _require_at_least(self, 1, "num_epochs", "patience", "cpus_per_worker")
        _require_at_least(self, 2, "batch_size")
        _require_above_zero(self, "lr")
        _require_seed(self.seed)
        _require_fraction(self, "votes_weight", "teacher_weight", "class_balance")
        _require_fraction(self, "max_shift", "erase_fraction", "degrade_fraction")
        _require_fraction_below_one(self, "dropout", "label_smoothing", "ema_decay")
        _require_fraction_below_one(self, "warmup_fraction", "max_zoom")
        is_angle = 0 <= self.max_rotation <= 180
        _require(is_angle, "--max-rotation", "from 0 to 180", self.max_rotation)
        _require_poolable(self.model, "--pooling fractional", self.pooling == "fractional")
        is_size = self.initial_size in range(24, 49, 8)
        _require(is_size, "--initial-size", "24, 32, 40 or 48", self.initial_size)
        if self.initial_size < 48 and not self.model.startswith("resnet"):
            raise InputError(
                f"--initial-size needs a residual network, but {self.model} takes images of 48x48 "
                "pixels alone; choose a resnet as --model, or leave the flag out."
            )
        kernel = self.first_kernel
        is_kernel = kernel % 2 == 1 and 0 < kernel < 48
        _require(is_kernel, "--first-kernel", "an odd number from 1 to 47", kernel)
        _forbid_together(self, "resume", "overwrite")
        low, high = self.worker_range
        expected = "N or MIN:MAX, with 1 <= MIN <= MAX"
        _require(1 <= low <= high, "--num-workers", expected, self.num_workers)
        # Batch normalization needs two examples in each worker.
        if 2 * high > self.batch_size:
            raise InputError(
                f"--num-workers allows {high} workers, which need a --batch-size of at least "
                f"{2 * high}, two examples for each, but it is {self.batch_size}; use fewer "
                "workers or a larger batch."
            )

    @property
    def worker_range(self) -> tuple[int, int]:
        """Smallest and largest number of workers; (0, 0) if ``num_workers`` cannot be parsed."""
        low, _, high = self.num_workers.partition(":")
        if not (low.isdecimal() and (high or low).isdecimal()):
            return 0, 0
        return int(low), int(high or low)


@with_help
@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search hyperparameters, or compare variants of one choice, over many short training runs."""

    dataset: Location
    """Folder or URI of the dataset to train on."""
    output: Location
    """Folder or URI where the study is written."""
    study: Study = "search"
    """What is studied. search varies the learning rate, batch size, epochs, weight decay and
    dropout of --model. paper does the same for both networks of the paper. recipe leaves out or
    changes one part of training at a time. The others compare the variants of the choice that they
    are named after, all else equal."""
    model: Model = "deep"
    """Network to train in each trial. --study paper chooses its own networks and ignores this flag.
    --study depth takes only the family from it: the residual networks of its width, or else the
    plain networks."""
    num_samples: int = 16
    """Number of trials of --study search and --study paper, at least 1. A comparison runs one trial
    for each variant and each of --seeds."""
    search: Literal["random", "optuna"] = "random"
    """How a search chooses the values of the next trial: at random, or by Optuna."""
    num_epochs: int = 12
    """Largest number of passes over the training split in a trial, at least 1."""
    max_concurrent_trials: OptionalInt = None
    """Largest number of trials that run at the same time, at least 1. By default as many run as the
    cluster has room for."""
    cpus_per_trial: float = 1.0
    """CPUs that each trial reserves, above 0. With fractions, trials share a CPU."""
    gpus_per_trial: float = 0.0
    """GPUs that each trial reserves, at least 0. With fractions, trials share a GPU."""
    select_by: Literal["val_macro_f1", "val_accuracy"] = "val_macro_f1"
    """Score on the val split by which trials and epochs are ranked, without images that the train
    split holds too."""
    seed: int = 0
    """Random seed of the search and of every trial, from 0 to 4294967295."""
    seeds: Annotated[tuple[int, ...], tyro.conf.UseAppendAction] = ()
    """Random seeds of a comparison, from 0 to 4294967295: each variant is trained once with each of
    them, and the report shows means and standard deviations. By default each variant is trained
    once, with --seed."""
    resume: bool = False
    """Continue the unfinished study that --output holds, or begin one if there is none."""
    overwrite: bool = False
    """Replace the study that --output already holds."""

    def __post_init__(self) -> None:
        _require_at_least(self, 1, "num_samples", "num_epochs", "max_concurrent_trials")
        _require_seed(self.seed)
        for seed in self.seeds:
            _require_seed(seed, "--seeds")
        _require_distinct("--seeds", self.seeds)
        if self.seeds and self.study in ("search", "paper"):
            raise InputError(
                f"--seeds repeats the variants of a comparison, but --study {self.study} searches; "
                "leave --seeds out, or choose a comparison such as --study recipe."
            )
        _require_poolable(self.model, "--study pooling", self.study == "pooling")
        _require_above_zero(self, "cpus_per_trial")
        _require_at_least(self, 0, "gpus_per_trial")
        _forbid_together(self, "resume", "overwrite")


@with_help
@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score checkpoints on a dataset and write a report with the paper's tables and figures."""

    dataset: Location
    """Folder or URI of the dataset to score on."""
    checkpoint: Locations
    """One or more folders, URIs or shipped names of checkpoints to score and compare."""
    output: Location
    """Folder or URI where the report is written."""
    split: Literal["train", "val", "test"] = "val"
    """Split of the dataset to score on. Choose networks on val, and look at test once, at the
    end."""
    tta: bool = False
    """Average the probabilities of each image and its mirror image (test-time augmentation). It
    takes twice as long."""
    robustness: bool = False
    """Also score the networks on the same faces as photographs spoil them: small, noisy, blurred,
    compressed, turned, framed otherwise, badly lit or partly covered. It takes 24 times as
    long."""
    ensemble: bool = False
    """Also score the average of all checkpoints as one more network, and write it as a checkpoint
    into the folder ensemble of --output."""
    fusion: Literal["average", "exponential"] = "average"
    """How --ensemble weighs its members: all the same (average), or by a power of each member's
    score on the val split (exponential)."""
    overwrite: bool = False
    """Replace the report that --output already holds."""

    def __post_init__(self) -> None:
        _require(bool(self.checkpoint), "--checkpoint", "one or more locations", "missing")
        if self.fusion != "average" and not (self.ensemble and self.split == "val"):
            raise InputError(
                f"--fusion {self.fusion} needs --ensemble and --split val; give both, or leave "
                "--fusion out."
            )


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
    fps: Annotated[float | Literal["all"], tyro.conf.arg(metavar="{FLOAT,all}")] = 1.0
    """How many frames of each second of a video are labeled: a number above 0, or all."""
    start: float = 0.0
    """Time in seconds from which the frames of each video are labeled, at least 0."""
    end: OptionalFloat = None
    """Time in seconds before which the frames of each video are labeled, above --start. By default
    videos are labeled to their ends."""
    all_files: bool = False
    """Also open files whose names do not end like those of images, and label those whose content is
    an image. --limit counts all that are opened. Archives still need their endings."""
    format: Annotated[tuple[Literal["csv", "jsonl"], ...], tyro.conf.UseAppendAction] = ()
    """Also write the labels as CSV or JSON Lines, one file for each Parquet file. In CSV, a text
    that a spreadsheet would run as a formula begins with an apostrophe. By default only Parquet is
    written."""
    resume: bool = False
    """Continue the unfinished labels that --output holds: label only the images that are missing.
    If there are none, begin."""
    update: bool = False
    """List the images again and add to the finished labels that --output holds: label only the
    images that are new or have changed."""
    overwrite: bool = False
    """Replace the labels that --output already holds."""

    def __post_init__(self) -> None:
        _require_fraction(self, "min_confidence")
        _require_at_least(self, 0, "min_face_size")
        _require_at_least(self, 1, "limit")
        is_rate = self.fps == "all" or (math.isfinite(self.fps) and self.fps > 0)
        _require(is_rate, "--fps", "a number above 0, or all", self.fps)
        _require_at_least(self, 0, "start")
        is_later = self.end is None or self.end > self.start
        _require(is_later, "--end", f"above --start, which is {self.start:g}", self.end)
        _forbid_together(self, "resume", "update", "overwrite")
        _require_processors(self.engine, "--use-gpu", self.use_gpu)


@with_help
@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve a checkpoint over HTTP, as an API and a page to try it, until the job is stopped."""

    checkpoint: Location = BUNDLED
    """Folder, URI or shipped name of the checkpoint that classifies the faces."""
    detector: Literal["yunet", "none"] = "yunet"
    """How faces are found: yunet detects the faces of photographs; none takes each image as one
    face that is cropped as in FER2013."""
    detector_weights: OptionalLocation = None
    """Path or URI of YuNet's ONNX file. By default the file of OpenCV's model zoo is used, which is
    downloaded once."""
    min_face_size: float = 16.0
    """Smallest width, in pixels of the photograph, of a face that is classified."""
    any_orientation: bool = False
    """Also find the faces of photographs that lie on a side or upside down without saying so in
    their EXIF. A photograph without clearly upright faces is searched four times, each time turned
    by another 90 degrees."""
    min_confidence: float = 0.0
    """Smallest confidence, from 0 to 1, at which a face gets an emotion. A face below it has the
    status uncertain and no emotion."""
    engine: Literal["auto", "float32", "int8"] = "auto"
    """How the network computes. auto is the fastest way that scores as well as float32: int8 on
    processors if the checkpoint has it, bfloat16 on GPUs that support it."""
    host: str = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs a token in the
    environment variable FER_API_TOKEN."""
    port: int = 8000
    """TCP port to listen on, from 1 to 65535."""
    min_replicas: int = 1
    """Number of replicas, processes that answer requests, that run even without traffic, at least
    1."""
    max_replicas: int = 1
    """Largest number of replicas, processes that answer requests, under load. It must be at least
    --min-replicas."""
    cpus_per_replica: float = 1.0
    """CPUs that each replica reserves, above 0. Its network uses as many threads."""
    gpus_per_replica: float = 0.0
    """GPUs that each replica reserves, at least 0. With 0.5 or less, replicas share a GPU."""
    max_batch_size: int = 32
    """Largest number of faces, from any number of requests, that the network classifies at once, at
    least 1."""
    batch_wait_ms: float = 2.0
    """Longest time in milliseconds that an incomplete batch waits for more faces."""
    max_images: int = 64
    """Largest number of images in a request, at least 1."""
    max_frames: int = 120
    """Largest number of frames of a video that a request may ask for, at least 1."""
    max_body_mib: float = 32.0
    """Largest size of a request's body in MiB, above 0."""
    timeout_seconds: float = 30.0
    """Longest time in seconds that a request may take, above 0."""
    allow_anonymous: bool = False
    """Start without FER_API_TOKEN even if other machines can reach the server or Ray Serve deploys
    it."""

    def __post_init__(self) -> None:
        _require_at_least(self, 1, "min_replicas", "max_batch_size", "max_images", "max_frames")
        if self.max_replicas < self.min_replicas:
            raise InputError(
                f"--max-replicas must be at least --min-replicas, which is {self.min_replicas}, "
                f"but is {self.max_replicas}."
            )
        _require(0 < self.port < 65536, "--port", "from 1 to 65535", self.port)
        _require_fraction(self, "min_confidence")
        _require_above_zero(self, "cpus_per_replica", "max_body_mib", "timeout_seconds")
        _require_at_least(self, 0, "gpus_per_replica", "min_face_size", "batch_wait_ms")
        _require_processors(self.engine, "--gpus-per-replica", self.gpus_per_replica > 0)


@with_help
@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a checkpoint to an ONNX file and compare its predictions with the checkpoint's."""

    output: Location
    """Folder or URI where model.onnx is written, and graph.int8.onnx with --int8."""
    checkpoint: Location = BUNDLED
    """Folder, URI or shipped name of the checkpoint to export."""
    int8: OptionalLocation = None
    """Folder or URI of the dataset that the network learned from. With it, the network is also
    written in 8-bit integers, as graph.int8.onnx. label and serve run it once it is in the folder
    of the checkpoint. By default it is not written."""
    overwrite: bool = False
    """Replace the export that --output already holds."""


@with_help
@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Predict the time, cost, requests and output size of a job before it runs."""

    job: Literal["label", "train"] = "label"
    """Job to plan."""
    num_images: int = 1_000_000
    """Number of images to label, or of examples to train on, at least 1. For train, an eighth as
    many examples are scored in each epoch."""
    detector: Literal["yunet", "none"] = "yunet"
    """Detector of the planned label job: yunet for photographs, none for faces that are already
    cropped."""
    megapixels: float = 1.0
    """Size of each photograph to label, in millions of pixels, above 0."""
    faces_per_image: float = 1.0
    """Mean number of faces in a photograph to label, at least 0."""
    request_ms: float = 0.0
    """Time in milliseconds that the store takes to answer a request, at least 0. Each image waits
    for two requests. Use 0 for a disk; 20 to 50 is an assumption for S3 in the same region."""
    model: Literal["shallow", "deep"] = "deep"
    """Network of the planned train job."""
    num_epochs: int = 30
    """Number of passes over the training split in the planned train job, at least 1."""
    batch_size: int = 128
    """Number of examples in each training step of the planned train job, over all workers, at least
    1."""
    num_nodes: int = 1
    """Number of nodes that the planned job runs on, at least 1."""
    cpus_per_node: int = 16
    """Number of CPUs of each node, at least 1."""
    gpus_per_node: int = 0
    """Number of GPUs of each node, at least 0. A planned train job has one worker on each GPU."""
    price_per_hour: float = 0.714
    """Price of a node in US dollars an hour, at least 0. The default is that of an on-demand
    c7i.4xlarge in us-east-1, as AWS listed it in 2025."""
    link_gbps: float = 10.0
    """Network bandwidth of each node in gigabits a second, above 0."""
    start_seconds: float = 0.0
    """Seconds until the nodes are ready, at least 0. Allow some minutes for nodes that are started
    for the job."""
    calibrate: bool = False
    """First measure the coefficients of the plan on this machine, which takes some minutes."""
    coefficients: OptionalLocation = None
    """Path or URI of the JSON file from which the coefficients of the plan are read, or to which
    --calibrate writes them. By default the coefficients that fer-on-ray ships are read."""
    detector_weights: OptionalLocation = None
    """Path or URI of YuNet's ONNX file, which --calibrate runs. By default the file of OpenCV's
    model zoo is used, which is downloaded once."""
    use_gpu: bool = False
    """Let --calibrate measure training on a GPU too."""

    def __post_init__(self) -> None:
        _require_at_least(
            self, 1, "num_images", "num_epochs", "batch_size", "num_nodes", "cpus_per_node"
        )
        _require_above_zero(self, "megapixels", "link_gbps")
        _require_at_least(
            self, 0, "faces_per_image", "request_ms", "price_per_hour", "start_seconds"
        )
        _require_at_least(self, 0, "gpus_per_node")


@with_help
@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run ingest, train, evaluate and label on drawn faces, in minutes."""

    output: Location = "demo"
    """Folder where all results of the demo are written."""
    num_faces: int = 640
    """Number of faces to draw, at least 100."""
    num_epochs: int = 3
    """Number of passes over the training split for each network, at least 1."""
    seed: int = 0
    """Random seed of the drawn faces and of training, from 0 to 4294967295."""
    overwrite: bool = False
    """Replace the demo that --output already holds."""

    def __post_init__(self) -> None:
        _require_at_least(self, 100, "num_faces")
        _require_at_least(self, 1, "num_epochs")
        _require_seed(self.seed)


JobConfig = (
    Annotated[IngestConfig, tyro.conf.subcommand("ingest")]
    | Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[TuneConfig, tyro.conf.subcommand("tune")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[LabelConfig, tyro.conf.subcommand("label")]
    | Annotated[ServeConfig, tyro.conf.subcommand("serve")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[PlanConfig, tyro.conf.subcommand("plan")]
    | Annotated[DemoConfig, tyro.conf.subcommand("demo")]
)


# Checks of flags. They take a job's configuration and the names of its fields.


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _require(condition: bool, flag: str, expected: str, value: object) -> None:
    if not condition:
        raise InputError(f"{flag} must be {expected}, but is {str(value).removesuffix('.0')}.")


def _require_at_least(config: Any, minimum: int, *names: str) -> None:  # noqa: ANN401 - any job's
    for name in names:
        # A flag that defaults to None is checked only where it is given.
        value = getattr(config, name)
        _require(value is None or value >= minimum, _flag(name), f"at least {minimum}", value)


def _require_above_zero(config: Any, *names: str) -> None:  # noqa: ANN401 - any job's
    for name in names:
        value = getattr(config, name)
        _require(value > 0, _flag(name), "above 0", value)


def _require_fraction(config: Any, *names: str) -> None:  # noqa: ANN401 - any job's
    for name in names:
        value = getattr(config, name)
        _require(0 <= value <= 1, _flag(name), "from 0 to 1", value)


def _require_fraction_below_one(config: Any, *names: str) -> None:  # noqa: ANN401 - any job's
    for name in names:
        value = getattr(config, name)
        _require(0 <= value < 1, _flag(name), "at least 0 and below 1", value)


def _require_poolable(model: str, flag: str, is_chosen: bool) -> None:
    if is_chosen and model.startswith("resnet"):
        raise InputError(
            f"{flag} needs a --model that pools, but {model} downsamples by strides; choose "
            "shallow, deep or a conv network, or leave the flag out."
        )


def _require_seed(seed: int, flag: str = "--seed") -> None:
    _require(0 <= seed < 2**32, flag, "from 0 to 4294967295", seed)


def _require_distinct(flag: str, values: tuple[int, ...]) -> None:
    listed = " ".join(map(str, values))
    _require(len(set(values)) == len(values), flag, "different numbers", listed)


def _require_processors(engine: str, flag: str, uses_gpus: bool) -> None:
    if engine == "int8" and uses_gpus:
        raise InputError(
            f"--engine int8 runs on processors alone; leave it out, or leave out {flag}."
        )


def _forbid_together(config: Any, *names: str) -> None:  # noqa: ANN401 - any job's
    chosen = [_flag(name) for name in names if getattr(config, name)]
    if len(chosen) > 1:
        *others, last = chosen
        raise InputError(f"{', '.join(others)} and {last} cannot be combined; give one of them.")
