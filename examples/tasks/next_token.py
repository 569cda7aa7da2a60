"""What the tasks share that predict the next token: what is measured, and what is told of it."""

import math
from collections.abc import Mapping
from typing import Any

import keras

from examples.core.run_state import Progress

SELECTS = ("val_nats", True)  # the column that decides between epochs: less is better


def make_metrics() -> list[keras.metrics.Metric]:
    """Makes the metrics of logits and tokens."""
    return [
        # The loss may hold penalties; this is the data's part of it, in nats.
        keras.metrics.SparseCategoricalCrossentropy(name="nats", from_logits=True),
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
    ]


def results(progress: Progress, test: Mapping[str, float]) -> dict[str, Any]:
    """Returns the results, from the rows of the log and the scores of the test."""
    column, smallest = SELECTS
    return {
        "final_test_perplexity": math.exp(test["nats"]),
        "final_test_accuracy": test["accuracy"],
        "final_test_loss": test["loss"],
        "final_loss": progress.rows[-1]["loss"],
        **progress.best(column, smallest=smallest),
    }
