"""The folder of a run: settings, checkpoint, log and metrics, all of which survive being killed.

| file | content | written |
| --- | --- | --- |
| `settings.json` | what identifies the run | at its start |
| `checkpoint.npz` | weights, optimizer, random states, rows of the log | after every epoch |
| `log.csv` | a row per epoch | after every epoch, from the checkpoint's rows |
| `model.keras` | the trained model | at the end |
| `metrics.json` | results, settings, versions, plan | last: it means that the run has finished |

With `--checkpoint_steps`, and on SIGTERM, the checkpoint is also written within an epoch. Every
file is replaced atomically. `log.csv` is written from the rows in the checkpoint, so that after a
crash between the two neither a row is missing nor one is there twice.
"""

import contextlib
import csv
import dataclasses
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from examples.core.cli import UsageError
from examples.core.files import (
    claimed,
    make_durable,
    remove_leftovers,
    to_path,
    told_if_full,
    write_atomic,
)
from examples.core.settings import differences

_FORMAT = 1


@dataclasses.dataclass
class Progress:
    """How far a run has come: its log, and the time each epoch took.

    Attributes:
        rows: of the log, one for each epoch that is done.
        seconds: that each took.
        step: steps that are done of the epoch in progress.
        spent: seconds that they took.
        metrics: what the metrics have seen in them.
    """

    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    step: int = 0
    spent: float = 0.0
    metrics: list[np.ndarray] = dataclasses.field(default_factory=list, compare=False)

    @property
    def epochs_done(self) -> int:
        return len(self.rows)

    def header(self) -> dict[str, Any]:
        """Returns what goes into the header of a checkpoint."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "metrics"
        }

    def best(self, column: str, *, smallest: bool = False) -> dict[str, float]:
        """Returns the best value of a column so far, and its epoch; nothing without the column."""
        found = [(row[column], row["epoch"]) for row in self.rows if column in row]
        if not found:
            return {}
        value, epoch = min(found) if smallest else max(found, key=lambda pair: pair[0])
        return {column.replace("val_", "best_validation_"): value, "best_epoch": epoch}


class Run:
    """A run's folder. Make one with `open_run`."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]):
        self.directory = directory
        self.settings = dict(settings)
        self.checkpoint_path = directory / "checkpoint.npz"
        self.log_path = directory / "log.csv"
        self.metrics_path = directory / "metrics.json"
        self.model_path = directory / "model.keras"
        self.settings_path = directory / "settings.json"

    def finished_metrics(self) -> dict[str, Any] | None:
        """Returns the results if the run has finished, else `None`."""
        return _read_json(self.metrics_path)

    def save_checkpoint(self, model: keras.Model, progress: Progress) -> None:
        """Writes the whole state of training, then the log."""
        arrays, index = {}, {}
        for group, variables in _variables(model).items():
            index[group] = [variable.path for variable in variables]
            for number, variable in enumerate(variables):
                arrays[f"{group}_{number}"] = keras.ops.convert_to_numpy(variable)
        for number, variable in enumerate(_metrics(model) if progress.step else ()):
            arrays[f"metric_{number}"] = keras.ops.convert_to_numpy(variable)
        header = {"format": _FORMAT, "variables": index, "progress": progress.header()}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_atomic(self.checkpoint_path, content.getvalue())
        self.write_log(progress)

    def load_checkpoint(self, model: keras.Model) -> Progress:
        """Puts the saved state into a compiled model; returns how far training had come.

        Without a checkpoint, the model stays as it is and nothing has been done.

        Raises:
            UsageError: the checkpoint cannot be read, or is that of another model.
        """
        if not self.checkpoint_path.exists():
            return Progress()
        try:
            content = io.BytesIO(self.checkpoint_path.read_bytes())
            with np.load(content, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(arrays["header"].tobytes())
            progress = Progress(**header["progress"])
            metrics = sum(name.startswith("metric_") for name in arrays)
            progress.metrics = [arrays[f"metric_{number}"] for number in range(metrics)]
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{self.checkpoint_path} is damaged ({error}); --noresume starts the run afresh"
            ) from error
        _restore(model, arrays, header, self.checkpoint_path)
        self.write_log(progress)
        return progress

    def write_log(self, progress: Progress) -> None:
        """Writes the rows as CSV."""
        if not progress.rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(progress.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(progress.rows)
        # The checkpoint holds the same rows, and a run that goes on writes them again; see
        # `write_metrics` for one that has finished.
        write_atomic(self.log_path, text.getvalue().encode(), durable=False)

    def save_model(self, model: keras.Model) -> None:
        """Writes the model in Keras' format."""
        with tempfile.TemporaryDirectory() as folder, told_if_full(self.model_path):
            temporary = Path(folder) / "model.keras"
            model.save(temporary)
            content = temporary.read_bytes()
        write_atomic(self.model_path, content)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes the results; from then on the run counts as finished."""
        make_durable(self.log_path)
        write_json(self.metrics_path, metrics)

    def _files(self) -> list[Path]:
        return [
            self.metrics_path,  # first: without it the run no longer counts as finished
            self.checkpoint_path,
            self.log_path,
            self.model_path,
            self.settings_path,
        ]

    def clear(self) -> None:
        """Removes what an earlier run left here; other files in the folder are not touched."""
        for path in self._files():
            path.unlink(missing_ok=True)
        for path in (self.directory / "monitor.jsonl", self.directory / "monitor.png"):
            path.unlink(missing_ok=True)
        for events in (self.directory / "tensorboard").glob("*/events.out.tfevents.*"):
            events.unlink()

    def remove_leftovers(self) -> None:
        """Removes the temporary files of a killed process."""
        for path in self._files():
            remove_leftovers(path)


class ReadOnlyRun(Run):
    """The folder as the other workers of a distributed run see it: the chief alone writes."""

    def save_checkpoint(self, model: keras.Model, progress: Progress) -> None:
        """Leaves it to the chief, who must add up what the metrics of all have seen."""
        for variable in _metrics(model) if progress.step else ():
            keras.ops.convert_to_numpy(variable)

    def write_log(self, progress: Progress) -> None:
        """Leaves it to the chief."""

    def save_model(self, model: keras.Model) -> None:
        """Leaves it to the chief."""

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Leaves it to the chief."""


@contextlib.contextmanager
def open_run(directory: str, settings: Mapping[str, Any], *, resume: bool) -> Iterator[Run]:
    """Opens a run's folder for this process alone, creating it if need be.

    Args:
        directory: the folder.
        settings: whatever decides about the result of the run; must survive JSON.
        resume: whether to go on with the run that is there; otherwise it is cleared away.

    Raises:
        UsageError: there is a run of other settings, or another process is at work on it.
    """
    run = Run(to_path(directory), json.loads(json.dumps(dict(settings))))
    with claimed(run.directory, "training"):
        run.remove_leftovers()
        if not resume:
            run.clear()
        _claim(run)
        yield run


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON, atomically."""
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _claim(run: Run) -> None:
    """Writes the settings into a new folder; in that of an earlier run, insists on the same.

    A run that has not finished its first epoch, say because its data set could not be had, has
    nothing to lose, so its folder counts as new.
    """
    earlier = _read_json(run.settings_path)
    begun = run.checkpoint_path.exists() or run.metrics_path.exists()
    if earlier is None or not begun:
        write_json(run.settings_path, run.settings)
        return
    if different := differences(earlier, run.settings):
        changes = ", ".join(f"--{n} was {was!r} and is now {now!r}" for n, was, now in different)
        raise UsageError(
            f"{run.directory} holds a run of other settings: {changes}. Repeat them to go on with "
            "that run, give another --output_dir to keep it, or --noresume to overwrite it"
        )


def restore_metrics(model: keras.Model, progress: Progress) -> None:
    """Gives the metrics what they had seen of an epoch in progress, once.

    They exist only when training has begun, so that `load_checkpoint` cannot do it.

    Raises:
        UsageError: they are others.
    """
    saved, progress.metrics = progress.metrics, []
    if not progress.step:
        return
    variables = _metrics(model)
    if [tuple(v.shape) for v in variables] != [array.shape for array in saved]:
        raise UsageError(
            "the checkpoint within an epoch has other metrics, by another version of Keras or of "
            "these examples; --noresume starts the run afresh"
        )
    for variable, array in zip(variables, saved, strict=True):
        variable.assign(array)


def _metrics(model: keras.Model) -> list[keras.Variable]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _variables(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Returns all state of training: weights and random states, and the optimizer's variables."""
    return {"model": list(model.variables), "optimizer": list(model.optimizer.variables)}


def _restore(
    model: keras.Model, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any], path: Path
) -> None:
    """Checks all variables against the checkpoint, then assigns them."""
    pairs = []
    for group, variables in _variables(model).items():
        saved = header["variables"].get(group, [])
        if header.get("format") != _FORMAT or len(saved) != len(variables):
            raise UsageError(
                f"{path} was written for another model or by another version of Keras or of these "
                "examples; --noresume starts the run afresh"
            )
        for number, variable in enumerate(variables):
            array = arrays[f"{group}_{number}"]
            if tuple(variable.shape) != array.shape:
                raise UsageError(
                    f"{path} has shape {array.shape} for {variable.path}, the model has "
                    f"{tuple(variable.shape)}; --noresume starts the run afresh"
                )
            pairs.append((variable, array))
    for variable, array in pairs:
        variable.assign(array)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Returns the content of a JSON file, or `None` if there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(
            f"{path} is damaged ({error}); --noresume starts the run afresh"
        ) from error
