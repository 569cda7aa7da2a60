"""Shows whether the input pipeline keeps up with training."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

# The pipeline shares the processor with training, so it needs some room.
_MARGIN = 1.2


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

    Args:
        pipeline: examples per second of the pipeline by itself; `None` if it is too slow to say.
        batch_size: examples in a batch.
    """

    def __init__(self, pipeline: float | None, batch_size: int):
        super().__init__()
        self._pipeline = pipeline
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
        print(compare(self._pipeline, (self._steps - 1) * self._batch_size, self._time), flush=True)

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
