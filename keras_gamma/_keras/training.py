"""Training steps: what `fit` does before it trains, and the steps that it has traced.

Private names used here, and why there is no public way:

* `_list_all_concrete_functions` of TensorFlow's functions, `_cache_size` of JAX's: the training
  steps that were traced already, which `fit` will run again whatever has been set since.
* `Model._symbolic_build`, `Model._initial_epoch`: what `fit` does before it trains, and the epoch
  that `BackupAndRestore` tells it to begin with.
"""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import keras


class TracedStep:
    """A training step that TensorFlow has traced: what it does to which variable.

    Args:
        uses: dict from the place of each trainable variable (two may have one path) to a
            `Counter` of the types of the graph's operations that take it.
        constants: `Counter` of the constants in the graph.
    """

    def __init__(self, model: keras.Model, concrete: Any) -> None:
        self.signature = concrete.structured_input_signature[0]
        graph = concrete.graph
        definition = graph.as_graph_def()
        nodes = [*definition.node]
        for function in definition.library.function:
            nodes.extend(function.node_def)
        self.constants = collections.Counter(
            node.attr["value"].SerializeToString() for node in nodes if node.op == "Const"
        )
        places = {}
        for place, variable in enumerate(model.trainable_variables):
            raw = variable.value
            for replica in getattr(raw, "values", (raw,)):
                places[id(replica.handle)] = place
        inside = {id(i): places[id(o)] for o, i in graph.captures if id(o) in places}
        self.uses: dict[int, collections.Counter[str]] = {
            place: collections.Counter() for place in places.values()
        }
        for operation in graph.get_operations():
            for tensor in operation.inputs:
                if id(tensor) in inside:
                    self.uses[inside[id(tensor)]][operation.type] += 1


def traced_steps(model: keras.Model) -> list[tuple[TracedStep, TracedStep]] | None:
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
    kept = model.train_function
    steps: list[tuple[TracedStep, TracedStep]] = []
    try:
        # The first fetches a batch (or several), the second is the step on it.
        for concrete in _run_again(functions[:2][-1]):
            old = TracedStep(model, concrete)
            model.make_train_function(force=True)
            fresh = list(_traceable_functions(model.train_function))[:2][-1]
            steps.append((old, TracedStep(model, fresh.get_concrete_function(*old.signature))))
    finally:
        model.train_function = kept
    return steps


def _run_again(function: Any) -> list[Any]:
    """The concrete functions behind TensorFlow's `function` that will be run again.

    A step that builds layers is traced twice: the first trace makes the variables, and is not used
    after that.
    """
    traced = list(function._list_all_concrete_functions())
    later = [
        concrete
        for concrete in traced
        if all(node.type != "VarIsInitializedOp" for node in concrete.graph.get_operations())
    ]
    return later or traced


def traced_before(model: keras.Model) -> bool | None:
    """Whether the training step that `fit` will run was traced already; `None`: cannot be seen."""
    function = getattr(model, "train_function", None)
    if function is None or model.run_eagerly:
        return False
    backend = keras.backend.backend()
    if backend == "torch":
        return None if model.jit_compile else False
    if backend == "jax":
        compiled = list(_closures_with(function, "_cache_size"))
        if not compiled:  # Not compiled at all.
            return None if model.jit_compile else False
        return any(one._cache_size() for one in compiled)
    functions = list(_traceable_functions(function))
    if not functions:
        return None
    return any(one._list_all_concrete_functions() for one in functions)


def _closures_with(function: Any, attribute: str) -> Iterator[Any]:
    """What the closures of `function` hold that has `attribute`."""
    todo, seen = [function], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if hasattr(one, attribute):
            yield one
            continue
        for cell in getattr(one, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # An empty cell.
                if callable(cell.cell_contents):
                    todo.append(cell.cell_contents)


def _traceable_functions(function: Any, seen: set[int] | None = None) -> Iterator[Any]:
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


def symbolic_build(model: keras.Model, element_spec: Any) -> None:
    """Creates the variables that `fit` would create on its first batch: metrics', for one."""
    model._symbolic_build(data_batch=element_spec)


def initial_epoch(model: keras.Model) -> int | None:
    """The epoch that a callback has asked `fit` to begin with, or `None`."""
    epoch: int | None = model._initial_epoch
    return epoch
