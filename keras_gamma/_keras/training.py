"""Training steps: what `fit` does before it trains, and the steps that it has traced.

Private names used here, and why there is no public way:

* `_list_all_concrete_functions` of TensorFlow's functions: the training steps that were traced
  already, which `fit` will run again whatever has been set since.
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
        uses: dict from the path of each trainable variable to a `Counter` of the types of the
            graph's operations that take it.
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
        paths = {}
        for variable in model.trainable_variables:
            raw = variable.value
            for replica in getattr(raw, "values", (raw,)):
                paths[id(replica.handle)] = variable.path
        inside = {id(i): paths[id(o)] for o, i in graph.captures if id(o) in paths}
        self.uses: dict[str, collections.Counter[str]] = {
            path: collections.Counter() for path in paths.values()
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
        for concrete in functions[:2][-1]._list_all_concrete_functions():
            old = TracedStep(model, concrete)
            model.make_train_function(force=True)
            fresh = list(_traceable_functions(model.train_function))[:2][-1]
            steps.append((old, TracedStep(model, fresh.get_concrete_function(*old.signature))))
    finally:
        model.train_function = kept
    return steps


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
