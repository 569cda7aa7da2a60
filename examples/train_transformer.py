"""Trains a transformer on images or on text, with AdamW's decay on the γ that should have it.

    python examples/train_transformer.py

trains a small pre-norm ViT on scikit-learn's digits, which need no download: about a minute on two
CPU cores, 97 to 98 % test accuracy (with --validation_split=none, which trains on all of train,
seeds 0 to 2: 98.3, 98.3, 97.2; by default a tenth is held out).

    python examples/train_transformer.py --task=lm --output_dir=runs/lm

trains a language model of bytes on the sources of Python's standard library, found on the machine:
about two minutes, 2.70 bits per byte on files that were held out (seed 0, before a tenth of the
files was kept for validation; it depends a little on the version of Python). It prints a sample of
what it would write.

Blocks are pre-norm by default (--norm_position=post, --norm=rms), of Keras' own layers; --model
also knows keras-hub's backbones. The same command resumes a run that was stopped, and shows the
result of one that has finished. All flags: --help. Results: metrics.json, log.csv, model.keras and
confusion.png or sample.txt in --output_dir.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

if not __package__:  # Run as a script.
    import _repository  # noqa: F401

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import keras
from absl import flags

from examples.cluster.settings import ClusterSettings
from examples.core import settings, training
from examples.core.cli import run_main
from examples.core.training_settings import RunSettings, TrainingSettings, read_training
from examples.models import transformer
from examples.models.transformer import Size, TransformerSettings
from examples.tasks.image_task import ImageSettings, ImageTask
from examples.tasks.text_task import TextSettings, TextTask

_MODELS = {"vision": "vit", "lm": "gpt"}
_EPOCHS = {"vision": 80, "lm": 4}


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """What is learnt."""

    task: str = settings.setting(
        "vision", "Classify images, or model the next byte of text.", choices=list(_MODELS)
    )


settings.define(RunSettings, output_dir="runs/train_transformer")
settings.define(ClusterSettings)
settings.define(
    TrainingSettings,
    epochs=_EPOCHS["vision"],
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=0.05,
    decay="decoupled",
)
settings.define(ImageSettings, dataset=None)
settings.define(TransformerSettings)
settings.define(Size)
settings.define(TextSettings)
settings.define(TaskSettings)
flags.adopt_module_key_flags(settings)  # --help lists them


def main(argv: Sequence[str]) -> None:
    """Trains, or resumes, or shows what was trained before."""
    del argv
    what = settings.read(TaskSettings)
    how = settings.read(RunSettings)
    train = read_training(epochs=_EPOCHS[what.task], warmup=lambda epochs: epochs / 20)
    network = settings.read(TransformerSettings, model=_MODELS[what.task])
    transformer.check_model_name(network.model, what.task)
    size = settings.read(Size)  # Refuses sizes that do not go together.
    images, texts = settings.read(ImageSettings), settings.read(TextSettings)
    identity = settings.values_of(train, images, network, size, texts, what)

    def make_task() -> training.Task:
        if what.task == "lm":
            build = partial(make_language_model, network, size)
            return TextTask(build, texts, train, how, images.dataset, images.eval_batch_size)
        shown = dataclasses.replace(images, dataset=images.dataset or "digits")
        return ImageTask(partial(make_classifier, network, size), shown, train, how)

    training.run(how, train, settings.read(ClusterSettings), identity, make_task)


def make_classifier(
    network: TransformerSettings, size: Size, image_shape: tuple[int, int, int], num_classes: int
) -> keras.Model:
    """Builds the classifier of images that the settings ask for."""
    build = (
        transformer.vision_transformer
        if network.model == "vit"
        else transformer.keras_hub_classifier
    )
    return build(
        size, image_shape=image_shape, num_classes=num_classes, patch_size=network.patch_size
    )


def make_language_model(
    network: TransformerSettings, size: Size, vocabulary: int, length: int
) -> keras.Model:
    """Builds the language model that the settings ask for."""
    if network.model == "gpt":
        return transformer.language_model(size, vocabulary=vocabulary, length=length)
    return transformer.keras_hub_language_model(
        network.model, size, vocabulary=vocabulary, length=length
    )


if __name__ == "__main__":
    run_main(main)
