"""Which layers are normalizations, and which of their variables is the scale γ.

A registry of frozen entries, looked up along the class hierarchy (a subclass of
`BatchNormalization` is one). Of classes that nobody registered `probing` finds out.
"""

import dataclasses
import functools
import inspect
import re
from typing import Any

import keras
import numpy as np

from keras_gamma._keras import names as _keras
from keras_gamma._keras import structure


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How a class of normalization layers stores its scale.

    Args:
        kind: string. `"batch"`, `"layer"`, `"group"`, `"rms"`, ...
        scale: string or `None`. The attribute that holds the scale variable; `None` if
            the class has no scale at all.
        neutral: float. The stored value at which the layer does not scale: 1.0 where
            the output is multiplied by the variable, 0.0 where it is multiplied by
            `1 + variable` (Gemma), `None` where it is not known.
    """

    kind: str
    scale: str | None = "gamma"
    neutral: float | None = 1.0

    def variable(self, layer: keras.Layer) -> keras.Variable | None:
        """The scale variable of `layer`, or `None` (`scale=False`, say)."""
        if self.scale is None:
            return None
        found = getattr(layer, self.scale, None)
        return found if found is not None else variables_by_name(layer).get(self.scale)


_REGISTRY = {
    keras.layers.BatchNormalization: Normalization("batch"),
    keras.layers.LayerNormalization: Normalization("layer"),
    keras.layers.GroupNormalization: Normalization("group"),
    keras.layers.UnitNormalization: Normalization("unit", scale=None),
}
if hasattr(keras.layers, "RMSNormalization"):  # Keras 3.9
    _REGISTRY[keras.layers.RMSNormalization] = Normalization("rms", scale="scale")

_SCALE_NAMES = ("gamma", "scale", "weight", "gain", "g")
SHIFT_NAMES = ("beta", "bias", "offset", "shift", "b")
_EPSILON_NAMES = ("epsilon", "eps", "variance_epsilon", "norm_eps", "_epsilon")
_NORM = re.compile("norm", re.IGNORECASE)
_LAYER_SCALE = re.compile("layer_?scale", re.IGNORECASE)
_KINDS = ("batch", "instance", "group", "rms", "layer")


def register_normalization(
    cls: type | None = None, *, kind: str, scale: str | None = "gamma", neutral: float = 1.0
) -> Any:
    """Tells keras_gamma that `cls` is a normalization layer.

    Most third-party normalizations are recognized without this, whatever their names. A layer
    that is not Keras' own and has no layers inside is run on random numbers: it counts as a
    normalization if its output does not change when its input is multiplied by a constant, and
    its γ is the variable that, set to 0 (or to −1), makes its output the same for every input.
    One that is written out inside a larger layer, or takes several tensors, is found by what its
    operations do. Register a class that cannot be run, or whose operations cannot be read.
    Subclasses inherit the entry of their nearest registered parent.

    Args:
        cls: a subclass of `keras.Layer`. Left out, a decorator is returned.
        kind: string. What to call it in tables: `"batch"`, `"layer"`, ...
        scale: string or `None`. Name of the attribute that holds γ; `None` if the class
            normalizes without a scale.
        neutral: float, 1.0 or 0.0. The stored value that leaves the output unscaled:
            1.0 for `γ · x̂`, 0.0 for `(1 + γ) · x̂`.

    Returns:
        `cls`.

    Raises:
        TypeError: if `cls` is not a layer class.
        ValueError: if `kind` is empty or `neutral` is neither 0 nor 1.

    Example:

    >>> import keras, keras_gamma
    >>> @keras_gamma.register_normalization(kind="batch", scale="amplitude")
    ... class MyNorm(keras.layers.Layer):
    ...     pass
    """
    if cls is None:
        return lambda c: register_normalization(c, kind=kind, scale=scale, neutral=neutral)
    if not (isinstance(cls, type) and issubclass(cls, keras.Layer)):
        raise TypeError(
            "register_normalization expects a subclass of keras.Layer. "
            f"Received: {cls!r} (of type {type(cls).__name__}). Pass the class, not an instance."
        )
    if not isinstance(kind, str) or not kind:
        raise ValueError(f"`kind` must be a non-empty string such as 'batch'. Received: {kind!r}")
    if scale is not None and not isinstance(scale, str):
        raise ValueError(f"`scale` must be an attribute name or None. Received: {scale!r}")
    if neutral not in (0, 1):
        raise ValueError(
            f"`neutral` must be 1.0 (output = γ·x̂) or 0.0 (output = (1+γ)·x̂). Received: {neutral!r}"
        )
    _REGISTRY[cls] = Normalization(kind, scale, float(neutral))
    return cls


def registered(layer: keras.Layer) -> Normalization | None:
    """The registry's entry for `layer`, from the nearest registered class, or `None`."""
    for cls in type(layer).__mro__:
        if cls in _REGISTRY:
            return _REGISTRY[cls]
    return None


def is_layer_scale(layer: keras.Layer) -> bool:
    """Whether `layer` is a LayerScale: a learned gain that is not a normalization's."""
    return _is_named(_LAYER_SCALE, type(layer).__name__)


@functools.lru_cache(1024)
def _is_named(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.search(name) is not None


def variables_by_name(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Name -> variable, for the variables that `layer` holds itself.

    The name is the attribute's. One in a list or a dict goes by its own name, with a number if
    that is taken.
    """
    found = {k: v for k, v in vars(layer).items() if isinstance(v, keras.Variable)}
    named = set(map(id, found.values()))
    for variable, _ in structure.own_variables(layer):
        if id(variable) not in named:
            name, number = variable.name, 1
            while hasattr(layer, name) or name in found:
                name, number = f"{variable.name}#{number}", number + 1
            found[name] = variable
    return found


def holders(layer: keras.Layer) -> list[keras.Layer]:
    """`layer`, and those inside that only hold weights for it: they have no `call`."""
    inside = [one for one in _keras.sublayers(layer) if type(one).call is keras.Layer.call]
    return [layer, *inside]


def scale_candidates(layer: keras.Layer) -> list[str]:
    """Names of the variables that may be the scale, the likeliest first; single numbers last."""
    variables = {k: v for k, v in variables_by_name(layer).items() if v.trainable}
    rank = {name: i for i, name in enumerate((*_SCALE_NAMES, None, *SHIFT_NAMES))}

    def order(name: str) -> tuple[bool, int]:
        return not variables[name].shape, rank.get(name.lstrip("_"), rank[None])

    return sorted(variables, key=order)


def may_be_scale(name: str, variable: keras.Variable) -> bool:
    """Whether a variable is a vector, and by its names and values no bias: zeros are one."""
    if not variable.trainable or sum(size != 1 for size in variable.shape) != 1:
        return False
    names = {name.lower(), variable.name.lower()}
    is_bias = any(one.strip("_").endswith(SHIFT_NAMES) for one in names)
    return not is_bias and bool(np.any(keras.ops.convert_to_numpy(variable)))


def looks_like_normalization(layer: keras.Layer) -> bool:
    """Whether `layer` has a scale and is named, or built, as normalizations are."""
    if _keras.has_sublayers(layer) or is_layer_scale(layer):
        return False
    named = _is_named(_NORM, type(layer).__name__)
    if not named and not any(hasattr(layer, name) for name in _EPSILON_NAMES):
        return False
    return any(name.lstrip("_") in _SCALE_NAMES for name in variables_by_name(layer))


def holds_one(layer: keras.Layer) -> bool:
    """Whether `layer` is a normalization, or has one inside, as far as that can be seen."""
    return any(
        registered(inner) is not None or looks_like_normalization(inner)
        for inner in _keras.flatten_layers(layer)
    )


def may_be_normalization(layer: keras.Layer) -> bool:
    """Whether `layer` is worth a probe: a leaf that Keras does not document."""
    leaf = not _keras.has_sublayers(layer) and not isinstance(layer, keras.Model)
    return leaf and not _keras.is_layer_of_keras(layer)


def kind_from_name(cls: type) -> str:
    """A `kind` for an unregistered class, from its name."""
    name = cls.__name__.lower()
    for kind in _KINDS:
        if kind in name:
            return kind
    return name


def takes_training(layer: keras.Layer) -> bool:
    """Whether a layer's `call` is told whether it is in training."""
    return "training" in inspect.signature(layer.call).parameters


def unverified(layer: keras.Layer) -> Normalization:
    """The entry for a layer that looks like a normalization but was never called.

    Whether it multiplies by γ or by 1 + γ is not known, so no penalty may be put on it.
    """
    scale = next(iter(scale_candidates(layer)), None)
    return Normalization(kind_from_name(type(layer)), scale, neutral=None)
