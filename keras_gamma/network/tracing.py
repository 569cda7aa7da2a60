"""From a model to its `Network`, by calling it once on symbolic tensors with every layer opened."""

import contextlib
import inspect
import warnings
from typing import Any

import keras

from keras_gamma._keras import layers as _layers
from keras_gamma._keras.interception import intercept_symbolic_calls
from keras_gamma._keras.preservation import preserve_attributes, preserve_auto_names
from keras_gamma.network.causes import TraceError, first_sentence
from keras_gamma.network.graph import Graph
from keras_gamma.network.network import Network
from keras_gamma.network.opening import Opener
from keras_gamma.network.recording import Recording
from keras_gamma.network.sizes import filled_in
from keras_gamma.network.symbols import known, symbols_in

_PATIENCE = 2  # sizes that open no more, until size is taken not to be the obstacle
BATCH = 2


def trace_on(model: keras.Model, specs: Any, batch: int = BATCH) -> Network:
    """Traces `model` on symbolic inputs.

    Args:
        model: a `keras.Layer` or `keras.Model`.
        specs: a structure of `keras.KerasTensor`; unknown dimensions are filled in.
        batch: integer, what an unknown batch dimension is filled in with.

    Returns:
        A `Network`.

    Raises:
        TraceError: if the model cannot be called on such inputs at all.
    """
    best: Network | None = None
    error: TraceError | None = None
    in_vain = 0
    for concrete in filled_in(specs, batch):
        try:
            found = _trace_once(model, concrete)
        except TraceError as e:
            error = error or e
            continue
        if best is not None and len(found.opaque) >= len(best.opaque):
            in_vain += 1
            if in_vain == _PATIENCE:
                return best
            continue
        best, in_vain = found, 0
        if not best.opaque:
            return best
    if best is None:
        raise error or TraceError("there is nothing to call it on.")
    return best


def _trace_once(model: keras.Model, inputs: Any) -> Network:
    recording = Recording()
    opener = Opener(recording)
    for tensor in symbols_in(inputs):
        recording.add_input(tensor, tensor.name)
    args, kwargs = _call_arguments(model, inputs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(intercept_symbolic_calls(opener))
        stack.enter_context(preserve_auto_names())
        stack.enter_context(preserve_attributes(_layers.flatten_layers(model)))
        # Variable updates (running statistics, seeds) stay in this scope and are dropped.
        stack.enter_context(keras.StatelessScope(collect_losses=True))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Such as Keras' on masks: they concern no user's call.
        try:
            outputs = symbols_in(model(*args, **kwargs))
        except Exception as e:
            raise TraceError(first_sentence(e)) from e
    return Network(
        model=model,
        graph=Graph(recording.nodes, known(recording.number_of(t) for t in outputs)),
        calls=tuple(recording.calls),
        opaque=dict(recording.opaque),
        rejected=frozenset(opener.recognition.rejected),
        inputs=tuple(recording.inputs),
        steps=tuple(recording.steps),
        outputs=tuple(outputs),
    )


def _call_arguments(model: keras.Model, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Spreads a structure over the positional arguments of `call` if it takes several."""
    parameters = list(inspect.signature(model.call).parameters.values())
    kwargs = {"training": False} if any(p.name == "training" for p in parameters) else {}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    required = [name for name in required if name != "training"]
    if len(required) > 1:
        if isinstance(inputs, dict) and set(required) <= set(inputs):
            return (), {**inputs, **kwargs}
        if isinstance(inputs, (list, tuple)) and len(inputs) >= len(required):
            return tuple(inputs), kwargs
    return (inputs,), kwargs
