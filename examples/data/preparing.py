"""A set of tensorflow-datasets whose files are there, or why they are not."""

import contextlib
import hashlib
import io
import os
import tempfile
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from examples.core.cli import UsageError
from examples.core.files import is_remote, locked, to_path, write_atomic
from examples.data import (
    digits,  # noqa: F401  (registers the builders)
    glyphs,  # noqa: F401  (registers the builders)
)

_PATIENCE = 10.0  # seconds, for an answer of the machine to download from


def _find_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns the builder of a set, whether or not the set has been prepared."""
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UsageError(
            f"tensorflow-datasets knows no data set {name!r}; see tfds.list_builders()"
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:  # no such version, or configuration
        raise UsageError(f"cannot open the data set {name!r}: {first_line(error)}") from error


def prepared(
    name: str, data_dir: str | None, check: Callable[[tfds.core.DatasetInfo], object] | None = None
) -> tfds.core.DatasetBuilder:
    """Returns a builder whose files are there; only one process at a time prepares them.

    Args:
        name: of the set.
        data_dir: where prepared sets lie.
        check: raises `UsageError` for a set that will not do, before it is downloaded; by default
            for one that is not of images with one label each.
    """
    if data_dir is not None and is_remote(to_path(data_dir)):
        return _of_store(name, data_dir)
    builder = _find_builder(name, data_dir)
    if _is_prepared(builder):
        # Made anew: another process may have finished since, and a builder reads its info once.
        return _find_builder(name, data_dir)
    (check or supervised_keys)(builder.info)  # better to refuse a set before its download
    try:
        with locked(to_path(builder.data_dir_root) / f".{builder.name}.lock", wait=True):
            builder = _find_builder(name, data_dir)  # another process may be done with it by now
            if not _is_prepared(builder):
                _check_network(builder)
                tfds.disable_progress_bar()
                with contextlib.redirect_stdout(io.StringIO()):
                    builder.download_and_prepare()
        return builder
    except ModuleNotFoundError as error:
        raise UsageError(
            f"preparing {name!r} needs the package {error.name}: pip install {error.name}"
        ) from error
    except UsageError:
        raise
    except Exception as error:  # downloads fail in more ways than can be listed
        raise UsageError(
            f"cannot prepare {name!r} ({first_line(error)}); without a network, prepare it "
            "elsewhere and pass its folder as --data_dir"
        ) from error


def _of_store(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Returns the builder of a set in an object store; its files are copied, if need be.

    TensorFlow reads the files of a store whose scheme it knows where they are.
    """
    try:
        builder = _find_builder(name, data_dir)
        there = _is_prepared(builder)
    except ImportError as error:  # the package for this kind of store
        raise UsageError(f"--data_dir={data_dir}: {first_line(error)}") from error
    if not there:
        raise UsageError(
            f"{name} is not in --data_dir={data_dir}; prepare it on a machine, and copy its folder "
            "there"
        )
    scheme = data_dir.partition("://")[0]
    if scheme in tf.io.gfile.get_registered_schemes():
        return builder
    mark = hashlib.sha256(data_dir.encode()).hexdigest()[:12]
    copies = Path(tempfile.gettempdir()) / f"data_sets_{mark}"
    target = copies / os.path.relpath(builder.data_path, builder.data_dir_root)
    print(f"TensorFlow cannot read {scheme}://, so the files of {name} are copied to {target}.")
    with locked(copies / ".lock", wait=True):
        target.mkdir(parents=True, exist_ok=True)
        for source in sorted(builder.data_path.iterdir(), key=_info_last):
            if not (target / source.name).exists():
                write_atomic(target / source.name, source.read_bytes())
    return _find_builder(name, str(copies))


def _info_last(path: Path) -> tuple[bool, str]:
    """For sorting: a set counts as prepared when its info is there."""
    return path.name == "dataset_info.json", path.name


def _check_network(builder: tfds.core.DatasetBuilder) -> None:
    """Asks for what is to be downloaded, once: tensorflow-datasets itself tries for minutes.

    Raises:
        UsageError: its machine cannot be reached.
    """
    urls = [url for url in getattr(builder, "url_infos", None) or () if url.startswith("http")]
    failure: list[Exception] = []

    def ask() -> None:
        try:
            requests.head(urls[0], timeout=_PATIENCE)
        except requests.exceptions.RequestException as error:
            failure.append(error)

    if not urls:
        return
    # A thread, because nothing but the system can end the search for a name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    if failure or asking.is_alive():
        host = urllib.parse.urlsplit(urls[0]).hostname
        raise UsageError(
            f"{builder.name} must be downloaded, and {host} cannot be reached; without a network, "
            "prepare it elsewhere and pass its folder as --data_dir"
        )


def first_line(error: Exception) -> str:
    """Returns an error's kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Like `builder.isprepared()`, which warns where there is nothing yet."""
    return bool((builder.data_path / "dataset_info.json").exists())


def supervised_keys(info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Returns the keys of the image and of its label."""
    keys = info.supervised_keys
    if not keys or len(keys) < 2 or not all(isinstance(key, str) for key in keys[:2]):
        raise UsageError(f"{info.name} does not say what its image and label are (supervised_keys)")
    image, label = (info.features[key] for key in keys[:2])
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UsageError(
            f"{info.name} is not an image classification set: its {keys[0]!r} is a "
            f"{type(image).__name__} and its {keys[1]!r} a {type(label).__name__}; "
            "expected Image and ClassLabel"
        )
    return keys[0], keys[1]


def available_splits(info: tfds.core.DatasetInfo) -> list[str]:
    """Returns the splits of a set."""
    # Only tfds.testing.mock_data knows no splits; it makes up any.
    return list(info.splits) or ["train", "test"]
