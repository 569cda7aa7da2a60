"""Flags that the training scripts share.

Each `define_*` function defines some flags and returns them. A script keeps what it gets:
`settings_of` turns the flags that decide about the result into the dictionary that identifies a
run.
"""

from collections.abc import Iterable
from typing import Any

from absl import flags

import keras_gamma
from examples.core.optimizers import OPTIMIZERS, SCHEDULES

Holders = list[flags.FlagHolder]


def define_run_flags(output_dir: str) -> Holders:
    """Defines where and how a run is carried out: none of these changes its result."""
    return [
        flags.DEFINE_string("output_dir", output_dir, "Folder of the run."),
        flags.DEFINE_bool(
            "resume",
            True,
            "Go on with the run in --output_dir; --noresume starts it afresh, overwriting it.",
        ),
        flags.DEFINE_string(
            "data_dir", None, "Folder of prepared data sets; default: tensorflow-datasets' own."
        ),
        flags.DEFINE_enum(
            "verbose",
            "auto",
            ["auto", "0", "1", "2"],
            "0: silent, 1: progress bar, 2: a line per epoch; auto: 1 on a terminal, else 2.",
        ),
        flags.DEFINE_enum(
            "tensorboard",
            "auto",
            ["auto", "yes", "no"],
            "Write TensorBoard logs; auto: if the tensorboard package is installed.",
        ),
        flags.DEFINE_integer(
            "monitor_every",
            0,
            "Steps between measurements of γ, kernels and branches (keras_gamma.callbacks."
            "GammaMonitor), into monitor.jsonl and monitor.png; 0: none.",
            lower_bound=0,
        ),
        flags.DEFINE_bool("cache", True, "Keep decoded images in memory."),
    ]


def define_training_flags(
    *,
    epochs: int,
    batch_size: int,
    optimizer: str,
    learning_rate: float,
    warmup_epochs: float,
    weight_decay: float,
    decay: str,
) -> Holders:
    """Defines the hyperparameters of training, with a script's defaults."""
    return [
        flags.DEFINE_integer("epochs", epochs, "Passes over the training set.", lower_bound=1),
        flags.DEFINE_integer("batch_size", batch_size, "Examples in a batch.", lower_bound=1),
        flags.DEFINE_enum("optimizer", optimizer, list(OPTIMIZERS), "Optimizer."),
        flags.DEFINE_float("learning_rate", learning_rate, "Peak learning rate.", lower_bound=0.0),
        flags.DEFINE_enum("schedule", "cosine", SCHEDULES, "Of the learning rate after warm-up."),
        flags.DEFINE_float(
            "warmup_epochs",
            warmup_epochs,
            "Epochs of linear warm-up (cosine only).",
            lower_bound=0.0,
        ),
        flags.DEFINE_float("momentum", 0.9, "Of sgd and rmsprop.", 0.0, 1.0),
        flags.DEFINE_bool("nesterov", True, "Nesterov's momentum (sgd)."),
        flags.DEFINE_float(
            "global_clipnorm", None, "Clip the norm of the whole gradient to this.", lower_bound=0.0
        ),
        flags.DEFINE_float(
            "weight_decay",
            weight_decay,
            "Of kernels and of the γ that the guidelines select. Coupled, in torch's units: the "
            "gradient of w gains weight_decay * w. Decoupled: w loses learning_rate * weight_decay "
            "* w before each step.",
            lower_bound=0.0,
        ),
        flags.DEFINE_enum(
            "decay",
            decay,
            ["coupled", "decoupled"],
            "Coupled: L2 in the loss. Decoupled: by the optimizer (AdamW, arXiv:1711.05101).",
        ),
        _define_guidelines(),
        flags.DEFINE_bool("mixed_precision", False, "Compute in 16 bits, keep weights in 32."),
        flags.DEFINE_enum(
            "mixed_precision_dtype", "float16", ["float16", "bfloat16"], "The 16-bit format."
        ),
        flags.DEFINE_integer("seed", 0, "Of weights, shuffling and augmentation.", 0, 2**31 - 1),
        flags.DEFINE_bool(
            "deterministic", True, "Use deterministic kernels; resuming is exact only with them."
        ),
        flags.DEFINE_bool("jit_compile", False, "Compile the training step with XLA."),
        flags.DEFINE_integer(
            "limit_examples", 0, "Training examples to use; 0: all.", lower_bound=0
        ),
        flags.DEFINE_integer(
            "max_steps_per_epoch", 0, "Batches in an epoch, at most; 0: all.", lower_bound=0
        ),
    ]


def define_image_flags(*, dataset: str | None) -> Holders:
    """Defines the choice of an image data set, and of augmentation."""
    return [
        flags.DEFINE_string(
            "dataset", dataset, "An image classification set of tensorflow-datasets, or digits."
        ),
        flags.DEFINE_integer(
            "image_size", 0, "Side to resize images to; 0: leave them.", lower_bound=0
        ),
        flags.DEFINE_integer(
            "shift", -1, "Move training images by up to so many pixels; -1: an eighth.", -1
        ),
        flags.DEFINE_bool("flip", False, "Mirror every other training image, left to right."),
        flags.DEFINE_integer("eval_batch_size", 512, "Examples in a test batch.", lower_bound=1),
    ]


def define_resnet_flags(*, model: str, width: int) -> Holders:
    """Defines the choice of a residual network."""
    return [
        flags.DEFINE_string(
            "model",
            model,
            "resnet<6n+2>_v1, resnet<9n+2>_v2, or keras_cv_resnet{18,34,50,101,152}[_v2].",
        ),
        flags.DEFINE_integer("width", width, "Filters of the first stage (not keras_cv_*).", 1),
        flags.DEFINE_float(
            "batch_norm_momentum", 0.9, "Of batch normalization (not keras_cv_*).", 0.0, 1.0
        ),
    ]


def define_transformer_flags() -> Holders:
    """Defines the choice of a transformer."""
    return [
        flags.DEFINE_string(
            "model",
            None,
            "vit (the default) or keras_hub_vit; gpt (the default), keras_hub_gpt2 or "
            "keras_hub_llama for --task=lm.",
        ),
        flags.DEFINE_integer("depth", 4, "Blocks.", lower_bound=1),
        flags.DEFINE_integer("width", 64, "Features of the residual stream.", lower_bound=1),
        flags.DEFINE_integer("heads", 4, "Of the attention.", lower_bound=1),
        flags.DEFINE_integer("mlp_ratio", 4, "Hidden units, in multiples of --width.", 1),
        flags.DEFINE_float("dropout", 0.1, "At the end of every branch.", 0.0, 0.99),
        flags.DEFINE_enum("norm", "layer", ["layer", "rms"], "The normalization."),
        flags.DEFINE_enum(
            "norm_position", "pre", ["pre", "post"], "x + f(norm(x)), or norm(x + f(x))."
        ),
        flags.DEFINE_integer("patch_size", 2, "Side of an image's patches (vision).", 1),
    ]


def define_text_flags() -> Holders:
    """Defines the choice of a text, and of a sample of it."""
    return [
        flags.DEFINE_list(
            "text",
            [],
            "Files or glob patterns to learn from (lm); default: the sources of Python's standard "
            "library, or the set of --dataset.",
        ),
        flags.DEFINE_integer(
            "max_bytes", 1_000_000, "Bytes to learn from, at most; 0: all.", lower_bound=0
        ),
        flags.DEFINE_integer("sequence_length", 128, "Bytes in an example.", lower_bound=2),
        flags.DEFINE_string("prompt", "def ", "What the sample of text begins with."),
        flags.DEFINE_integer("sample_bytes", 400, "Length of the sample.", lower_bound=0),
        flags.DEFINE_float("temperature", 0.7, "Of the sample; 0: the likeliest byte.", 0.0),
    ]


def settings_of(holders: Iterable[flags.FlagHolder]) -> dict[str, Any]:
    """Returns name and value of each flag; guidelines in their normal form, however spelt."""
    settings = {holder.name: holder.value for holder in holders}
    if "guidelines" in settings:
        settings["guidelines"] = str(keras_gamma.Guidelines.parse(settings["guidelines"]))
    return settings


def _define_guidelines() -> flags.FlagHolder:
    """Defines --guidelines, checked by the library's own parser."""
    holder = flags.DEFINE_string(
        "guidelines",
        "paper",
        "Which γ to decay: paper, none, all, or role=factor pairs (residual_last=1,interior=0.5).",
    )

    def check(text: str) -> bool:
        try:
            keras_gamma.Guidelines.parse(text)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from error
        return True

    flags.register_validator(holder, check)
    return holder
