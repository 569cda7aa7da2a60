"""`load_model`: Keras' own, and then what Keras does not read back."""

from __future__ import annotations

import os
import pathlib
import warnings
import zipfile
import zlib
from typing import Any

import keras

from keras_gamma.decay import (
    optimizers,  # noqa: F401  (archives name optimizers)
    restoring,
)
from keras_gamma.decay.layer_record import FILE_NAME
from keras_gamma.decay.plan_files import MAX_BYTES, in_one_line
from keras_gamma.decay.telling import DecisionNotKept

_MAX_RECORDS = 100_000
_MOST_EXPANSION = 100
_LONGEST = 800
_HDF5 = (".h5", ".hdf5")


def load_model(
    filepath: str | os.PathLike[str],
    custom_objects: dict[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
) -> keras.Model:
    """Loads a model that `model.save` wrote, with the penalties and exclusions it was saved with.

    `keras.models.load_model` loses the penalties on γ of layers that have no argument for them
    (`RMSNormalization`) and of models that are rebuilt from a few numbers (the backbones of
    keras-cv and keras-hub), and every optimizer's exclude list. `model.save` has put the decisions
    into the archive, beside the weights of the layers and optimizers that they are on; here
    they are put back, so that training goes on as if the model had never been saved. An archive
    without decisions is loaded as by Keras.

    They are JSON, read as data: no code of an archive is run that Keras would not run.

    Args:
        filepath: string or path of a local `.keras` archive, or of the directory that
            `model.save(..., zipped=False)` wrote. Of an `.h5` file, which has no room for records,
            what Keras itself has kept comes back: the penalties of layers with an argument for
            them, and the decisions in the config of an optimizer of `keras_gamma.optimizers`.
        custom_objects: as for `keras.models.load_model`.
        compile: bool, as for `keras.models.load_model`. If `False`, there is no optimizer, and
            exclusions are not restored, which a `DecisionNotKept` warning says.
        safe_mode: bool, as for `keras.models.load_model`.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: if it is no `.keras` archive, unpacks to much more than it has, or a record in
            it is too large, malformed or does not fit the model; and for whatever Keras refuses.

    Example:

    >>> import os, tempfile, keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> y = keras.layers.Dense(4)(keras.layers.LayerNormalization(name="ln")(x))
    >>> model = keras.Model(x, keras.layers.Add()([x, y]))
    >>> plan = keras_gamma.apply_guidelines(model, l2=0.5)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.keras")
    >>> model.save(path)
    >>> [float(loss) for loss in keras_gamma.load_model(path).losses]  # l2 · Σγ²
    [2.0]
    """
    path = os.fspath(filepath)
    records = _records(path)
    try:
        model: keras.Model = keras.models.load_model(
            path, custom_objects=custom_objects, compile=compile, safe_mode=safe_mode
        )
    except RecursionError:
        raise ValueError(f"{path!r}: its config is nested too deeply to be read.") from None
    except Exception as error:
        text = " ".join(str(error).split())
        if type(error) is ValueError and text == str(error) and len(text) < _LONGEST:
            raise
        # Keras' reasons run over many lines, with whole configs; damage has errors of any type.
        short = text if len(text) < _LONGEST else f"{text[:_LONGEST]}…"
        kind = type(error).__name__
        raise ValueError(f"{path!r} could not be loaded: {kind}: {short}") from error
    try:
        with in_one_line():
            restoring.restore(model, records, optimizers=compile)
    except ValueError as error:
        raise ValueError(f"{path!r}, {FILE_NAME} of {error}") from error
    if not compile and any(map(restoring.is_for_optimizer, records.values())):
        warnings.warn(
            f"{path!r} was loaded with compile=False, without its optimizer and the exclude list "
            "on it. Call exclude_from_weight_decay on the optimizer that the model is compiled "
            "with, or load it with compile=True.",
            DecisionNotKept,
            stacklevel=2,
        )
    return model


def _records(path: str) -> dict[str, str]:
    """Place -> record, for every record in what `model.save` wrote."""
    if os.path.isdir(path):
        return _records_in_folder(path)
    if path.endswith(_HDF5) and os.path.isfile(path) and not zipfile.is_zipfile(path):
        return {}  # It has no room for them, which was told when it was written.
    return _records_in_archive(path)


def _records_in_archive(path: str) -> dict[str, str]:
    """Place -> record, for every record in a zipped archive."""
    if not os.path.isfile(path):
        raise ValueError(f"No such file: {path!r}. Expected a local .keras archive.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path!r} is not a .keras archive (or is truncated). Save the model with "
            "model.save('NAME.keras')."
        )
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            _check_expansion(path, archive.infolist())
            members = [i for i in archive.infolist() if _is_record(i.filename)]
            _check_sizes(path, [member.file_size for member in members])
            for member in members:
                found[_place(member.filename)] = _text(path, member.filename, archive.read(member))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"{path!r} is not a .keras archive, or is damaged: {error}") from error
    return found


def _records_in_folder(path: str) -> dict[str, str]:
    """Place -> record, for every record in what `model.save(path, zipped=False)` wrote."""
    if not os.path.isfile(os.path.join(path, "config.json")):
        raise ValueError(
            f"{path!r} is a directory, but not one that model.save(..., zipped=False) wrote: it "
            "holds no config.json. Expected a .keras archive."
        )
    files = sorted(pathlib.Path(path, "assets").rglob(FILE_NAME))
    _check_sizes(path, [file.stat().st_size for file in files])
    found = {}
    for file in files:
        name = file.relative_to(path).as_posix()
        found[_place(name)] = _text(path, name, file.read_bytes())
    return found


def _is_record(name: str) -> bool:
    return name.startswith("assets/") and name.rpartition("/")[2] == FILE_NAME


def _place(name: str) -> str:
    """`assets/layers/norm/keras_gamma.json` -> `layers/norm`."""
    return name.removeprefix("assets/").rpartition("/")[0]


def _check_sizes(path: str, sizes: list[int]) -> None:
    """Refuses before anything is unpacked: the sizes that an archive declares are binding."""
    if len(sizes) > _MAX_RECORDS or sum(sizes) > MAX_BYTES:
        raise ValueError(
            f"{path!r} holds {len(sizes)} records of keras_gamma of {sum(sizes)} bytes; at most "
            f"{_MAX_RECORDS} and {MAX_BYTES} are read. It was not written by keras_gamma."
        )


def _check_expansion(path: str, members: list[zipfile.ZipInfo]) -> None:
    """Refuses what unpacks to much more than it has; Keras does so from gigabytes on."""
    for member in members:
        if member.file_size > max(MAX_BYTES, _MOST_EXPANSION * member.compress_size):
            raise ValueError(
                f"{path!r}: {member.filename} has {member.compress_size} bytes and would unpack to "
                f"{member.file_size}. Keras does not write such archives; it was not opened."
            )


def _text(path: str, name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r}, {name}: not a record of keras_gamma: {error}") from None
