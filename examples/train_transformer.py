"""Trains a transformer on images or text, with AdamW's decay on the γ that should have it.

    python examples/train_transformer.py

trains a small pre-norm ViT on scikit-learn's digits, which need no download: about a minute on two
CPU cores, 96.7 % test accuracy (seed 0); with --validation_split=none, which does not hold out a
tenth of train, 97 to 98 % (seeds 0 to 2: 98.3, 98.3, 97.2).

    python examples/train_transformer.py --task=lm --output_dir=runs/lm

trains a language model of bytes on the sources of Python's standard library, found on the machine:
2.77 bits per byte on files that were held out, after 5.8 minutes of processor time (seed 0, Python
3.11; it depends a little on the version of Python). It prints a sample of what it would write.

    python examples/train_transformer.py --task=classification --output_dir=runs/lines

trains a post-norm encoder, as in BERT, to tell which package of the standard library a line of
source is from: 74.8 % of the test's lines, of ten packages (seed 0, Python 3.11), after some 17
minutes of processor time on a busy machine; --dataset=glue/sst2 takes GLUE's SST-2 instead.

    python examples/train_transformer.py --task=translation --output_dir=runs/dates

trains an encoder and a decoder to write dates in words as ISO 8601 does, and translates the test
set by beam search: 99.75 % right to the letter (seed 0), after 6.5 minutes of processor time on a
busy machine; --dataset=wmt14_translate/de-en takes WMT's sentences instead.

--norm_position=post, --norm=rms choose other blocks, of Keras' own layers; --model also knows
keras-hub's backbones. The same command resumes a run that was stopped, and shows the result of one
that has finished. All flags: --help, also from a file: --flagfile=FILE (examples/recipes). Results:
metrics.json, log.csv, model.keras and confusion.png, sample.txt or translations.txt in
--output_dir.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

if not __package__:  # Run as a script.
    import _repository  # noqa: F401

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import keras
from absl import flags

from examples.cluster.settings import ClusterSettings
from examples.core import settings, training
from examples.core.cli import run_main
from examples.core.memory import check_attention
from examples.core.training_settings import RunSettings, TrainingSettings, read_training
from examples.data.augmentation import AugmentationSettings
from examples.models import transformer
from examples.models.blocks import Size
from examples.models.transformer import TransformerSettings
from examples.tasks.classification_task import ClassificationTask
from examples.tasks.image_task import ImageSettings, ImageTask
from examples.tasks.sentences import SentenceSettings
from examples.tasks.text_task import TextSettings, TextTask
from examples.tasks.translation_task import TranslationTask

_MODELS = {task: names[0] for task, names in transformer.MODELS.items()}
_EPOCHS = {"vision": 80, "lm": 4, "classification": 8, "translation": 4}
_SIZES: dict[str, dict[str, Any]] = {
    "classification": {"norm_position": "post"},
    "translation": {"depth": 2},
}


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """What is learnt."""

    task: str = settings.setting(
        "vision",
        "Classify images (vision), model the next byte of text (lm), classify or translate "
        "sentences.",
        choices=list(_MODELS),
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
settings.define(AugmentationSettings)
settings.define(TransformerSettings)
settings.define(Size)
settings.define(TextSettings)
settings.define(SentenceSettings)
settings.define(TaskSettings)
flags.adopt_module_key_flags(settings)  # --help lists them


def main(argv: Sequence[str]) -> None:
    """Trains, or resumes, or shows what was trained before."""
    del argv
    what = settings.read(TaskSettings)
    how = settings.read(RunSettings)
    train = read_training(epochs=_EPOCHS[what.task], warmup=lambda epochs: epochs / 20)
    settings.refuse_idle(idle(what.task), f"with --task={what.task}")
    network = settings.read(TransformerSettings, model=_MODELS[what.task])
    transformer.check_model_name(network.model, what.task)
    size = settings.read(Size, **_SIZES.get(what.task, {}))
    images, texts = settings.read(ImageSettings), settings.read(TextSettings)
    words = settings.read(SentenceSettings)
    if images.dataset:
        settings.refuse_idle({"text"}, f"with --dataset={images.dataset}")
    if words.tokenizer == "bytes":
        settings.refuse_idle({"vocabulary_size"}, "with --tokenizer=bytes")
    augmentation = settings.read(AugmentationSettings)
    identity = settings.values_of(train, images, network, size, texts, words, augmentation, what)

    def make_task() -> training.Task:
        if what.task == "lm":
            check("--sequence_length", texts.sequence_length)
            build = partial(make_language_model, network, size)
            return TextTask(build, size, texts, train, how, images.dataset, images.eval_batch_size)
        if words.max_tokens:
            check("--max_tokens", words.max_tokens)
        if what.task == "classification":
            return ClassificationTask(partial(make_encoder, size), words, images, train, how)
        if what.task == "translation":
            return TranslationTask(partial(make_translator, size), size, words, images, train, how)
        shown = dataclasses.replace(images, dataset=images.dataset or "digits")
        if images.image_size:
            check("--image_size", (images.image_size // network.patch_size) ** 2)
        build_images = partial(make_classifier, network, size)
        return ImageTask(build_images, shown, train, how, augmentation)

    devices = settings.read(ClusterSettings)
    many = devices.strategy in ("multi_worker", "tpu")  # Each takes a part of the batch.

    def check(flag: str, tokens: int) -> None:
        check_attention(
            batch_size=1 if many else train.batch_size,
            depth=size.depth,
            heads=size.heads,
            tokens=tokens,
            flag=flag,
        )

    training.run(how, train, devices, identity, make_task)


def idle(task: str) -> set[str]:
    """Returns the names of the flags that have no meaning for a task."""
    texts = settings.names_of(TextSettings)
    sentences = settings.names_of(SentenceSettings)
    images = {"image_size", "shift", "flip", "patch_size"} | settings.names_of(AugmentationSettings)
    return {
        "vision": texts | sentences,
        "lm": images | sentences | {"train_split", "validation_split", "test_split"},
        "classification": images | texts | {"swap", "beams"},
        "translation": images | texts,
    }[task]


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


def make_encoder(size: Size, vocabulary: int, length: int, num_classes: int) -> keras.Model:
    """Builds the classifier of sentences that the settings ask for."""
    return transformer.text_classifier(
        size, vocabulary=vocabulary, length=length, num_classes=num_classes
    )


def make_translator(
    size: Size, vocabulary: int, source_length: int, target_length: int
) -> keras.Model:
    """Builds the translator that the settings ask for."""
    return transformer.translator(
        size, vocabulary=vocabulary, source_length=source_length, target_length=target_length
    )


if __name__ == "__main__":
    run_main(main)
