"""`load_model`: Keras' own, and then what Keras does not save."""

import json
import os
import zipfile

import keras

from keras_gamma._keras import names as _keras
from keras_gamma.decay import (
    optimizers,  # noqa: F401  (archives name optimizers)
    records,
)
from keras_gamma.decay.decoupled import DecayPlan
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.shrinkage import unwrap


def load_model(filepath, custom_objects=None, compile=True, safe_mode=True):
    """Loads a model that `model.save` wrote, with the penalties and exclusions it was saved with.

    `keras.models.load_model` loses the penalties on γ of layers that have no argument for them
    (`RMSNormalization`) and of models that are rebuilt from a few numbers (the backbones of
    keras-cv and keras-hub), and every optimizer's exclude list. `model.save` has put the plans
    into the archive; here they are applied again, so that training goes on as if the model had
    never been saved. An archive without plans is loaded as by Keras.

    The plans are JSON, read as data: no code of an archive is run that Keras would not run.

    Args:
        filepath: string or path of a local `.keras` archive.
        custom_objects: as for `keras.models.load_model`.
        compile: bool, as for `keras.models.load_model`. If `False`, there is no optimizer, and
            exclusions are not restored.
        safe_mode: bool, as for `keras.models.load_model`.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: if it is no `.keras` archive, or if a plan in it is malformed or does not fit
            the model; and for whatever Keras refuses.

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
    if not os.path.isfile(path):
        raise ValueError(f"No such file: {path!r}. Expected a local .keras archive.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path!r} is not a .keras archive (or is truncated). Save the model with "
            "model.save('NAME.keras')."
        )
    records = _read(path)
    model = keras.models.load_model(
        path, custom_objects=custom_objects, compile=compile, safe_mode=safe_mode
    )
    for name, content in records:
        try:
            _apply(content, _find(model, content), compile)
        except ValueError as error:
            raise ValueError(f"{path!r}, {name}: {error}") from error
    return model


def _read(path):
    """Name and content of every record in an archive."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.rpartition("/")[2] == records.FILE_NAME]
        found = []
        for name in sorted(names):
            try:
                found.append((name, records.parse(archive.read(name).decode("utf-8"))))
            except (ValueError, zipfile.BadZipFile) as error:
                raise ValueError(f"{path!r}, {name}: {error}") from error
        return found


def _find(model, content):
    """The model, or the model inside it, that a record was made for."""
    found = [
        layer
        for layer in _keras.flatten_layers(model)
        if isinstance(layer, keras.Model) and layer.name == content["model"]
    ]
    if not found:
        raise ValueError(f"No model named {content['model']!r} in {model.name!r}.")
    return found[0]


def _apply(content, model, compiled):
    if content["decoupled"] is not None and compiled:
        plan = DecayPlan.from_json(json.dumps(content["decoupled"]))
        optimizer = getattr(model, "optimizer", None)
        if optimizer is None:
            raise ValueError(f"Model {model.name!r} came back without its optimizer.")
        if hasattr(unwrap(optimizer), "set_decay"):
            # Its factors came back in its config; the record says which plan they are of.
            records.attach(model).remember_decoupled(plan, unwrap(optimizer))
        else:
            plan.apply(optimizer, model)
    # After the exclusions: a γ under both would be an error.
    if content["coupled"] is not None:
        plan = GammaPlan.from_json(json.dumps(content["coupled"]))
        plan.apply(model)
