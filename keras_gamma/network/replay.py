"""A traced model, run with numbers: once as it is, and again with one normalization scaled.

What is multiplied is the output of the normalization, which is what multiplying its γ and β does.
No weight is touched, and only what is computed from it is computed again.
"""

import collections
import contextlib
import heapq
import warnings

import keras
import numpy as np
from keras import tree

from keras_gamma._keras import names as _keras
from keras_gamma.network.graph import Kind

_TINY_EPSILON = 1e-9
CONSTANT = 1e-12  # A spread below this is that of a constant.


class Replay:
    """Runs the steps of a trace, and parts of them again. A context manager.

    While it is open, normalizations use the statistics of the batch and an ε near 0, so that a
    scaled input is absorbed as it is in training; on exit all is as it was.

    Args:
        model: the `keras.Model` that was traced.
        trace: a `keras_gamma.trace.Trace`.
        inputs: list of arrays for `trace.inputs`.
        seed: integer, of the noise that stands in for a γ of 0.
    """

    def __init__(self, model, trace, inputs, seed=0):
        self._model = model
        self._trace = trace
        self._norms = {call.node: call for call in trace.calls}
        self._random = np.random.default_rng(seed)
        self._tensor = {}  # node number -> KerasTensor
        for step in trace.steps:
            for tensor, number in zip(_symbolic(step.outputs), step.numbers, strict=True):
                if number is not None:
                    self._tensor[number] = tensor
        # id(KerasTensor) -> numbers of the steps that read it
        self._readers: dict[int, list[int]] = {}
        for index, step in enumerate(trace.steps):
            for tensor in _symbolic((step.args, step.kwargs)):
                self._readers.setdefault(id(tensor), []).append(index)
        self._values = {
            id(tensor): keras.ops.convert_to_tensor(value, dtype=tensor.dtype)
            for tensor, value in zip(trace.inputs, inputs, strict=True)
        }
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        layers = _keras.flatten_layers(self._model)
        self._stack.enter_context(_keras.preserve_attributes(layers))
        # Running statistics and seeds are written to this scope, and dropped with it.
        self._stack.enter_context(keras.StatelessScope())
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for layer in layers:
            if isinstance(vars(layer).get("epsilon"), float):
                vars(layer)["epsilon"] = _TINY_EPSILON
        try:
            for step in self._trace.steps:
                self._values.update(self._run(step, self._values))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error):
        self._stack.close()

    def scaled(self, node, factor, stop, hold=True):
        """Runs again what is computed from `node`, whose output is multiplied by `factor`.

        A softmax in front of more computation keeps its weights, and attention its pattern: a
        path carries scale by the values only.

        Args:
            node: number of the node.
            factor: float.
            stop: function from a node number to whether a path ends there.
            hold: bool, whether softmax weights are held.

        Yields:
            `(node, before, after)`: arrays, in order, for each node whose values change, and for
            each that a weight keeps constant, whatever comes in. `after` is `None` where a
            softmax or an attention kept its weights.
        """
        changed = {id(self._tensor[node]): self._values[id(self._tensor[node])] * factor}
        heap = list(self._readers.get(id(self._tensor[node]), ()))
        heapq.heapify(heap)
        done = set()
        while heap:
            index = heapq.heappop(heap)
            if index in done:
                continue
            done.add(index)
            step = self._trace.steps[index]
            numbers = [n for n in step.numbers if n is not None]
            if numbers and stop(numbers[0]):
                continue
            kind = self._trace.graph.nodes[numbers[0]].kind if numbers else None
            if hold and kind is Kind.SOFTMAX and numbers[0] not in self._trace.graph.outputs:
                yield numbers[0], None, None
                continue
            if hold and kind is Kind.ATTENTION:
                if any(id(t) in changed for t in _symbolic(_weights_of(step))):
                    yield numbers[0], None, None
                if id(_value_of(step)) not in changed:
                    continue
                value = {id(_value_of(step)): changed[id(_value_of(step))]}
                values = collections.ChainMap(value, self._values)
                new = self._run(_with_weights(step, self._values), values)
            else:
                new = self._run(step, collections.ChainMap(changed, self._values))
            for tensor, number in zip(_symbolic(step.outputs), step.numbers, strict=True):
                before, after = _array(self._values[id(tensor)]), _array(new[id(tensor)])
                silent = before.std() < CONSTANT and step.is_weighted  # A kernel of zeros, say.
                if number is not None and (silent or _differs(before, after)):
                    yield number, before, after
                if number is None or not _differs(before, after):
                    continue
                changed[id(tensor)] = new[id(tensor)]
                for reader in self._readers.get(id(tensor), ()):
                    heapq.heappush(heap, reader)

    def is_constant(self, node):
        """Whether `node` has no spread: zeros that are added, say."""
        return float(np.std(_array(self._values[id(self._tensor[node])]))) < CONSTANT

    def _run(self, step, values):
        return _evaluate(step, values, self._call)

    def _call(self, step, args, kwargs):
        call = self._norms.get(step.numbers[0]) if step.numbers else None
        if call is None or not isinstance(step.operation, keras.Layer):
            return step.operation(*args, **kwargs)
        outputs = _normalize(step.operation, args, kwargs)
        if float(np.std(_array(outputs))) < CONSTANT:
            # γ = 0, as blocks often start: any γ will do to see where it would act.
            noise = self._random.standard_normal(outputs.shape)
            outputs = keras.ops.convert_to_tensor(noise, dtype=outputs.dtype)
        return outputs


def run_once(trace, inputs, watch):
    """Runs the steps of a trace once, as in training but for noise: batch statistics, no dropout.

    Nothing is changed: no running statistics, no seeds. Values are dropped after their last use.

    Args:
        trace: a `keras_gamma.trace.Trace`.
        inputs: list of arrays for `trace.inputs`.
        watch: dict from node number to a function of that node's tensor.

    Returns:
        A dict from node number to what its function returned.
    """
    norms = {call.node for call in trace.calls}
    last_use: dict[int, int] = {}
    for index, step in enumerate(trace.steps):
        for tensor in _symbolic((step.args, step.kwargs)):
            last_use[id(tensor)] = index
    values = {
        id(tensor): keras.ops.convert_to_tensor(value, dtype=tensor.dtype)
        for tensor, value in zip(trace.inputs, inputs, strict=True)
    }
    found = {}

    def call(step, args, kwargs):
        if step.numbers and step.numbers[0] in norms and isinstance(step.operation, keras.Layer):
            return _normalize(step.operation, args, kwargs, epsilon=None)
        return step.operation(*args, **kwargs)

    with keras.StatelessScope():
        for index, step in enumerate(trace.steps):
            new = _evaluate(step, values, call)
            for tensor, number in zip(_symbolic(step.outputs), step.numbers, strict=True):
                if number in watch:
                    found[number] = watch[number](new[id(tensor)])
            values.update(new)
            for tensor in _symbolic((step.args, step.kwargs)):
                if last_use[id(tensor)] == index:
                    values.pop(id(tensor), None)
    return found


def _evaluate(step, values, call):
    """The outputs of one step: a dict by the id of the symbolic tensor."""
    args, kwargs = tree.map_structure(
        lambda x: values[id(x)] if isinstance(x, keras.KerasTensor) else x,
        (step.args, step.kwargs),
    )
    outputs = call(step, list(args), dict(kwargs))
    found = [t for t in tree.flatten(outputs) if t is not None]
    return {id(t): v for t, v in zip(_symbolic(step.outputs), found, strict=True)}


def _normalize(layer, args, kwargs, epsilon=_TINY_EPSILON):
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
    return layer(*args, **kwargs)


def _weights_of(step):
    """All operands of an attention but the values."""
    if isinstance(step.operation, keras.Layer):  # AdditiveAttention([query, value, key])
        query, _, *key = step.args[0]
        return query, *key
    return step.args[:2]


def _value_of(step):
    return step.args[0][1] if isinstance(step.operation, keras.Layer) else step.args[2]


def _with_weights(step, values):
    """The step with its query and key held at their values."""

    def hold(x):
        return values[id(x)] if isinstance(x, keras.KerasTensor) else x

    if isinstance(step.operation, keras.Layer):
        query, value, *key = step.args[0]
        operands = [hold(query), value, *map(hold, key)]
        return step._replace(args=(operands, *step.args[1:]))
    query, key, *rest = step.args
    return step._replace(args=(hold(query), hold(key), *rest))


def _symbolic(structure):
    return [t for t in tree.flatten(structure) if isinstance(t, keras.KerasTensor)]


def _array(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor), dtype="float64")


def _differs(before, after):
    return float(np.abs(before - after).max(initial=0.0)) > 1e-4 * max(before.std(), CONSTANT)
