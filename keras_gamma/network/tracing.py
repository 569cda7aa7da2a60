"""From a model to its graph, by calling it on symbolic tensors and opening every layer.

A layer's `call` runs on `KerasTensor`s; each layer inside it is opened in turn, down to the
operations of `keras.ops`. Nothing is computed, no weight changes, and nothing is recorded
on the user's layers. A layer that refuses symbolic tensors (raw backend code, say) becomes
one opaque node: its shape is inferred by Keras, and its inside stays unknown.
"""

import contextlib
import dataclasses
import functools
import heapq
import inspect
import re
import warnings
from typing import Any, NamedTuple

import keras
from keras import tree

from keras_gamma._keras import names as _keras
from keras_gamma.network import normalizations, operations
from keras_gamma.network.graph import Graph, Kind, Node


@dataclasses.dataclass(frozen=True)
class NormCall:
    """One call of a normalization: the layer, its registry entry, and its node's number."""

    layer: keras.Layer
    entry: normalizations.Normalization
    node: int


class Step(NamedTuple):
    """One call that was not opened any further, as it can be made again with numbers.

    Args:
        operation: a `keras.Operation`, or a function for a view on a tensor.
        args: its positional arguments, with `KerasTensor`s in them.
        kwargs: its keyword arguments.
        outputs: structure of `KerasTensor`s.
        numbers: tuple, the node number of each output, `None` where it is no node.
    """

    operation: Any
    args: tuple
    kwargs: dict
    outputs: Any
    numbers: tuple[int | None, ...]

    @property
    def is_weighted(self):
        """Whether a weight of the model takes part in it."""
        if isinstance(self.operation, keras.Layer) and self.operation.weights:
            return True
        leaves = tree.flatten((self.args, self.kwargs))
        return any(isinstance(leaf, keras.Variable) for leaf in leaves)


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a trace saw.

    Args:
        graph: a `keras_gamma.graph.Graph`.
        calls: tuple of `NormCall`, in the order of computation.
        opaque: dict from the id of each layer in a part that could not be opened to the cause.
        rejected: ids of layers that look like normalizations but do not behave as one.
        inputs: tuple of the `KerasTensor`s it was traced on.
        steps: tuple of `Step`, in the order of computation.
        outputs: tuple of `KerasTensor`s.
    """

    graph: Graph
    calls: tuple[NormCall, ...]
    opaque: dict[int, str]
    rejected: frozenset[int]
    inputs: tuple[keras.KerasTensor, ...]
    steps: tuple[Step, ...]
    outputs: tuple[keras.KerasTensor, ...]


_MERGING = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)


class TraceError(Exception):
    """Neither the model's `call` nor Keras' own shape inference works on the inputs."""


# Sizes tried for unknown dimensions, in this order, until everything opens. 224 suits image
# networks with windows, patches and five halvings; the rest are sequences.
_SPATIAL = (224, 64, 256, 512)
_SEQUENCE = (16, 64, 8, 256, 1024, 16000)
_PATIENCE = 2  # sizes that open no more, until size is taken not to be the obstacle
_BATCH = 2


def trace(model, inputs, batch=_BATCH):
    """Traces `model` on `inputs`.

    Args:
        model: a `keras.Layer` or `keras.Model`.
        inputs: a structure of `keras.KerasTensor`; unknown dimensions are filled in.
        batch: integer, what an unknown batch dimension is filled in with.

    Returns:
        A `Trace`.

    Raises:
        TraceError: if the model cannot be called on such inputs at all.
    """
    best: Trace | None = None
    error: TraceError | None = None
    in_vain = 0
    for sizes in _candidates(inputs):
        concrete = tree.map_structure(
            lambda spec, sizes=sizes: _fill_in(spec, batch, *sizes), inputs
        )
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


def _candidates(inputs):
    specs = tree.flatten(inputs)
    unknown = [s for s in specs if isinstance(s, keras.KerasTensor) and None in s.shape[1:]]
    if not unknown:
        return [(0, 0)]
    if any(len(s.shape) >= 4 for s in unknown):
        return [(size, _SEQUENCE[0]) for size in _SPATIAL]
    return [(_SPATIAL[0], size) for size in _SEQUENCE]


def _fill_in(spec, batch, spatial, sequence):
    if not isinstance(spec, keras.KerasTensor):
        return spec
    size = spatial if len(spec.shape) >= 4 else sequence
    shape = [size if d is None else d for d in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = batch
    name = _keras.name_of_input(spec)
    return keras.KerasTensor(tuple(shape), dtype=spec.dtype, sparse=spec.sparse, name=name)


def _trace_once(model, inputs):
    tracer = _Tracer(model)
    for tensor in _keras_tensors(inputs):
        tracer.add_input(tensor, tensor.name)
    args, kwargs = _call_arguments(model, inputs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_keras.preserve_auto_names())
        stack.enter_context(_keras.preserve_attributes(_keras.flatten_layers(model)))
        # Variable updates (running statistics, seeds) stay in this scope and are dropped.
        stack.enter_context(keras.StatelessScope(collect_losses=True))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Such as Keras' on masks: they concern no user's call.
        stack.enter_context(_keras.intercept_symbolic_calls(tracer))
        try:
            outputs = model(*args, **kwargs)
        except Exception as e:
            raise TraceError(_first_sentence(e)) from e
    return tracer.finish(outputs)


def _call_arguments(model, inputs):
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


def _first_sentence(error):
    text = " ".join(str(error).split()) or type(error).__name__
    # What Keras wraps around the cause: colours, and the name of an operation.
    text = re.sub(r"\x1b\[\d+m", "", text)
    text = re.sub(r"^(Exception encountered when calling \S+\.call\(\)\. )+", "", text)
    if text.startswith("A KerasTensor cannot be used as input to a"):
        return "its call hands tensors to raw backend code, past keras.ops"
    # Keras appends the arguments of the call, at length.
    text = text.split(" Arguments received by ")[0]
    first = text.split(". ")[0].rstrip(".:")
    return first if len(first) <= 240 else first[:239] + "…"


class _Tracer:
    """Receives every symbolic call, and writes down nodes."""

    def __init__(self, model):
        self.paused = False
        self._model = model
        self._nodes = []
        self._calls = []
        self._inputs = []
        self._steps = []
        self._opaque = {}
        # id(tensor) -> number of its node, or None for a tensor without a scale (a mask).
        self._number = {}
        self._tensors_alive = []  # Their ids are keys, so they must live as long.
        self._scope = []  # Layers being run, outermost first.
        self._entries = {}  # id(layer) -> normalizations.Normalization or None
        self._rejected = set()
        self._powers = {}  # node -> how it depends on the scale of its inputs, see `operations`
        self._simple = {}  # class of a layer -> whether its `__call__` may be left out
        self._sum_layers = 0
        self._group = None

    # What the trace yields ------------------------------------------------------------------

    def add_input(self, tensor, name):
        self._inputs.append(tensor)
        indices = tensor.dtype == "bool" or ("int" in tensor.dtype and len(tensor.shape) < 3)
        self._assign(tensor, None if indices else self._write(Kind.INPUT, (), name))

    def finish(self, outputs):
        tensors = _keras_tensors(outputs)
        numbers = _numbers(self._number.get(id(t)) for t in tensors)
        return Trace(
            Graph(self._nodes, numbers),
            tuple(self._calls),
            dict(self._opaque),
            frozenset(self._rejected),
            tuple(self._inputs),
            tuple(self._steps),
            tuple(tensors),
        )

    # Receiving calls ------------------------------------------------------------------------

    def __call__(self, operation, args, kwargs):
        if isinstance(operation, keras.Layer):
            return self._on_layer(operation, args, kwargs)
        if isinstance(operation, keras.Function):
            return operation.call(*args, **kwargs)
        return self._on_operation(operation, args, kwargs)

    def knows(self, layer, args, kwargs):
        """Whether a call needs nothing of what `Layer.__call__` does around it.

        That is: building, casting, masks, checking the inputs (of the first layers that is done,
        for the inputs are the user's), and handing `training` down to layers inside.
        """
        if not self._is_simple(layer) or not layer.built or len(args) != 1:
            return False
        if kwargs.keys() - {"training", "mask"} or kwargs.get("mask") is not None:
            return False
        if kwargs.get("training"):
            return False
        if _keras.sublayers(layer):
            return False
        tensors = args[0] if isinstance(args[0], (list, tuple)) else args
        dtype = layer.compute_dtype
        for tensor in tensors:
            if not isinstance(tensor, keras.KerasTensor) or _keras.has_mask(tensor):
                return False
            number = self._number.get(id(tensor))
            if number is None or self._nodes[number].kind is Kind.INPUT or tensor.dtype != dtype:
                return False
        # Else Keras is to say what is wrong.
        return layer.input_spec is None or _fits(layer.input_spec, tensors)

    def _is_simple(self, operation):
        """Whether it is one of Keras' own layers, whose `__call__` and masks are the usual ones."""
        kind = type(operation)
        simple = self._simple.get(kind)
        if simple is None:
            simple = self._simple[kind] = (
                isinstance(operation, keras.Layer)
                and _keras.is_layer_of_keras(operation)
                and not isinstance(operation, keras.Model)
                and kind.__call__ is keras.Layer.__call__
                # Where no mask comes in, these make none.
                and (kind.compute_mask is keras.Layer.compute_mask or kind in _MERGING)
            )
        return simple

    def _shape_after(self, operation, args):
        """The output's shape, where the layer has a plain function for it, else `None`."""
        kind = type(operation)
        if (
            not self._is_simple(operation)
            or kind.compute_output_spec is not keras.Layer.compute_output_spec
            or kind.compute_output_shape is keras.Layer.compute_output_shape
            or len(args) != 1
            or not isinstance(args[0], keras.KerasTensor)
        ):
            return None
        return operation.compute_output_shape(args[0].shape)

    def _on_layer(self, layer, args, kwargs):
        self._scope.append(layer)
        try:
            entry = self._entry(layer, args, kwargs)
            if entry is not None:
                return self._on_normalization(layer, entry, args, kwargs)
            if isinstance(layer, keras.layers.TimeDistributed):
                # It calls `layer.layer.call`, past `__call__`, once for each step.
                return self._slice_wise(layer.layer, args[0], axis=1)
            if type(layer) is keras.layers.Add and _are_two_alike(args):
                # Opening it would come to the same.
                outputs = _tensor(args[0][0].shape, layer.compute_dtype)
                self._record(layer, Kind.SUM, args, kwargs, outputs)
                return outputs
            kind = operations.kind_of_layer(layer)
            if kind is not None:
                outputs = self._infer(layer, args, kwargs)
                self._record(layer, kind, args, kwargs, outputs)
                return outputs
            return self._open(layer, args, kwargs)
        finally:
            self._scope.pop()

    def _on_normalization(self, layer, entry, args, kwargs):
        # Further tensors are masks; only the first is normalized.
        source = _keras_tensors((args, kwargs))[0]
        outputs = _tensor(source.shape, layer.compute_dtype)
        number = self._write(Kind.NORM, _numbers([self._number_of(source)]), self._label())
        self._calls.append(NormCall(layer, entry, number))
        self._assign(outputs, number)
        self._note_step(layer, args, kwargs, outputs)
        return outputs

    def _open(self, layer, args, kwargs):
        before = self._mark()
        group = self._group
        if isinstance(layer, (keras.layers.Add, keras.layers.Subtract, keras.layers.Average)):
            self._sum_layers += 1
            self._group = self._sum_layers
        try:
            outputs = layer.call(*args, **kwargs)
            for tensor in _keras_tensors(outputs):
                if id(tensor) not in self._number:
                    raise TypeError("its call returned a tensor that no operation made")
            return outputs
        except Exception as error:
            self._forget_since(*before)
            return self._on_opaque_layer(layer, error, args, kwargs)
        finally:
            self._group = group

    def _on_opaque_layer(self, layer, error, args, kwargs):
        cause = _first_sentence(error)
        try:
            outputs = self._infer(layer, args, kwargs)
        except Exception as e:
            raise TraceError(cause) from e
        kind = operations.kind_of_layer(layer, closed=True)
        if kind is not None:
            self._record(layer, kind, args, kwargs, outputs)
            return outputs
        reason = f"{self._label()!r} ({type(layer).__name__}) could not be opened: {cause}"
        for inner in _keras.flatten_layers(layer):
            self._opaque[id(inner)] = reason
        self._record(layer, Kind.OPAQUE, args, kwargs, outputs, reason)
        return outputs

    def _on_operation(self, operation, args, kwargs):
        kind = operations.kind_of_operation(operation)
        if kind is Kind.OPAQUE and not _keras.is_operation_class_of_keras(operation):
            before = self._mark()
            try:
                return operation.call(*args, **kwargs)  # An operation of the user's: open it.
            except Exception:
                self._forget_since(*before)
        if operations.is_map(operation):
            mapped = inspect.signature(operation.call).bind(*args, **kwargs).arguments
            function = mapped.pop("f", None) or operation.function
            (tensors,) = mapped.values()
            before = self._mark()
            try:
                return self._slice_wise(function, tensors, axis=0)
            except Exception:  # The function cannot be opened, so the operation stays closed.
                self._forget_since(*before)
        outputs = self._infer(operation, args, kwargs)
        if kind is Kind.NORM:
            self._note_scale_of(operation, args, kwargs)
        label = None
        if kind is Kind.OPAQUE:
            label = f"{self._label(operation)!r}, an unknown operation ({type(operation).__name__})"
        self._record(operation, kind, args, kwargs, outputs, label)
        return outputs

    def _slice_wise(self, function, tensors, axis):
        """Runs `function` on one slice of `tensors` along `axis`: it does the same to each."""
        size = _keras_tensors(tensors)[0].shape[axis]

        def one(value):
            return keras.ops.take(value, 0, axis=axis)

        def again(value):
            return keras.ops.repeat(keras.ops.expand_dims(value, axis), size, axis=axis)

        slices = tree.map_structure(
            lambda t: self._view(t, (*t.shape[:axis], *t.shape[axis + 1 :]), one), tensors
        )
        return tree.map_structure(
            lambda t: self._view(t, (*t.shape[:axis], size, *t.shape[axis:]), again),
            function(slices),
        )

    def _view(self, tensor, shape, function):
        view = _tensor(shape, tensor.dtype)
        number = self._number_of(tensor)
        if number is not None:
            number = self._write(Kind.IDENTITY, (number,), self._label())
        self._assign(view, number)
        self._note_step(function, (tensor,), {}, view)
        return view

    def _note_scale_of(self, operation, args, kwargs):
        """`ops.layer_normalization(x, self.gain)` in a layer's own `call`: a γ like any other."""
        if not self._scope:
            return
        given = inspect.signature(operation.call).bind(*args, **kwargs).arguments
        scale = given.get("gamma", given.get("scale"))
        layer = self._scope[-1]
        for name, variable in normalizations.own_variables(layer).items():
            if variable is scale:
                kind = type(operation).__name__.lower().removesuffix("norm")
                entry = normalizations.Normalization(kind, scale=name)
                self._calls.append(NormCall(layer, entry, len(self._nodes)))

    def _entry(self, layer, args, kwargs):
        if id(layer) not in self._entries:
            entry = normalizations.registered(layer)
            if entry is None and normalizations.may_be_normalization(layer):
                tensors = _keras_tensors((args, kwargs))
                if len(tensors) == 1:
                    with self._pause():
                        entry = normalizations.probe(layer, tensors[0].shape)
                    if entry is None:
                        self._rejected.add(id(layer))
            self._entries[id(layer)] = entry
        return self._entries[id(layer)]

    def _infer(self, operation, args, kwargs):
        """Shapes and dtypes of the outputs, by Keras' own means."""
        shape = self._shape_after(operation, args)
        if shape is not None:
            return _tensor(shape, operation.compute_dtype)
        infer = operation.compute_output_spec
        if "training" in kwargs and not _takes(infer, "training"):
            kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        with self._pause():
            try:
                return operation.compute_output_spec(*args, **kwargs)
            except Exception:
                if isinstance(operation, keras.Layer):
                    raise
                # Some operations infer less than they can run: `Einsum` with capital letters.
                return _Run(operation, args, kwargs).infer()

    @contextlib.contextmanager
    def _pause(self):
        self.paused, before = True, self.paused
        try:
            yield
        finally:
            self.paused = before

    # Writing nodes --------------------------------------------------------------------------

    def _record(self, operation, kind, args, kwargs, outputs, label=None):
        tensors = _keras_tensors((args, kwargs))
        data = [t for t in tensors if self._number_of(t) is not None]
        # Computed from indices alone, without a weight: a mask, or positions.
        if kind is None or not (data or _is_weighted(operation, args, kwargs)):
            for tensor in _keras_tensors(outputs):
                self._assign(tensor, None)
            self._note_step(operation, args, kwargs, outputs)
            return
        numbers = [self._number[id(t)] for t in data]
        if kind is Kind.ATTENTION:
            kind, numbers = self._split_attention(operation, args, numbers)
        power = operations.power_of(operation, args)
        source = self._normalized(operation, kind, numbers)
        if source is not None:
            kind, numbers, power = Kind.NORM, [source], None
        kind = _refine(kind, data, numbers, args)
        # What joins several tensors (a concatenation) scales with all of them, not with one.
        homogeneous = len(set(numbers)) < 2
        if kind is Kind.NONLINEAR:
            homogeneous = homogeneous and operations.is_homogeneous(operation)
        label = label or self._label(None if isinstance(operation, keras.Layer) else operation)
        group = self._group if kind is Kind.SUM else None
        for tensor in _keras_tensors(outputs):
            self._assign(tensor, self._write(kind, numbers, label, homogeneous, group))
            self._powers[self._number[id(tensor)]] = power
        self._note_step(operation, args, kwargs, outputs)

    def _normalized(self, operation, kind, numbers):
        """The node that a product normalizes: `x / ‖x‖`, or `x * rsqrt(mean(x²))`, written out."""
        if kind is not Kind.PRODUCT or len(numbers) != 2:
            return None
        first, second = numbers
        sign = 1.0 if operations.divides(operation) else -1.0
        for source in self._ancestors(first, limit=8):
            degrees = self._degree(first, source), self._degree(second, source)
            if None not in degrees and degrees[0] == sign * degrees[1] != 0:
                return source
        return None

    def _ancestors(self, node, limit):
        """The nodes that `node` is computed from, itself first, later ones first; a few."""
        found: list[int] = []
        heap = [-node]
        while heap and len(found) < limit:
            current = -heapq.heappop(heap)
            if current not in found:
                found.append(current)
                for source in self._nodes[current].inputs:
                    heapq.heappush(heap, -source)
        return found

    def _degree(self, node, source, steps=24):
        """The d for which `node` scales by c^d if `source` scales by c; `None` if it does not."""
        if node == source:
            return 1.0
        power = self._powers.get(node)
        if node < source or power is None or steps == 0:
            return None
        inputs = self._nodes[node].inputs
        degrees = [self._degree(i, source, steps - 1) for i in inputs]
        if not degrees or None in degrees:
            return None
        if power in ("product", "quotient"):
            if len(degrees) == 1:  # of a node with itself
                return 2 * degrees[0] if power == "product" else 0.0
            return degrees[0] + degrees[1] if power == "product" else degrees[0] - degrees[1]
        return power * degrees[0] if len(set(degrees)) == 1 else None

    def _note_step(self, operation, args, kwargs, outputs):
        numbers = tuple(self._number[id(t)] for t in _keras_tensors(outputs))
        self._steps.append(Step(operation, args, kwargs, outputs, numbers))

    def _split_attention(self, operation, args, numbers):
        """Puts the value last; all other operands only decide how values are weighed."""
        # `AdditiveAttention([query, value, key])`, but `dot_product_attention(query, key, value)`.
        operands, place = (args[0], 1) if isinstance(operation, keras.Layer) else (args, 2)
        value = self._number_of(operands[place]) if len(operands) > place else None
        if value is None:
            return Kind.OPAQUE, numbers
        others = list(numbers)
        others.remove(value)
        return Kind.ATTENTION, [*others, value]

    def _write(self, kind, numbers, label, homogeneous=True, group=None):
        self._nodes.append(Node(kind, tuple(numbers), label, homogeneous, group))
        return len(self._nodes) - 1

    def _assign(self, tensor, number):
        self._tensors_alive.append(tensor)
        self._number[id(tensor)] = number

    def _number_of(self, tensor):
        return self._number.get(id(tensor))

    def _mark(self):
        """How far the trace has come, for `_forget_since`."""
        counts = (len(part) for part in (self._nodes, self._calls, self._steps))
        return *counts, len(self._tensors_alive), dict(self._opaque)

    def _forget_since(self, nodes, calls, steps, tensors, opaque):
        del self._nodes[nodes:]
        del self._calls[calls:]
        del self._steps[steps:]
        for tensor in self._tensors_alive[tensors:]:
            self._number.pop(id(tensor), None)
        for number in [number for number in self._powers if number >= nodes]:
            del self._powers[number]
        del self._tensors_alive[tensors:]
        self._opaque = opaque

    def _in_simple_layer(self):
        if not self._scope or isinstance(self._scope[-1], keras.Model):
            return False
        return _keras.is_layer_of_keras(self._scope[-1]) and not _keras.sublayers(self._scope[-1])

    def _label(self, operation=None):
        names = [layer.name for layer in self._scope]
        known = False
        # A layer of Keras without sub-layers (Add, ReLU) goes by its own name.
        if operation is not None and not self._in_simple_layer():
            known = _keras.is_graph_operation(operation)
            names.append(operation.name if known else type(operation).__name__.lower())
        # The model's own name goes without saying, unless there is nothing else to say.
        inner = names[1:] if len(self._scope) > 1 or known else names
        return "/".join(inner or names)


def _fits(spec, tensors):
    """Whether tensors are what a layer was built for."""
    if not isinstance(spec, keras.InputSpec) or len(tensors) != 1:
        return False
    shape = tensors[0].shape
    if spec.shape is not None or (spec.ndim is not None and len(shape) != spec.ndim):
        return False
    if spec.min_ndim is not None and len(shape) < spec.min_ndim:
        return False
    if spec.max_ndim is not None and len(shape) > spec.max_ndim:
        return False
    return all(
        value is None or (-len(shape) <= axis < len(shape) and shape[axis] in (value, None))
        for axis, value in (spec.axes or {}).items()
    )


def _are_two_alike(args):
    """Whether a layer is called on two tensors of one shape and dtype."""
    if len(args) != 1 or not isinstance(args[0], (list, tuple)) or len(args[0]) != 2:
        return False
    a, b = args[0]
    both = isinstance(a, keras.KerasTensor) and isinstance(b, keras.KerasTensor)
    return both and a.shape == b.shape and a.dtype == b.dtype


def _takes(function, name):
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class _Run(keras.Layer):
    """Runs one operation, so that Keras infers its outputs from what the backend does.

    Only the tensors among the arguments are passed: JAX takes no weight as an argument.
    """

    def __init__(self, operation, args, kwargs):
        super().__init__()
        self._operation = operation
        self._leaves = tree.flatten((args, kwargs))
        self._pack = functools.partial(tree.pack_sequence_as, (args, kwargs))
        self._places = [
            i for i, leaf in enumerate(self._leaves) if isinstance(leaf, keras.KerasTensor)
        ]

    def infer(self):
        return self.compute_output_spec(*(self._leaves[i] for i in self._places))

    def call(self, *tensors):
        given = dict(zip(self._places, tensors, strict=True))
        args, kwargs = self._pack([given.get(i, leaf) for i, leaf in enumerate(self._leaves)])
        return self._operation(*args, **kwargs)


def _refine(kind, data, numbers, args):
    """What an operation is, given how many of its operands are data."""
    if kind is Kind.SUM:
        # A sum with a bias or a mask, or of a tensor spread over another, is no join.
        return Kind.SUM if len(set(numbers)) > 1 and _same_shape(data) else Kind.LINEAR
    if kind is Kind.PRODUCT and len(data) < 2:
        # `a / x` with a constant `a` inverts x; every other product with a constant is linear.
        inverts = len(args) == 2 and not isinstance(args[0], keras.KerasTensor)
        return Kind.NONLINEAR if inverts and args[1] is data[0] else Kind.LINEAR
    if kind is Kind.PRODUCT and len(set(numbers)) == 1:
        return Kind.NONLINEAR
    return kind


def _same_shape(tensors):
    """Whether the shapes agree; a dimension that Keras could not infer agrees with any."""
    shapes = [t.shape for t in tensors]
    if len({len(shape) for shape in shapes}) != 1:
        return False
    return all(len({d for d in dims if d is not None}) < 2 for dims in zip(*shapes, strict=True))


def _tensor(shape, dtype):
    # Keras takes as long to make up a name as for all the rest.
    return keras.KerasTensor(shape, dtype=dtype, name="traced")


def _keras_tensors(structure):
    # The two cases that are most frequent: a tensor, and `((tensor,), {})`.
    if isinstance(structure, keras.KerasTensor):
        return [structure]
    if type(structure) is tuple and len(structure) == 2 and type(structure[1]) is dict:
        args, kwargs = structure
        if (
            not kwargs
            and type(args) is tuple
            and len(args) == 1
            and isinstance(args[0], keras.KerasTensor)
        ):
            return [args[0]]
    return [t for t in tree.flatten(structure) if isinstance(t, keras.KerasTensor)]


def _numbers(numbers):
    return [n for n in numbers if n is not None]


def _is_weighted(operation, args, kwargs):
    if isinstance(operation, keras.Layer):
        return bool(operation.weights)
    return any(isinstance(v, keras.Variable) for v in tree.flatten((args, kwargs)))
