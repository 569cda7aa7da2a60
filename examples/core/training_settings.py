"""What every run is asked for: where and how it is carried out, and its hyperparameters."""

import dataclasses
from collections.abc import Callable

from examples.core.cli import UsageError
from examples.core.fine_tuning import check_freeze
from examples.core.optimizers import OPTIMIZERS, SCHEDULES, WITH_MOMENTUM, parse_drops
from examples.core.settings import read, refuse_idle, setting
from keras_gamma import Guidelines


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Where and how a run is carried out: none of these changes its result."""

    output_dir: str = setting(
        "runs/train", "Folder of the run; also in an object store (gs://, s3://)."
    )
    resume: bool = setting(
        True, "Go on with the run in --output_dir; --noresume starts it afresh, overwriting it."
    )
    data_dir: str | None = setting(
        None,
        "Folder of prepared data sets, also in an object store; default: tensorflow-datasets' own.",
    )
    verbose: str = setting(
        "auto",
        "0: silent, 1: progress bar, 2: a line per epoch; auto: 1 on a terminal, else 2.",
        choices=["auto", "0", "1", "2"],
    )
    tensorboard: str = setting(
        "auto",
        "Write TensorBoard logs; auto: if the tensorboard package is installed.",
        choices=["auto", "yes", "no"],
    )
    monitor_every: int = setting(
        0,
        "Steps between measurements of γ, kernels and branches (keras_gamma.callbacks."
        "GammaMonitor), into monitor.jsonl and monitor.png; 0: none.",
        low=0,
    )
    cache: bool = setting(
        True, "Keep decoded images in memory, where they take less than a third of it."
    )
    checkpoint_steps: int = setting(
        0, "Steps between checkpoints within an epoch; 0: only at its end, and on SIGTERM.", low=0
    )
    steps_per_execution: int = setting(
        1, "Batches that are handed to the device at once: fewer, longer calls.", low=1
    )
    eval_only: bool = setting(
        False, "Only score the model in --output_dir, or that of --init_from, on the test."
    )
    export: bool = setting(
        False, "Write the model in TensorFlow's SavedModel format, too (Model.export)."
    )
    callback: str | None = setting(
        None,
        "A function package.module:name that is given the settings, and returns a callback of "
        "Keras' to train with, such as that of any logger.",
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The hyperparameters of training."""

    epochs: int = setting(1, "Passes over the training set.", low=1)
    batch_size: int = setting(32, "Examples in a batch.", low=1)
    optimizer: str = setting("sgd", "Optimizer.", choices=list(OPTIMIZERS))
    learning_rate: float = setting(0.1, "Peak learning rate.", low=0.0)
    schedule: str = setting("cosine", "Of the learning rate after warm-up.", choices=SCHEDULES)
    warmup_epochs: float = setting(
        None, "Epochs of linear warm-up (cosine only); by default a part of --epochs.", low=0.0
    )
    drop_at: tuple[str, ...] = setting(
        ("0.5", "0.75"),
        "Parts of the run after which the learning rate drops (--schedule=step).",
        check=parse_drops,
    )
    drop_factor: float = setting(0.1, "What it is multiplied by then.", low=0.0, high=1.0)
    momentum: float = setting(0.9, "Of sgd and rmsprop; less than 1.", low=0.0, high=0.9999)
    nesterov: bool = setting(True, "Nesterov's momentum (sgd).")
    global_clipnorm: float | None = setting(
        None, "Clip the norm of the whole gradient to this.", low=1e-9
    )
    use_ema: bool = setting(
        False,
        "Validate, test and save exponential moving averages of the weights; training goes on with "
        "the weights themselves.",
    )
    ema_momentum: float = setting(
        0.99, "What an average keeps of itself at each update (--use_ema).", low=0.0, high=1.0
    )
    layer_decay: float = setting(
        1.0,
        "Learning rates fall by this factor from block to block, from the head down (1: all "
        "alike).",
        low=1e-3,
        high=1.0,
    )
    gradient_accumulation: int = setting(
        1, "Batches whose gradients are averaged for one update.", low=1
    )
    label_smoothing: float = setting(
        0.0, "The part of each label that goes to all classes alike.", low=0.0, high=0.99
    )
    init_from: str | None = setting(
        None,
        "Begin with these weights, but with a new head: a .keras file, the folder of a run, or a "
        "file of weights of keras.applications.",
    )
    freeze: str = setting(
        "none",
        "What is not trained: none; backbone: all but the head; until=<layer>: all up to it.",
        check=check_freeze,
    )
    keep: str = setting(
        "last",
        "Which epoch's weights are the result: last, or best by validation.",
        choices=["last", "best"],
    )
    early_stopping: int = setting(
        0, "Stop after so many epochs without a better validation; 0: never.", low=0
    )
    weight_decay: float = setting(
        0.0,
        "Of kernels and of the γ that the guidelines select; decoupled, of embeddings, too. "
        "Coupled, in torch's units: the gradient of w gains weight_decay * w. Decoupled: w loses "
        "learning_rate * weight_decay * w before each step.",
        low=0.0,
    )
    decay: str = setting(
        "coupled",
        "Coupled: L2 in the loss. Decoupled: by the optimizer (AdamW, arXiv:1711.05101).",
        choices=["coupled", "decoupled"],
    )
    decay_to: str = setting(
        "zero",
        "Where decoupled decay leads: zero, or initial: back to where the run began, as L2-SP "
        "(arXiv:1802.01483), for fine-tuning; the head decays to zero all the same.",
        choices=["zero", "initial"],
    )
    guidelines: str = setting(
        "paper",
        "Which γ to decay: paper, none, all, or role=factor pairs (residual_last=1,interior=0.5).",
        check=Guidelines.parse,
    )
    mixed_precision: bool = setting(False, "Compute in 16 bits, keep weights in 32.")
    mixed_precision_dtype: str = setting(
        "float16", "The 16-bit format.", choices=["float16", "bfloat16"]
    )
    seed: int = setting(0, "Of weights, shuffling and augmentation.", low=0, high=2**31 - 1)
    deterministic: bool = setting(
        True, "Use deterministic kernels; resuming is exact only with them."
    )
    jit_compile: str = setting(
        "auto",
        "Compile the training step with XLA; auto: where Keras would (JAX always; TensorFlow only "
        "with --nodeterministic, for not every operation has a deterministic kernel there).",
        choices=["auto", "yes", "no"],
    )
    limit_examples: int = setting(0, "Training examples to use; 0: all.", low=0)
    max_steps_per_epoch: int = setting(0, "Batches in an epoch, at most; 0: all.", low=0)


def read_training(*, epochs: int, warmup: Callable[[int], float]) -> TrainingSettings:
    """Returns the hyperparameters; what nobody typed adapts to what somebody did.

    Args:
        epochs: number of epochs, if the command line names none.
        warmup: epochs of warm-up of so many epochs, if the command line names none.
    """
    typed = read(TrainingSettings, epochs=epochs)
    _refuse_idle(typed)
    if typed.decay_to == "initial" and typed.decay == "coupled":
        raise UsageError(
            "--decay_to=initial needs --decay=decoupled: L2 in the loss would have to keep a copy "
            "of every kernel in the model (with sgd, take --weight_decay / (1 - --momentum))"
        )
    usual = warmup(typed.epochs) if typed.schedule == "cosine" else 0.0
    found = read(TrainingSettings, epochs=epochs, warmup_epochs=usual)
    if found.schedule != "cosine" and found.warmup_epochs:
        raise UsageError(
            f"--warmup_epochs={found.warmup_epochs} goes with --schedule=cosine; got "
            f"--schedule={found.schedule}"
        )
    # In their normal form, however spelt.
    return dataclasses.replace(found, guidelines=str(Guidelines.parse(typed.guidelines)))


def _refuse_idle(settings: TrainingSettings) -> None:
    """Refuses what somebody typed, and what would do nothing with the rest.

    Raises:
        UsageError: there is such a flag.
    """
    optimizer = settings.optimizer
    if optimizer not in WITH_MOMENTUM:
        refuse_idle(["momentum"], f"with --optimizer={optimizer}")
    if optimizer != "sgd":
        refuse_idle(["nesterov"], f"with --optimizer={optimizer}")
    if settings.schedule != "step":
        refuse_idle(["drop_at", "drop_factor"], f"with --schedule={settings.schedule}")
    if not settings.mixed_precision:
        refuse_idle(["mixed_precision_dtype"], "without --mixed_precision")
    if not settings.use_ema:
        refuse_idle(["ema_momentum"], "without --use_ema")
    if not settings.weight_decay:
        refuse_idle(["decay_to"], "with --weight_decay=0")
