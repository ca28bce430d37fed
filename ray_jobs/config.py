"""One frozen dataclass per job: every flag, its unit, its default, its check."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fer.errors import InputError

Location = Annotated[str, tyro.conf.arg(metavar="LOCATION")]
"""A path or URI, which ``locations.resolve`` makes absolute before a job begins."""

Locations = Annotated[tuple[Location, ...], tyro.conf.UseAppendAction]
"""One or more of them: ``--source a b`` and ``--source a --source b`` are the same."""

Globs = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""One or more patterns of names."""

Model = Literal[
    "shallow", "deep", "conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv7", "conv8"
]
"""The keys of ``fer.models.convnet.MODELS``, which would bring torch with it."""

Study = Literal[
    "search", "paper", "recipe", "votes", "depth", "pooling", "batch-norm", "activation", "loss"
]

BUNDLED = "bundled"
"""Names the checkpoint that the package ships, where a location could stand."""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _require(condition: bool, flag: str, expected: str, found: object) -> None:
    if not condition:
        raise InputError(f"{flag} must be {expected}, but is {found}.")


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """FER2013 and image archives to a dataset in Parquet."""

    source: Locations
    """CSV files (fer2013.csv, icml_face_data.csv, train.csv), folders of images by class, and zip
    and tar archives of these: paths or URIs."""
    output: Location
    """Folder or URI of the dataset to make."""
    split_from: Literal["auto", "usage", "filename", "folder", "hash"] = "auto"
    """Where an example's split is read from: the Usage column, the file's name, its folders, or a
    hash of its pixels; auto takes the first of these that knows it."""
    classes: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Classes other than FER2013's seven, in the order of their labels, each with what else it goes
    by: --classes surprise=1 fear=2 disgust=3 for the folders 1, 2 and 3."""
    votes: Location | None = None
    """FER+ votes (fer2013new.csv) for the rows of FER2013's CSV file."""
    max_reject_fraction: float = 0.05
    """Largest share of rejects, 0 to 1, with which the job still succeeds."""
    overwrite: bool = False
    """Replace a dataset that the output already holds."""

    def __post_init__(self) -> None:
        _require(bool(self.source), "--source", "one location or more", "missing")
        fraction = self.max_reject_fraction
        _require(0 <= fraction <= 1, "--max-reject-fraction", "between 0 and 1", fraction)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A dataset to a checkpoint, data-parallel over any number of workers."""

    dataset: Location
    """Folder or URI of the dataset."""
    output: Location
    """Folder or URI of the checkpoint to make."""
    model: Model = "deep"
    """The paper's network of two convolutions (shallow) or of four (deep), or a plain net of so
    many."""
    num_workers: str = "1"
    """Processes that share each batch: N, or MIN:MAX to take what the cluster has."""
    cpus_per_worker: int | None = None
    """CPUs and threads of each worker; by default an even share of the cluster's."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    memory_limit: float = 4.0
    """GiB of examples that a worker may hold; a larger dataset is streamed through Ray Data."""
    num_epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 128
    """Examples a step, all workers together."""
    lr: float = 0.05
    """Highest learning rate of the schedule."""
    weight_decay: float = 5e-4
    """Factor of the squared weights in the loss."""
    dropout: float = 0.25
    """Fraction of activations dropped after every block, 0 to 1."""
    batch_norm: bool = True
    """Normalize what each convolution and hidden layer computes, over the batch."""
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu"] = "relu"
    """What follows it."""
    pooling: Literal["max", "fractional"] = "max"
    """How maps are made smaller."""
    first_kernel: int = 3
    """Side of the first convolution's filters in pixels, odd."""
    loss: Literal["cross_entropy", "squared_hinge"] = "cross_entropy"
    """What training makes small."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over the classes, 0 to 1."""
    votes_weight: float = 0.0
    """Share of the target that FER+ votes say in the label's place, 0 to 1; the dataset must have
    been ingested with them."""
    teacher: Location | None = None
    """Checkpoint, such as an ensemble's, that says of each training image what to learn besides;
    asked before the first step, or in every epoch where the dataset is streamed."""
    teacher_weight: float = 0.5
    """Share of the target that the teacher says in place of label and votes, 0 to 1."""
    class_balance: float = 0.0
    """Weight of rare classes: 0 counts examples alike, 1 counts classes alike."""
    ema_decay: float = 0.998
    """What a moving average of the weights, which is what is kept, keeps at each step; 0: none."""
    preprocessing: Literal["standardize", "equalize"] = "standardize"
    """How an image becomes the network's input: brought to mean 0 and deviation 1, or its gray
    levels spread evenly first."""
    augment: bool = True
    """Mirror, turn, zoom and shift the training images at random."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the network computes in; auto takes bfloat16 where the processor is fast at it."""
    select_by: Literal["val_macro_f1", "val_accuracy"] = "val_macro_f1"
    """Which score on val says what the best epoch is."""
    patience: int | None = None
    """Stop after so many epochs without a better score on val."""
    seed: int = 0
    """Of the weights, the order of the examples and the augmentation."""
    from_checkpoint: Location | None = None
    """Checkpoint whose weights training starts from."""
    mlflow_uri: str | None = None
    """Tracking server of MLflow that is told the flags and every epoch's metrics."""
    resume: bool = False
    """Go on with the unfinished run that the output holds."""
    overwrite: bool = False
    """Replace a checkpoint that the output already holds."""

    def __post_init__(self) -> None:
        _require(self.memory_limit >= 0, "--memory-limit", "at least 0", self.memory_limit)
        _require(self.num_epochs > 0, "--num-epochs", "at least 1", self.num_epochs)
        _require(self.batch_size > 1, "--batch-size", "at least 2", self.batch_size)
        _require(self.lr > 0, "--lr", "above 0", self.lr)
        _require(0 <= self.seed < 2**32, "--seed", "from 0 to 4294967295", self.seed)
        _require(self.weight_decay >= 0, "--weight-decay", "at least 0", self.weight_decay)
        _require(0 <= self.dropout < 1, "--dropout", "in [0, 1)", self.dropout)
        kernel = self.first_kernel
        _require(kernel % 2 == 1 and 0 < kernel < 48, "--first-kernel", "odd, 1 to 47", kernel)
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "--label-smoothing", "in [0, 1)", smoothing)
        _require(0 <= self.votes_weight <= 1, "--votes-weight", "in [0, 1]", self.votes_weight)
        share = self.teacher_weight
        _require(0 <= share <= 1, "--teacher-weight", "in [0, 1]", share)
        _require(0 <= self.class_balance <= 1, "--class-balance", "in [0, 1]", self.class_balance)
        _require(0 <= self.ema_decay < 1, "--ema-decay", "in [0, 1)", self.ema_decay)
        _require(
            self.patience is None or self.patience > 0, "--patience", "at least 1", self.patience
        )
        _require(not (self.resume and self.overwrite), "--resume", "without --overwrite", "with it")
        low, high = self.worker_range
        _require(1 <= low <= high, "--num-workers", "N or MIN:MAX, at least 1", self.num_workers)
        # Batch normalization needs two examples of its own.
        _require(2 * high <= self.batch_size, "--num-workers", "at most half of --batch-size", high)
        cpus = self.cpus_per_worker
        _require(cpus is None or cpus > 0, "--cpus-per-worker", "at least 1", cpus)

    @property
    def worker_range(self) -> tuple[int, int]:
        """Smallest and largest number of workers."""
        low, _, high = self.num_workers.partition(":")
        if not (low.isdecimal() and (high or low).isdecimal()):
            return 0, 0
        return int(low), int(high or low)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A search of hyperparameters, or a study of one question, over many short trainings."""

    dataset: Location
    """Folder or URI of the dataset."""
    output: Location
    """Folder or URI of the study to make."""
    study: Study = "search"
    """search: lr, batch size, epochs, weight decay and dropout of --model; paper: the same of both
    networks of the paper; recipe: what training is without each of its parts; the others compare
    what their name says, all else equal."""
    model: Model = "deep"
    """The network; depth and paper choose their own."""
    num_samples: int = 16
    """Trials of a search; a comparison has as many as it has variants."""
    search: Literal["random", "optuna"] = "random"
    """How a search chooses what to try next."""
    num_epochs: int = 12
    """Most passes over the training split of a trial."""
    max_concurrent_trials: int | None = None
    """Trials at the same time; by default as many as the cluster has room for."""
    cpus_per_trial: float = 1.0
    """CPUs of each trial; parts of one are shared."""
    gpus_per_trial: float = 0.0
    """GPUs of each trial; parts of one are shared."""
    select_by: Literal["val_macro_f1", "val_accuracy"] = "val_macro_f1"
    """Which score on val says what the best trial is."""
    seed: int = 0
    """Of the search and of every trial."""
    resume: bool = False
    """Go on with the unfinished study that the output holds."""
    overwrite: bool = False
    """Replace a study that the output already holds."""

    def __post_init__(self) -> None:
        _require(self.num_samples > 0, "--num-samples", "at least 1", self.num_samples)
        _require(0 <= self.seed < 2**32, "--seed", "from 0 to 4294967295", self.seed)
        _require(self.num_epochs > 0, "--num-epochs", "at least 1", self.num_epochs)
        _require(self.cpus_per_trial > 0, "--cpus-per-trial", "above 0", self.cpus_per_trial)
        _require(self.gpus_per_trial >= 0, "--gpus-per-trial", "at least 0", self.gpus_per_trial)
        most = self.max_concurrent_trials
        _require(most is None or most > 0, "--max-concurrent-trials", "at least 1", most)
        _require(not (self.resume and self.overwrite), "--resume", "without --overwrite", "with it")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Checkpoints and a dataset to a report: the paper's tables and figures."""

    dataset: Location
    """Folder or URI of the dataset."""
    checkpoint: Locations
    """Folders or URIs of the checkpoints to compare."""
    output: Location
    """Folder or URI of the report to make."""
    split: Literal["train", "val", "test"] = "val"
    """Which examples to score on; choose on val, look at test once."""
    tta: bool = False
    """Average over each image and its mirror image."""
    ensemble: bool = False
    """Score the checkpoints' averaged probabilities as one more network, and write it as a
    checkpoint into the report's folder."""
    fusion: Literal["average", "exponential"] = "average"
    """How the ensemble weighs its members: alike, or by a power of what each scored on val."""
    overwrite: bool = False
    """Replace a report that the output already holds."""

    def __post_init__(self) -> None:
        _require(bool(self.checkpoint), "--checkpoint", "one location or more", "missing")
        from_val = self.fusion == "average" or (self.ensemble and self.split == "val")
        _require(from_val, "--fusion", "with --ensemble and --split val", self.fusion)


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Images to a table of faces and the emotions that they seem to express."""

    images: Location
    """Folder, archive, image or s3:// prefix; or a manifest, a CSV or Parquet file (or a folder of
    the latter) whose column image, uri or path names one in each row: a path or URI, relative to
    the manifest's folder, perhaps with its size_bytes and etag."""
    output: Location
    """Folder or URI of the labels to make."""
    checkpoint: Location = BUNDLED
    """Folder or URI of the checkpoint, or bundled."""
    detector: Literal["yunet", "none"] = "yunet"
    """yunet finds the faces of photographs; none: each image is one face, cropped as FER2013 crops
    it."""
    detector_weights: Location | None = None
    """YuNet's ONNX file; by default that of OpenCV's model zoo, which is downloaded once."""
    min_face_size: float = 16.0
    """Faces that are narrower, in pixels of the photograph, are left out."""
    engine: Literal["auto", "float32", "bfloat16", "compiled"] = "auto"
    """How the network is run: auto takes bfloat16 where the processor is fast at it; compiled needs
    a C++ compiler, and repays the time that this takes on hundreds of thousands of faces."""
    use_gpu: bool = False
    """Run the network on the cluster's GPUs, a process on each."""
    min_confidence: float = 0.0
    """Rows whose confidence is below, 0 to 1, are marked uncertain and name no emotion."""
    include: Globs = ()
    """Label only images that match one of these globs, which are those of .gitignore: *.jpg and
    raw/ match at any depth, 2024/**/*.jpg from --images on; case counts. They are asked about the
    path below --images, in which an archive is a folder; of a manifest below its folder, or about
    the whole URI."""
    exclude: Globs = ()
    """Label nothing that matches one of these globs, neither images nor whole archives."""
    limit: int | None = None
    """Label only the first so many of these images of a folder, and of each archive."""
    format: Annotated[tuple[Literal["csv", "jsonl"], ...], tyro.conf.UseAppendAction] = ()
    """Write the labels as CSV or JSON lines too, a file for each one of Parquet. In CSV a text that
    a spreadsheet would run as a formula begins with an apostrophe."""
    resume: bool = False
    """Label only what the unfinished labels that the output holds are without."""
    update: bool = False
    """List the images anew and label those that the finished labels of the output are without, or
    have in an earlier state."""
    overwrite: bool = False
    """Replace labels that the output already holds."""

    def __post_init__(self) -> None:
        confidence = self.min_confidence
        _require(0 <= confidence <= 1, "--min-confidence", "between 0 and 1", confidence)
        _require(self.min_face_size >= 0, "--min-face-size", "at least 0", self.min_face_size)
        _require(self.limit is None or self.limit > 0, "--limit", "at least 1", self.limit)
        chosen = self.resume + self.update + self.overwrite
        _require(chosen <= 1, "--resume, --update or --overwrite", "alone", "with another")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """A checkpoint behind HTTP: an API, and a page to try it, until it is stopped."""

    checkpoint: Location = BUNDLED
    """Folder or URI of the checkpoint, or bundled."""
    detector: Literal["yunet", "none"] = "yunet"
    """yunet finds the faces of photographs; none serves faces cropped as FER2013 crops them
    alone."""
    detector_weights: Location | None = None
    """YuNet's ONNX file; by default that of OpenCV's model zoo, which is downloaded once."""
    min_face_size: float = 16.0
    """Faces that are narrower, in pixels of the photograph, are left out."""
    min_confidence: float = 0.0
    """Faces whose confidence is below, 0 to 1, are uncertain and named no emotion."""
    engine: Literal["auto", "float32", "bfloat16", "compiled"] = "auto"
    """How the network is run: auto takes bfloat16 where the processor is fast at it."""
    host: str = "127.0.0.1"
    """Address to listen at; one that others reach needs a token in FER_API_TOKEN."""
    port: int = 8000
    """Port to listen at."""
    min_replicas: int = 1
    """Processes that answer when nobody asks."""
    max_replicas: int = 1
    """Most processes that answer when many ask."""
    cpus_per_replica: float = 1.0
    """CPUs that each of them reserves; its network has as many threads."""
    gpus_per_replica: float = 0.0
    """GPUs of each; several share one at 0.5 or less."""
    max_batch_size: int = 32
    """Most faces that the network is given at once, of whatever requests."""
    batch_wait_ms: float = 2.0
    """How long a batch that is not full waits for more."""
    max_images: int = 64
    """Most pictures of a request."""
    max_body_mib: float = 32.0
    """Largest body of a request, in MiB."""
    timeout_seconds: float = 30.0
    """Longest time that a request may take."""
    allow_anonymous: bool = False
    """Start without FER_API_TOKEN though others reach the address, or though it is deployed."""

    def __post_init__(self) -> None:
        low, high = self.min_replicas, self.max_replicas
        _require(1 <= low <= high, "--min-replicas", "at least 1, at most --max-replicas", low)
        _require(0 < self.port < 65536, "--port", "between 1 and 65535", self.port)
        confidence = self.min_confidence
        _require(0 <= confidence <= 1, "--min-confidence", "between 0 and 1", confidence)
        for name in ("max_batch_size", "max_images"):
            _require(getattr(self, name) > 0, _flag(name), "at least 1", getattr(self, name))
        for name in ("cpus_per_replica", "max_body_mib", "timeout_seconds"):
            _require(getattr(self, name) > 0, _flag(name), "above 0", getattr(self, name))
        for name in ("gpus_per_replica", "min_face_size", "batch_wait_ms"):
            _require(getattr(self, name) >= 0, _flag(name), "at least 0", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A checkpoint to an ONNX file, checked against the checkpoint's own answers."""

    output: Location
    """Folder or URI to write model.onnx to."""
    checkpoint: Location = BUNDLED
    """Folder or URI of the checkpoint, or bundled."""
    overwrite: bool = False
    """Replace a file that the output already holds."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Time, cost, requests and bytes of a job, before it runs."""

    job: Literal["label", "train"] = "label"
    """What is planned."""
    num_images: int = 1_000_000
    """Images to label, or examples to train on; an eighth as many are scored on."""
    detector: Literal["yunet", "none"] = "yunet"
    """Of label: yunet for photographs, none for faces that are cropped already."""
    megapixels: float = 1.0
    """Size of a photograph, in millions of pixels."""
    faces_per_image: float = 1.0
    """Faces that a photograph has."""
    request_ms: float = 0.0
    """What the store takes to answer a request, of which each image waits for two: about 0 of a
    disk; 20 to 50 are assumed of S3 in its region."""
    model: Literal["shallow", "deep"] = "deep"
    """The network to train."""
    num_epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 128
    """Examples a step, all workers together."""
    num_nodes: int = 1
    """Nodes that work."""
    cpus_per_node: int = 16
    """CPUs of each."""
    gpus_per_node: int = 0
    """GPUs of each; train has a worker on each."""
    price_per_hour: float = 0.714
    """Dollars an hour of each: by default a c7i.4xlarge, on demand in us-east-1 as AWS listed it in
    2025."""
    link_gbps: float = 10.0
    """Gigabits a second that each sends."""
    start_seconds: float = 0.0
    """What the nodes take to be there: some minutes where they are started for the job."""
    calibrate: bool = False
    """Measure the coefficients on this machine first, which takes some minutes."""
    coefficients: Location | None = None
    """JSON file of the coefficients: read, or with --calibrate written."""
    detector_weights: Location | None = None
    """YuNet's ONNX file, to calibrate with; by default that of OpenCV's model zoo, which is
    downloaded once."""
    use_gpu: bool = False
    """Calibrate training on a GPU too."""

    def __post_init__(self) -> None:
        for name in ("num_images", "num_epochs", "batch_size", "num_nodes", "cpus_per_node"):
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            _require(value > 0, flag, "at least 1", value)
        for name in ("megapixels", "link_gbps"):
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            _require(value > 0, flag, "above 0", value)
        for name in ("faces_per_image", "request_ms", "price_per_hour", "start_seconds"):
            flag, value = f"--{name.replace('_', '-')}", getattr(self, name)
            _require(value >= 0, flag, "at least 0", value)
        _require(self.gpus_per_node >= 0, "--gpus-per-node", "at least 0", self.gpus_per_node)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Everything once on drawn faces: ingest, train, evaluate and label, in minutes."""

    output: Location = "demo"
    """Folder to work in."""
    num_faces: int = 2000
    """How many faces to draw."""
    num_epochs: int = 6
    """Passes over the training split, for each network."""
    seed: int = 0
    """Of the faces and of the training."""
    overwrite: bool = False
    """Replace a demo that the folder already holds."""

    def __post_init__(self) -> None:
        _require(self.num_faces >= 100, "--num-faces", "at least 100", self.num_faces)
        _require(self.num_epochs > 0, "--num-epochs", "at least 1", self.num_epochs)


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
