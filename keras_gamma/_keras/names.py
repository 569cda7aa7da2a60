"""Every private name of Keras that keras_gamma leans on, in one room.

The rest of the package uses Keras' public API only. When Keras moves one of these names,
`tests/_keras/test_keras_internals.py` fails loudly, and this is the one file to repair.

Used here, and why there is no public way:

* `Layer._flatten_layers`, `Layer._layers`: every sub-layer of any layer, also of one that is
  not a `Model`.
* `Operation.symbolic_call`, `Layer.symbolic_call`, `keras.src.layers.layer.Node`: the three
  places through which Keras infers shapes and records nodes on symbolic calls. Replaced for
  the time of a trace, so that a composite layer is opened instead of being run, and no node is
  recorded on the user's layers.
* `Layer.__call__` (public) is replaced for that time, too, and `KerasTensor._keras_mask` read: to
  leave out what it does around a simple layer's `call`.
* The operators of `keras.Variable` (public, but replaced for that time, too): `variable * x`
  goes straight to the backend.
* `Operation._inbound_nodes`: tells an operation of a Functional graph, whose name the user sees
  in `model.summary()`, from one that was made a moment ago.
* `KerasTensor._keras_history`: the input layer behind an input, whose name the user knows.
* `Layer._losses`, `Layer._loss_ids`: the losses of the last eager call, to be put back.
* `Optimizer._apply_weight_decay`, `_use_weight_decay`, `_exclude_from_weight_decay`,
  `_exclude_from_weight_decay_pattern`, `_trainable_variables`: Keras' exclude list can be
  replaced, but neither read nor extended, and knows no strength per variable.
* `keras.src.backend.common.global_state`: the counters behind automatic names, so that a trace
  does not change the names of layers that are made after it.
* `Variable._path`, `Optimizer._var_key`: to try an optimizer on small stand-ins for variables.
* `_list_all_concrete_functions` of TensorFlow's functions: the training steps that were traced
  already, which `fit` will run again whatever has been set since.
* `Model._symbolic_build`, `Model._initial_epoch`: what `fit` does before it trains, and the epoch
  that `BackupAndRestore` tells it to begin with.
* `Optimizer._all_reduce_sum_gradients`: under `tf.distribute`, Keras adds the replicas' gradients
  up only after each replica has clipped its own, and has looked for overflow in its own.
"""

import collections
import contextlib
import operator
import threading

import keras
from keras.src.backend.common import global_state
from keras.src.layers import layer as _layer_module
from keras.src.ops.operation import Operation

_AUTO_NAMES = "object_name_uids"
_VARIABLE_OPERATORS = tuple(
    f"__{side}{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
    for side in ("", "r")
)
_lock = threading.RLock()


def flatten_layers(layer):
    """All layers below `layer`, itself first, each once."""
    return layer._flatten_layers(include_self=True, recursive=True)


def sublayers(layer):
    """The layers that `layer` owns directly."""
    return list(layer._layers)


def has_mask(tensor):
    """Whether Keras passes a mask along with a tensor."""
    return getattr(tensor, "_keras_mask", None) is not None


def is_graph_operation(operation):
    """Whether `operation` was recorded in a Functional graph (its name is one the user knows)."""
    return bool(operation._inbound_nodes)


def is_layer_of_keras(layer):
    """Whether the class of `layer` is one of Keras' own `keras.layers`."""
    return type(layer).__module__.startswith("keras.src.")


def is_operation_class_of_keras(operation):
    """Whether the class of `operation` is one of Keras' own `keras.ops`."""
    return type(operation).__module__.startswith(("keras.src.ops.", "keras.src.activations."))


def name_of_input(tensor):
    """The name of the `InputLayer` behind a model's symbolic input, else the tensor's own."""
    history = getattr(tensor, "_keras_history", None)
    operation = getattr(history, "operation", None)
    return tensor.name if operation is None else operation.name


@contextlib.contextmanager
def intercept_symbolic_calls(handler):
    """Send every symbolic call of this thread to `handler(operation, args, kwargs)`.

    While it is active no `Node` is recorded for the calls of this thread; other threads
    are served as before. `handler.paused` (a bool attribute) hands the calls back to Keras.
    Where `handler.knows(layer, args, kwargs)`, `Layer.__call__` is left out, too, and so are the
    keywords: on small layers it takes several times as long as everything else.
    """
    owner = threading.get_ident()
    # threading.RLock: two traces in two threads take turns, for the patched names are global.
    with _lock:
        operation_call = Operation.symbolic_call
        layer_call = keras.Layer.symbolic_call
        whole_layer_call = keras.Layer.__call__
        node_class = _layer_module.Node
        add_loss = keras.Layer.add_loss

        def active():
            return threading.get_ident() == owner and not handler.paused

        def operation_symbolic_call(self, *args, **kwargs):
            if active():
                return handler(self, args, kwargs)
            return operation_call(self, *args, **kwargs)

        def layer_symbolic_call(self, *args, **kwargs):
            if active():
                return handler(self, args, kwargs)
            return layer_call(self, *args, **kwargs)

        def dispatch(self, *args, **kwargs):
            if active() and handler.knows(self, args, kwargs):
                return handler(self, args, {})
            return whole_layer_call(self, *args, **kwargs)

        def record_node(*args, **kwargs):
            if not active():
                return node_class(*args, **kwargs)
            return None

        def of_variable(name):
            """`variable * x`: Keras hands it to the backend, which takes no symbolic tensor."""
            computed = getattr(keras.Variable, name)
            reflected = (
                name.replace("__", "__r", 1)
                if not name.startswith("__r")
                else (name.replace("__r", "__", 1))
            )

            def compute(self, other):
                if active() and isinstance(other, keras.KerasTensor):
                    return getattr(other, reflected)(self)
                return computed(self, other)

            return compute

        operators = {name: getattr(keras.Variable, name) for name in _VARIABLE_OPERATORS}

        def layer_add_loss(self, loss):
            # Keras takes no symbolic loss; a trace has no use for one (router losses, say).
            if not active():
                add_loss(self, loss)

        patched = {name: of_variable(name) for name in operators}
        for name, function in patched.items():
            setattr(keras.Variable, name, function)
        keras.Layer.add_loss = layer_add_loss
        Operation.symbolic_call = operation_symbolic_call
        keras.Layer.symbolic_call = layer_symbolic_call
        keras.Layer.__call__ = dispatch
        _layer_module.Node = record_node
        try:
            yield
        finally:
            Operation.symbolic_call = operation_call
            keras.Layer.symbolic_call = layer_call
            keras.Layer.__call__ = whole_layer_call
            _layer_module.Node = node_class
            keras.Layer.add_loss = add_loss
            for name, function in operators.items():
                setattr(keras.Variable, name, function)


@contextlib.contextmanager
def preserve_auto_names():
    """Restore the counters behind automatic layer names on exit."""
    counters = global_state.get_global_attribute(_AUTO_NAMES)
    saved = None if counters is None else dict(counters)
    try:
        yield
    finally:
        counters = global_state.get_global_attribute(_AUTO_NAMES)
        if counters is not None:
            counters.clear()
            counters.update(saved or {})


@contextlib.contextmanager
def preserve_attributes(layers):
    """Restore the Python attributes of built `layers` on exit.

    A `call` may leave things on its layer (a mask, the last scores, `_called`). Only
    what changed is put back. Layers that are built by the trace keep what building set.
    """
    saved = [
        (layer, dict(vars(layer)), [(value, list(value)) for value in _loss_collections(layer)])
        for layer in layers
        if layer.built
    ]
    try:
        yield
    finally:
        for layer, before, collections in saved:
            now = vars(layer)
            if len(now) == len(before) and all(map(operator.is_, now.values(), before.values())):
                _restore(collections)
                continue
            for name in [name for name in now if name not in before]:
                del now[name]
            for name, value in before.items():
                if name not in now or now[name] is not value:
                    now[name] = value
            _restore(collections)


def _restore(collections):
    for collection, content in collections:
        if collection or content:
            collection.clear()
            for item in content:
                (collection.add if isinstance(collection, set) else collection.append)(item)


def _loss_collections(layer):
    """What `add_loss` gathered on a layer in its last call; every call clears it in place."""
    return [layer._losses, layer._loss_ids]


def is_decayed(optimizer, variable):
    """What `optimizer` itself says: whether its weight decay acts on `variable`."""
    return bool(optimizer._use_weight_decay(_as_in_a_step(variable)))


def _as_in_a_step(variable):
    """What an optimizer's step matches its name patterns against: on TensorFlow, the raw variable.

    Keras' is called `gamma`, TensorFlow's `bn/gamma:0`.
    """
    raw = keras.backend.backend() == "tensorflow" and isinstance(variable, keras.Variable)
    return variable.value if raw else variable


def exclude(optimizer, variables):
    """Adds `variables` to an optimizer's exclude list, and keeps what is on it.

    `Optimizer.exclude_from_weight_decay` replaces the list, and refuses (in vain: it asks for a
    name that is never set) once the optimizer is built.
    """
    before: set = getattr(optimizer, "_exclude_from_weight_decay", set())
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    names = None if pattern is None else [pattern.pattern]
    optimizer.exclude_from_weight_decay(var_list=list(variables), var_names=names)
    optimizer._exclude_from_weight_decay = before | optimizer._exclude_from_weight_decay


def variables_of(optimizer):
    """The variables that a built optimizer updates."""
    return list(optimizer._trainable_variables)


def path_of(optimizer, variable):
    """The path of a Keras variable, or of the one behind a backend's own."""
    if isinstance(variable, keras.Variable):
        return variable.path
    return next(v.path for v in optimizer._trainable_variables if v.value is variable)


def stand_in(variable, shape, value):
    """A new variable of another shape that has the name and path of `variable`."""
    new = keras.Variable(
        keras.ops.full(shape, value, dtype="float32"), trainable=True, name=variable.name
    )
    new._path = variable.path
    return new


def copy_exclusions(source, target, pairs):
    """Excludes on `target` what `source` excludes; `pairs` are of their variables."""
    pairs = list(pairs)
    cache = getattr(source, "_exclude_from_weight_decay_cache", None)
    before = None if cache is None else dict(cache)
    spared = [new for old, new in pairs if not is_decayed(source, old)]
    if before is None:
        vars(source).pop("_exclude_from_weight_decay_cache", None)
    else:
        source._exclude_from_weight_decay_cache = before
    if spared:
        target.exclude_from_weight_decay(var_list=spared)


def inside_a_strategy():
    """Whether this is run within the scope of a `tf.distribute.Strategy`."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow

    return tensorflow.distribute.has_strategy()


class TracedStep:
    """A training step that TensorFlow has traced: what it does to which variable.

    Args:
        uses: dict from the path of each trainable variable to a `Counter` of the types of the
            graph's operations that take it.
        constants: `Counter` of the constants in the graph.
    """

    def __init__(self, model, concrete):
        self.signature = concrete.structured_input_signature[0]
        graph = concrete.graph
        definition = graph.as_graph_def()
        nodes = [*definition.node]
        for function in definition.library.function:
            nodes.extend(function.node_def)
        self.constants = collections.Counter(
            node.attr["value"].SerializeToString() for node in nodes if node.op == "Const"
        )
        paths = {}
        for variable in model.trainable_variables:
            raw = variable.value
            for replica in getattr(raw, "values", (raw,)):
                paths[id(replica.handle)] = variable.path
        inside = {id(i): paths[id(o)] for o, i in graph.captures if id(o) in paths}
        self.uses: dict = {path: collections.Counter() for path in paths.values()}
        for operation in graph.get_operations():
            for tensor in operation.inputs:
                if id(tensor) in inside:
                    self.uses[inside[id(tensor)]][operation.type] += 1


def traced_steps(model):
    """The training steps that `fit` has traced for `model` and will run again.

    Returns:
        A list of `(TracedStep, TracedStep)`: as traced, and as it would be traced now. `None`
        if a step may have been compiled, but the backend does not let it be seen.
    """
    if getattr(model, "train_function", None) is None or model.run_eagerly:
        return []
    if keras.backend.backend() == "torch" and not model.jit_compile:
        return []
    if keras.backend.backend() != "tensorflow":
        return None
    functions = list(_traceable_functions(model.train_function))
    if not functions:
        return None
    kept, steps = model.train_function, []
    try:
        # The first fetches a batch (or several), the second is the step on it.
        for concrete in functions[:2][-1]._list_all_concrete_functions():
            old = TracedStep(model, concrete)
            model.make_train_function(force=True)
            fresh = list(_traceable_functions(model.train_function))[:2][-1]
            steps.append((old, TracedStep(model, fresh.get_concrete_function(*old.signature))))
    finally:
        model.train_function = kept
    return steps


def _traceable_functions(function, seen=None):
    """TensorFlow's functions in the closure of `function`, outer ones first."""
    seen = set() if seen is None else seen
    if id(function) in seen:
        return
    seen.add(id(function))
    if hasattr(function, "_list_all_concrete_functions"):
        yield function
        function = function.python_function
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # An empty cell.
            if callable(cell.cell_contents):
                yield from _traceable_functions(cell.cell_contents, seen)


class WeightDecayHook:
    """Mixin for the front of a Keras optimizer: `decay_variables` in place of its weight decay."""

    weight_decay: float | None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    def build(self, variables):
        super().build(variables)  # type: ignore[misc]

    def get_config(self):
        return super().get_config()  # type: ignore[misc]

    def _apply_weight_decay(self, variables):
        if self.weight_decay is None and getattr(self, "adam_weight_decay", None) is None:
            return
        self.decay_variables(variables, super()._apply_weight_decay)  # type: ignore[misc]

    def decay_variables(self, variables, keras_decay):
        """Decays `variables`; `keras_decay` does it in Keras' own way, all alike."""
        keras_decay(variables)


def symbolic_build(model, element_spec):
    """Creates the variables that `fit` would create on its first batch: metrics', for one."""
    model._symbolic_build(data_batch=element_spec)


def initial_epoch(model):
    """The epoch that a callback has asked `fit` to begin with, or `None`."""
    return model._initial_epoch


@contextlib.contextmanager
def gradients_added_first(optimizer, add):
    """Lets a TensorFlow optimizer add up the gradients of all replicas before it does anything.

    Keras clips the gradient of each replica by itself, so that the effect of `global_clipnorm`
    depends on the number of replicas, and a `LossScaleOptimizer` asks the first replica alone
    whether there was an overflow. An optimizer that holds several others is left as it is.

    Args:
        optimizer: an optimizer; as it was afterwards.
        add: function that takes a list of gradients, and returns their sums over the replicas.
    """
    inner = optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = optimizer.inner_optimizer
    parts = keras.tree.flatten(list(vars(inner).values()))
    if any(isinstance(part, keras.optimizers.Optimizer) for part in parts):
        yield
        return
    apply = optimizer.apply

    def apply_sum(grads, trainable_variables=None):
        sums = iter(add([grad for grad in grads if grad is not None]))
        return apply([grad if grad is None else next(sums) for grad in grads], trainable_variables)

    optimizer.apply = apply_sum
    inner._all_reduce_sum_gradients = list  # They are sums already.
    try:
        yield
    finally:
        del optimizer.apply, inner._all_reduce_sum_gradients
