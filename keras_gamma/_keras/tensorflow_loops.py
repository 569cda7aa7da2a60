"""Loops and compiled functions within raw TensorFlow code, written out one operation after another.

Private names used here, and why there is no public way:

* `tensorflow.python.ops.while_loop.while_loop`: what `tf.while_loop`, `tf.map_fn` and `tf.scan`
  come to. A loop in a graph is a graph of its own, whose layers nobody could cut out: here it
  is unrolled, as TensorFlow itself does where it computes at once.
* The class of what `tf.function` returns, whose `__call__` (public) would trace a graph of its own,
  too.
"""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from keras_gamma._keras.replacement import Patch

_MOST = 32  # rounds that a loop is unrolled, where it says itself how many there are
_FEWEST = 2  # rounds where data say so


class Scratch(Protocol):
    """The graph that is written to."""

    def is_entered(self) -> bool:
        """Whether this thread writes to it: others are served as ever."""

    def known(self, tensor: Any) -> bool | None:
        """The value of a condition, or `None` if inputs decide it."""


def patches(graph: Scratch) -> tuple[Patch, ...]:
    """What has to be replaced for as long as `graph` is written to.

    Compiled functions are run as they are written, and loops are unrolled.
    """
    import tensorflow as tf
    from tensorflow.python.ops import while_loop

    compiled = type(tf.function(lambda: None))
    return (
        (while_loop, "while_loop", lambda original: _unrolled(graph, original)),
        (compiled, "__call__", lambda original: _uncompiled(graph, original)),
    )


def _uncompiled(graph: Scratch, original: Callable[..., Any]) -> Callable[..., Any]:
    """`tf.function`'s `__call__`, run as it is written where it is called in the graph."""

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        run = function.python_function if graph.is_entered() else original.__get__(function)
        return run(*args, **kwargs)

    return call


def _unrolled(graph: Scratch, original: Callable[..., Any]) -> Callable[..., Any]:
    """`while_loop`, unrolled where it is called in the graph."""
    import tensorflow as tf

    def loop(*args: Any, **kwargs: Any) -> Any:
        if not graph.is_entered():
            return original(*args, **kwargs)
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        start = given["loop_vars"]
        state, goes_on, i = tf.nest.map_structure(_as_tensor, start), None, 0
        while i != given.get("maximum_iterations"):
            goes_on = graph.known(given["cond"](*state))
            if goes_on is False or i == (_FEWEST if goes_on is None else _MOST):
                break
            new = given["body"](*state)
            new = new if isinstance(new, (list, tuple)) else [new]
            flat = [_as_tensor(value) for value in tf.nest.flatten(new)]
            state, goes_on, i = tf.nest.pack_sequence_as(start, flat), False, i + 1
        # A list of tensors that is half filled is none.
        lists = any(isinstance(value, tf.TensorArray) for value in tf.nest.flatten(state))
        if goes_on is not False and lists:
            return original(*args, **kwargs)
        same = given.get("return_same_structure", False) or len(state) > 1
        return state if same else state[0]

    def _as_tensor(value: Any) -> Any:
        return value if isinstance(value, tf.TensorArray) else tf.convert_to_tensor(value)

    return loop
