"""What a model is to be traced on: its own input specs, or what the user says."""

from typing import Any

import keras

from keras_gamma.network.causes import TraceError
from keras_gamma.network.network import Network
from keras_gamma.network.normalizations import holds_one
from keras_gamma.network.parts import has_call, inputs_of, submodels
from keras_gamma.network.tracing import BATCH, Part, trace_on

_EXPECTED = (
    "`inputs` takes a shape with the batch dimension first, such as (None, 32, 32, 3), a "
    "keras.KerasTensor, a keras.InputSpec, an array, or a list, tuple or dict of these"
)


def specs_from(inputs: Any, name: str = "input") -> Any:
    """Turns what a user may pass as `inputs` into a structure of `keras.KerasTensor`.

    Args:
        inputs: a shape (batch first), a `KerasTensor`, an `InputSpec`, an array or tensor,
            `None` for an argument left out, or a list, tuple or dict of these.
        name: string, what to call it in reasons.

    Returns:
        The same structure, of `KerasTensor`s and `None`s.

    Raises:
        ValueError: for anything else.
    """
    if inputs is None or isinstance(inputs, keras.KerasTensor):
        return inputs
    if isinstance(inputs, dict):
        return {key: specs_from(value, str(key)) for key, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        if inputs and all(d is None or _is_size(d) for d in inputs):
            return keras.KerasTensor(tuple(inputs), name=name)
        if not inputs or any(_is_size(d) for d in inputs):
            raise ValueError(f"{_EXPECTED}. Received: inputs={inputs!r}")
        return type(inputs)(specs_from(value, f"{name}_{i}") for i, value in enumerate(inputs))
    shape, dtype = getattr(inputs, "shape", None), getattr(inputs, "dtype", None)
    if shape is None:
        raise ValueError(
            f"{_EXPECTED}. Received: inputs={inputs!r} (of type {type(inputs).__name__})"
        )
    return keras.KerasTensor(tuple(shape), dtype=_dtype(dtype), name=name)


def _shown(inputs: Any) -> str:
    """`inputs` as an error shows them: of arrays, the shape."""
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key!r}: {_shown(value)}" for key, value in inputs.items()) + "}"
    if isinstance(inputs, (list, tuple)) and not all(d is None or _is_size(d) for d in inputs):
        return "[" + ", ".join(map(_shown, inputs)) + "]"
    if hasattr(inputs, "shape") and not isinstance(inputs, keras.KerasTensor):
        return f"{type(inputs).__name__} of shape {tuple(inputs.shape)}"
    return repr(inputs)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _dtype(dtype: Any) -> str:
    dtype = "float32" if dtype is None else keras.backend.standardize_dtype(dtype)
    return str(keras.config.floatx() if dtype == "float64" else dtype)


def trace(model: keras.Model | Network, inputs: Any = None, *, batch: int = BATCH) -> Network:
    """Traces `model` once, on `inputs` or on its own input specs.

    The model is called on symbolic tensors, in inference mode, and every layer in it is opened. Its
    weights, config, seeds, outputs and recorded calls stay as they are. A subclassed model that is
    not built yet is built, as its first call would do.

    Args:
        model: a `keras.Model`. One without a `call` (that has a `train_step` of its own) is traced
            sub-model by sub-model. A `Network` is returned as it is.
        inputs: what `model` is called with, where it does not know its own inputs (a subclassed
            model). A shape with the batch dimension first, a `keras.KerasTensor`, an array,
            or a list, tuple or dict of these. For a model without a `call`: a dict from the names
            of its sub-models to what they are called with.
        batch: integer, the batch size of the trace where `inputs` leave it open.

    Returns:
        A `Network`. Everything that takes a model takes it, too, and does not trace again.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if its inputs are unknown, or it cannot be called on them.

    Example:

    >>> import keras, keras_gamma
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.LayerNormalization(name="norm")])
    >>> network = keras_gamma.network.trace(model)
    >>> [str(gamma.role) for gamma in keras_gamma.find_roles(network)]
    ['trunk']
    """
    if isinstance(model, Network):
        if inputs is not None:
            raise ValueError(
                f"{model!r} was traced on inputs of its own: leave `inputs` out, or pass the model."
            )
        return model
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Expected a Keras 3 model (keras.Model, Sequential or a Functional model). "
            f"Received: {model!r} (of type {type(model).__module__}.{type(model).__qualname__}). "
            "A single layer can be wrapped: keras.Sequential([keras.Input(shape), layer])."
        )
    if has_call(model):
        specs = own_specs(model) if inputs is None else specs_from(inputs)
        if inputs is not None:
            _check_ranks(model, specs)
        parts = [Part(model, specs)]
    else:
        parts = _parts_of(model, inputs)
    try:
        return trace_on(model, parts, batch)
    except TraceError as error:
        given = "its own input specs" if inputs is None else f"inputs={_shown(inputs)}"
        raise ValueError(
            f"Model {model.name!r} could not be called on {given}: {error}. "
            "Pass `inputs` as the model's `call` takes them: a shape with the batch dimension "
            "first, a KerasTensor with the right dtype, or a list or dict of these."
        ) from error


def _check_ranks(model: keras.Model, specs: Any) -> None:
    """Keras lets symbolic inputs of a wrong rank pass, and refuses the arrays later on.

    Raises:
        ValueError: for a rank that differs from the model's own, by more than an axis of size 1,
            which Keras adds and takes away.
    """
    own = getattr(model, "inputs", None) or ()
    given = [spec for spec in keras.tree.flatten(specs) if spec is not None]
    if len(own) != len(given):
        return
    for expected, found in zip(own, given, strict=True):
        a, b = tuple(expected.shape), tuple(found.shape)
        longer = max(a, b, key=len)
        if len(a) != len(b) and (abs(len(a) - len(b)) > 1 or longer[-1] != 1):
            raise ValueError(
                f"Model {model.name!r} takes shape {a} for {expected.name!r}. "
                f"Received in `inputs`: {b}."
            )


def _parts_of(model: keras.Model, inputs: Any) -> list[Part]:
    """The sub-models of a model without a `call`, each with its inputs."""
    layers = submodels(model)
    if inputs is not None and not (isinstance(inputs, dict) and set(inputs) & _names(layers)):
        raise ValueError(
            f"Model {model.name!r} ({type(model).__name__}) has no `call`: its sub-models are "
            f"looked at one by one. Pass `inputs` as a dict with the names of those that do not "
            f"know their own, of {_listed(layers)}. Received: inputs={_shown(inputs)}"
        )
    unknown = sorted(set(inputs or ()) - _names(layers))
    if unknown:
        raise ValueError(
            f"`inputs` names {unknown}, but the sub-models of model {model.name!r} are "
            f"{_listed(layers)}."
        )
    parts, missing = [], []
    for name, layer in layers.items():
        given = inputs_of(name, layer, inputs)
        try:
            parts.append(Part(layer, own_specs(layer) if given is None else specs_from(given)))
        except ValueError:
            if given is not None:
                raise
            missing.append(name)
    # A part that shows no normalization may be left out; find_roles notes it if it is not built.
    holding = [name for name in missing if holds_one(layers[name])]
    if holding or not parts:
        asked = holding or missing
        example = ", ".join(f"{name!r}: (None, 32, 32, 3)" for name in asked)
        raise ValueError(
            f"Model {model.name!r} ({type(model).__name__}) has no `call`: its sub-models are "
            f"looked at one by one: {_listed(layers) or 'it has none'}. What "
            f"{', '.join(map(repr, asked)) or 'they'} take is not known. Pass a dict with it, "
            f"such as inputs={{{example}}}, or pass a sub-model instead."
        )
    return parts


def _names(layers: dict[str, keras.Layer]) -> set[str]:
    return {*layers, *(layer.name for layer in layers.values())}


def _listed(layers: dict[str, keras.Layer]) -> str:
    return ", ".join(f"{name!r} ({type(layer).__name__})" for name, layer in layers.items())


def own_specs(model: keras.Model) -> Any:
    graph_inputs = getattr(model, "inputs", None)
    if graph_inputs:
        # Functional models take the structure they were made of; Sequential takes one tensor.
        if isinstance(model, keras.Sequential):
            return graph_inputs[0]
        return model.input
    if model.built:
        config = model.get_build_config() or {}
        shape = config.get("input_shape")
        if shape is not None:
            return specs_from(shape)
        shapes = config.get("shapes_dict")
        if shapes:
            named = {name.removesuffix("_shape"): shape for name, shape in shapes.items()}
            return specs_from(named if len(named) > 1 else next(iter(named.values())))
    raise ValueError(
        f"The inputs of model {model.name!r} ({type(model).__name__}) are not known: it is not "
        "built, or is a subclassed model that was built without a record of its shapes. "
        f"Pass `inputs`: {_EXPECTED[len('`inputs` takes ') :]}."
    )
