"""Rebuilding a model with its decisions, where Keras leaves no other way.

`clone_model`, `from_config`, `copy`, `pickle`, `.h5` and the presets of keras-hub rebuild layers
from their configs alone, or from fewer numbers still.
"""

from __future__ import annotations

import json
import os
from typing import Any

import keras

from keras_gamma._keras import older
from keras_gamma.decay import plan_files, restoring
from keras_gamma.decay.layer_record import FILE_NAME
from keras_gamma.decay.telling import quiet

_WHAT = "preset's record of keras_gamma"
_FORMAT, _VERSION = "keras_gamma.preset", 1


def carry_over(source: keras.Model, target: keras.Model) -> None:
    """Puts the decisions that are in force on `source` onto a copy of it.

    Layers and optimizers are found by their places in the structure, as Keras finds them when it
    loads weights; names play no part.

    Args:
        source: a `keras.Model` with penalties or exclusions of keras_gamma.
        target: a built `keras.Model` of the same structure: a clone, a copy, a rebuilt one. If it
            is compiled, exclusions from its optimizer's weight decay are carried over, too.

    Raises:
        ValueError: if a decision finds no place in `target`. Nothing is changed then.

    Example:

    >>> import copy, warnings, keras, keras_gamma
    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.RMSNormalization()(x))
    >>> plan = keras_gamma.apply_guidelines(model, l2=0.5, guidelines="all")
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # It says that the copy has no penalty.
    ...     again = copy.deepcopy(model)
    >>> len(again.losses)
    0
    >>> keras_gamma.decay.carry_over(model, again)
    >>> len(again.losses)
    1
    """
    compiled = getattr(target, "optimizer", None) is not None
    with quiet():
        restoring.restore(target, restoring.records_of(source), optimizers=compiled)


def clone_model(model: keras.Model, **kwargs: Any) -> keras.Model:
    """`keras.models.clone_model`, and the decisions on γ with it.

    Args:
        model: a `keras.Model`.
        **kwargs: as for `keras.models.clone_model`.

    Returns:
        A `keras.Model` with new weights, and the penalties and exclusions of `model`.
    """
    with quiet():
        clone = older.clone_model(model, **kwargs)
    carry_over(model, clone)
    return clone


def save_to_preset(model: Any, preset_dir: str | os.PathLike[str], **kwargs: Any) -> None:
    """`model.save_to_preset` of keras-hub, and the decisions on γ with it.

    Args:
        model: a backbone or a task of keras-hub.
        preset_dir: string or path, the folder to write.
        **kwargs: as for `model.save_to_preset`.
    """
    backbone = getattr(model, "backbone", None)
    with quiet():
        model.save_to_preset(os.fspath(preset_dir), **kwargs)
        parts = [part for part in (model, backbone) if isinstance(part, keras.Model)]
        content = {type(part).__name__: _without_optimizers(part) for part in parts}
    text = plan_files.to_json(_FORMAT, _VERSION, models=content)
    plan_files.save(os.path.join(preset_dir, FILE_NAME), text)


def from_preset(cls: Any, preset_dir: str | os.PathLike[str], **kwargs: Any) -> Any:
    """`cls.from_preset` of keras-hub, and the decisions that `save_to_preset` wrote.

    Args:
        cls: a class of keras-hub: a backbone or a task.
        preset_dir: string or path of a local preset.
        **kwargs: as for `cls.from_preset`.

    Returns:
        What `cls.from_preset` returns.

    Raises:
        ValueError: if the preset holds no decisions, malformed ones, or none that fit.
    """
    path = os.path.join(preset_dir, FILE_NAME)
    if not os.path.isfile(path):
        raise ValueError(
            f"{os.fspath(preset_dir)!r} holds no {FILE_NAME}: it was not written by "
            "keras_gamma.decay.save_to_preset. Load it with from_preset of keras-hub."
        )
    text = plan_files.load(path, _WHAT)
    models = plan_files.from_json(text, _FORMAT, _VERSION, _WHAT).get("models")
    loaded = cls.from_preset(os.fspath(preset_dir), **kwargs)
    for part in (loaded, getattr(loaded, "backbone", None)):
        records = models.get(type(part).__name__) if isinstance(models, dict) else None
        if isinstance(records, dict) and all(isinstance(r, str) for r in records.values()):
            restoring.restore(part, records, optimizers=False)
            return loaded
    raise ValueError(
        f"{path!r} holds decisions for {', '.join(map(str, models or ()))}, but a "
        f"{type(loaded).__name__} was loaded."
    )


def _without_optimizers(model: keras.Model) -> dict[str, str]:
    """What is on the layers: a preset holds no optimizer."""
    records = restoring.records_of(model)
    return {
        place: text
        for place, text in records.items()
        if json.loads(text)["format"] == "keras_gamma.layer"
    }
