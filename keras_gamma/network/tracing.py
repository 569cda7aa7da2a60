"""From a model to its `Network`, by calling it once on symbolic tensors with every layer opened."""

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from keras_gamma._keras import layers as _layers
from keras_gamma._keras.interception import intercept_symbolic_calls
from keras_gamma._keras.preservation import (
    preserve_attributes,
    preserve_auto_names,
    restore_on_error,
)
from keras_gamma.network.causes import TraceError, first_sentence
from keras_gamma.network.gains import Gains
from keras_gamma.network.graph import Graph
from keras_gamma.network.network import Network
from keras_gamma.network.normalizations import holds_one, may_be_scale, variables_by_name
from keras_gamma.network.opening import Opener
from keras_gamma.network.recognition import Probed, Recognition
from keras_gamma.network.recording import Recording
from keras_gamma.network.sizes import filled_in
from keras_gamma.network.symbols import known, symbols_in, symbols_returned

_PATIENCE = 2  # sizes that open no more, until size is taken not to be the obstacle
BATCH = 2


class Part(NamedTuple):
    """What is called in a trace: the model itself, or each sub-model of one without a `call`.

    Args:
        layer: a `keras.Layer` or `keras.Model`.
        specs: a structure of `keras.KerasTensor`.
    """

    layer: keras.Layer
    specs: Any


def trace_on(model: keras.Model, parts: Sequence[Part], batch: int = BATCH) -> Network:
    """Traces `model`, part by part, on symbolic inputs.

    Args:
        model: a `keras.Model`.
        parts: what is called, and on what; unknown dimensions are filled in.
        batch: integer, what an unknown batch dimension is filled in with.

    Returns:
        A `Network`.

    Raises:
        TraceError: if no part can be called on such inputs at all. The model is as it was.
    """
    best: Network | None = None
    error: TraceError | None = None
    in_vain = 0
    probed: Probed = {}
    for concrete in filled_in([part.specs for part in parts], batch):
        try:
            these = list(map(Part, (p.layer for p in parts), concrete))
            found = _trace_once(model, these, Recognition(probed))
        except TraceError as e:
            error = error or e
            continue
        if best is not None and len(found.opaque) >= len(best.opaque):
            in_vain += 1
            if in_vain == _PATIENCE:
                return best
            continue
        best, in_vain = found, 0
        if not _may_hide_a_gamma(best):
            return best
    if best is None:
        raise error or TraceError("there is nothing to call it on.")
    return best


def _may_hide_a_gamma(network: Network) -> bool:
    """Whether another size may show more: parts are closed, and there is a γ, in them or around."""
    if not network.opaque:
        return False
    return bool(network.calls or network.gains) or any(
        may_be_scale(name, variable)
        for layer in _layers.flatten_layers(network.model)
        if id(layer) in network.opaque
        if not _layers.is_layer_of_keras(layer) or holds_one(layer)
        for name, variable in variables_by_name(layer).items()
    )


def _trace_once(model: keras.Model, parts: Sequence[Part], recognition: Recognition) -> Network:
    network, unresolved = _follow(model, parts, recognition)
    if not unresolved:
        return network
    # The same nodes, found with fingerprints in the variables.
    again, _ = _follow(model, parts, recognition, fingerprints=True)
    if [n.kind for n in again.graph.nodes] != [n.kind for n in network.graph.nodes]:
        return network
    return dataclasses.replace(network, calls=again.calls, gains=again.gains)


def _follow(
    model: keras.Model,
    parts: Sequence[Part],
    recognition: Recognition,
    fingerprints: bool = False,
) -> tuple[Network, bool]:
    """The network, and whether it was multiplied by numbers that may come from variables."""
    recording = Recording()
    # Variable updates (running statistics, seeds) stay in this scope and are dropped.
    scope = keras.StatelessScope(collect_losses=True)
    gains = Gains(recording, scope, fingerprints)
    within = [] if parts[0].layer is model else [model]
    opener = Opener(recording, gains, recognition, within)
    layers = _layers.flatten_layers(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(intercept_symbolic_calls(opener))
        stack.enter_context(preserve_auto_names())
        stack.enter_context(restore_on_error(layers))
        stack.enter_context(preserve_attributes(layers))
        stack.enter_context(scope)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Such as Keras' on masks: they concern no user's call.
        outputs = _call_parts(recording, parts)
    network = Network(
        model=model,
        graph=Graph(recording.nodes, known(recording.number_of(t) for t in outputs)),
        calls=tuple(recording.calls),
        gains=tuple(recording.gains),
        opaque=dict(recording.opaque),
        rejected=frozenset(recognition.rejected),
        inputs=tuple(recording.inputs),
        steps=tuple(recording.steps),
        outputs=tuple(outputs),
        computed=dict(recording.computed),
        written_out=dict(recording.written_out),
    )
    return network, bool(recording.unresolved)


def _call_parts(recording: Recording, parts: Sequence[Part]) -> list[keras.KerasTensor]:
    """The outputs of all parts; one that cannot be called is closed, if others can."""
    outputs: list[keras.KerasTensor] = []
    errors: list[TraceError] = []
    for layer, specs in parts:
        mark, inputs = recording.mark(), len(recording.inputs)
        try:
            for tensor in symbols_in(specs):
                recording.add_input(tensor, tensor.name)
            args, kwargs = _call_arguments(layer, specs)
            outputs += symbols_returned(layer(*args, **kwargs))
        except Exception as e:
            cause = first_sentence(e)
            errors.append(TraceError(cause))
            errors[-1].__cause__ = e
            recording.forget_since(mark)
            del recording.inputs[inputs:]
            reason = f"{layer.name!r} ({type(layer).__name__}) could not be called: {cause}"
            recording.close(_layers.flatten_layers(layer), reason)
    if len(errors) == len(parts):
        raise errors[0]
    return outputs


def _call_arguments(layer: keras.Layer, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Spreads a structure over the positional arguments of `call` if it takes several."""
    parameters = list(inspect.signature(layer.call).parameters.values())
    kwargs = {"training": False} if any(p.name == "training" for p in parameters) else {}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    required = [name for name in required if name != "training"]
    if _names_arguments(layer, inputs, required, [p.name for p in parameters if p.kind in named]):
        return (), {**inputs, **kwargs}
    if len(required) > 1:
        if isinstance(inputs, dict) and set(required) <= set(inputs):
            return (), {**inputs, **kwargs}
        if isinstance(inputs, (list, tuple)) and len(inputs) >= len(required):
            return tuple(inputs), kwargs
    return (inputs,), kwargs


def _names_arguments(
    layer: keras.Layer, inputs: Any, required: Sequence[str], names: Sequence[str]
) -> bool:
    """Whether the keys of a dict are arguments of a `call`, some of which may be left out.

    One key may also be that of a single argument that takes a dict; so may "mask".
    """
    if not isinstance(inputs, dict) or len(inputs) < 2 or isinstance(layer, keras.Sequential):
        return False
    if getattr(layer, "inputs", None):  # A Functional model takes its inputs as one structure.
        return False
    given = set(inputs)
    return set(required) <= given <= set(names) - {"training", "mask"}
