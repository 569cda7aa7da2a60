"""Callbacks of the training scripts."""

import importlib.util
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

import keras_gamma
from examples.core.cli import UsageError
from examples.core.run_state import Progress, Run
from keras_gamma.dynamics import monitor_log, monitor_picture


class SaveProgress(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Adds a row to the log and writes a checkpoint at the end of every epoch.

    Args:
        run: where to.
        progress: what a resumed run had done already; grows as training goes on.
    """

    def __init__(self, run: Run, progress: Progress):
        super().__init__()
        self._run = run
        self._progress = progress
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(numbers["loss"]):
            # Nothing is saved, so that the last good checkpoint stays.
            raise UsageError(
                f"the loss is {numbers['loss']} in epoch {epoch + 1}; try a smaller "
                "--learning_rate, a longer --warmup_epochs, or --global_clipnorm (with --noresume)"
            )
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._progress.rows.append({"epoch": epoch + 1, "learning_rate": learning_rate, **numbers})
        self._progress.seconds.append(time.perf_counter() - self._started)
        self._run.save_checkpoint(self.model, self._progress)


def monitor(directory: Path, every: int, probe: Any) -> list[keras.callbacks.Callback]:
    """Returns a `GammaMonitor`, or nothing if `every` is 0.

    Args:
        directory: of the run.
        every: steps from one measurement to the next.
        probe: function that returns a batch of inputs.
    """
    if not every:
        return []
    return [
        keras_gamma.callbacks.GammaMonitor(
            every=every,
            probe=probe(),
            jsonl=directory / "monitor.jsonl",
            picture=directory / "monitor.png",
        )
    ]


def draw_monitor(directory: Path) -> None:
    """Draws what was measured, for a run that was killed after its last epoch, before its end."""
    header, rows = monitor_log.read(directory / "monitor.jsonl")
    if header is not None and rows:
        monitor_picture.draw(header, rows, directory / "monitor.png")


def tensorboard(directory: Path, wanted: str) -> list[keras.callbacks.Callback]:
    """Returns Keras' TensorBoard callback, or nothing.

    Args:
        directory: of the logs.
        wanted: `yes`, `no`, or `auto` (if the tensorboard package is there: TensorFlow 2.21 does
            not bring it along).
    """
    if wanted == "no":
        return []
    if importlib.util.find_spec("tensorboard") is None:
        hint = "no TensorBoard logs: pip install tensorboard to have them"
        print(hint if wanted == "auto" else f"warning: --tensorboard=yes, but {hint}")
        return []
    return [keras.callbacks.TensorBoard(str(directory), write_graph=False)]
