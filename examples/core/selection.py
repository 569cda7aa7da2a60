"""Which epoch a run ends with: the best one by validation, and an end when nothing improves.

Both are functions of the rows of the log, so that a run that is resumed decides as one that was not
interrupted.
"""

import io
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from examples.core import averages
from examples.core.cli import UsageError
from examples.core.files import write_atomic
from examples.core.run_state import Progress, Run

_BEST = "best.npz"


def best_row(rows: Sequence[dict[str, float]], column: str, *, smallest: bool) -> int:
    """Returns the number of the best row, the first of equals; -1 if there is none."""
    values = [-row[column] if smallest else row[column] for row in rows if column in row]
    return values.index(max(values)) if values else -1


def is_stale(
    rows: Sequence[dict[str, float]], column: str, patience: int, *, smallest: bool
) -> bool:
    """Whether the last `patience` rows are no better than one before them; never if it is 0."""
    if not patience or not rows:
        return False
    return len(rows) - 1 - best_row(rows, column, smallest=smallest) >= patience


def check_selection(with_validation: bool, keep: str, patience: int) -> None:
    """Refuses to choose where nothing is measured.

    Raises:
        UsageError: so it is.
    """
    if not with_validation and (keep == "best" or patience):
        asked = "--keep=best" if keep == "best" else f"--early_stopping={patience}"
        raise UsageError(f"{asked} needs something to validate on; see --validation_split")


def save_best(run: Run, model: keras.Model) -> None:
    """Keeps the weights of a model beside the checkpoint."""
    arrays = {str(n): keras.ops.convert_to_numpy(v) for n, v in enumerate(model.variables)}
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomic(run.directory / _BEST, content.getvalue())


def restore_best(run: Run, model: keras.Model) -> None:
    """Puts the weights that were kept into a model of the same kind."""
    with np.load(io.BytesIO((run.directory / _BEST).read_bytes())) as archive:
        for number, variable in enumerate(model.variables):
            variable.assign(archive[str(number)])


class Select(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps the weights of the best epoch, and stops when the last ones were no better.

    Stands before `SaveProgress`: if the process is killed between the two, the epoch is done again
    and ends with the same weights.

    Args:
        run: where the weights go; `None`: they are not kept.
        progress: the rows so far.
        column: what decides.
        smallest: whether less is better.
        patience: epochs without an improvement before it stops; 0: never.
    """

    def __init__(
        self, run: Run | None, progress: Progress, column: str, smallest: bool, patience: int
    ):
        super().__init__()
        self._run = run
        self._progress = progress
        self._column = column
        self._smallest = smallest
        self._patience = patience

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        rows = [*self._progress.rows, {self._column: float((logs or {})[self._column])}]
        best = best_row(rows, self._column, smallest=self._smallest)
        if self._run is not None and best == len(rows) - 1:
            with averages.used(self.model):
                save_best(self._run, self.model)
        if is_stale(rows, self._column, self._patience, smallest=self._smallest):
            self.model.stop_training = True
