"""Where the measurements of `GammaMonitor` go: JSON lines, and TensorBoard."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


class JsonLines:
    """A file of one JSON object per line: a header, then one per measurement.

    Each line is flushed as it is written. A last line that a killed process left half-written is
    dropped when the file is opened again.

    Args:
        path: of the file; its folder is made if need be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def open(self, header: Mapping[str, Any], step: int) -> None:
        """Begins a file, or goes on with the one that is there.

        Args:
            header: dict, the first line.
            step: integer. What an earlier process measured before this step is kept; what it
                measured from this step on is dropped, for it will be measured again.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read(self.path)[1] if row["step"] < step] if step else []
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        text = "".join(_line(one) for one in [header, *rows])
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds one measurement."""
        assert self._file is not None, "open() comes first"
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class DamagedLineError(ValueError):
    """A line that is no JSON, and not the last one.

    Args:
        path: of the file.
        number: of the line, from 1.
        cause: what is wrong with it.
    """

    def __init__(self, path: Path, number: int, cause: Exception) -> None:
        super().__init__(f"{path}, line {number}, is no JSON: {cause}")
        self.number = number
        self.cause = cause


def read_lines(path: str | os.PathLike[str]) -> list[Any]:
    """Reads a file with a JSON value in each line.

    A last line that a killed process left half-written does not count.

    Args:
        path: of the file.

    Returns:
        A list of values; empty if there is no such file.

    Raises:
        DamagedLineError: if another line is no JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):  # Without a newline: its writer was killed.
                break
            raise DamagedLineError(path, number, error) from error
    return found


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Reads a file of `JsonLines`.

    Args:
        path: of the file.

    Returns:
        A tuple `(header, rows)`; `(None, [])` if there is no such file, or nothing whole in it.

    Raises:
        ValueError: if a line other than the last is no JSON, or the file is not of this kind.
    """
    found = read_lines(path)
    if not found:
        return None, []
    if not isinstance(found[0], dict) or found[0].get("format") != "keras_gamma.monitor":
        raise ValueError(
            f"{path} was not written by GammaMonitor: its first line has no "
            '"format": "keras_gamma.monitor". Give another file.'
        )
    return found[0], found[1:]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


class TensorBoard:
    """Scalars for TensorBoard. Needs TensorFlow to write them, on every backend.

    Args:
        directory: of the event files.

    Raises:
        ImportError: if TensorFlow is not installed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        try:
            import tensorflow
        except ImportError as error:
            raise ImportError(
                "GammaMonitor(log_dir=...) writes TensorBoard's files by means of TensorFlow, "
                "which is not installed. Use jsonl=... instead."
            ) from error
        self._tf = tensorflow
        self._directory = str(directory)
        self._writer: Any = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds one measurement: the medians by role and of the kernels, and each variable."""
        tf = self._tf
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._directory)
        # Not `tf.summary.scalar`, which needs the tensorboard package to be installed.
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
        )
        with self._writer.as_default():
            for tag, value in scalars(row):
                tf.summary.write(tag, tf.constant(value, tf.float32), row["step"], metadata)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Pairs of a tag and a number, for each number of a measurement."""
    for name in ("loss", "learning_rate"):
        if row[name] is not None:
            yield name, row[name]
    for group in ("roles", "gammas", "kernels", "branches"):
        for key, numbers in row[group].items():
            for name, value in numbers.items():
                if isinstance(value, (int, float)):
                    yield f"{group}/{key}/{name}", value
