"""What every run is asked for: where and how it is carried out, and its hyperparameters."""

import dataclasses
from collections.abc import Callable

from examples.core.optimizers import OPTIMIZERS, SCHEDULES
from examples.core.settings import read, setting
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
    momentum: float = setting(0.9, "Of sgd and rmsprop.", low=0.0, high=1.0)
    nesterov: bool = setting(True, "Nesterov's momentum (sgd).")
    global_clipnorm: float | None = setting(
        None, "Clip the norm of the whole gradient to this.", low=0.0
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
    return dataclasses.replace(
        read(TrainingSettings, epochs=epochs, warmup_epochs=warmup(typed.epochs)),
        guidelines=str(Guidelines.parse(typed.guidelines)),  # in their normal form, however spelt
    )
