"""Callbacks of the training scripts."""

import importlib.util
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

import keras_gamma
from examples.core.cli import Notice, Terminated, UsageError
from examples.core.files import is_remote
from examples.core.layerwise import learning_rate
from examples.core.run_state import Progress, Run, restore_metrics
from keras_gamma.decay.shrinkage import uncompiled
from keras_gamma.dynamics import monitor_log, monitor_picture


class SaveProgress(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Adds a row to the log and writes a checkpoint at the end of every epoch.

    Also within an epoch: every so many steps, and when SIGTERM has come.

    Args:
        run: where to.
        progress: what a resumed run had done already; grows as training goes on.
        every: steps from one checkpoint within an epoch to the next; 0 for none.
        notice: whether SIGTERM has come; `None` if it is not to be asked.
    """

    def __init__(self, run: Run, progress: Progress, every: int = 0, notice: Notice | None = None):
        super().__init__()
        self._run = run
        self._progress = progress
        self._every = every
        self._notice = notice
        self._before = 0  # steps of this epoch that an earlier process has done
        self._saved = 0  # steps of this epoch, at the last checkpoint
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._started = time.perf_counter() - self._progress.spent
        self._before = self._saved = self._progress.step
        restore_metrics(self.model, self._progress)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        step = self._before + batch + 1
        stop = self._notice is not None and self._notice.given
        due = self._every and step // self._every > self._saved // self._every
        # At the last step, the end of the epoch saves more: its row of the log.
        if not (stop or due) or batch + 1 >= (self.params.get("steps") or batch + 2):
            return
        self._saved = step
        if math.isfinite(float((logs or {}).get("loss", 0.0))):
            self._progress.step = step
            self._progress.spent = time.perf_counter() - self._started
            # On JAX, `self.model` brings the weights back from the step that holds them.
            self._run.save_checkpoint(self.model, self._progress)
        if stop:
            raise Terminated

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(numbers["loss"]):
            # Nothing is saved, so that the last good checkpoint stays.
            raise UsageError(
                f"the loss is {numbers['loss']} in epoch {epoch + 1}; try a smaller "
                "--learning_rate, a longer --warmup_epochs, or --global_clipnorm (with --noresume)"
            )
        rate = learning_rate(self.model.optimizer)
        self._progress.rows.append({"epoch": epoch + 1, "learning_rate": rate, **numbers})
        self._progress.seconds.append(time.perf_counter() - self._started)
        self._progress.step, self._progress.spent = 0, 0.0
        self._run.save_checkpoint(self.model, self._progress)
        if self._notice is not None and self._notice.given:
            raise Terminated


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
            not bring it along; and not into an object store, for its files grow).
    """
    if wanted == "no" or (wanted == "auto" and is_remote(directory)):
        return []
    if importlib.util.find_spec("tensorboard") is None:
        hint = "no TensorBoard logs: pip install tensorboard to have them"
        print(hint if wanted == "auto" else f"warning: --tensorboard=yes, but {hint}")
        return []
    return [_TensorBoard(str(directory), write_graph=False)]


class _TensorBoard(keras.callbacks.TensorBoard):  # type: ignore[misc]  # Keras has no types
    """Keras' own, after each epoch, without work in each step."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Nothing: Keras makes the step's numbers ready here, and then does not write them."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        with uncompiled():  # It asks the schedule.
            super().on_epoch_end(epoch, logs)
