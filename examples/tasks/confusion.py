"""Which classes a model takes for which: the confusion matrix of a test set."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from examples.experiments import pictures


def draw(model: keras.Model, batches: tf.data.Dataset, classes: int, directory: Path) -> None:
    """Runs a classifier on `(inputs, labels)`, and writes `confusion.png` into `directory`."""
    counts = np.zeros((classes, classes), int)
    for inputs, labels in batches:
        found = np.argmax(model.predict_on_batch(inputs.numpy()), axis=-1)
        np.add.at(counts, (labels.numpy(), found), 1)
    path = directory / "confusion.png"
    pictures.confusion_matrix(counts, path)
    print(f"Confusion matrix in {path}")
