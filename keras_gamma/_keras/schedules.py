"""Learning rate schedules, asked outside of a training step.

Keras makes them to be compiled into the step. Asked by hand, one takes a millisecond on TensorFlow;
on JAX, where each call compiles its branches (`cond`) anew, a tenth of a second.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """On JAX, operations are run one by one in here, and of branches only the one that is taken.

    That suits a schedule that is asked once. For one that is asked often there is `rates`.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    with jax.disable_jit():
        yield


def rates(schedule: Callable[[int], Any], steps: Sequence[int]) -> list[Any]:
    """What a schedule says at each of some steps.

    Args:
        schedule: a schedule of Keras, which is compiled once, or another function.
        steps: sequence of integers.
    """
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        # One of the user's own may decide in Python, which cannot be compiled.
        with contextlib.suppress(Exception):
            ask = _compiled(schedule)
            return [float(ask(step)) for step in steps]
    with uncompiled():
        return [schedule(step) for step in steps]


def _compiled(schedule: Callable[[Any], Any]) -> Callable[[int], Any]:
    if keras.backend.backend() == "jax":
        import jax

        compiled: Callable[[int], Any] = jax.jit(schedule)
        return compiled
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec([], tf.int64)]  # Each number of Python's would be traced anew.
        graph = tf.function(schedule, input_signature=signature, autograph=False)
        return lambda step: graph(tf.constant(step, tf.int64))
    return schedule
