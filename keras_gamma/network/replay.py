"""A traced model, run with numbers, one step after another, without changing anything in it.

Normalizations use the statistics of the batch. Values are dropped after their last use, so that
memory is that of inference.
"""

import collections
import contextlib
import dataclasses
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_gamma._keras import names as _keras
from keras_gamma.network.calls import Step
from keras_gamma.network.network import Network
from keras_gamma.network.normalizations import takes_training

_TINY_EPSILON = 1e-9
CONSTANT = 1e-12  # A spread below this is that of a constant.


@dataclasses.dataclass(frozen=True)
class Visit:
    """One step as it is run, and the means to run it again on other values.

    Args:
        index: integer, the step's place in the trace.
        step: the `Step`.
        values: dict from the id of each symbolic tensor that it reads to the value.
        outputs: dict from the id of each symbolic tensor that it yields to the value that goes on.
        raw: the same, as the step computes it: noise may go on in place of a constant.
        run: a function from a dict of other values, by the same ids, to such outputs. What is left
            out of the dict keeps its value.
    """

    index: int
    step: Step
    values: dict[int, Any]
    outputs: dict[int, Any]
    raw: dict[int, Any]
    run: "_Step"


class Replay:
    """Runs the steps of a trace once. A context manager.

    While it is open every ε is near 0, so that a scaled input is absorbed exactly; on exit all is
    as it was. Weights that start at zero (the last γ of a block, ReZero's α) would hide what lies
    behind them: where a step's output is constant for that reason, random ones stand in.

    Args:
        network: a `Network`.
        inputs: list of arrays for the network's inputs.
        seed: integer, of what stands in for zeros.
    """

    def __init__(self, network: Network, inputs: Sequence[Any], seed: int = 0):
        self._network = network
        self._norms = {call.node for call in network.calls}
        self._random = np.random.default_rng(seed)
        self._inputs = _given(network, inputs)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Replay":
        layers = _keras.flatten_layers(self._network.model)
        self._stack.enter_context(_keras.preserve_attributes(layers))
        # Running statistics and seeds are written to this scope, and dropped with it.
        self._stack.enter_context(keras.StatelessScope())
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for layer in layers:
            if isinstance(vars(layer).get("epsilon"), float):
                vars(layer)["epsilon"] = _TINY_EPSILON
            computed = self._network.computed.get(id(layer))
            if computed is not None and computed.is_put:
                vars(layer)[computed.name] = computed.value
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._stack.close()

    def visits(self, outputs: Sequence[keras.KerasTensor] = ()) -> Iterator[Visit]:
        """Runs step after step.

        Args:
            outputs: symbolic tensors whose values are to be kept.

        Yields:
            A `Visit` for each step that could be run, in order. A step that fails raises.
        """
        last_use = _last_use(self._network.steps)
        keep = {id(tensor) for tensor in outputs}
        values = dict(self._inputs)
        for index, step in enumerate(self._network.steps):
            sources = {id(t): values[id(t)] for t in symbolic((step.args, step.kwargs))}
            run = _Step(step, self._call, sources)
            new = run({})
            zeros = _zero_variables(step) if _is_silent(new) else []
            if zeros:
                run.stand_in = [(v, self._noise(v.shape, v.dtype)) for v in zeros]
                new = run({})
            raw = new
            if self._is_norm(step) and any(is_float(v) and varies(v) for v in sources.values()):
                new = {key: self._lively(value) for key, value in new.items()}
            yield Visit(index, step, sources, new, raw, run)
            values.update(new)
            for key in sources.keys() | new.keys():
                if last_use.get(key, index) == index and key not in keep:
                    values.pop(key, None)

    def _call(self, step: Step, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if self._is_norm(step) and isinstance(step.operation, keras.Layer):
            return _normalize(step.operation, args, kwargs)
        return step.operation(*args, **kwargs)

    def _is_norm(self, step: Step) -> bool:
        return bool(step.numbers) and step.numbers[0] in self._norms

    def _noise(self, shape: Sequence[int], dtype: str) -> Any:
        return keras.ops.convert_to_tensor(self._random.normal(0.0, 0.5, shape), dtype=dtype)

    def _lively(self, value: Any) -> Any:
        """Behind a normalization, noise for a constant: any value will do to see where it acts.

        Two numbers are normalized to 1 and -1: no more than a sign follows the inputs there.
        """
        if not is_float(value) or varies(keras.ops.abs(value), 1e-2):
            return value
        return self._noise(value.shape, keras.backend.standardize_dtype(value.dtype))


class _Step:
    """Runs one step on its own values, or on others."""

    def __init__(self, step: Step, call: Any, values: dict[int, Any]):
        self._step, self._call, self._values = step, call, values
        self.stand_in: list[tuple[keras.Variable, Any]] = []

    def without(self, keys: Collection[int]) -> "_Step":
        """The same, with some of its own values left out: they are to be given."""
        values = {key: value for key, value in self._values.items() if key not in keys}
        copy = _Step(self._step, self._call, values)
        copy.stand_in = self.stand_in
        return copy

    def __call__(self, given: Mapping[int, Any]) -> dict[int, Any]:
        values = collections.ChainMap(dict(given), self._values)
        if not self.stand_in:
            return _evaluate(self._step, values, self._call)
        with keras.StatelessScope(state_mapping=self.stand_in):
            return _evaluate(self._step, values, self._call)


def varies(value: Any, tolerance: float = 1e-6) -> bool:
    """Whether a value differs along its first axis, from one example to the next."""
    values = array(value)
    if values.ndim == 0 or values.shape[0] < 2:
        return True  # It cannot be told: what is computed from the inputs counts as following them.
    first, others = np.broadcast_arrays(values[:1], values[1:])
    kept = np.isfinite(first) & np.isfinite(others)  # Pooling may pad with −∞.
    spread = np.abs(others[kept] - first[kept]).max(initial=0.0)
    size = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    return bool(spread > tolerance * size or (others[~kept] != first[~kept]).any())


def is_float(value: Any) -> bool:
    """Whether a value has a scale at all."""
    return "float" in str(value.dtype)  # Keras has no name for a list of tensors (TensorFlow).


def _is_silent(outputs: dict[int, Any]) -> bool:
    """Whether some output is zeros throughout."""
    return any(is_float(value) and not array(value).any() for value in outputs.values())


def _zero_variables(step: Step) -> list[keras.Variable]:
    """The trainable weights that take part in a step and are zeros throughout."""
    leaves = tree.flatten((step.args, step.kwargs))
    found = [leaf for leaf in leaves if isinstance(leaf, keras.Variable)]
    if isinstance(step.operation, keras.Layer):
        found += step.operation.weights
    return [v for v in found if v.trainable and is_float(v) and not array(v.value).any()]


def _last_use(steps: Sequence[Step]) -> dict[int, int]:
    last: dict[int, int] = {}
    for index, step in enumerate(steps):
        for tensor in symbolic((step.args, step.kwargs)):
            last[id(tensor)] = index
    return last


def _given(network: Network, inputs: Sequence[Any]) -> dict[int, Any]:
    return {
        id(tensor): keras.ops.convert_to_tensor(value, dtype=tensor.dtype)
        for tensor, value in zip(network.inputs, inputs, strict=True)
    }


def run_once(
    network: Network, inputs: Sequence[Any], watch: Mapping[int, Callable[[Any], Any]]
) -> dict[int, Any]:
    """Runs the steps of a trace once, as in training but for noise: batch statistics, no dropout.

    Nothing is changed: no running statistics, no seeds. Values are dropped after their last use.

    Args:
        network: a `Network`.
        inputs: list of arrays for `network.inputs`.
        watch: dict from node number to a function of that node's tensor.

    Returns:
        A dict from node number to what its function returned.
    """
    norms = {call.node for call in network.calls}
    last_use = _last_use(network.steps)
    values = _given(network, inputs)
    found: dict[int, Any] = {}

    def call(step: Step, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if step.numbers and step.numbers[0] in norms and isinstance(step.operation, keras.Layer):
            return _normalize(step.operation, args, kwargs, epsilon=None)
        return step.operation(*args, **kwargs)

    with keras.StatelessScope():
        for index, step in enumerate(network.steps):
            new = _evaluate(step, values, call)
            for tensor, number in zip(symbolic(step.outputs), step.numbers, strict=True):
                if number is not None and number in watch:
                    found[number] = watch[number](new[id(tensor)])
            values.update(new)
            for tensor in symbolic((step.args, step.kwargs)):
                if last_use[id(tensor)] == index:
                    values.pop(id(tensor), None)
    return found


def _evaluate(step: Step, values: Mapping[int, Any], call: Any) -> dict[int, Any]:
    """The outputs of one step: a dict by the id of the symbolic tensor."""
    args, kwargs = tree.map_structure(
        lambda x: values[id(x)] if isinstance(x, keras.KerasTensor) else x,
        (step.args, step.kwargs),
    )
    outputs = call(step, list(args), dict(kwargs))
    found = [t for t in tree.flatten(outputs) if t is not None]
    return {id(t): v for t, v in zip(symbolic(step.outputs), found, strict=True)}


def _normalize(
    layer: Any, args: list[Any], kwargs: dict[str, Any], epsilon: float | None = _TINY_EPSILON
) -> Any:
    """Calls a normalization as in training, frozen ones included; `None`: with its own ε."""
    if isinstance(layer, keras.layers.BatchNormalization):
        x = args[0] if args else kwargs["inputs"]
        axes = [axis for axis in range(len(x.shape)) if axis != layer.axis % len(x.shape)]
        mean, variance = keras.ops.moments(keras.ops.cast(x, "float32"), axes)
        y = keras.ops.batch_normalization(
            keras.ops.cast(x, "float32"),
            mean,
            variance,
            layer.axis,
            offset=layer.beta,
            scale=layer.gamma,
            epsilon=layer.epsilon if epsilon is None else epsilon,
        )
        return keras.ops.cast(y, x.dtype)
    # One of somebody's own, with running statistics, normalizes by the batch in training alone.
    return layer(*args, **{**kwargs, "training": True} if takes_training(layer) else kwargs)


def symbolic(structure: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors of a structure, in order."""
    return [t for t in tree.flatten(structure) if isinstance(t, keras.KerasTensor)]


def array(value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A value as numbers."""
    return np.asarray(keras.ops.convert_to_numpy(value), dtype="float32")
