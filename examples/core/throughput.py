"""Shows whether the input pipeline keeps up with training."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

# The pipeline shares the processor with training, so it needs some room.
_MARGIN = 1.2
_PART = 0.1  # of the time of an epoch: to measure the pipeline for
_SHORTEST, _LONGEST = 0.5, 10.0  # seconds


def pipeline_rate(
    batches: tf.data.Dataset, *, batch_size: int, seconds: float = 3.0, most: int = 100
) -> float | None:
    """Returns the examples per second of a pipeline by itself, or `None` if it is too slow to say.

    The first batch does not count: before it, buffers are filled.

    Args:
        batches: the pipeline.
        batch_size: examples in a batch.
        seconds: to measure for, at most.
        most: number of batches to measure, at most.
    """
    times: list[float] = []
    over = threading.Event()

    def read() -> None:
        for _ in batches.take(most + 1):
            times.append(time.perf_counter())
            if over.is_set():
                return

    # A thread, because nothing can end the wait for a batch; it ends with the batch.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(seconds)
    over.set()
    if len(times) < 2:
        return None
    return batch_size * (len(times) - 1) / (times[-1] - times[0])


class ThroughputReport(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Compares training with its pipeline, once, after the first epoch of two or more batches.

    The pipeline is measured then, not before training, which would have to wait; and for about a
    tenth of the time that the epoch took at most.

    Args:
        batches: the pipeline.
        rows: examples in a batch of the pipeline.
        batch_size: examples in a batch that is trained on, by all workers together.
    """

    def __init__(self, batches: tf.data.Dataset, rows: int, batch_size: int):
        super().__init__()
        self._batches = batches
        self._share = batch_size // rows
        self._rows = rows
        self._batch_size = batch_size
        self._first = self._last = 0.0
        self._steps = 0
        self._told = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._last = time.perf_counter()
        if self._steps == 0:  # Tracing and compiling are over.
            self._first = self._last
        self._steps += 1

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._told or self._steps < 2:
            return
        self._told = True
        seconds = min(_LONGEST, max(_SHORTEST, self._time * _PART))
        rate = pipeline_rate(self._batches, batch_size=self._rows, seconds=seconds)
        rate = rate and rate * self._share  # All workers read as fast, at the same time.
        print(compare(rate, (self._steps - 1) * self._batch_size, self._time), flush=True)

    @property
    def _time(self) -> float:
        return self._last - self._first


def compare(pipeline: float | None, examples: int, seconds: float) -> str:
    """Returns what there is to say about a pipeline, and about training on so many examples."""
    training = examples / seconds
    if pipeline is None:
        return (
            f"training {training:,.0f} examples/s; the rate of the input pipeline by itself is not "
            "known: its buffers were still being filled when it was measured"
        )
    text = (
        f"input pipeline by itself {pipeline:,.0f} examples/s, training {training:,.0f} examples/s"
    )
    if pipeline < _MARGIN * training:
        return f"warning: {text}: the pipeline holds training back"
    return text
