"""What keras_gamma did to a model, kept with the model and written into its archive.

Keras' archives have room for assets: `save_assets` of every layer is called by `model.save`. A
record is put there, on the model that a plan was applied to, so that `keras_gamma.load_model`
can put back what Keras itself does not save.
"""

import json
import pathlib
import warnings
import weakref

import keras

from keras_gamma._keras import names as _keras

FILE_NAME = "keras_gamma.json"
_FORMAT = "keras_gamma.record"
_VERSION = 1


class Record:
    """Stands in for `save_assets` of one model, and remembers the plans applied to it.

    Args:
        model: the `keras.Model`.
    """

    def __init__(self, model):
        self._model = weakref.ref(model)
        self.coupled = None
        self.decoupled = None
        self._optimizer = None

    def remember_coupled(self, plan):
        """Remembers a `GammaPlan` that is on the model now; `None` forgets it."""
        self.coupled = plan

    def remember_decoupled(self, plan, optimizer):
        """Remembers a `DecayPlan` that is on `optimizer` now."""
        self.decoupled, self._optimizer = plan, weakref.ref(optimizer)

    def is_for(self, optimizer):
        """Whether the `DecayPlan` was put onto this optimizer."""
        return self._optimizer is not None and self._optimizer() is optimizer

    def __call__(self, dir_path):
        """Writes the record into a folder of the archive. Called by Keras."""
        model = self._model()
        if model is None:
            return
        own = getattr(type(model), "save_assets", None)
        if own is not None:
            own(model, dir_path)
        optimizer = getattr(model, "optimizer", None)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        coupled, decoupled, lost = self._coupled(model), self._decoupled(model, optimizer), []
        if coupled is not None and (n := coupled.unsaved(model)):
            lost.append(f"the L2 penalty on {n} γ of {type(model).__name__} {model.name!r}")
        if decoupled is not None and not hasattr(optimizer, "set_decay"):
            lost.append(f"the exclude list of {type(optimizer).__name__}")
        if coupled is not None or decoupled is not None:
            content = {
                "format": _FORMAT,
                "version": _VERSION,
                "model": model.name,
                "coupled": None if coupled is None else json.loads(coupled.to_json()),
                "decoupled": None if decoupled is None else json.loads(decoupled.to_json()),
            }
            pathlib.Path(dir_path, FILE_NAME).write_text(
                json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        if lost:
            warnings.warn(
                f"Keras does not save {' and '.join(lost)}: load this archive with "
                "keras_gamma.load_model, which puts it back. keras.models.load_model would "
                "go on without it.",
                stacklevel=2,
            )

    def _coupled(self, model):
        """The plan on `model`, if it is still in force."""
        if self.coupled is None:
            return None
        try:
            changed = self.coupled.changed(model)
        except ValueError as error:
            changed = [str(error)]
        if changed:
            _warn_changed("penalties", model, changed)
        return None if changed else self.coupled

    def _decoupled(self, model, optimizer):
        """The plan on the model's optimizer, if it is that one, and still in force."""
        if self.decoupled is None or not self.is_for(optimizer):
            return None
        changed = self.decoupled.changed(optimizer, model)
        if changed:
            _warn_changed("exclusions from weight decay", model, changed)
        return None if changed else self.decoupled


def _warn_changed(what, model, changed):
    listed = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
    warnings.warn(
        f"The {what} of model {model.name!r} were changed by other hands since keras_gamma set "
        f"them ({listed}), so its plan is not saved with the model. Apply the guidelines again.",
        stacklevel=4,
    )


def of(model):
    """The `Record` on `model` itself, or `None`."""
    record = vars(model).get("save_assets")
    return record if isinstance(record, Record) else None


def attach(model):
    """The `Record` on `model`, made if there is none."""
    record = of(model)
    if record is None:
        record = Record(model)
        model.save_assets = record
    return record


def below(model):
    """Pairs `(model, Record)` for `model` and every model inside it that has one."""
    found = ((layer, of(layer)) for layer in _keras.flatten_layers(model))
    return [(layer, record) for layer, record in found if record is not None]


def parse(text):
    """The content of a record's file: a dict with `model`, `coupled` and `decoupled`.

    Raises:
        ValueError: if it is not a record.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"Malformed record of keras_gamma: not JSON ({error}).") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f'Malformed record of keras_gamma: expected "format": "{_FORMAT}".')
    if content.get("version") != _VERSION:
        raise ValueError(
            f"The record of keras_gamma has version {content.get('version')!r}; this one reads "
            f"version {_VERSION}. Install the keras_gamma that wrote it, or a newer one."
        )
    for part in ("coupled", "decoupled"):
        if content.get(part) is not None and not isinstance(content[part], dict):
            raise ValueError(f"Malformed record of keras_gamma: {part!r} is no object.")
    if not isinstance(content.get("model"), str):
        raise ValueError("Malformed record of keras_gamma: no model is named.")
    return content
